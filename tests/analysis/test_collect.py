"""What is measured of gates is what plain arithmetic on all of them at once gives, on anybody's network."""

from __future__ import annotations

import gc
import tracemalloc
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from senet import ECAConfig, NoSqueezeConfig, SEConfig, create_model, insert_, optimize
from senet.analysis.collect import collect_gates
from senet.analysis.streaming import BINS, Extremes, Histogram, StreamingUnit, linear_cka, sample
from senet.config import UnitConfig
from senet.errors import ConfigError, DataError
from tests.analysis.planted import SLOPES, Batch, Planted, batches, by_hook, images, lively_

CLASSES = ("ant", "bee", "cat", "dog")


def draw(n: int, seed: int = 0) -> tuple[Tensor, Tensor, np.ndarray]:
    """Image means, classes (never dog) and the gates that they are going to get, (n, C) float64."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (n,), generator=generator)
    means = targets - 1 + 0.5 * torch.randn(n, generator=generator)
    gates = 1 / (1 + np.exp(-means.double().numpy()[:, None] * np.array(SLOPES)))
    return means, targets, gates


def test_planted_gates_are_recovered() -> None:
    means, targets, s = draw(200)
    gates = collect_gates(Planted(), batches(images(means), targets, 32), CLASSES, top=9)
    (unit,) = gates.units
    of = targets.numpy()
    assert (unit.name, unit.channels, gates.images) == ("excite", 5, 200)
    assert gates.per_class.tolist() == [*np.bincount(of), 0]
    close = {"rtol": 0, "atol": 1e-6}
    for k in range(3):
        np.testing.assert_allclose(unit.mean[k], s[of == k].mean(0), **close)
        np.testing.assert_allclose(unit.deviation[k], s[of == k].std(0), **close)
    assert np.isnan(unit.mean[3]).all()
    assert np.isnan(unit.deviation[3]).all()
    np.testing.assert_allclose(unit.overall_mean, s.mean(0), **close)
    np.testing.assert_allclose(unit.overall_deviation, s.std(0), **close)
    np.testing.assert_allclose(unit.low, (s < 0.05).mean(0), **close)
    np.testing.assert_allclose(unit.high, (s > 0.95).mean(0), **close)
    np.testing.assert_allclose(unit.near_one, (abs(s - 1) < 0.05).mean(0), **close)
    assert unit.low.any()
    assert unit.high.any()
    between = sum((of == k).mean() * (s[of == k].mean(0) - s.mean(0)) ** 2 for k in range(3))
    # The channel of slope zero never moves, and counts as telling nothing of the class.
    parts = [b / v if v > 1e-12 else 0 for b, v in zip(between, s.var(0), strict=True)]
    assert parts[2] == 0
    assert unit.specificity == pytest.approx(np.mean(parts), abs=1e-5)
    entropies = []
    for c in range(5):
        share = np.histogram(s[:, c], np.linspace(0, 1, BINS + 1))[0] / 200
        entropies.append(-sum(p * np.log2(p) for p in share if p))
    assert unit.entropy == pytest.approx(np.mean(entropies), abs=0.02)
    # Equal gates, as those of slope zero, are in the order of the images.
    assert unit.sampled.tolist() == [0, 1, 2, 3, 4]
    for c in (0, 1, 3, 4):
        assert unit.openers[c].tolist() == np.argsort(-s[:, c])[:9].tolist()
        assert unit.closers[c].tolist() == np.argsort(s[:, c])[:9].tolist()
        np.testing.assert_allclose(unit.opener_values[c], np.sort(-s[:, c])[:9] * -1, **close)
        np.testing.assert_allclose(unit.closer_values[c], np.sort(s[:, c])[:9], **close)
    assert unit.openers[2].tolist() == unit.closers[2].tolist() == list(range(9))


def test_rounding_tells_nothing_of_the_class() -> None:
    unit = StreamingUnit.start("gate", "se", channels=1, classes=2, sampled=1, top=1)
    unit.add(np.array([[0.7], [0.7 + 1e-9]]), np.array([0, 1]), np.array([0, 1]))
    assert unit.read().specificity == 0
    unit.add(np.array([[0.7], [0.7 + 1e-4]]), np.array([0, 1]), np.array([2, 3]))
    assert unit.read().specificity == pytest.approx(1 / 3, abs=1e-4)


def test_neither_batches_nor_order_matter() -> None:
    means, targets, _ = draw(60)
    x = images(means)
    whole = collect_gates(Planted(), batches(x, targets, 60), CLASSES).units[0]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    parts = zip(x[order].split(7), targets[order].split(7), order.split(7), strict=True)
    other = collect_gates(Planted(), parts, CLASSES).units[0]
    for name in ("mean", "deviation", "overall_mean", "overall_deviation", "low", "high", "near_one"):
        np.testing.assert_allclose(getattr(other, name), getattr(whole, name), rtol=0, atol=1e-6, err_msg=name)
    assert other.specificity == pytest.approx(whole.specificity, abs=1e-6)
    assert other.entropy == whole.entropy
    assert other.openers.tolist() == whole.openers.tolist()
    assert other.closers.tolist() == whole.closers.tolist()


def test_memory_does_not_grow_with_the_images() -> None:
    model = Planted(tuple(torch.linspace(-2, 2, 200).tolist()))

    def held(n: int) -> tuple[int, int]:
        """Bytes of numpy and Python at the peak, and numbers in all of torch's tensors at the last batch."""
        numbers = 0

        def stream() -> Iterator[Batch]:
            nonlocal numbers
            for start in range(0, n, 50):
                if start == n - 50:
                    numbers = sum(o.numel() for o in gc.get_objects() if issubclass(type(o), Tensor))
                yield images(torch.linspace(-1, 1, 50)), torch.arange(50) % 4, torch.arange(start, start + 50)

        tracemalloc.start()
        assert collect_gates(model, stream(), CLASSES).images == n
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, numbers

    held(100)
    small, large = held(100), held(10_000)
    # One number for each image and channel would be 8 MB; the caches of the interpreter grow by a tenth of one.
    assert large[0] < small[0] + 300_000
    assert large[1] < small[1] + 1_000


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "seresnet50": (lambda: timm.create_model("seresnet50", zero_init_last=False), 16, "layer4.2.se"),
    "regnety_002": (lambda: timm.create_model("regnety_002"), 13, "s4.b7.se"),
    "mobilenetv3_small_100": (lambda: timm.create_model("mobilenetv3_small_100"), 9, "blocks.4.2.se"),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(weights=None), 16, "features.7.0.block.2"),
    "inserted": (lambda: inserted(), 8, "layer4.1.bn2.se"),
}


