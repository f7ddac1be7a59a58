"""Ensembles, their search and the cache of logits, against loops in plain Python."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from senet.data import Data
from senet.errors import ConfigError, DataError, RunError
from senet.evaluation.accuracy import Answers, answers, measure
from senet.evaluation.cache import about, cached
from senet.evaluation.crops import Views
from senet.evaluation.ensemble import ensemble, search


def noise(seed: int, n: int = 40, k: int = 6) -> Tensor:
    return 2 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


TARGETS = torch.arange(40) % 6
MEMBERS = [Answers(noise(seed), TARGETS) for seed in range(3)]


@pytest.mark.parametrize("weights", [None, (1, 2, 1), (0, 3, 0.5)])
def test_the_mean_of_probabilities(weights: tuple[float, ...] | None) -> None:
    found = ensemble(MEMBERS, weights)
    w = weights or (1, 1, 1)
    wrong = 0
    for i in range(40):
        mixed = [0.0] * 6
        for member, weight in zip(MEMBERS, w, strict=True):
            powers = [math.exp(v) for v in member.logits[i].tolist()]
            for c in range(6):
                mixed[c] += weight / sum(w) * powers[c] / sum(powers)
        assert found.logits[i].exp().tolist() == pytest.approx(mixed, abs=1e-6)
        wrong += max(range(6), key=mixed.__getitem__) != TARGETS[i]
    assert measure(found).top1_error == pytest.approx(100 * wrong / 40)


def test_one_member_is_itself() -> None:
    assert torch.equal(ensemble(MEMBERS, (0, 2, 0)).logits, MEMBERS[1].logits.log_softmax(1))


def test_scales_as_members_are_the_views_at_once(opened: Callable[..., Data], model: nn.Module) -> None:
    views, split = Views(crops=10, scales=(36, 48)), opened().val
    parts = [answers(model, split, views=v) for v in views.by_scale()]
    assert len(parts) == 2
    together = answers(model, split, views=views).logits
    assert (ensemble(parts).logits.exp() - together.exp()).abs().max() < 1e-6
    assert Views(flip=True).by_scale() == [Views(flip=True)]


def test_the_search_finds_the_planted_pair() -> None:
    """Two members each know one half of the images for sure and guess on the other; the rest is surely wrong."""
    n, k = 400, 6
    targets = torch.arange(n) % k
    truth = nn.functional.one_hot(targets, k).float()
    known = torch.randperm(n, generator=torch.Generator().manual_seed(0)) < n // 2
    knows = [8 * truth * part[:, None] + 0.1 * noise(s, n) for s, part in enumerate((known, ~known))]
    wrong = [5 * truth.roll(s, 1) + noise(s, n) for s in (1, 2)]
    members = [Answers(t, targets) for t in (wrong[0], knows[0], wrong[1], knows[1])]
    found = search(members, seed=3)
    a, b, c, d = found.weights
    assert a == c == 0
    assert 0.3 < b < 0.7
    assert b + d == pytest.approx(1)
    assert found.result.top1_error == found.search.top1_error == 0
    assert [m.top1_error > 30 for m in found.members] == [True] * 4
    assert found.equal.top1_error > 30


@pytest.mark.parametrize("by", ["top1_error", "top5_error", "loss"])
def test_one_half_is_searched_and_the_other_measured(by: str) -> None:
    members = [Answers(noise(s, 41), torch.arange(41) % 6) for s in range(5)]
    found = search(members, by=by, seed=1)
    whole = measure(ensemble(members, found.weights))
    parts = found.search, found.result
    assert [p.images for p in parts] == [21, 20]
    # The halves share no image and leave none out.
    assert sum(getattr(p, by) * p.images for p in parts) == pytest.approx(getattr(whole, by) * 41)
    # No single member does better on the half that was searched.
    for i, member in enumerate(members):
        alone = getattr(measure(member), by) * 41 - getattr(found.members[i], by) * 20
        assert getattr(found.search, by) * 21 <= alone + 1e-4
    assert found == search(members, by=by, seed=1)
    assert found.members != search(members, by=by, seed=2).members


def test_more_steps_never_do_worse_on_the_half_that_is_searched() -> None:
    members = [Answers(noise(s, 60), torch.arange(60) % 6) for s in range(3)]
    found = [search(members, steps=s, refine=False) for s in range(1, 9)]
    errors = [f.search.top1_error for f in found]
    assert errors == sorted(errors, reverse=True)
    # An ensemble on the way was the best one.
    assert len(found[-1].path) < 8
    assert found[-1].weights == tuple(found[-1].path.count(i) / len(found[-1].path) for i in range(3))


def test_weights_are_refined_to_the_least_loss() -> None:
    """Of two members one is right where the other is wrong: the best share of each is how often it is right."""
    n = 200
    right = torch.arange(n) % 4 > 0
    sure = nn.functional.one_hot(right.long(), 2) * 60.0
    members = [Answers(t, torch.ones(n, dtype=torch.int64)) for t in (sure, sure.flip(1))]
    found = search(members, by="loss", steps=2)
    here = (150 - (100 - found.members[0].top1_error)) / 100
    assert found.path == (0, 1)
    assert found.refined
    assert found.weights == pytest.approx([here, 1 - here], abs=1e-6)
    assert search(members, by="loss", steps=2, refine=False).weights == (0.5, 0.5)


def test_a_member_that_never_decides_is_not_right() -> None:
    flat = Answers(torch.zeros(40, 6), TARGETS)
    assert search([flat, *MEMBERS], steps=1, refine=False).path != (0,)


def test_wrong_members_and_weights() -> None:
    with pytest.raises(ConfigError, match="members: none; expected: one or more"):
        ensemble([])
    with pytest.raises(ConfigError, match="members: "):
        search([])
    for weights, message in (
        ((1, 1), "weights: 2 numbers for 3 members"),
        ((1, -1, 1), "expected: 0 or more"),
        ((0, 0, 0), "not all 0"),
        ((1, math.nan, 1), "expected: 0 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            ensemble(MEMBERS, weights)
    with pytest.raises(DataError, match="member 1 has 5 classes and member 0 6"):
        ensemble([MEMBERS[0], Answers(noise(1, k=5), TARGETS)])
    with pytest.raises(DataError, match="member 1 answers for other images"):
        ensemble([MEMBERS[0], Answers(noise(1), TARGETS.flip(0))])
    with pytest.raises(DataError, match="member 1 answers for other images"):
        ensemble([MEMBERS[0], Answers(noise(1), TARGETS, ("a.png: gone",))])
    # With NaN every class would look right.
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError, match="member 1 has logits that are NaN or infinite"):
            search([MEMBERS[0], Answers(torch.full((40, 6), bad), TARGETS)])
    with pytest.raises(ConfigError, match="by: 'top2' is not known"):
        search(MEMBERS, by="top2")
    with pytest.raises(ConfigError, match="steps: 0 is too small"):
        search(MEMBERS, steps=0)
    with pytest.raises(DataError, match="1 image is not enough"):
        search([Answers(noise(0, 1), torch.tensor([0]))])


def test_cached_is_uncached_bit_for_bit(opened: Callable[..., Data], model: nn.Module, tmp_path: Path) -> None:
    split, views = opened().val, Views(crops=10)
    made = []

    def make() -> Answers:
        made.append(answers(model, split, views=views))
        return made[-1]

    key = about(model, split.fingerprint(), views, "cpu")
    first, second = (cached(tmp_path / "new" / "logits", key, make) for _ in range(2))
    assert len(made) == 1
    plain = answers(model, split, views=views)
    for found in (first, second):
        assert torch.equal(found.logits, plain.logits)
        assert (found.logits.dtype, found.skipped) == (torch.float32, ())
        assert torch.equal(found.targets, plain.targets)
    kept = Answers(noise(0), TARGETS, ("é: bad",))
    assert cached(tmp_path, {"a": 1}, lambda: kept) is kept
    assert cached(tmp_path, {"a": 1}, make).skipped == ("é: bad",)


def test_a_wrong_cache_is_not_used(opened: Callable[..., Data], model: nn.Module, folder: Path, tmp_path: Path) -> None:
    split, views = opened().val, Views(crops=10)
    keys = [about(model, split.fingerprint(), v, "cpu") for v in (None, views, Views(crops=12))]
    keys.append(about(model, split.fingerprint(), views, "cuda"))
    # Other images, or the same prepared otherwise.
    for changes in ({"mean": (0.1, 0.2, 0.3)}, {"image_size": 30}, {"resize": 41}, {"keep_aspect": False}):
        keys.append(about(model, opened(**changes).val.fingerprint(), views, "cpu"))
    keys.append(about(model, opened().train.fingerprint(), views, "cpu"))
    file = next((folder / "val").glob("*/*.png"))
    before = file.stat().st_mtime_ns
    os.utime(file, ns=(before, before + 1_000_000_000))
    keys.append(about(model, opened().val.fingerprint(), views, "cpu"))
    os.utime(file, ns=(before, before))
    assert about(model, opened().val.fingerprint(), views, "cpu") == keys[1]
    # One weight moved by one bit, and a layer without weights replaced.
    bias = model[0].bias.data  # type: ignore[index]
    bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
    keys.append(about(model, split.fingerprint(), views, "cpu"))
    model[1] = nn.SiLU()  # type: ignore[index]
    keys.append(about(model, split.fingerprint(), views, "cpu"))
    for i, key in enumerate(keys):
        own = Answers(torch.full((2, 3), float(i)), torch.tensor([0, 1]))
        assert cached(tmp_path, key, lambda own=own: own) is own
    assert len(list(tmp_path.iterdir())) == len(keys)


def test_a_damaged_or_renamed_file_is_made_anew(tmp_path: Path) -> None:
    old, new = Answers(noise(0), TARGETS), Answers(noise(1), TARGETS)
    cached(tmp_path, {"a": 1}, lambda: old)
    (first,) = tmp_path.glob("*.npz")
    cached(tmp_path, {"a": 2}, lambda: new)
    (second,) = set(tmp_path.glob("*.npz")) - {first}
    shutil.copy(second, first)
    assert cached(tmp_path, {"a": 1}, lambda: old) is old
    for damage in (first.read_bytes()[:200], b"", b"no zip"):
        first.write_bytes(damage)
        assert cached(tmp_path, {"a": 1}, lambda: new) is new
        assert torch.equal(cached(tmp_path, {"a": 1}, lambda: old).logits, new.logits)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write to the cache"):
        cached(tmp_path / "file", {}, lambda: MEMBERS[0])
