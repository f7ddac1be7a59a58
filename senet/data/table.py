"""A list of images in place of a folder: a CSV file with the columns file, label and perhaps part."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from senet.data.folders import PARTS, Layout, Listing, PartName, printable
from senet.errors import DataError, unknown

COLUMNS = {
    "file": ("file", "filename", "file_name", "path", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "target", "category"),
    "part": ("part", "split", "set", "subset"),
}
"""Column -> the names that it may have, in any case. The column of parts may be absent."""

ENDINGS = (".csv", ".tsv")


def read_table(path: Path) -> Layout:
    """Read a list of images. Paths in it are relative to its folder; nothing but the list is read.

    Fields are separated by commas, semicolons or tabs.

    Raises:
        DataError: It cannot be read, lacks a column, or names a file that does not exist, one image twice with two
            labels, an unknown part, or a class that the training part lacks.
    """
    rows = _rows(path)
    found: dict[PartName, list[tuple[str, str]]] = {}
    seen: dict[str, tuple[str, str]] = {}
    repeated: Counter[str] = Counter()
    for number, (file, label, part) in rows:
        where = f"{path}, line {number}"
        if not file or not label:
            raise DataError(f"{where}: no {'file' if not file else 'label'}; expected: both in each line")
        name: PartName = "all"
        if part is not None:
            if part.lower() not in PARTS:
                raise DataError(str(unknown(f"{where}: part", part, PARTS)))
            name = PARTS[part.lower()]
        full = str(path.parent / file)
        if full in seen:
            if seen[full] != (label, name):
                raise DataError(f"{where}: {printable(file)} is there twice, as {seen[full]} and as {(label, name)}")
            repeated[file] += 1
            continue
        seen[full] = label, name
        found.setdefault(name, []).append((label, full))
    absent = [file for file in seen if not Path(file).is_file()]
    if absent:
        raise DataError(f"{path}: {len(absent):,} of its {len(seen):,} files do not exist, the first: {absent[0]}")
    return _layout(path, found, repeated)


def _layout(path: Path, found: dict[PartName, list[tuple[str, str]]], repeated: Counter[str]) -> Layout:
    first = found.get("all") or found.get("train") or next(iter(found.values()))
    classes = tuple(sorted({label for label, _ in first}))
    parts: dict[PartName, Listing] = {}
    order: tuple[PartName, ...] = ("all", "train", "val", "test")
    for name in order:
        rows = sorted(found.get(name, ()))
        if more := sorted({label for label, _ in rows} - {*classes}):
            raise DataError(f"{path}: part {name!r} has a class that the training part lacks: {more[0]!r}")
        if rows:
            parts[name] = Listing(
                folder=path if name == "all" else path / name,
                classes=classes,
                files=tuple(file for _, file in rows),
                targets=tuple(classes.index(label) for label, _ in rows),
            )
    notes = [f"{path}: {repeated.total():,} lines are there twice; they count once"] if repeated else []
    notes += [
        f"{path}: no image of class {classes[k]!r} in part {name!r}"
        for name, listing in parts.items()
        for k in sorted({*range(len(classes))} - {*listing.targets})
    ]
    return Layout(path, parts, notes=tuple(notes))


def _rows(path: Path) -> list[tuple[int, tuple[str, str, str | None]]]:
    """Line number and file, label and part of each line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            # What separates the columns' names separates the fields.
            reader = csv.DictReader(file, delimiter=max("\t;,", key=head.count), restval="")
            names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
            columns = {c: next((names[n] for n in known if n in names), None) for c, known in COLUMNS.items()}
            for column in ("file", "label"):
                if columns[column] is None:
                    raise DataError(
                        f"{path}: no column {column!r} in its first line {head.strip()!r}; expected: "
                        f"{', '.join(COLUMNS[column])}"
                    )
            rows = [
                (reader.line_num, tuple(None if c is None else (row[c] or "").strip() for c in columns.values()))
                for row in reader
                if any(row.values())
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {getattr(error, 'strerror', None) or error}") from error
    if not rows:
        raise DataError(f"{path}: names no images")
    return rows  # type: ignore[return-value]
