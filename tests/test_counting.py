"""Counting errors: by hand, and however the batches are cut."""

from __future__ import annotations

import math

import pytest
import torch

from senet.counting import Tally


def test_by_hand() -> None:
    tally = Tally()
    logits = torch.zeros(4, 6)
    logits[0, 2] = 3.0  # right
    logits[1, 2], logits[1, 4] = 3.0, 2.0  # wrong, second best
    logits[2] = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])  # wrong, last of six: not within five
    logits[3] = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])  # wrong, fifth
    targets = torch.tensor([2, 4, 5, 4])
    tally.add(logits, targets)
    found = tally.read()
    assert found["images"] == 4
    assert found["top1_error"] == 75.0
    assert found["top5_error"] == 25.0
    want = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        want += math.log(sum(map(math.exp, row))) - row[target]
    assert found["loss"] == pytest.approx(want / 4, rel=1e-6)


@pytest.mark.parametrize("cuts", [(10,), (3, 7), (1, 1, 8), (9, 1)])
def test_batches_do_not_matter(cuts: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(10, 7, generator=generator), torch.arange(10) % 7
    whole, parts = Tally(), Tally()
    whole.add(logits, targets)
    for x, t in zip(logits.split(cuts), targets.split(cuts), strict=True):
        parts.add(x, t)
    assert parts.read() == pytest.approx(whole.read(), rel=1e-6)
    assert parts.count == 10


def test_fewer_than_five_classes() -> None:
    tally = Tally()
    tally.add(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([0, 1]))
    assert tally.read()["top1_error"] == 100.0
    assert tally.read()["top5_error"] == 0.0


def test_half_precision_is_counted_in_full() -> None:
    """The loss of 2000 images in float16 would pass its largest number, 65504."""
    tally = Tally()
    for _ in range(3):
        tally.add(torch.tensor([[60.0, 0.0]], dtype=torch.float16).expand(2000, 2), torch.ones(2000, dtype=torch.long))
    assert tally.read()["loss"] == pytest.approx(60.0)


def test_no_images_are_no_number() -> None:
    found = Tally().read()
    assert found["images"] == 0
    assert all(math.isnan(found[k]) for k in ("loss", "top1_error", "top5_error"))


def test_nothing_is_kept_for_a_gradient() -> None:
    tally = Tally()
    tally.add(torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1]))
    assert not tally.sums.requires_grad


def test_an_answer_that_is_no_number_is_wrong() -> None:
    tally = Tally()
    tally.add(torch.tensor([[torch.nan, 1.0], [2.0, 1.0]]), torch.tensor([0, 0]))
    assert tally.read()["top1_error"] == 50.0
    assert tally.read()["top5_error"] == 50.0
