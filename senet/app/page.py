"""The page: an image, the prediction, the switches, the gates. It is served to this machine alone and asks no other.

What it needs of a checkpoint comes as plain values and one function, so any network can be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from senet.analysis.switchboard import Averages, Switchboard
from senet.app import draw
from senet.app.draw import View
from senet.errors import MissingExtraError, RunError, SenetError

if TYPE_CHECKING:
    import gradio as gr

CHOOSE = """element.addEventListener("click", (event) => {
    const unit = event.target.closest(".se-unit");
    if (unit) trigger("click", { number: Number(unit.dataset.number) });
});"""
"""A click on a unit among all units chooses it; the keyboard has the list and the slider."""

NAME_EXAMPLES = """() => document.querySelectorAll("#examples button").forEach(
    (button, i) => button.setAttribute("aria-label", `Example ${i + 1}`)
)"""
"""Gradio gives its pictures no names."""

Dropped = dict[str, Any] | None
"""An image as gradio hands it over: its file is at "path"."""

KEPT_S = 3600
"""Seconds after which an image that was dropped is deleted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """A network, ready to be shown.

    board: runs it.  prepare: from an image file to `(1, C, H, W)`; raises SenetError for one that cannot be read.
    classes: names of the outputs.  labels: what units are called on the page, where not as their modules.
    title: what it is called.  about: a line on where it comes from.
    averages: of the gates; None: they were not measured.
    examples: image files to pick from.
    """

    board: Switchboard
    prepare: Callable[[str], Tensor]
    classes: Sequence[str]
    labels: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    about: str = ""
    averages: Averages | None = None
    examples: Sequence[Path] = ()


def check_extra() -> None:
    """Raise MissingExtraError where gradio is not installed; importing it, which takes seconds, is left to `build`."""
    if find_spec("gradio") is None:
        raise MissingExtraError("Pages of the app", "app")


def build(subject: Subject) -> gr.Blocks:
    """The page of a network; `serve` shows it.

    Raises ConfigError where averages are not this network's, MissingExtraError without gradio.
    """
    check_extra()
    import gradio as gr

    board, classes = subject.board, subject.classes
    names = list(board.units)
    labels = draw.short(names) | dict(subject.labels)
    if subject.averages is not None:
        subject.averages.check(board.units, len(classes))

    def seen(image: Dropped, off: list[str], chosen: str) -> tuple[View | None, str, str, str, str]:
        """Look at an image."""
        if image is None:
            return None, draw.nothing(), "", "", ""
        path = image["path"]
        try:
            before = board.run(subject.prepare(path))
        except SenetError as error:
            return None, draw.failed(str(error).replace(path, Path(path).name)), "", "", ""
        return switched(image, View(before, before), off, chosen)

    def switched(
        image: Dropped, view: View | None, off: list[str], chosen: str
    ) -> tuple[View | None, str, str, str, str]:
        """Answer again with these units off."""
        if image is None or view is None:
            return None, draw.nothing(), "", "", ""
        after = board.run(subject.prepare(image["path"]), off) if off else view.before
        view = View(view.before, after, tuple(name for name in names if name in off))
        return view, draw.answer(view, classes), draw.verdict(view, classes) if off else "", *drawn(view, chosen)

    def drawn(view: View | None, chosen: str) -> tuple[str, str]:
        """Draw the gates."""
        if view is None:
            return "", ""
        return (
            draw.depth(view, chosen, labels, subject.averages),
            draw.gates(view, chosen, classes, labels, subject.averages),
        )

    def by_name(view: View | None, chosen: str) -> tuple[int, str, str]:
        """Another unit, from the list."""
        return names.index(chosen) + 1, *drawn(view, chosen)

    def by_number(view: View | None, number: int) -> tuple[str, str, str]:
        """Another unit, by its place."""
        chosen = names[number - 1]
        return chosen, *drawn(view, chosen)

    def by_click(view: View | None, event: gr.EventData) -> tuple[int, str, str, str]:
        """Another unit, pointed at."""
        return event.number, *by_number(view, event.number)

    # Gradio reads the annotation where `gr` is not known.
    by_click.__annotations__["event"] = gr.EventData

    choices = [(labels[name], name) for name in names]
    with gr.Blocks(title=f"{subject.title} gates", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as page:
        gr.HTML(_heading(1, subject.title, subject.about), elem_classes="se-title")
        view = gr.State(None)
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
                )
                if subject.examples:
                    files = [[str(path)] for path in subject.examples]
                    gr.Examples(files, image, label="Or one of these", elem_id="examples", api_visibility="private")
                    page.load(None, js=NAME_EXAMPLES)
            with gr.Column(scale=3, min_width=300):
                answer = gr.HTML(draw.nothing(), elem_id="answer", apply_default_css=False)
        gr.HTML(_heading(2, "Switches", "The gates of a unit that is off are one: its map goes on as it is."))
        off = gr.CheckboxGroup(choices, value=[], label="Units that are off", elem_id="off")
        with gr.Row(elem_id="buttons"):
            all_off = gr.Button("All off", size="sm", scale=0, min_width=90)
            all_on = gr.Button("All on", size="sm", scale=0, min_width=90)
            verdict = gr.HTML("", elem_id="verdict", apply_default_css=False)
        gr.HTML(_heading(2, "Gates", _said_of(subject.averages)))
        with gr.Row():
            by_list = gr.Dropdown(choices, value=names[-1], label="Unit", elem_id="unit", min_width=200)
            slider = gr.Slider(
                1,
                len(names),
                value=len(names),
                step=1,
                precision=0,
                label=f"The unit's place among {len(names)}, first to last",
                elem_id="place",
                min_width=200,
                visible=len(names) > 1,
                buttons=[],
            )
        depth = gr.HTML(elem_id="units", js_on_load=CHOOSE, apply_default_css=False)
        gates = gr.HTML(elem_id="gates", apply_default_css=False)

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # A network runs for one visitor at a time.
        runs: dict[str, Any] = quiet | {
            "concurrency_id": "network",
            "concurrency_limit": 1,
            "trigger_mode": "always_last",
            # Our own reader takes the file as it is, and says what is wrong with it.
            "preprocess": False,
        }
        shown = [view, answer, verdict, depth, gates]
        image.change(seen, [image, off, by_list], shown, **runs)
        off.change(switched, [image, view, off, by_list], shown, **runs)
        all_off.click(lambda: names, None, off, **quiet)
        all_on.click(lambda: [], None, off, **quiet)
        latest: dict[str, Any] = quiet | {"trigger_mode": "always_last"}
        by_list.input(by_name, [view, by_list], [slider, depth, gates], **latest)
        slider.input(by_number, [view, slider], [by_list, depth, gates], **latest)
        depth.click(by_click, [view], [slider, by_list, depth, gates], **latest)
    return page


