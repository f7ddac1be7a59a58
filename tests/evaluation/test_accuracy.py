"""Errors in all and class by class, against loops and against timm's own evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from senet.data import Data
from senet.errors import ConfigError, DataError
from senet.evaluation.accuracy import Answers, Meter, answers, evaluate, measure
from senet.runs.evaluation import ClassErrors


def test_numbers_are_timms(opened: Callable[..., Data], folder: Path) -> None:
    """The logic of timm's validate.py: its transform, its data set, its accuracy, its network."""
    import timm
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageDataset, create_transform
    from timm.utils import accuracy

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=6, zero_init_last=False).eval()
    # As made, its logits lie within a hundredth.
    net.fc.weight.data.mul_(30)
    transform = create_transform(
        input_size=64,
        is_training=False,
        interpolation="bilinear",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        crop_pct=0.875,
    )
    pixels, numbers = [], []
    for file, number in ImageDataset(str(folder / "val")).reader.samples:
        with Image.open(file) as image:
            pixels.append(transform(image.convert("RGB")))
        numbers.append(number)
    targets = torch.tensor(numbers)
    with torch.no_grad():
        logits = net(torch.stack(pixels))
    top1, top5 = accuracy(logits, targets, topk=(1, 5))
    mean, std = (tuple(values) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    split = opened(image_size=64, resize=73, mean=mean, std=std).val
    ours = answers(net, split)
    assert torch.equal(ours.targets, targets)
    assert logits.std() > 0.1
    assert (ours.logits - logits).abs().max() < 1e-4
    measured = evaluate(net, split)
    assert measured.top1_error == pytest.approx(100 - top1.item(), abs=1e-4)
    assert measured.top5_error == pytest.approx(100 - top5.item(), abs=1e-4)
    assert measured.loss == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), abs=1e-4)
    # The comparison can fail: another side before the crop is another evaluation.
    other = answers(net, opened(image_size=64, resize=64, mean=mean, std=std).val)
    assert (other.logits - logits).abs().max() > 1e-2


def test_details_are_counted_one_by_one() -> None:
    g = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(60, 7, generator=g), torch.randint(0, 6, (60,), generator=g)
    found = measure(Answers(logits, targets), details=True, classes="abcdefg")
    confusion = [[0] * 7 for _ in range(7)]
    top5 = [0] * 7
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        order = sorted(range(7), key=lambda c: -row[c])
        confusion[target][order[0]] += 1
        top5[target] += target in order[:5]
    assert found.confusion == tuple(map(tuple, confusion))
    for c, row in enumerate(found.per_class):
        n = sum(confusion[c])
        assert (row.name, row.images) == ("abcdefg"[c], n)
        if n:
            assert row.top1_error == pytest.approx(100 * (1 - confusion[c][c] / n))
            assert row.top5_error == pytest.approx(100 * (1 - top5[c] / n))
    # Nothing is of the last class.
    assert found.per_class[6] == ClassErrors(name="g", images=0, top1_error=None, top5_error=None)
    assert measure(Answers(logits, targets), details=True).per_class[1].name == "1"
    with pytest.raises(ConfigError, match="classes: 2 names for 7 outputs"):
        measure(Answers(logits, targets), details=True, classes=["a", "b"])


def test_nan_counts_as_an_error_but_not_as_an_answer() -> None:
    g = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(10, 6, generator=g), torch.arange(10) % 6
    logits[6:] = torch.nan
    found = measure(Answers(logits, targets), details=True)
    for k in (1, 5):
        rows = [r for r in found.per_class if r.images]
        wrong = sum(r.images * getattr(r, f"top{k}_error") for r in rows)
        assert wrong / 10 == pytest.approx(getattr(found, f"top{k}_error"))
        assert getattr(found, f"top{k}_error") >= 40
    assert sum(map(sum, found.confusion)) == 6
    clean = measure(Answers(logits[:6], targets[:6]), details=True)
    assert (found.calibration, found.tempered) == (clean.calibration, clean.tempered)
    none = measure(Answers(logits[6:], targets[6:]), details=True)
    assert (none.calibration, none.tempered) == (None, None)
    assert [r.top1_error for r in none.per_class if r.images] == [100] * 4


def test_details_of_a_split(opened: Callable[..., Data], model: nn.Module) -> None:
    data = opened()
    meter = Meter()
    plain = evaluate(model, data.val, batch_size=5)
    assert (plain.confusion, plain.calibration, plain.tempered) == ((), None, None)
    found = evaluate(model, data.val, batch_size=5, details=True, classes=data.classes, meter=meter)
    named = tuple(replace(row, name=name) for row, name in zip(plain.per_class, data.classes, strict=True))
    assert replace(found, confusion=(), calibration=None, tempered=None) == replace(plain, per_class=named)
    assert sum(map(sum, found.confusion)) == plain.images == 12
    assert sum(r.top1_error for r in found.per_class) / 6 == pytest.approx(plain.top1_error)
    assert found.calibration.nll == pytest.approx(plain.loss, rel=1e-5)
    kept = measure(answers(model, data.val))
    assert kept.top1_error == plain.top1_error
    assert kept.loss == pytest.approx(plain.loss, rel=1e-6)
    spent = meter.read()
    assert (spent.batches, spent.images_per_second > 0) == (3, True)
    assert 10 < spent.memory_mib < 1e5


def test_rates_are_of_images_and_their_median() -> None:
    seconds = iter([0.0, 1.0, 10.0, 12.0, 20.0, 20.5])
    meter = Meter(clock=lambda: next(seconds))
    for images in (4, 4, 3):
        with meter.batch(images):
            pass
    assert meter.rates == [4, 2, 6]
    assert meter.read().images_per_second == 4


def test_a_class_without_an_output(opened: Callable[..., Data], model: nn.Module) -> None:
    model[-1] = nn.Linear(20, 5)  # type: ignore[index]
    with pytest.raises(DataError, match="the images have a class 5 and the network has 5 outputs"):
        evaluate(model, opened().val)