def inserted() -> nn.Module:
    model = torchvision.models.resnet18(num_classes=4)
    insert_(model, SEConfig(), "residual", example=torch.zeros(1, 3, 32, 32))
    return model


def their_gates(unit: nn.Module, u: Tensor) -> Tensor:
    """(N, C), by the layers' names."""
    if isinstance(unit, torchvision.ops.SqueezeExcitation):
        return unit._scale(u).flatten(1)
    if hasattr(unit, "unit"):
        return unit.gate(u)
    first, second = (unit.fc1, unit.fc2) if hasattr(unit, "fc1") else (unit.conv_reduce, unit.conv_expand)
    act = unit.act if hasattr(unit, "act") else unit.act1
    return unit.gate(second(act(first(u.mean((2, 3), keepdim=True))))).flatten(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_gates_of_anybodys_network_are_those_of_a_plain_hook(name: str) -> None:
    torch.manual_seed(0)
    make, count, last = NETWORKS[name]
    model = make()
    x, targets = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 1, 2])
    lively_(model, x)
    model.train()
    gates = collect_gates(model, batches(x, targets, 2), CLASSES)
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules() if "SE" in type(m).__name__)
    assert len(gates.units) == count
    assert gates.units[-1].name == last
    names = [u.name for u in gates.units]
    # In batches of two as well: rounding grows from block to block.
    expected = [
        torch.cat(s) for s in zip(*(by_hook(model, names, part, their_gates) for part in x.split(2)), strict=True)
    ]
    for unit, s in zip(gates.units, expected, strict=True):
        np.testing.assert_allclose(unit.overall_mean, s.mean(0), rtol=0, atol=1e-6, err_msg=unit.name)
        np.testing.assert_allclose(unit.mean[1], s[1:3].mean(0), rtol=0, atol=1e-6, err_msg=unit.name)
        np.testing.assert_allclose(unit.overall_deviation, s.std(0, correction=0), rtol=0, atol=1e-6)
        assert unit.overall_deviation.max() > 1e-3


