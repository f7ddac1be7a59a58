"""`torch.fx` and torchvision's feature extractor take every network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import fx
from torchvision.models.feature_extraction import create_feature_extractor

from senet import NoSqueezeConfig, SEConfig, create_model, list_models
from senet.config import UnitConfig
from tests.models.small import FAMILIES, pixels, small


@pytest.mark.parametrize(
    ("family", "se"), [*((family, SEConfig()) for family in FAMILIES), ("cifar", NoSqueezeConfig())]
)
def test_a_traced_network_is_the_same_function(family: str, se: UnitConfig) -> None:
    torch.manual_seed(0)
    net = replace(small(FAMILIES[family]), se=se)
    model, x = create_model(net).eval(), torch.randn(2, 3, pixels(net), pixels(net))
    traced = fx.symbolic_trace(model)
    with torch.no_grad():
        want = model(x)
        assert torch.equal(traced(x), want)
        # It traces in training mode too; there Shake-Shake differs, which torchvision warns of.
        extractor = create_feature_extractor(model, ["classifier"], suppress_diff_warning=True)
        assert torch.equal(extractor(x)["classifier"], want)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_network_is_traced(name: str) -> None:
    model = create_model(name, device="meta").eval()
    fx.symbolic_trace(model)
    create_feature_extractor(model, ["classifier"], suppress_diff_warning=True)
