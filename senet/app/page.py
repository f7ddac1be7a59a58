"""The gradio page: an image, the prediction, switches for the units, their gates.

It is served on this machine and loads nothing from others. It shows any network, given as a `PageContent`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from senet.analysis.switchboard import Averages, Result, Switchboard
from senet.app import draw
from senet.app.draw import View
from senet.errors import MissingExtraError, RunError, SenetError

if TYPE_CHECKING:
    import gradio as gr

CHOOSE = """element.addEventListener("click", (event) => {
    const unit = event.target.closest(".se-unit");
    if (unit) trigger("click", { number: Number(unit.dataset.number) });
});"""
"""A click on a unit in the drawing of all units selects it."""

NAME = """() => {
    const name = (text) => (element, i) => element.setAttribute("aria-label", text(i));
    document.querySelectorAll("#examples button").forEach(name((i) => `Example ${i + 1}`));
    document.querySelectorAll("#off .select-all-checkbox").forEach(name(() => "All units off"));
}"""
"""Gradio gives these no accessible names."""

MEAN, OTHER, ONE = "its mean gates", "another image's gates", "gates of one"
"""What a unit that is off has."""

KEPT_S = 3600
"""An uploaded image is deleted after this many seconds."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PageContent:
    """A network and what the page shows of it.

    Attributes:
        board: Runs the network.
        prepare: Path of an image -> (1, C, H, W); raises SenetError if it cannot be read.
        classes: Names of the outputs.
        labels: Name of a unit -> what the page calls it, if not by its module.
        title: Name of the network.
        about: One line on where it comes from.
        averages: Mean gates over a data set, or None.
        examples: Images to choose from; the page opens on the first.
        measure: Measures the averages, for a button; None where there are no images.
    """

    board: Switchboard
    prepare: Callable[[str], Tensor]
    classes: Sequence[str]
    labels: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    about: str = ""
    averages: Averages | None = None
    examples: Sequence[Path] = ()
    measure: Callable[[], Averages] | None = None


def check_extra() -> None:
    """Raise MissingExtraError if gradio is not installed. It is not imported, since that takes seconds."""
    if find_spec("gradio") is None:
        raise MissingExtraError("Pages of the app", "app")