@pytest.mark.parametrize("se", [NoSqueezeConfig(), ECAConfig()], ids=["no_squeeze", "eca"])
def test_our_other_units(se: UnitConfig) -> None:
    model = create_model("se_resnet20", se=se, num_classes=4)
    x = torch.randn(2, 3, 8, 8)
    gates = collect_gates(model, batches(x, torch.tensor([0, 1]), 2), CLASSES)
    units = [m for m in model.modules() if hasattr(m, "config")]
    names = [n for n, m in model.named_modules() if m in units]
    expected = by_hook(model, names, x, lambda m, u: m.gate(u).reshape(*u.shape[:2], -1).mean(2))
    assert [u.name for u in gates.units] == names
    for unit, s in zip(gates.units, expected, strict=True):
        np.testing.assert_allclose(unit.overall_mean, s.mean(0), rtol=0, atol=1e-6)


def test_a_unit_that_runs_twice_is_two() -> None:
    class Twice(Planted):
        def forward(self, x: Tensor) -> Tensor:
            return self.excite(self.excite(self.spread(x))).mean((2, 3))

    gates = collect_gates(Twice(), batches(images(torch.tensor([1.0, 2.0])), torch.tensor([0, 1]), 2), CLASSES)
    assert [u.name for u in gates.units] == ["excite", "excite#2"]
    assert (gates.units[0].mean[:2] != gates.units[1].mean[:2]).any()


def test_error_is_among_the_outputs_that_are_classes() -> None:
    means, targets = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([0, 1, 1, 0])
    x = images(means)
    # Logits are mean times gate: the slope 3 wins for a positive mean, the slope -2 for a negative one.
    of = collect_gates(Planted(), batches(x, targets, 3), ("up", "down"), outputs=(4, 1))
    # For a mean of -1, -1 * sigmoid(-3) is above -1 * sigmoid(2).
    with torch.no_grad():
        answers = Planted()(x)[:, [4, 1]].argmax(1)
    assert of.top1_error == 100 * float((answers != targets).float().mean())
    assert of.top1_error == 50
    assert collect_gates(Planted(), batches(x, targets, 3), ("up", "down")).top1_error is None


def test_similarity_is_linear_cka() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 7))

    def by_hand(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(0), b - b.mean(0)
        norm = np.linalg.norm
        return norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b))

    turned = 3 * x @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 5
    still = np.full((6, 2), 0.7) + 1e-9 * rng.normal(size=(6, 2))
    found = linear_cka([x, y, turned, still])
    expected = [[by_hand(a, b) for b in (x, y, turned)] for a in (x, y, turned)]
    np.testing.assert_allclose(found[:3, :3], expected, atol=1e-6)
    assert found[0, 2] == pytest.approx(1)
    assert found[0, 1] < 0.9
    # It tells no classes apart, alike or not.
    assert np.isnan(found[3]).all()
    assert np.isnan(found[:, 3]).all()
    assert np.isfinite(found[:3, :3]).all()


def test_similarity_leaves_out_classes_without_images() -> None:
    torch.manual_seed(0)
    model = inserted()
    x, targets = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    lively_(model, x)
    gates = collect_gates(model, batches(x, targets, 6), CLASSES)
    np.testing.assert_allclose(gates.similarity, linear_cka([u.mean[:3] for u in gates.units]), atol=1e-4)
    np.testing.assert_allclose(np.diag(gates.similarity), 1, atol=1e-5)


