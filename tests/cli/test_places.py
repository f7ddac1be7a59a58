"""Folders that are named from one place and used from another, or moved; and names of every kind on the way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senet.runs.recipe_file import read_recipe

Call = Callable[..., tuple[int, str, str]]

TINY = ["--image-size", "8", "--batch-size", "4", "--threads", "1", "--crop", "none"]


def photos(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), *, shift: int = 0) -> Path:
    """Five grey images for each class."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(np.full((8, 8, 3), 40 * number + i + shift, np.uint8)).save(folder / name / f"{i}.png")
    return folder


def run_to_resume(senet: Call, out: str) -> None:
    """A run of two epochs as if it was stopped after the first: the state of one that has one, without its summary."""
    assert senet("train", "se_resnet20", "--data", "photos", *TINY, "--epochs", "2", "--out", out)[0] == 0
    (Path(out) / "summary.json").unlink()


@pytest.mark.slow
def test_a_relative_folder_is_found_from_elsewhere(
    senet: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "photos")
    run_to_resume(senet, "run")
    assert read_recipe(Path("run")).data.name == str(tmp_path / "photos")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # The run's folder is moved as a whole.
    shutil.move(tmp_path / "run", "moved")
    assert senet("train", "--resume", "moved")[0] == 0
    for words in (["evaluate", "moved"], ["analyze", "moved"], ["report", "moved"]):
        assert senet(*words)[0] == 0


def test_images_that_were_moved(senet: Call, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    photos(tmp_path / "others", shift=1)
    run_to_resume(senet, "run")
    (tmp_path / "photos").rename(tmp_path / "album")
    status, _, err = senet("train", "--resume", "run")
    assert status == 2
    assert f"data.name: '{tmp_path}/photos' is neither a known data set nor a folder; " in err
    assert "--data names another" in err
    # Other images of the same classes and numbers are not the same images.
    status, _, err = senet("train", "--resume", "run", "--data", "others")
    assert status == 2
    assert "the images are not those that the run began with" in err
    assert senet("train", "--resume", "run", "--data", "album")[0] == 0
    assert read_recipe(Path("run")).data.name == str(tmp_path / "album")
    assert senet("evaluate", "run", "--data", "album")[0] == 0


def test_an_experiment_whose_images_were_moved(senet: Call, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    words = ["compare", "resnet20", "se_resnet20", "--data", "photos", *TINY, "--epochs", "1", "--seeds", "1"]
    assert senet(*words, "--out", "pair")[0] == 0
    (tmp_path / "photos").rename(tmp_path / "album")
    status, _, err = senet("compare", "--resume", "pair", "--seeds", "2")
    assert (status, "/photos' is neither a known data set" in err) == (2, True)
    status, out, _ = senet("compare", "--resume", "pair", "--seeds", "2", "--data", "album")
    assert (status, out.count(": done")) == (0, 2)
    assert read_recipe(Path("pair/runs/resnet20-seed1")).data.name == str(tmp_path / "album")
    # The folder remembers where they are, and takes no others.
    photos(tmp_path / "others", shift=1)
    status, _, err = senet("compare", "--resume", "pair", "--seeds", "3", "--data", "others")
    assert (status, "others' does not have the files of" in err, err.count("\n")) == (2, True, 1)
    assert not Path("pair/runs/resnet20-seed2").exists()
    status, out, _ = senet("compare", "--resume", "pair", "--seeds", "3")
    assert (status, out.count(": done")) == (0, 2)
    # The page of a run, too.
    run = "pair/runs/resnet20-seed0"
    for words, line in (
        (["--data", "others", "--details"], "does not have the files of"),
        (["--data", "album"], "--data: has no effect without --details"),
        (["--details"], "--data names another"),
    ):
        status, _, err = senet("report", run, *words)
        assert (status, line in err, err.count("\n")) == (2, True, 1), err
    assert senet("report", run, "--details", "--data", "album")[0] == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--data", "photos", "--momentum", "0"],
            "--resume: takes no other options but --data, --lr, --skip-batches, --seeds, --jobs and --devices, "
            "not --momentum",
        ),
        (["--data", "photos"], "--data: has no effect, the images are 'digits', which is not a folder"),
    ],
)
def test_what_resume_does_not_take(senet: Call, trained: Path, words: list[str], line: str) -> None:
    status, _, err = senet("train", "--resume", trained, *words)
    assert (status, err) == (2, f"senet train: error: {line}\n")


def test_a_name_that_is_no_folder_is_said_with_its_place(senet: Call, tmp_path: Path) -> None:
    status, _, err = senet("train", "resnet20", "--data", "phtos")
    assert status == 2
    assert f"data.name: 'phtos' is neither a known data set nor a folder in {tmp_path}; " in err


@pytest.mark.slow
def test_classes_of_any_name(senet: Call, tmp_path: Path) -> None:
    """From training to every picture and page; pytest makes matplotlib's warnings errors."""
    names = ("5$_$10", "_background_", "salt, pepper", 'the "best"', "<b>&", "猫")
    photos(tmp_path / "photos", names)
    assert senet("train", "se_resnet20", "--data", "photos", *TINY, "--epochs", "1", "--out", "run")[0] == 0
    status, out, _ = senet("analyze", "run", "--json", "--draw", '"salt, pepper",_background_,"the ""best""",猫')
    assert status == 0
    assert json.loads(out)["classes"] == ["salt, pepper", "_background_", 'the "best"', "猫"]
    assert json.loads(senet("evaluate", "run", "--details", "--json")[1])["per_class"][0]["name"] == "5$_$10"
    assert senet("report", "run", "--details")[0] == 0
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "5$_$10" in page
    assert "<b>&<" not in page
    status, _, err = senet("analyze", "run", "--draw", "salt, peper")
    assert status == 2
    assert "--draw: 'salt' is not known" in err


def test_a_name_that_is_not_utf_8_is_one_line(senet: Call, tmp_path: Path) -> None:
    photos(tmp_path / "photos", (os.fsdecode(b"\xb9\xb7"), "dog"))
    status, _, err = senet("train", "se_resnet20", "--data", "photos", *TINY, "--epochs", "1", "--out", "run")
    assert (status, err.count("\n")) == (2, 1)
    assert r"\xb9\xb7: the name of this class folder is not printable UTF-8" in err
    assert not Path("run").exists()
