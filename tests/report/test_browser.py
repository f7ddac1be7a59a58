"""The report in headless Chromium, driven as a reader would: by pointer, and by the keyboard alone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senet.report.page import Page
from senet.report.render import render
from tests.axe import SCHEMES, faults
from tests.detection.test_page import FOUND
from tests.report.pages import CHANNELS, UNITS, full, gate, gates, history

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")


PAGES = {
    "comparison": lambda: replace(full(), gates=None, evaluation=None),
    "run": lambda: replace(full(), kind="Run", results=()),
    "gates": lambda: Page(kind="Gates", title="se_resnet8", sentence="Planted.", gates=gates()),
    "detection": lambda: Page(kind="Run", title="fasterrcnn_se_resnet50_fpn", detection=FOUND),
}
"""A page of each kind."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Inside a container there is no user namespace for the browser's own sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(full()))
    return path


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    """The report, opened; at the end no error may have been said and nothing but the file been asked for."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: faults.append(r.url) if r.url != file.as_uri() and r.url[:5] != "data:" else None)
    page.goto(file.as_uri())
    yield page
    context.close()
    assert faults == []


def value_text(page: Any, label: str) -> str:
    return page.get_by_role("slider", name=label).get_attribute("aria-valuetext")


def test_it_is_small(file: Path) -> None:
    assert file.stat().st_size < 5_000_000


def test_choosing_a_unit_shows_its_gates(page: Any) -> None:
    page.get_by_label("Unit", exact=True).select_option(label="SE_2_1 (features.SE_2_1.se)")
    assert page.get_by_role("heading", name="SE_2_1, mean gate by channel").is_visible()
    assert value_text(page, "Mean gate").startswith("SE_2_1, channel 0: all 0.00, goldfish 0.10, pug 0.20")
    assert page.locator(".strip img").count() == 3
    page.get_by_role("button", name="Next unit").click()
    assert page.get_by_role("heading", name="SE_2_2, mean gate by channel").is_visible()
    assert page.get_by_text("21.00 % (+8.50)").is_visible()


def test_hovering_a_channel_shows_its_values(page: Any) -> None:
    plot = page.get_by_role("slider", name="Mean gate")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + box["height"] / 2)
    last, unit = CHANNELS - 1, len(UNITS) - 1
    assert page.locator(".which").inner_text() == str(3 * last)
    shown = page.locator(".channel .forest li b").all_inner_texts()
    assert shown == [f"{gate(unit, line, last):.2f}" for line in range(3)]
    page.mouse.move(0, 0)
    assert page.locator(".which").inner_text() == "0"


def test_hovering_the_curves_moves_all_three(page: Any) -> None:
    plot = page.get_by_role("slider", name="Error, % over the epochs")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 60)
    # Means over the two seeds in the first epoch.
    assert "epoch 1: resnet8 85.00, seeds 80.00 to 90.00, training 80.00; se_resnet8 65.00" in value_text(page, "Error")
    assert value_text(page, "Loss").startswith("epoch 1: resnet8 2.500")
    assert value_text(page, "Learning rate") == "epoch 1: learning rate 0.1"


FOCUSED = """() => {
    const focused = document.activeElement;
    const ringed = focused.matches("input") ? focused.nextElementSibling : focused;
    const name = focused.getAttribute("aria-label") ?? focused.textContent.trim();
    return [name, parseFloat(getComputedStyle(ringed).outlineWidth)];
}"""
"""The name of the element that has the focus, and the width of the ring that shows it."""


def test_the_keyboard_alone_reaches_and_moves_everything(page: Any) -> None:
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
        if reached[-1][0] == "Unit, by depth":
            break
    names = [name for name, _ in reached]
    assert names[0] == "Skip to the report"
    assert names[-1] == "Unit, by depth"
    assert "Error, % over the epochs" in names
    assert all(width >= 2 for name, width in reached), reached
    assert page.get_by_role("heading", name=f"{UNITS[-1]}, mean gate").is_visible()
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("heading", name=f"{UNITS[-2]}, mean gate").is_visible()
    page.keyboard.press("Home")
    assert page.get_by_role("heading", name=f"{UNITS[0]}, mean gate").is_visible()
    plot = page.get_by_role("slider", name="Mean gate")
    plot.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".which").inner_text() == "3"
    page.get_by_role("application", name=re.compile("Confusion")).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.get_by_text("cat taken for dog: 10 of 100, 10.0 %").is_visible()


def test_a_class_can_be_left_out(page: Any) -> None:
    chip = page.get_by_role("button", name="pug")
    lines = page.locator(".channels .line")
    assert lines.count() == 3
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert lines.count() == 2
    assert "pug" not in value_text(page, "Mean gate")


def test_order_scale_and_spread(page: Any) -> None:
    gates = page.locator("#gates")
    gates.get_by_label("one deviation").check(force=True)
    assert page.locator(".channels .band").count() == 3
    gates.get_by_label("fitted").check(force=True)
    gates.get_by_label("mean gate", exact=True).check(force=True)
    page.locator("#curves").get_by_label("log").check(force=True)
    page.locator("#curves").get_by_label("last half").check(force=True)
    assert value_text(page, "Error").startswith("epoch 10")
    page.locator("#curves").get_by_label("all").check(force=True)
    assert value_text(page, "Error").startswith("epoch 10")


def test_zero_is_on_the_logarithmic_scale(browser: Any, tmp_path: Path) -> None:
    error = {e: 0.0 if e > 5 else 80.0 for e in range(1, 11)}
    runs = [[replace(e, measured={**e.measured, "top1_error": error[e.epoch]}) for e in history(90.0)]]
    (tmp_path / "report.html").write_text(render(replace(full(), curves={"resnet8": runs})))
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    panel = page.locator("#curves .panel").first
    ticks = panel.locator("svg text[text-anchor=end]").all_text_contents()
    assert ticks[:8] == ["0", "1", "2", "5", "10", "20", "50", "epoch"]
    epochs = panel.locator("svg text[text-anchor=middle]").all_text_contents()
    assert all(text.isdigit() for text in epochs)
    path = panel.locator("path.line").last.get_attribute("d")
    assert len(re.findall("[ML]", path)) == 10, "no gap where the error is zero"
    page.close()


@pytest.mark.parametrize("kind", ["SVG", "PNG"])
def test_a_chart_is_saved(page: Any, kind: str) -> None:
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Save Loss over the epochs as {kind}").click()
    assert download.value.suggested_filename == f"loss-over-the-epochs.{kind.lower()}"
    content = Path(download.value.path()).read_bytes()
    if kind == "PNG":
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        return
    text = content.decode()
    assert "Loss over the epochs" in text
    assert not re.search(r"var\(|oklab|color\(", text), "other programs do not know these"


def test_curves_of_no_network_on_a_logarithmic_scale(page: Any) -> None:
    curves = page.locator("#curves")
    curves.get_by_label("log").check(force=True)
    for name in ("se_resnet8", "resnet8"):
        curves.get_by_role("button", name=name, exact=True).click()
    assert curves.locator(".panel:not(.wide) .line").count() == 0
    curves.get_by_role("button", name="se_resnet8").click()
    assert curves.locator(".panel:not(.wide) .line").count() == 4


def test_gates_below_zero_are_inside_the_chart(browser: Any, tmp_path: Path) -> None:
    """Those of tanh: the scale reaches down to them, and so does a channel's own."""
    planted = gates()
    low = replace(planted.units[-1], mean=tuple((line - 1.0,) * CHANNELS for line in range(3)))
    page_of_tanh = replace(full(), gates=replace(planted, units=(*planted.units[:-1], low)))
    (tmp_path / "report.html").write_text(render(page_of_tanh))
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    for scale in ("0 to 1", "fitted"):
        page.locator("#gates").get_by_label(scale).check(force=True)
        ends = page.evaluate("""() => {
            const svg = document.querySelector("#gates .channels svg");
            const bottom = (element) => element.getBoundingClientRect().bottom;
            return [bottom(svg), Math.max(...[...svg.querySelectorAll("path")].map(bottom))];
        }""")
        assert ends[1] < ends[0] - 20
    places = page.locator("#gates .channel .forest .mean").evaluate_all("e => e.map((i) => i.style.left)")
    assert places == ["0%", "50%", "100%"]
    page.close()