@pytest.mark.parametrize(("first", "second"), [((0.1, 0.9), (3.3, 7.1)), ((0.2, 1.7), (-0.4, 0.3))])
def test_histogram_that_widens_is_one_that_was_wide(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    parts = [np.array(v)[:, None] for v in (first, second)]
    a, b = Histogram(1), Histogram(1)
    for part in parts:
        a.add(part)
    b.add(np.concatenate(parts))
    assert a.counts.sum() == 4
    assert a.counts.tolist() == b.counts.tolist()
    assert (a.low, a.high) == (b.low, b.high)
    expected = np.histogram(np.concatenate(parts), BINS, (b.low, b.high))[0]
    assert b.counts[0].tolist() == expected.tolist()
    assert b.entropy() == 2


def test_fewer_images_than_places() -> None:
    kept = Extremes(1, 3)
    kept.add(np.array([[0.5, 0.7]]), np.array([4, 9]))
    numbers, values = kept.read()
    assert numbers.tolist() == [[9, 4, -1]]
    np.testing.assert_allclose(values, [[0.7, 0.5, np.nan]])


def test_sampled_channels() -> None:
    assert sample(2048, 50).tolist() == torch.linspace(0, 2047, 50, dtype=torch.float64).round().int().tolist()
    assert sample(3, 50).tolist() == [0, 1, 2]


def test_what_cannot_be_measured_says_so() -> None:
    x, targets = images(torch.zeros(2)), torch.tensor([0, 1])
    two = list(batches(x, targets, 2))
    for options, words in (
        ({"sampled": 0}, "sampled: 0"),
        ({"top": 0}, "top: 0"),
        ({"chosen": (4,)}, "chosen: 4.*0 to 3"),
        ({"outputs": (0, 1)}, "outputs: 2 for 4"),
    ):
        with pytest.raises(ConfigError, match=words):
            collect_gates(Planted(), two, CLASSES, **options)
    with pytest.raises(ConfigError, match="classes: none"):
        collect_gates(Planted(), two, ())
    with pytest.raises(DataError, match="targets: 0 to 1; expected: 0 to 0"):
        collect_gates(Planted(), two, ("one",))
    with pytest.raises(DataError, match="none of the images"):
        collect_gates(Planted(), [], CLASSES)
    with pytest.raises(ConfigError, match="has no units"):
        collect_gates(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten()), two, CLASSES)
    # In an optimized network units are part of the graph; nor have its tensors a memory that can be told apart.
    with pytest.raises(ConfigError, match="has no units"):
        collect_gates(optimize(Planted().eval(), x), two, CLASSES)
    broken = Planted()
    nn.init.constant_(broken.excite.expand.weight, float("nan"))
    with warnings.catch_warnings(), pytest.raises(ConfigError, match="gates of excite are NaN or infinite"):
        collect_gates(broken, two, CLASSES)


def test_an_image_of_several_classes_counts_for_each_and_one_of_none_for_nothing() -> None:
    means, targets, s = draw(40)
    of = torch.nn.functional.one_hot(targets, 4).bool()
    of[::3, 3] = True
    of[:2] = False
    gates = collect_gates(Planted(), batches(images(means), of, 7), CLASSES, top=9)
    (unit,) = gates.units
    rows, k = (x.numpy() for x in of.nonzero(as_tuple=True))
    assert gates.images == 38
    assert gates.per_class.tolist() == np.bincount(k).tolist()
    close = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(unit.mean[3], s[rows[k == 3]].mean(0), **close)
    np.testing.assert_allclose(unit.overall_mean, s[rows].mean(0), **close)
    np.testing.assert_allclose(unit.low, (s[rows] < 0.05).mean(0), **close)
    # Among the most open ones an image is there once.
    assert unit.openers[0].tolist() == (2 + np.argsort(-s[2:, 0])[:9]).tolist()
