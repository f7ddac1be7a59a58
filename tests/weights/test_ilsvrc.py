"""The class table, judged by torchvision's names, timm's synsets and ILSVRC-2017's own first classes."""

from __future__ import annotations

from timm.data import ImageNetInfo
from torchvision.models._meta import _IMAGENET_CATEGORIES

from senet.weights import ilsvrc


def test_synsets_and_names_are_the_standard_order() -> None:
    assert list(ilsvrc.synsets()) == ImageNetInfo().label_names()
    differing = [pair for pair in zip(ilsvrc.names(), _IMAGENET_CATEGORIES, strict=True) if pair[0] != pair[1]]
    # The kit numbers its two maillots, torchvision describes them.
    assert differing == [("maillot 1", "maillot"), ("maillot 2", "maillot tank suit")]
    assert len(set(ilsvrc.names())) == 1000


def test_the_order_of_ilsvrc2017() -> None:
    order = ilsvrc.ilsvrc2017_order()
    assert sorted(order) == list(range(1000))
    theirs = [ilsvrc.names()[order.index(i)] for i in range(3)]
    # The first lines of the development kit's map_clsloc.txt.
    assert theirs == ["kit fox", "English setter", "Siberian husky"]


def test_synsets_are_put_in_words() -> None:
    assert ilsvrc.named(("n02119789", "n00000000", "fox")) == ("kit fox", "n00000000", "fox")