@contextmanager
def _without_proxies() -> Iterator[None]:
    """Inside, no proxy: gradio asks its own server whether it is up, which no proxy can."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}
    try:
        yield
    finally:
        os.environ.update(hidden)


@_without_proxies()
def build(content: PageContent) -> gr.Blocks:
    """Build the page; `serve` shows it.

    Raises:
        ConfigError: If the averages are not those of this network.
        MissingExtraError: Without gradio.
    """
    check_extra()
    import gradio as gr

    board, classes, averages = content.board, content.classes, content.averages
    names = list(board.units)
    labels = draw.short(names) | dict(content.labels)
    if averages is not None:
        averages.check(board.units, len(classes))

    seen = list(_seen(content))
    held = {"averages": averages}

    def instead(how: str, own: Result) -> Mapping[str, Any] | None:
        """The gates of units that are off."""
        if how == MEAN and held["averages"] is not None:
            return held["averages"].overall
        if how == MEAN:
            return {name: torch.stack([gates[name] for gates in seen]).mean(0) for name in names}
        if how == OTHER:
            # An example that is not this image.
            return next((g for g in seen if any(not torch.equal(g[n], own.gates[n]) for n in names)), seen[0])
        return None

    # Choosing another unit should not run the network again.
    @lru_cache(maxsize=16)
    def run(path: str, off: tuple[str, ...], how: str) -> Result:
        return board.run(content.prepare(path), off, instead(how, run(path, (), "")) if off else None)

    def show(image: dict[str, Any] | None, off: list[str], how: str, chosen: str) -> tuple[str, str, str, str, str]:
        """Return the answer, its places, the line beside the switches, and the drawings of all units and of one."""
        averages = held["averages"]
        if image is None:
            return draw.nothing(), "", "", "", ""
        path, ordered = image["path"], tuple(name for name in names if name in off)
        try:
            view = View(run(path, (), ""), run(path, ordered, how if off else ""), ordered)
        except SenetError as error:
            return draw.failed(str(error).replace(path, Path(path).name)), "", "", "", ""
        return (
            draw.answer(view, classes),
            draw.places(view, content.prepare(path), classes),
            draw.verdict(view, classes) if off else "",
            draw.depth(view, chosen, labels, averages),
            draw.gates(view, chosen, classes, labels, averages),
        )

    def measure() -> Any:
        assert content.measure is not None
        held["averages"] = content.measure()
        run.cache_clear()
        return gr.Button(visible=False)

    def point_at(event: gr.EventData) -> str:
        return names[event.number - 1]

    # Gradio resolves the annotation in this module's globals, which have no `gr`.
    point_at.__annotations__["event"] = gr.EventData

    choices = [(labels[name], name) for name in names]
    with gr.Blocks(title=f"{content.title} gates", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as page:
        gr.HTML(_heading(1, content.title, content.about), elem_classes="se-title")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                image = gr.Image(
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    label="Image",
                    height=300,
                    buttons=[],
                    elem_id="image",
                    alt_text="The image that the prediction is about",
                    value=str(content.examples[0]) if content.examples else None,
                )
                if content.examples:
                    files = [[str(path)] for path in content.examples]
                    gr.Examples(files, image, label="Or one of these", elem_id="examples", api_visibility="private")
            with gr.Column(scale=3, min_width=300):
                answer = gr.HTML(draw.nothing(), elem_id="answer", apply_default_css=False)
                places = gr.HTML("", elem_id="places", apply_default_css=False)
        about = (
            "At their mean over images, gates are a constant scale: what changes is what gating this image is worth."
        )
        gr.HTML(_heading(2, "Switches", about))
        ways = [MEAN, *([OTHER] if len(seen) > 1 else []), ONE] if seen or averages else [ONE]
        how = gr.Radio(ways, value=ways[0], label="A unit that is off has", elem_id="how")
        off = gr.CheckboxGroup(choices, value=[], label="Units that are off", elem_id="off", show_select_all=True)
        verdict = gr.HTML("", elem_id="verdict", apply_default_css=False)
        gr.HTML(_heading(2, "Gates", "This image, and the averages of the predicted class and of all images."))
        button = gr.Button(
            "Measure class averages",
            size="sm",
            visible=averages is None and content.measure is not None,
            elem_id="measure",
        )
        unit = gr.Dropdown(
            choices, value=_liveliest(names, averages, seen), label="Unit", elem_id="unit", min_width=200
        )
        depth = gr.HTML(elem_id="units", js_on_load=CHOOSE, apply_default_css=False)
        gates = gr.HTML(elem_id="gates", apply_default_css=False)

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # The network runs for one visitor at a time.
        network: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
        measured = button.click(measure, None, button, **network, api_visibility="private")
        page.load(None, js=NAME)
        for changed in (page.load, image.change, off.change, how.change, unit.change, measured.then):
            changed(
                show,
                [image, off, how, unit],
                [answer, places, verdict, depth, gates],
                **network,
                trigger_mode="always_last",
                # `prepare` reads the file and explains what is wrong with it.
                preprocess=False,
                **quiet,
            )
        depth.click(point_at, None, unit, **quiet)
    return page


@_without_proxies()
def serve(page: gr.Blocks, *, host: str = "127.0.0.1", port: int | None = None, browser: bool = False) -> str:
    """Serve a page in a thread of its own and return its address; `page.close()` ends it.

    Args:
        page: What `build` returned.
        host: Address to listen at; "0.0.0.0" is all addresses of this machine.
        port: None for the first free one from 7860.
        browser: Whether to open it in the browser.

    Raises:
        RunError: If the port is taken or the address is not one of this machine.
    """
    try:
        # Gradio would wait for ever for a server at an address that is not one of this machine.
        socket.create_server((host, port or 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=_theme(),
            css_paths=Path(__file__).with_name("style.css"),
        )
    except OSError as error:
        raise RunError(
            f"cannot serve the app at {host}, port {port or '7860 or above'}: the port is taken, or not an address here"
        ) from error
    return address


def _theme() -> Any:
    """Return a theme with the system's fonts, since gradio's own themes load theirs from the internet."""
    from gradio.themes import Base

    theme = Base(
        primary_hue="orange",
        secondary_hue="sky",
        neutral_hue="zinc",
        radius_size="lg",
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
    )
    # For contrast, in light and dark.
    return theme.set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_500",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
    )


def _seen(content: PageContent) -> Iterator[Mapping[str, Tensor]]:
    """The gates of each example that can be read; the page says why another cannot, when it is chosen."""
    for path in content.examples:
        with suppress(SenetError):
            yield content.board.run(content.prepare(str(path))).gates


def _liveliest(names: Sequence[str], averages: Averages | None, seen: Sequence[Mapping[str, Tensor]]) -> str:
    """The unit whose gates differ most: between classes, else between the examples, else the last."""
    if averages is not None:
        return max(names, key=lambda name: float(np.nanstd(averages.of_class[name], axis=0).mean()))
    if len(seen) > 1:
        return max(names, key=lambda name: float(torch.stack([gates[name] for gates in seen]).std(0).mean()))
    return names[-1]


def _heading(level: int, title: str, below: str) -> str:
    words = f'<p class="se-quiet">{draw.escape(below)}</p>' if below else ""
    return f'<div class="se-heading"><h{level}>{draw.escape(title)}</h{level}>{words}</div>'
