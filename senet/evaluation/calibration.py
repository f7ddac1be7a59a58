"""Calibration: whether a network's confidence equals its accuracy, and the temperature that improves it.

Shapes: n images, K classes. Probabilities and errors are from 0 to 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from senet.errors import ConfigError, DataError
from senet.initialization import stream
from senet.runs.evaluation import Calibration, CalibrationBin, Tempered

HOTTEST = 100.0
"""The temperature is searched between 1 / HOTTEST and HOTTEST."""


def calibration(logits: Tensor, targets: Tensor, bins: int = 15) -> Calibration:
    """Measure the expected calibration error and related figures: logits `(n, K)`, targets `(n,)`.

    The answers are sorted by confidence, their largest probability, into bins of equal width, each including its upper
    end (arXiv:1706.04599, section 2).

    Raises:
        ConfigError: For fewer than one bin.
        DataError: If there are no images.

    >>> round(calibration(torch.tensor([[0.0, 9.0], [0.0, 9.0]]), torch.tensor([1, 0])).ece, 4)
    0.4999
    """
    if bins < 1:
        raise ConfigError(f"bins: {bins} is too small; expected: 1 or more")
    if not len(targets):
        raise DataError("no images to measure the calibration on")
    p = logits.double().softmax(1)
    confidence, answer = p.max(1)
    right = (answer == targets).double()
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count, sure, good = (
        torch.zeros(bins, dtype=torch.float64, device="cpu").index_add_(0, number, v)
        for v in (torch.ones_like(right), confidence, right)
    )
    gap = (sure - good).abs()
    full = count > 0
    truth = F.one_hot(targets, logits.shape[1])
    rows = zip(count.long().tolist(), (sure / count).tolist(), (good / count).tolist(), strict=True)
    return Calibration(
        ece=float(gap.sum() / len(targets)),
        mce=float((gap[full] / count[full]).max()),
        brier=float((p - truth).square().sum(1).mean()),
        nll=float(F.cross_entropy(logits.double(), targets)),
        bins=tuple(
            CalibrationBin(
                low=i / bins,
                high=(i + 1) / bins,
                images=n,
                confidence=mean if n else None,
                accuracy=share if n else None,
            )
            for i, (n, mean, share) in enumerate(rows)
        ),
    )


def temperature(logits: Tensor, targets: Tensor) -> float:
    """Find the T that minimises the cross entropy of `logits / T` (arXiv:1706.04599, section 4.2), from 1/100 to 100.

    The cross entropy is convex in 1/T, so its slope is bisected. Fit T on other images than those you judge it on.

    Raises:
        DataError: If there are no images.

    >>> logits = torch.tensor([[0.0, 4.0]] * 4)
    >>> round(temperature(logits, torch.tensor([1, 1, 1, 0])) * math.log(3), 4)
    4.0
    """
    if not len(targets):
        raise DataError("no images to fit a temperature on")
    logits = logits.double()
    wanted = logits.gather(1, targets[:, None])[:, 0].mean()
    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    for _ in range(30):
        middle = (low + high) / 2
        slope = (logits * (logits * math.exp(middle)).softmax(1)).sum(1).mean() - wanted
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def tempered(logits: Tensor, targets: Tensor, seed: int = 0) -> Tempered:
    """Measure what a temperature gains: fitted on a random half of the images, judged on the other half.

    Args:
        logits: (n, K).
        targets: (n,).
        seed: Chooses the halves.

    Raises:
        DataError: For fewer than 2 images.
    """
    n = len(targets)
    if n < 2:
        raise DataError(f"{n} image is not enough to fit a temperature on one half and judge it on the other")
    fitted, judged = torch.randperm(n, generator=stream(seed, "temperature"), device="cpu").split(-(-n // 2))
    t = temperature(logits[fitted], targets[fitted])
    return Tempered(
        temperature=t,
        fitted_on=len(fitted),
        measured_on=len(judged),
        before=calibration(logits[judged], targets[judged]),
        after=calibration(logits[judged] / t, targets[judged]),
    )
