"""Batch norms of any network take the statistics of all processes, and nothing else of it changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from senet import create_model
from senet.errors import ConfigError
from senet.training.sync_norm import SyncBatchNorm, synchronise_


def test_frozen_norms_of_a_detector_stay_frozen() -> None:
    detector = create_model("retinanet_resnet18_fpn", seed=0, freeze_at=2, freeze_norm=False)
    before = {name: norm.training for name, norm in norms(detector.train()).items()}
    assert {*before.values()} == {True, False}
    assert synchronise_(detector) == [*before]
    after = norms(detector.train())
    assert all(isinstance(norm, SyncBatchNorm) for norm in after.values())
    assert {name: norm.training for name, norm in after.items()} == before


def norms(network: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


class Activated(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def test_a_norm_that_computes_more_is_refused() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), Activated(2))
    with pytest.raises(ConfigError, match=r"train.sync_batch_norm: 1 is a Activated; expected"):
        synchronise_(network)
    assert [type(m) for m in network] == [nn.BatchNorm2d, Activated]
