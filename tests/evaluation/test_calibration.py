"""Calibration against hand arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from senet.errors import ConfigError, DataError
from senet.evaluation.calibration import calibration, temperature, tempered
from senet.runs.evaluation import CalibrationBin

# Confidence 0.65 and 0.75, both right; 0.9 right; 0.9 wrong.
P = torch.tensor([[0.65, 0.35], [0.25, 0.75], [0.9, 0.1], [0.9, 0.1]])
TARGETS = torch.tensor([0, 1, 0, 1])


def test_by_hand() -> None:
    found = calibration(P.log(), TARGETS, bins=5)
    # 0.6 to 0.8: sure 0.7, right 1. 0.8 to 1: sure 0.9, right 0.5.
    assert found.ece == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)
    assert found.mce == pytest.approx(0.4)
    assert found.brier == pytest.approx((2 * 0.35**2 + 2 * 0.25**2 + 2 * 0.1**2 + 2 * 0.9**2) / 4)
    assert found.nll == pytest.approx(-math.log(0.65 * 0.75 * 0.9 * 0.1) / 4)
    assert [b.images for b in found.bins] == [0, 0, 0, 2, 2]
    assert found.bins[0] == CalibrationBin(low=0.0, high=0.2, images=0, confidence=None, accuracy=None)
    assert found.bins[3].confidence == pytest.approx(0.7)
    assert (found.bins[3].accuracy, found.bins[4].accuracy) == (1.0, 0.5)


def test_one_bin_is_confidence_minus_accuracy() -> None:
    found = calibration(P.log(), TARGETS, bins=1)
    assert found.ece == found.mce == pytest.approx(3.2 / 4 - 3 / 4)
    assert len(calibration(P.log(), TARGETS).bins) == 15


def test_a_full_certainty_is_in_the_last_bin_and_a_bin_holds_its_upper_end() -> None:
    sure = torch.tensor([[200.0, -200.0], [0.0, 0.0]])
    bins = calibration(sure, torch.tensor([0, 0]), bins=4).bins
    # Confidence 1, and exactly 1/2, which is the upper end of the second bin.
    assert [b.images for b in bins] == [0, 1, 0, 1]


def test_a_temperature_undoes_a_scale() -> None:
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(500, 4, generator=g)
    targets = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    t = temperature(logits, targets)
    assert t == pytest.approx(1, abs=0.15)
    assert temperature(2.5 * logits, targets) == pytest.approx(2.5 * t, rel=1e-5)
    found = tempered(5 * logits, targets)
    assert found.temperature == pytest.approx(5, rel=0.2)
    assert (found.fitted_on, found.measured_on) == (250, 250)
    assert found.after.ece < 0.5 * found.before.ece
    assert found.after.nll < found.before.nll
    assert tempered(5 * logits, targets, seed=1).temperature != found.temperature


def test_nothing_to_measure() -> None:
    none = torch.empty(0, 3), torch.empty(0, dtype=torch.int64)
    with pytest.raises(DataError, match="no images"):
        calibration(*none)
    with pytest.raises(DataError, match="no images"):
        temperature(*none)
    with pytest.raises(DataError, match="1 image is not enough"):
        tempered(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ConfigError, match="bins: 0 is too small"):
        calibration(P.log(), TARGETS, bins=0)