def serve(page: gr.Blocks, *, host: str = "127.0.0.1", port: int | None = None, browser: bool = False) -> str:
    """Start serving in a thread of its own and return the address; `page.close()` ends it.

    host: which addresses of this machine answer; "0.0.0.0" is all.  port: None for the first free one from 7860.
    browser: open it in the browser.
    Raises RunError where the port is taken or the address is not this machine's.
    """
    try:
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
            f"cannot serve the app at {host}, port {port or '7860 or above'}: taken, or no address of this machine"
        ) from error
    return address


def _theme() -> Any:
    """In the system's fonts, since those of gradio's own themes come from elsewhere."""
    from gradio.themes import Base

    theme = Base(
        primary_hue="orange",
        secondary_hue="sky",
        neutral_hue="zinc",
        radius_size="lg",
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
    )
    return theme.set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        checkbox_label_background_fill="*background_fill_primary",
        checkbox_label_background_fill_dark="*neutral_800",
        checkbox_label_background_fill_hover="*neutral_100",
        checkbox_label_background_fill_hover_dark="*neutral_700",
        checkbox_label_border_width="1px",
        checkbox_label_border_width_dark="1px",
        checkbox_label_border_color="*neutral_300",
        checkbox_label_border_color_dark="*neutral_600",
        checkbox_label_padding="0.35rem 0.6rem",
        checkbox_label_gap="0.4rem",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_500",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        slider_color="*primary_700",
        slider_color_dark="*primary_500",
    )


def _heading(level: int, title: str, below: str) -> str:
    words = f'<p class="se-quiet">{draw.escape(below)}</p>' if below else ""
    return f'<div class="se-heading"><h{level}>{draw.escape(title)}</h{level}>{words}</div>'


def _said_of(averages: Averages | None) -> str:
    if averages is None:
        return "Of this image alone: there are no averages to compare with, which senet analyze measures."
    return "Of this image, beside the averages of the predicted class and of all images."
