"""`senet app` as somebody uses it: served by a process of its own, in a browser without a window."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from senet import create_model, load, save
from senet.analysis.collect import collect_gates
from senet.analysis.switchboard import Switchboard
from senet.cli import app as command
from senet.data import load_image, normalise
from senet.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from senet.recipes.registry import recipe_for
from tests.axe import SCHEMES, faults

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SEVEN = Path(__file__).parents[2] / "examples" / "seven.png"
DIGITS = tuple("0123456789")
UNITS = [f"features.stage{s}.block{b}.se" for s in (2, 3, 4) for b in (1, 2, 3)]

SERVER = """
import sys

def local(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1"):
        print("asks", args[1][0], file=sys.stderr)

sys.addaudithook(local)
from senet.cli.app import run

sys.exit(run(sys.argv[1:]))
"""
"""The command, with a word for each connection that leaves the machine."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a network of lively units and their averages over noise."""
    folder = tmp_path_factory.mktemp("run")
    recipe = recipe_for("digits", model="se_resnet20")
    torch.manual_seed(0)
    model = create_model(recipe.model, num_classes=10, in_channels=1)
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0, 2 * m.in_features**-0.5)
            nn.init.constant_(m.bias, 0.5)
    model.eval()
    images = torch.randn(20, 1, 32, 32)
    batches = [(images, torch.arange(20) % 10, torch.arange(20))]
    (folder / "analysis").mkdir()
    collect_gates(model, batches, DIGITS).save(folder / "analysis" / "gates.npz")
    save(folder / "best.safetensors", model, recipe=replace(recipe, model=model.net), classes=DIGITS)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the app is; it must end without a word and leave nothing behind."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed: pip install 'senet[app]'")
    # Not the usual port, which another worker's app may be taking at this moment.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", SERVER, str(folder), "--device", "cpu", "--port", str(port)]
    temporary = tmp_path_factory.mktemp("temporary")
    # Proxies that are not there: the page is served all the same.
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "https_proxy": "nonsense", "ALL_PROXY": "socks5://127.0.0.1:9"}
    env = os.environ | {"TMPDIR": str(temporary)} | proxies
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"se_resnet20: (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
        assert match, line or process.communicate()
        yield match[1]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=120) == ("", "")
        assert process.returncode == 0
        assert [path.name for path in temporary.rglob("*.png")] == []
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(address: str, browser: Any) -> Iterator[Any]:
    """The app in a new window; afterwards, that nothing went wrong in it and nobody else was asked."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else wrong.append(r.url))
    page.goto(address)
    # Until the answer about the example is there, which would otherwise arrive during the test.
    page.wait_for_selector("#answer .se-head")
    page.wait_for_selector("#gates figcaption")
    yield page
    context.close()
    assert wrong == []


def by_hand(folder: Path, off: set[str]) -> torch.Tensor:
    """Probabilities of the seven, without the app."""
    checkpoint = load(folder)
    for name in off:
        checkpoint.model.get_submodule(name).forward = lambda u: u  # type: ignore[method-assign]
    recipe = checkpoint.recipe.data
    with torch.no_grad():
        return checkpoint.model(normalise(load_image(SEVEN, recipe)[None], recipe))[0].softmax(0)


def said(p: torch.Tensor) -> str:
    return f"{p.argmax()} {100 * p.max():.1f}\N{NO-BREAK SPACE}%"


def drop(page: Any, path: Path = SEVEN) -> None:
    page.set_input_files("#image input[type=file]", path)


def test_it_opens_on_an_example(page: Any) -> None:
    page.locator("#answer .se-head").wait_for()
    page.locator("#gates figcaption").wait_for()
    # Five classes, and no bar for those of 0.0 %.
    rows = page.locator("#answer tbody tr")
    assert rows.count() == 5
    for i in range(5):
        assert rows.nth(i).locator(".se-bar").count() == ("0.0" not in rows.nth(i).inner_text().split()[1])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.reload()
    page.locator("#gates figcaption").wait_for()
    page.get_by_role("checkbox", name="SE_3_2").check()
    page.locator("#verdict .se-head").wait_for()
    assert page.locator("#places img").count() == 2
    assert faults(page) == []


def test_see_switch_and_choose(page: Any, folder: Path) -> None:
    head = page.locator("#answer .se-head")
    page.get_by_label("Remove Image").click()
    page.get_by_text("The prediction appears here").wait_for()
    drop(page)
    head.wait_for()
    before = by_hand(folder, set())
    assert head.inner_text() == said(before)
    assert page.locator("#answer tbody tr").count() == 5

    # One unit off, and the answer is that of the network without it.
    assert page.get_by_label("its mean gates").is_checked()
    page.get_by_label("gates of one").check()
    page.get_by_label("SE_3_2").check()
    page.locator("#verdict .se-head").wait_for()
    after = by_hand(folder, {"features.stage3.block2.se"})
    end = said(after) if before.argmax() != after.argmax() else said(after).split(" ", 1)[1]
    assert head.inner_text() == f"{said(before)} → {end}"
    assert page.locator("#units .se-off").count() == 1

    page.get_by_label("All units off").check()
    page.get_by_text("9 of 9 units off").wait_for()
    every = by_hand(folder, set(UNITS))
    assert head.inner_text().endswith(f"{100 * every.max():.1f}\N{NO-BREAK SPACE}%")
    page.get_by_label("All units off").uncheck()
    page.get_by_text("With all units on.").wait_for()
    assert head.inner_text() == said(before)

    # Another unit by the list, and one pointed at.
    assert page.locator("#gates figcaption").inner_text().split(":")[0] in page.locator("#off").inner_text()
    assert page.get_by_text(f"average of {before.argmax()}", exact=True).count() == 1
    page.get_by_label("Unit", exact=True).click()
    page.get_by_role("option", name="SE_2_1").click()
    page.get_by_text("SE_2_1: 16 channels").wait_for()
    page.locator("#units .se-unit").nth(3).click()
    page.get_by_text("SE_3_1: 32 channels").wait_for()
    assert page.get_by_label("Unit", exact=True).input_value() == "SE_3_1"


def test_by_keyboard_alone(page: Any, folder: Path) -> None:
    keys = page.keyboard

    def go_to(selector: str) -> None:
        # What is drawn only now could be passed by.
        page.locator(selector).first.wait_for(state="attached")
        for _ in range(60):
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
            keys.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    go_to("[aria-label='Example 4']")
    keys.press("Enter")
    page.locator("#answer .se-head").wait_for()
    go_to("#off input[name]")
    keys.press("Space")
    page.get_by_text("1 of 9 units off").wait_for()
    assert page.get_by_label("SE_2_1").is_checked()
    go_to("#unit input")
    keys.press("ArrowUp")
    keys.press("Enter")
    page.get_by_text("SE_4_2: 64 channels").wait_for()


def test_on_a_phone_in_the_dark_with_a_file_that_is_no_image(page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.reload()
    page.wait_for_selector("#answer .se-quiet")
    drop(page)
    page.locator("#answer .se-head").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert max(red, green, blue) < 64
    head = page.locator("#answer .se-head")
    head.wait_for()
    first = head.inner_text()
    page.get_by_label("Example 4").click()
    # An example that is still on its way would take the place of no image.
    page.wait_for_function("first => document.querySelector('#answer .se-head')?.innerText !== first", arg=first)
    # A file that cannot be read takes the place of what was said of the one before, also of one that was picked.
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page.get_by_label("Remove Image").click()
    page.get_by_text("The prediction appears here").wait_for()
    drop(page, broken)
    page.get_by_text("broken.png: cannot be read as an image").wait_for()
    drop(page)
    page.locator("#answer .se-head").wait_for()


def test_mistakes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, error, message in [
        (["nowhere"], CheckpointError, "nowhere: no such file"),
        ([str(folder), "--port", "70000"], ConfigError, "--port: 70000 is too large"),
        ([str(folder), "--pretrained"], ConfigError, "--pretrained: has no effect"),
        (["tim:seresnet50"], ConfigError, r"'tim' is not known \(did you mean 'timm'\?\)"),
        ([str(folder), "--gates", "nowhere.npz"], DataError, "nowhere.npz: no such file"),
        ([str(folder), "--examples", str(tmp_path)], DataError, "no images in this folder"),
    ]:
        with pytest.raises(error, match=message):
            command.run(words)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'senet\[app\]'"):
        command.run([str(folder)])


def test_averages_are_those_of_the_file(folder: Path) -> None:
    averages, said = command.averages_of("", folder, DIGITS)
    assert averages is not None
    assert said == "averages over 20 images"
    board = Switchboard(load(folder).model, torch.zeros(1, 1, 32, 32))
    averages.check(board.units, 10)
    assert averages.of_class[UNITS[0]].shape == (10, 16)
    with pytest.raises(ConfigError, match="has 10 classes that are not the network's"):
        command.averages_of("", folder, ("cat", "dog"))
    assert command.averages_of("", None, DIGITS) == (None, "")


def test_images_to_pick_from(tmp_path: Path) -> None:
    recipe = recipe_for("digits").data
    digits = command.examples("", recipe, tmp_path)
    assert [p.name for p in digits] == [f"{d}.png" for d in range(10)]
    assert load_image(digits[3], recipe).shape == (1, 32, 32)
    assert command.examples(str(tmp_path), recipe, tmp_path) == digits
    assert command.examples("", replace(recipe, name="timm:seresnet50"), tmp_path) == []
