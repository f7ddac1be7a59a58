"""Whether a network is as sure as it is right: calibration errors, and a temperature that lowers them.

Shapes: n images, K classes. Probabilities and shares are 0 to 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from senet.errors import ConfigError, DataError
from senet.initialization import stream

HOTTEST = 100.0
"""The temperature is sought between its inverse and itself."""


def calibration(logits: Tensor, targets: Tensor, bins: int = 15) -> dict[str, Any]:
    """Expected calibration error and its relatives: logits `(n, K)`, targets `(n,)`.

    The answers are sorted by their confidence, the largest probability, into bins of equal width, each without its
    lower and with its upper end (arXiv:1706.04599, section 2). Returns `ece`, the mean over all images of the
    difference between their bin's mean confidence and its accuracy; `mce`, the largest such difference of a bin;
    `brier`, the mean over images of the squared distance, summed over the classes, between the probabilities and the
    truth (0 to 2); `nll`, the mean cross entropy in nats; and `bins`, each `low`, `high`, `images`, and its
    `confidence` and `accuracy`, None where it is empty.

    Raises ConfigError for fewer than one bin, DataError for no images.

    >>> round(calibration(torch.tensor([[0.0, 9.0], [0.0, 9.0]]), torch.tensor([1, 0]))["ece"], 4)
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
        torch.zeros(bins, dtype=torch.float64).index_add_(0, number, v)
        for v in (torch.ones_like(right), confidence, right)
    )
    gap = (sure - good).abs()
    full = count > 0
    truth = F.one_hot(targets, logits.shape[1])
    rows = zip(count.long().tolist(), (sure / count).tolist(), (good / count).tolist(), strict=True)
    return {
        "ece": float(gap.sum() / len(targets)),
        "mce": float((gap[full] / count[full]).max()),
        "brier": float((p - truth).square().sum(1).mean()),
        "nll": float(F.cross_entropy(logits.double(), targets)),
        "bins": [
            {
                "low": i / bins,
                "high": (i + 1) / bins,
                "images": n,
                "confidence": mean if n else None,
                "accuracy": share if n else None,
            }
            for i, (n, mean, share) in enumerate(rows)
        ],
    }


def temperature(logits: Tensor, targets: Tensor) -> float:
    """The T for which `logits / T` has the least cross entropy (arXiv:1706.04599, section 4.2), 1/100 to 100.

    The cross entropy is convex in 1/T, so that its slope is bisected. Fit it on other images than those on which it is
    judged. Raises DataError for no images.

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


def tempered(logits: Tensor, targets: Tensor, seed: int = 0) -> dict[str, Any]:
    """What a temperature does: fitted on one half of the images, judged on the other.

    seed: which images are in which half. Returns `temperature`, `fitted_on` and `measured_on` (numbers of images),
    `before` and `after`: the `ece` and `nll` of that other half. DataError for fewer than 2 images.
    """
    n = len(targets)
    if n < 2:
        raise DataError(f"{n} image is not enough to fit a temperature on one half and judge it on the other")
    ours, theirs = torch.randperm(n, generator=stream(seed, "temperature")).split(-(-n // 2))
    t = temperature(logits[ours], targets[ours])
    before, after = (calibration(logits[theirs] / d, targets[theirs]) for d in (1.0, t))
    return {
        "temperature": t,
        "fitted_on": len(ours),
        "measured_on": len(theirs),
        "before": {name: before[name] for name in ("ece", "nll")},
        "after": {name: after[name] for name in ("ece", "nll")},
    }
