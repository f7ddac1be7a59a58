"""Places365 as torchvision unpacks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import Places365

from senet.data import open_data
from senet.data.sources import find_images
from senet.errors import DataError
from senet.recipes.recipe import DataRecipe
from tests.data.conftest import write_image

CATEGORIES = "/a/airfield 0\n/a/airplane_cabin 1\n/f/field/wild 2\n"


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "categories_places365.txt").write_text(CATEGORIES)
    train = [("/f/field/wild/00000001.jpg", 2), ("/a/airfield/00000002.jpg", 0), ("/a/airfield/00000001.jpg", 0)]
    train += [("/a/airplane_cabin/00000001.jpg", 1)]
    val = [("Places365_val_00000001.jpg", 1), ("Places365_val_00000002.jpg", 0)]
    for name, folder, rows in (
        ("places365_train_standard.txt", "data_256_standard", train),
        ("places365_val.txt", "val_256", val),
    ):
        (tmp_path / name).write_text("".join(f"{file} {number}\n" for file, number in rows))
        for seed, (file, _) in enumerate(rows):
            write_image(tmp_path / folder / file.lstrip("/"), 20, 16, seed)
    return tmp_path


@pytest.mark.parametrize(("part", "split"), [("train", "train-standard"), ("val", "val")])
def test_as_torchvisions_class(places: Path, monkeypatch: pytest.MonkeyPatch, part: Any, split: str) -> None:
    monkeypatch.setattr(Places365, "_check_integrity", lambda *args: True)  # Its lists have fixed digests.
    theirs = Places365(places, split=split, small=True)
    layout = find_images(DataRecipe(name=str(places)))
    ours = layout.parts[part]
    assert dict(zip(ours.files, ours.targets, strict=True)) == dict(theirs.imgs)
    assert [f"/{name[0]}/{name}" for name in layout.classes] == theirs.classes
    assert theirs.class_to_idx == {f"/{name[0]}/{name}": number for number, name in enumerate(layout.classes)}


def test_images_are_opened(places: Path) -> None:
    data = open_data(DataRecipe(name=str(places), image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3), seed=0)
    assert data.classes == ("airfield", "airplane_cabin", "field/wild")
    assert data.train.targets.tolist() == [0, 0, 1, 2]
    assert len(data.measured) == 2
    assert data.notes[0] == f"{places}: Places365, the standard set"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("places365_val.txt", None, "places365_val.txt: cannot be read"),
        ("places365_val.txt", "", "places365_val.txt: is empty"),
        ("places365_val.txt", "a.jpg\n", "places365_val.txt, line 1: 'a.jpg' is not a name and a number"),
        ("places365_val.txt", "a.jpg 3\n", "places365_val.txt: has a class that categories_places365.txt has not"),
        ("places365_val.txt", "../a.jpg 1\n", r"\.\./a\.jpg is refused; expected: a file in val_256/"),
        ("categories_places365.txt", "/a/x 0\n/a/y 2\n", "the numbers of its classes are not 0 to 1"),
    ],
)
def test_lists_that_are_wrong(places: Path, file: str, text: str | None, message: str) -> None:
    if text is None:
        (places / file).unlink()
    else:
        (places / file).write_text(text)
    with pytest.raises(DataError, match=message):
        find_images(DataRecipe(name=str(places)))


def test_folders_that_are_wrong(places: Path) -> None:
    (places / "data_large_challenge").mkdir()
    with pytest.raises(DataError, match="has the images of challenge and standard; expected: one of them"):
        find_images(DataRecipe(name=str(places)))
    for name in ("data_large_challenge", "data_256_standard", "val_256"):
        (places / name).rename(places / f"old_{name}")
    with pytest.raises(DataError, match="has no images; expected: data_256_standard/ and val_256/"):
        find_images(DataRecipe(name=str(places)))
