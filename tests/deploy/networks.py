"""Small networks whose channels are whole blocks of ONNX Runtime's, with norms that do something."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from senet import create_model
from senet.models.net import Preprocessing, ResidualNet, Stage, Stem
from senet.models.network import Network
from senet.units.config import SEConfig
from tests.deploy.same import trained

BOTTLENECKS = ResidualNet(
    stem=Stem(width=64, kernel=3, stride=1),
    pool="none",
    stages=(
        # The channels of the stem: a shortcut without a layer. The next one is a projection.
        Stage(block="bottleneck", depth=1, mid=16, out=64),
        Stage(block="bottleneck", depth=1, mid=32, out=128, stride=2),
    ),
    se=SEConfig(),
    num_classes=5,
    image_size=16,
)


def small(net: ResidualNet | str = BOTTLENECKS, **fields: Any) -> Network:
    model = trained(create_model(net, fused=False, **fields)).float()
    assert isinstance(model, Network)
    model.preprocessing = Preprocessing(image_size=16, resize=20)
    return model


def images(n: int, side: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