def test_a_cell_of_the_similarities_chooses_a_unit(page: Any) -> None:
    heat = page.get_by_role("application", name=re.compile("Similarity"))
    heat.focus()
    page.keyboard.press("ArrowDown")
    assert page.get_by_text("SE_2_1 and SE_2_1: 1.00").is_visible()
    # The planted unit that has none is not taken for one like no other.
    fills = heat.locator("rect[style]").evaluate_all("e => e.map((i) => i.style.fill)")
    assert "var(--ink)" in fills[8]
    assert not any("var(--ink)" in fill for fill in fills[:8])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.get_by_role("heading", name="SE_2_2, mean gate").is_visible()


def test_every_drawing_has_a_table(page: Any) -> None:
    tables = page.locator("summary", has_text="As a table")
    assert tables.count() == 6
    for i in range(tables.count()):
        tables.nth(i).click()
    # Their toggle events come a moment later.
    sync_api.expect(page.locator(".as-table table")).to_have_count(6)
    assert page.locator(".as-table tr", has_text="0.33").count() > 0


def test_the_theme_can_be_switched(page: Any) -> None:
    def paper() -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert paper() > 700
    page.get_by_role("button", name="Dark").click()
    assert paper() < 100
    page.get_by_role("button", name="Dark").click()
    assert paper() > 700
    page.emulate_media(color_scheme="dark")
    assert paper() > 700, "a choice stays when the system changes"


@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("kind", PAGES)
def test_axe_finds_nothing(browser: Any, kind: str, tmp_path: Path) -> None:
    """Contrast in light and dark, names, order of headings, and whatever else it knows."""
    file = tmp_path / "report.html"
    file.write_text(render(PAGES[kind]()))
    for scheme in SCHEMES:
        context = browser.new_context(color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
        page = context.new_page()
        page.goto(file.as_uri())
        assert faults(page) == [], scheme
        context.close()


def test_it_can_be_printed(browser: Any, file: Path) -> None:
    page = browser.new_page()
    page.goto(file.as_uri())
    page.emulate_media(media="print")
    for hidden in (".top", ".controls", ".save", ".command button"):
        assert not page.locator(hidden).first.is_visible(), hidden
    for shown in ("h1", "#mistakes", "#provenance"):
        assert page.locator(shown).first.is_visible(), shown
    # A4 without its margins, in CSS pixels.
    page.set_viewport_size({"width": 673, "height": 1000})
    cut = """() => [...document.querySelectorAll(".scroll, pre")].filter(
        (one) => one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight
    ).map((one) => one.outerHTML.slice(0, 200))"""
    assert page.evaluate(cut) == []
    document = page.pdf()
    assert document[:5] == b"%PDF-"
    page.close()
