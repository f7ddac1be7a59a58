"""Places365 as torchvision's `Places365` unpacks it: lists of files beside folders of images."""

from __future__ import annotations

from pathlib import Path

from senet.data.folders import Layout, Listing, PartName, printable
from senet.errors import DataError

CATEGORIES = "categories_places365.txt"
"""The list of the classes, by which the folder is recognised."""

_TRAIN = ("challenge", "standard")
# 256 x 256 pixels, or as they were found.
_SIZES = ("256", "large")


def read_places(folder: Path) -> Layout:
    """Read the lists of Places365: training images, of the Challenge (8 million) or the Standard set, and validation.

    Classes are in the order of the list, and are called as their folders without the letter, such as "airfield". Where
    there are small and large images, the small ones are taken. Files are not looked for, as with other folders.

    Raises:
        DataError: A list is missing or has another form, or there are no images of a part, or both training sets.
    """
    numbers = dict(_lines(folder / CATEGORIES))
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise DataError(f"{folder / CATEGORIES}: the numbers of its classes are not 0 to {len(numbers) - 1}")
    classes = tuple(name[3:] for name in sorted(numbers, key=numbers.__getitem__))
    sets = [name for name in _TRAIN if _images(folder, f"data_{{}}_{name}")]
    if len(sets) > 1:
        raise DataError(f"{folder}: has the images of {' and '.join(sets)}; expected: one of them")
    parts: dict[PartName, Listing] = {}
    if sets:
        images, lists = _images(folder, f"data_{{}}_{sets[0]}"), folder / f"places365_train_{sets[0]}.txt"
        parts["train"] = _listing(classes, images, lists)
    if images := _images(folder, "val_{}"):
        parts["val"] = _listing(classes, images, folder / "places365_val.txt")
    if not parts:
        raise DataError(f"{folder}: has no images; expected: data_256_standard/ and val_256/")
    return Layout(folder, parts, notes=(f"{folder}: Places365{f', the {sets[0]} set' if sets else ''}",))


def _images(folder: Path, name: str) -> Path | None:
    return next((path for size in _SIZES if (path := folder / name.format(size)).is_dir()), None)


def _listing(classes: tuple[str, ...], images: Path | None, lists: Path) -> Listing:
    assert images is not None
    rows = sorted((number, name) for name, number in _lines(lists))
    if rows and not 0 <= rows[0][0] <= rows[-1][0] < len(classes):
        raise DataError(f"{lists}: has a class that {CATEGORIES} has not")
    for _, name in rows:
        if ".." in name.split("/"):
            raise DataError(f"{lists}: {printable(name)} is refused; expected: a file in {images.name}/")
    files = tuple(f"{images}/{name.lstrip('/')}" for _, name in rows)
    return Listing(images, classes, files, tuple(number for number, _ in rows))


def _lines(path: Path) -> list[tuple[str, int]]:
    """The names and numbers of a list, "/a/airfield 0" a line."""
    found = []
    try:
        for count, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            name, _, number = line.rpartition(" ")
            if not name or not number.isdecimal():
                raise DataError(f"{path}, line {count}: {line[:40]!r} is not a name and a number")
            found.append((name, int(number)))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not found:
        raise DataError(f"{path}: is empty")
    return found
