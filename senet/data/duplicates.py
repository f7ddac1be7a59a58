"""Find images that are both in the training and in another part of a data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from senet.data.shards import ShardFiles
from senet.data.sources import Data
from senet.data.splits import FileSplit, Split, TensorSplit
from senet.recipes.recipe import PARTS

MOST = 100_000
"""Number of files up to which duplicates are looked for: finding their sizes takes a few seconds."""


def duplicates(data: Data) -> list[str]:
    """Count the validation and test images that are training images too, byte by byte; a line for each part with any.

    Images in memory are compared by their pixels, files by their contents.
    """
    lines = []
    count = sum(len(split) for split in (data.train, data.val, data.test) if split is not None)
    if isinstance(data.train, FileSplit) and count > MOST:
        return [f"duplicates are not looked for among {count:,} files, more than {MOST:,}"]
    for part in ("val", "test"):
        split: Split | None = getattr(data, part)
        if split is not None and (count := _count(data.train, split)):
            are = "is" if count == 1 else "are"
            lines.append(f"{count:,} of {len(split):,} {PARTS[part]} images {are} among the training images too")
    return lines


def _count(train: Split, other: Split) -> int:
    if isinstance(train, TensorSplit) and isinstance(other, TensorSplit):
        known = set(_pixels(train))
        return sum(digest in known for digest in _pixels(other))
    assert isinstance(train, FileSplit)
    assert isinstance(other, FileSplit)
    if isinstance(train.files, ShardFiles) and isinstance(other.files, ShardFiles):
        known = set(train.files.digests())
        return sum(digest in known for digest in other.files.digests())
    # Only files of one size can be equal, and few are, so little is read.
    ours, others = _by_size(train.files), _by_size(other.files)
    same = ours.keys() & others.keys()
    known = {digest for size in same for digest in map(_contents, ours[size])}
    found = Counter(digest in known for size in same for digest in map(_contents, others[size]))
    return found[True]


def _pixels(split: TensorSplit) -> list[bytes]:
    images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
    return [blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def _by_size(files: Sequence[str]) -> dict[int, list[str]]:
    sizes: dict[int, list[str]] = {}
    for file in files:
        try:
            sizes.setdefault(os.path.getsize(file), []).append(file)
        except OSError:
            # `on_bad_image` decides about it when it is read.
            continue
    return sizes


def _contents(file: str) -> str:
    try:
        return blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return file
