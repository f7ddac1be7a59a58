"""Guides are run as typed, but smaller, and every command of the documentation exists with its options."""

from __future__ import annotations

import ast
import contextlib
import glob
import io
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senet.cli import COMMANDS, main
from tests.docs.pages import DOCS, NOT_RUN, PAGES, ROOT, as_run, blocks, senet_commands

GUIDES = ["start", *(f"guides/{p.stem}" for p in sorted((DOCS / "guides").glob("*.md")))]


def text_of_help(command: str) -> str:
    """`senet COMMAND --help all`, or without `all` where the command has no recipe."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        for words in ([command, "--help", "all"], [command, "--help"]):
            with contextlib.suppress(SystemExit):
                main(words)
    return out.getvalue()


def test_every_option_in_the_docs_exists() -> None:
    helps: dict[str, str] = {}
    wrong = []
    for page, words in senet_commands():
        if words[0].startswith("-"):
            continue
        assert words[0] in COMMANDS, f"{page.name}: {words}"
        text = helps.setdefault(words[0], text_of_help(words[0]))
        for option in (w.split("=")[0] for w in words if w.startswith("--")):
            # A field may be set by its path, by the end of it, or as `--no-flip`.
            last = option.removeprefix("--").removeprefix("no-").split(".")[-1]
            if not re.search(rf"--(?:[\w-]+\.)*(?:{last}|{last.replace('-', '_')})\b", text):
                wrong.append(f"{page.relative_to(ROOT)}: senet {' '.join(words)}: no option {option}")
    assert not wrong


def test_links_lead_somewhere() -> None:
    wrong = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]:
        for path in re.findall(r"\]\(([^)#:\s]+?)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / path).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {path}")
    assert not wrong


def test_python_in_the_docs_is_python() -> None:
    block = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    found = [(page, code) for page in PAGES for code in block.findall(page.read_text())]
    assert len(found) > 30
    for page, code in found:
        try:
            ast.parse(code)
        except SyntaxError as error:
            pytest.fail(f"{page.relative_to(ROOT)}: {error}: {code}")


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a newcomer's photos, and with the Hub's cache as after a download."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    random = np.random.default_rng(0)
    for name, red in (("cat", 60), ("dog", 180)):
        for folder, count in ((Path("photos") / name, 20), (Path("new_photos"), 1)):
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = random.integers(0, 60, (48, 64, 3), dtype=np.uint8) + np.array([red, 90, 90], np.uint8)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}{i}.jpg")
    shutil.copytree(ROOT / "examples", "examples", ignore=shutil.ignore_patterns("__pycache__"))
    import timm

    create = timm.create_model

    def drawn(name: str, pretrained: bool = False, **fields: object) -> object:
        """timm's network with drawn weights in place of a download."""
        return create(name, pretrained=False, **fields)

    monkeypatch.setattr(timm, "create_model", drawn)
    return tmp_path


def run_page(page: Path) -> list[str]:
    """Run all blocks of a page in this folder; return what was not run."""
    left_out = []
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)
        else:
            for words in block.commands:
                line = as_run(words[1:]) if words[0] == "senet" else None
                if line is None:
                    left_out.append(" ".join(words))
                    assert any(word in NOT_RUN for word in words), f"{words}: says nowhere why it is not run"
                    continue
                files = [name for word in line for name in (sorted(glob.glob(word)) if "*" in word else [word])]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    status = main(files)
                # The doctor's is 1 where it found a fault, as it may in a network that was hardly trained.
                assert status in ((0, 1) if line[0] == "doctor" else (0,)), " ".join(files)
    return left_out


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDES)
def test_guide_runs(name: str, newcomer: Path) -> None:
    """As typed, but for `SMALLER`, `SEEDS` and `NOT_RUN`; `run_page` asserts each command's status."""
    for line in run_page(DOCS / f"{name}.md"):
        print("not run:", line)


def test_what_is_run_is_what_is_typed() -> None:
    assert as_run(["predict", "runs/photos", "x.jpg"]) == ["predict", "runs/photos", "x.jpg"]
    assert as_run(["reproduce", "table4", "--seeds", "3"]) == ["reproduce", "table4", "--seeds", "3", "--plan"]
    typed = ["train", "--epochs", "16", "--out", "runs/a"]
    smaller = ["train", "--epochs", "1", "--out", "runs/a", "--limit-batches", "2", "--image-size", "32"]
    assert as_run(typed) == smaller
    assert as_run(["app", "runs/a"]) is None
