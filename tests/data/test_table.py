"""Lists of images as CSV files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from senet.data import open_data
from senet.data.sources import count_data
from senet.data.table import read_table
from senet.errors import DataError
from senet.recipes.recipe import DataRecipe


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images in a folder `im`: the file's number is its brightness. Files are sorted as text, 10 before 8."""
    (tmp_path / "im").mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "im" / f"{i}.png")
    return tmp_path


def lines(*rows: tuple[object, ...], separator: str = ",") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def test_a_list_with_parts(images: Path) -> None:
    rows = [(f"im/{i}.png", "dog" if i % 2 else "cat", ("Train", "validation", "test")[i // 4]) for i in range(12)]
    path = images / "list.csv"
    path.write_text(lines(("Filename", "Class", "Split"), *rows))
    data = open_data(DataRecipe(name=str(path), image_size=8, batch_size=2, mean=(0.5,) * 3, std=(0.5,) * 3), seed=0)
    assert (data.name, data.classes) == ("list.csv", ("cat", "dog"))
    assert data.val is not None
    assert data.test is not None
    for split, brightness in ((data.train, [0, 2, 1, 3]), (data.val, [4, 6, 5, 7]), (data.test, [10, 8, 11, 9])):
        assert [split.whole(k).getpixel((0, 0))[0] for k in range(4)] == brightness  # type: ignore[index]
        assert split.targets.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("separator", "name"), [(",", "a.csv"), (";", "a.CSV"), ("\t", "a.tsv")])
def test_a_list_without_parts_and_its_separators(images: Path, separator: str, name: str) -> None:
    quoted = '"tench, Tinca; tinca"'
    rows = [(images / "im" / f"{i}.png", quoted if i < 6 else "猫") for i in range(12)]
    path = images / name
    path.write_text("\ufeff" + lines(("label", "path"), *((b, a) for a, b in rows), separator=separator), "utf-8")
    layout = read_table(path)
    assert (layout.classes, len(layout.parts["all"].files)) == (("tench, Tinca; tinca", "猫"), 12)
    counts = count_data(DataRecipe(name=str(path), image_size=8, batch_size=1, mean=(0.5,) * 3, std=(0.5,) * 3))
    # A fifth of each class is held out.
    assert (counts.train, counts.val) == (10, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'file' in its first line ''"),
        ("im/0.png,cat\n", r"no column 'file' in its first line 'im/0\.png,cat'; expected: file, filename"),
        ("file,colour\nim/0.png,cat\n", "no column 'label'"),
        ("file,label\n", "names no images"),
        ("file,label\nim/0.png,\n", "line 2: no label"),
        ("file,label\nim/0.png,a\nim/99.png,b\n", r"1 of its 2 files do not exist, the first: .*99\.png"),
        ("file,label\nim/0.png,a\nim/0.png,b\n", r"line 3: im/0\.png is there twice"),
        ("file,label,part\nim/0.png,a,trian\n", r"line 2: part: 'trian' is not known \(did you mean 'train'"),
        ("file,label,part\nim/0.png,a,train\nim/1.png,b,val\n", "part 'val' has a class that the training part lacks"),
        ("file,label\nim/0.png,a\n", "has only one class"),
    ],
)
def test_mistakes(images: Path, text: str, message: str) -> None:
    path = images / "list.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(DataRecipe(name=str(path), image_size=8, batch_size=1, mean=(0.5,) * 3, std=(0.5,) * 3), seed=0)


def test_what_is_not_text_and_what_is_there_twice(images: Path) -> None:
    path = images / "list.csv"
    path.write_bytes(b"file,label\nim/0.png,caf\xe9\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_table(path)
    path.write_text("file,label,part\n" + "im/0.png,a,train\n" * 3 + "im/1.png,b,train\nim/2.png,a,val\n")
    layout = read_table(path)
    assert layout.notes == (
        f"{path}: 2 lines are there twice; they count once",
        f"{path}: no image of class 'b' in part 'val'",
    )
