"""What a folder holds and what of it is not read: layouts as people have them, judged by hand and by torchvision."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from benchmarks.fuzz_folders import check
from senet.data import open_data, open_part
from senet.data.folders import describe, find_layout, formats
from senet.errors import DataError
from senet.recipes.recipe import DataRecipe

MakeTree = Callable[[dict[str, int] | list[str]], Path]
SMALL: dict[str, Any] = {"image_size": 8, "mean": (0.5,), "std": (0.5,)}


@pytest.fixture
def make_tree(tmp_path: Path) -> MakeTree:
    """Makes `tmp_path/f`: images by folder and number, or files by name; names that end in "/" are empty folders."""

    def make(tree: dict[str, int] | list[str]) -> Path:
        root = tmp_path / "f"
        names = tree if isinstance(tree, list) else [f"{at}/{i}.png" for at, n in tree.items() for i in range(n)]
        names += [f"{at}/" for at in tree if not isinstance(tree, list)]
        root.mkdir(exist_ok=True)
        for name in names:
            path = root / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in formats():
                Image.new("L", (8, 8)).save(path, "png")
            elif not name.endswith("/"):
                path.write_text("")
        return root

    return make


def both(*parts: str, n: int = 1) -> dict[str, int]:
    """Classes a and b with n images each in each part."""
    return {f"{part}/{name}": n for part in parts for name in "ab"}


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("val", ["val", "valid", "Validation", "DEV", None])
@pytest.mark.parametrize("test", ["test", "Testing", None])
def test_names_of_parts(make_tree: MakeTree, train: str, val: str | None, test: str | None) -> None:
    names = {"train": train, "val": val, "test": test}
    root = make_tree(both(*(name for name in names.values() if name)))
    found = find_layout(root)
    assert {part: listing.folder.name for part, listing in found.parts.items()} == {k: v for k, v in names.items() if v}
    assert found.unread == {}
    assert found.notes == ()
    if val or test:
        data = open_data(DataRecipe(name=str(root), **SMALL), 0)
        assert (data.val is not None, data.test is not None) == (bool(val), bool(test))
        assert (
            data.source
            == f"{2 * len(found.parts)} images in {root} ({', '.join(f'{n}/' for n in names.values() if n)})"
        )


def test_without_a_validation_part_images_are_held_out_when_asked(make_tree: MakeTree) -> None:
    root = make_tree(both("train", "test", n=4))
    plain = open_data(DataRecipe(name=str(root), **SMALL), 0)
    assert (len(plain.train), plain.val, len(plain.measured)) == (8, None, 8)
    held = open_data(DataRecipe(name=str(root), val_fraction=0.25, **SMALL), 0)
    assert held.val is held.measured is not None
    assert (len(held.train), len(held.val), len(held.test or ())) == (6, 2, 8)
    assert "(train/, test/, 25% held out, split_seed 0)" in held.source
    only = make_tree(both("train", n=4))
    (only / "test").rename(only.parent / "away")
    data = open_data(DataRecipe(name=str(only), **SMALL), 0)
    assert (len(data.train), len(data.val or ()), data.test) == (6, 2, None)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (both("train", "val", "valid"), r"f: has val/ and valid/, two names for one part"),
        (both("train", "Train", "val"), r"f: has Train/ and train/, two names for one part"),
        (both("train", "testing", "test"), r"f: has test/ and testing/, two names for one part"),
        (both("train", "holdout"), r"f: has train/ with class folders, and images in holdout/, which is not the name"),
        (both("train", "val") | {"val/c": 1}, r"val: has class folders that .*train lacks \(c\)"),
        (both("train", "test") | {"test/A": 1}, r"test: has class folders that .*train lacks \(A\)"),
        ({"a": 0, "b": 0}, r"f: no images in its class folders; expected: files ending in \.jpg"),
        (["a/x.txt", "b/"], r"f: no images in its class folders; not read: \.txt \(1, in a/\); expected: files"),
        ({"train": 2, "test": 2}, r"train: holds 2 images and no class folders; expected: train/ and val/"),
        (both("train") | {"val": 3}, r"val: holds 3 images and no class folders"),
        (["0.png", "1.jpg", "labels.csv"], r"f: holds 2 images and no class folders \(not read: .*\.csv \(1\)\)"),
        ({"a": 1, "a ": 1}, r"f: class folders 'a' and 'a ' have the same name but for spaces"),
        ({"caf\u00e9": 1, "cafe\u0301": 1}, r"'cafe\\u0301' and 'caf\\xe9' have the same name"),
        ({"a\nb": 1, "c": 1}, r"a\\nb: the name of this class folder is not printable"),
        ([os.fsdecode(b"\xb9\xb7/0.png"), "b/0.png"], r"\\xb9\\xb7: the name of this class folder is not printable"),
        ([os.fsdecode(b"train/\xff/0.png"), "train/b/0.png", "val/b/0.png"], r"train/\\xff: the name of this class"),
    ],
)
def test_one_line_where_a_folder_cannot_be_read(
    make_tree: MakeTree, tree: dict[str, int] | list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        find_layout(make_tree(tree))
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_class_names_are_matched(make_tree: MakeTree) -> None:
    root = make_tree(
        {"train/caf\u00e9": 1, "train/Cat": 2, "train/tea": 1, "train/dog ": 1, "train/猫": 1}
        | {"val/cafe\u0301": 3, "val/cat": 1, "val/tea": 1, "val/dog": 2, "val/猫": 1}
    )
    found = find_layout(root)
    assert found.classes == ("Cat", "caf\u00e9", "dog ", "tea", "猫")
    assert found.parts["val"].classes == found.classes
    where = {name: found.parts["val"].targets.count(i) for i, name in enumerate(found.classes)}
    assert where == {"Cat": 1, "caf\u00e9": 3, "dog ": 2, "tea": 1, "猫": 1}
    for file, target in zip(found.parts["val"].files, found.parts["val"].targets, strict=True):
        folder = unicodedata.normalize("NFC", Path(file).parent.name).casefold()
        assert folder == found.classes[target].strip().casefold()
    assert len(found.notes) == 2
    assert "class 'cat' is taken for 'Cat'" in found.notes[0] + found.notes[1]


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (both("trn", "tst"), ["hold folders of the same names (a, b)"]),
        ({"cat/in": 1, "cat/out": 1, "dog/in": 1}, []),
        ({"cat": 1, "cat/in": 1, "cat/out": 1, "dog/in": 1, "dog/out": 1}, []),
    ],
)
def test_classes_that_look_like_parts_are_noted(make_tree: MakeTree, tree: dict[str, int], says: list[str]) -> None:
    notes = find_layout(make_tree(tree)).notes
    assert len(notes) == len(says)
    assert all(word in note for word, note in zip(says, notes, strict=True))


def test_classes_by_case_and_missing_ones_are_noted(make_tree: MakeTree) -> None:
    root = make_tree(["train/a/0.png", "train/A/0.png", "train/b/0.png", "val/a/0.png", "val/A/0.png", "val/b/"])
    found = find_layout(root)
    assert found.classes == ("A", "a", "b")
    assert found.parts["val"].targets == (0, 1)
    assert any("differ in upper and lower case only" in note for note in found.notes)
    assert f"{root}/val: has no image of 1 of 3 classes (b)" in found.notes


@pytest.mark.parametrize("tree", [["a/x/y/0.png", "a/1.png", "a/b/2.JPG", "b/z/3.png", "b/4.png"]])
def test_nested_folders_as_torchvision(make_tree: MakeTree, tree: list[str]) -> None:
    root = make_tree([*tree, "a/notes.txt"])
    theirs = ImageFolder(str(root))
    found = find_layout(root).parts["all"]
    assert sorted(zip(found.files, found.targets, strict=True)) == sorted(theirs.samples)
    assert list(found.classes) == theirs.classes


@pytest.mark.parametrize(
    ("tree", "part", "folder", "count"),
    [
        (both("photos"), "all", "photos", 2),
        (both("a/b/photos"), "all", "a/b/photos", 2),
        (both("d/train", "d/val"), "train", "d/train", 2),
        (both("train/train_images", "val/val_images"), "val", "val/val_images", 2),
        # One class, and classes that hold one folder each, are not too deep.
        ({"a": 2}, "all", "", 2),
        ({"a/x": 2, "b/y": 1}, "all", "", 3),
        ({"train/a": 1, "train/b": 1, "val/a/x": 1, "val/a/y": 1}, "val", "val", 2),
    ],
)
def test_once_too_deep(make_tree: MakeTree, tree: dict[str, int], part: Any, folder: str, count: int) -> None:
    root = make_tree(tree)
    (root / "__MACOSX" / "x").mkdir(parents=True)
    found = find_layout(root)
    assert found.parts[part].folder == root / folder
    assert len(found.parts[part].files) == count
    assert bool(found.notes) == (folder not in ("", "val")) or "has no image of" in found.notes[0]


def test_what_is_not_read_is_counted_once_by_ending_and_place(make_tree: MakeTree) -> None:
    root = make_tree(
        [
            *("train/a/0.png", "train/a/x/1.JFIF", "train/b/2.pgm", "val/a/3.tga", "val/b/4.webp"),
            *("train/a/notes.txt", "train/a/x/more.TXT", "train/a/clip.mp4", "train/b/draw.eps", "train/b/noending"),
            *("train/b/phone.HEX", "train/.DS_Store", "train/a/Thumbs.db", "train/a/._0.png", "__MACOSX/a/0.png"),
            *("labels.csv", "stray.png", "train/stray.png", "extra/0.png", "extra/deep/1.png", "extra/readme.md"),
        ]
    )
    found = find_layout(root)
    assert [Path(file).name for part in found.parts.values() for file in part.files] == [
        *("0.png", "1.JFIF", "2.pgm", "3.tga", "4.webp")
    ]
    assert found.unread == {
        (".txt", "train/a"): 2,
        (".mp4", "train/a"): 1,
        (".eps", "train/b"): 1,
        ("no ending", "train/b"): 1,
        (".hex", "train/b"): 1,
        ("hidden or system", "train"): 1,
        ("hidden or system", "train/a"): 2,
        ("hidden or system", ""): 1,
        (".csv", ""): 1,
        ("images outside class folders", ""): 1,
        ("images outside class folders", "train"): 1,
        ("images beside the parts", "extra"): 2,
        (".md", "extra"): 1,
    }
    line = open_data(DataRecipe(name=str(root), **SMALL), 0).source
    assert line == (
        f"5 images in {root} (train/, val/); not read: hidden or system (4), .txt (2, in train/a/), images beside the "
        "parts (2, in extra/), images outside class folders (2), .csv (1), .eps (1, in train/b/; drawings, convert "
        "them to PNG), .hex (1, in train/b/), .md (1, in extra/), 2 other kinds (2)"
    )


def test_an_unlabelled_test_part(make_tree: MakeTree) -> None:
    root = make_tree(both("train", n=5) | {"test": 7})
    data = open_data(DataRecipe(name=str(root), **SMALL), 0)
    assert (len(data.train), len(data.val or ()), data.test) == (8, 2, None)
    assert data.notes[0] == f"{root}/test: no class folders, so its 7 images are not read"
    assert "images outside class folders (7, in test/)" in data.source


def test_links_pipes_and_loops(make_tree: MakeTree) -> None:
    root = make_tree({"a": 1, "b": 1, "b/x": 1})
    (root / "a" / "loop").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root.parent)
    (root / "a" / "self.png").symlink_to(root / "a" / "self.png")
    (root / "a" / "nowhere.png").symlink_to(root / "absent.png")
    (root / "a" / "nowhere.txt").symlink_to(root / "absent.png")
    (root / "b" / "again").symlink_to(root / "b" / "x")
    (root / "a" / "others").symlink_to(root / "b" / "x")
    os.mkfifo(root / "a" / "pipe.png")
    found = find_layout(root)
    assert [file[len(str(root)) + 1 :] for file in found.parts["all"].files] == [
        *("a/0.png", "a/nowhere.png", "a/self.png", "a/others/0.png", "b/0.png", "b/again/0.png")
    ]
    assert found.unread == {
        ("links to folders that are read already", "a"): 2,
        ("links to folders that are read already", "b"): 1,
        ("pipes, sockets and devices", "a"): 1,
        (".txt", "a"): 1,
    }
    (root / "c").symlink_to(root / "a")
    with pytest.raises(DataError, match=r"class folders 'a' and 'c' are one folder, by a link"):
        find_layout(root)


def test_a_folder_that_cannot_be_listed(make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree({"a": 1, "b/x": 1})
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("x"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    # Rights do not bind who runs tests as root.
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"b/x: cannot be listed \(Permission denied\)$"):
        find_layout(root)


@pytest.mark.parametrize(
    ("part", "expected"),
    [("", ("all", 10)), ("all", ("all", 10)), ("val", ("val", 2)), ("train", ("train", 8)), ("test", None)],
)
def test_parts_of_a_plain_folder(make_tree: MakeTree, part: Any, expected: tuple[str, int] | None) -> None:
    recipe = DataRecipe(name=str(make_tree({"a": 5, "b": 5})), **SMALL)
    if expected is None:
        with pytest.raises(DataError, match=r"f: has no part 'test'; expected: all, train, val$"):
            open_part(recipe, part)
        return
    found = open_part(recipe, part)
    assert (found.name, len(found.split)) == expected
    assert found.split.seed is None
    assert found.words.startswith(f"{expected[1]} ")


def test_parts_of_a_split_folder_and_of_the_digits(make_tree: MakeTree) -> None:
    recipe = DataRecipe(name=str(make_tree(both("train", n=3) | both("valid", n=2) | both("test", n=1))), **SMALL)
    assert [len(open_part(recipe, part).split) for part in ("", "train", "val", "test")] == [2, 6, 4, 2]
    with pytest.raises(DataError, match=r"has no part 'all'; expected: train, val, test$"):
        open_part(recipe, "all")
    alone = make_tree({})
    (alone / "train").rename(alone.parent / "away")
    (alone / "valid").rename(alone.parent / "too")
    assert open_part(recipe).words == f"2 images in {alone}/test"
    (alone / "test" / "c").mkdir()
    assert open_part(recipe).notes[0] == f"{alone}/test: has no image of 1 of its classes (c)"
    digits = DataRecipe(name="digits", image_size=8)
    assert [len(open_part(digits, part).split) for part in ("", "train", "val")] == [359, 1438, 359]


def test_describe_stays_short() -> None:
    unread = {(f".e{i}", "a"): i for i in range(1, 30)}
    line = describe(unread)
    assert line.startswith("not read: .e29 (29, in a/), .e28 (28, in a/)")
    assert line.endswith(f"21 other kinds ({sum(range(1, 22))})")


def test_random_trees_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """A part of `python -m benchmarks.fuzz_folders`: what is read and said not to be read is everything there is."""
    outcomes = [check(tmp_path / str(seed), seed) for seed in range(100)]
    assert outcomes.count("read") > 40
    assert len(set(outcomes)) > 5
