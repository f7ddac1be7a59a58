"""`senet report`, on a real run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from senet.analysis.pictures import thumbnails
from senet.report.folder import write_page
from senet.runs.checkpoint import load
from senet.runs.gates import write_gates


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A run folder that may be written to."""
    return Path(shutil.copytree(trained, tmp_path / "copied"))


def test_report_of_a_run(senet: Callable, copied: Path) -> None:
    status, out, err = senet("report", copied)
    assert (status, err) == (0, "")
    page = (copied / "report.html").read_text()
    assert f"report  {copied}/report.html" in out
    assert "se_resnet20" in page
    # Training has measured the last two.
    for drawn in ("curves", "confusion", "gates"):
        assert f'data-draw="{drawn}"' in page


def test_report_with_details(senet: Callable, copied: Path) -> None:
    status, out, _ = senet("report", copied, "--details", "--device", "cpu", "--json")
    assert status == 0
    printed = json.loads(out)
    assert printed["bytes"] == (copied / "report.html").stat().st_size < 5_000_000
    measured = json.loads((copied / "evaluation.json").read_text())
    assert sum(map(sum, measured["confusion"])) == measured["images"] == 359
    assert measured["epoch"] == load(copied).measurements["epoch"]
    page = (copied / "report.html").read_text()
    for section in ("mistakes", "classes", "gates"):
        assert f'<section id="{section}"' in page, section
    assert len(measured["mistakes"]) == 24
    assert page.count("taken for") >= 24


def test_a_run_shows_gates_that_were_analyzed(senet: Callable, copied: Path) -> None:
    """The pictures in it are the images that the units' ends name."""
    import torch

    from senet.analysis.collect import collect_gates
    from senet.analysis.images import load, mixed
    from senet.data import open_part
    from senet.runs.checkpoint import load as load_checkpoint

    checkpoint = load_checkpoint(copied)
    recipe = checkpoint.recipe
    part = open_part(recipe.data)
    split = part.split
    batches = load(split, mixed(split.targets, 2, 20), torch.device("cpu"))
    gates = collect_gates(checkpoint.model, batches, part.classes, chosen=[0, 1], sampled=4)
    (copied / "analysis").mkdir()
    write_gates(copied / "analysis", gates.page(thumbnails(split, recipe.data)))
    written = write_page(copied / "analysis")
    assert written == copied / "analysis" / "report.html"
    kept = json.loads((copied / "analysis" / "gates.json").read_text())
    named = {str(i) for u in kept["units"] for ends in (u["openers"], u["closers"]) for row in ends for i, _ in row}
    assert set(kept["thumbnails"]) == named
    assert senet("report", copied)[0] == 0
    assert 'data-draw="gates"' in (copied / "report.html").read_text()


def test_details_are_never_of_another_checkpoint(senet: Callable, copied: Path) -> None:
    (copied / "best.safetensors").unlink()
    status, _, err = senet("report", copied, "--details")
    assert (status, "best.safetensors: no such file" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "no such folder"),
        (["."], "not a folder of senet train"),
        ([".", "--device", "cpu"], "--device: has no effect without --details"),
        ([".", "--details"], "--details: . is not the folder of one run"),
    ],
)
def test_mistakes(senet: Callable, words: list[str], says: str) -> None:
    status, _, err = senet("report", *words)
    assert status == 2
    assert says in err
