"""The 1,000 classes of ILSVRC-2012: their names, and their order in the authors' Caffe networks.

The standard order is that of the sorted synsets, as in torchvision, timm and image folders. The authors' networks have
the order of ILSVRC-2017's development kit. The table is `ilsvrc_classes.tsv`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def _columns() -> tuple[tuple[str, ...], ...]:
    """Synset, index in the standard order, index in ILSVRC-2017's, name; in the standard order."""
    _, *rows = Path(__file__).with_name("ilsvrc_classes.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(zip(*(row.split("\t") for row in rows), strict=True))


def synsets() -> tuple[str, ...]:
    """The classes as ImageNet's folders are called, in the standard order: "n01440764", ..."""
    return _columns()[0]


def names() -> tuple[str, ...]:
    """The classes in words, in the standard order.

    >>> names()[:3]
    ('tench', 'goldfish', 'great white shark')
    """
    return tuple(name.replace("_", " ") for name in _columns()[3])


def ilsvrc2017_order() -> tuple[int, ...]:
    """The index of each class in ILSVRC-2017's order, in the standard order: a permutation of 0, ..., 999."""
    return tuple(map(int, _columns()[2]))


def named(classes: Iterable[str]) -> tuple[str, ...]:
    """Put the synsets among some class names in words; other names stay as they are.

    >>> named(["n01440764", "my cat"])
    ('tench', 'my cat')
    """
    words = dict(zip(synsets(), names(), strict=True))
    return tuple(words.get(name, name) for name in classes)
