"""Faster R-CNN with a feature pyramid (arXiv:1506.01497, arXiv:1612.03144) over any of our networks: Table 7."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from senet.detection.costs import STAGES, WIDTH
from senet.errors import ConfigError, unknown
from senet.initialization import draw_, number
from senet.models.net import Net
from senet.models.network import FeatureExtractor
from senet.models.registry import get_net


class Pyramid(nn.Module):
    """Trunk and feature pyramid: `(N, C, H, W) ->` feature maps of 256 channels, one per stage and a coarser one.

    Args:
        net: The table of the trunk.
        freeze_at: The last stage that does not learn; 1 for the stem, 0 for none.
        freeze_norm: The trunk's batch norms do not learn either, and use their running statistics in training.

    Attributes:
        trunk: `FeatureExtractor` of the last four stages.
        fpn: torchvision's pyramid.
    """

    def __init__(self, net: Net, *, freeze_at: int, freeze_norm: bool) -> None:
        super().__init__()
        stages = net.stage_numbers[-STAGES:]
        if freeze_at not in (0, 1, *net.stage_numbers):
            raise unknown("freeze_at", freeze_at, (0, 1, *net.stage_numbers), kind="0 for nothing, or stages")
        self.trunk = FeatureExtractor(net, stages)
        self.fpn = FeaturePyramidNetwork(list(self.trunk.channels), WIDTH, LastLevelMaxPool())
        self.out_channels = WIDTH
        self.freeze_norm = freeze_norm
        parts = [p for name, p in self.trunk.features.named_children() if _stage(name) <= freeze_at]
        norms = [m for m in self.trunk.modules() if isinstance(m, _BatchNorm)] if freeze_norm else []
        for module in (*parts, *norms):
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Pyramid:
        """Set the mode as in every module, but keep frozen norms in evaluation mode."""
        super().train(mode)
        for module in self.trunk.modules():
            if self.freeze_norm and isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Return the feature maps by name, finest first, as torchvision's detectors take them."""
        return self.fpn(OrderedDict((str(i), u) for i, u in enumerate(self.trunk(x))))


def _stage(part: str) -> int:
    return 1 if part == "stem" else int(part.removeprefix("stage"))


def faster_rcnn(
    backbone: str | Net, *, num_classes: int = 81, freeze_at: int = 0, freeze_norm: bool = True, seed: int = 0
) -> FasterRCNN:
    """Build torchvision's Faster R-CNN over one of our networks; it takes images and targets as torchvision's does.

    The weights are drawn. Those of a classifying network load into `detector.backbone.trunk`, under the same names.

    Args:
        backbone: A name such as "se_resnet50", or a table.
        num_classes: Classes, including the background: 81 for COCO.
        freeze_at: The last stage that does not learn: 1 for the stem alone, 2 as in Detectron, 0 for none.
        freeze_norm: The trunk's batch norms keep their statistics and weights, as is usual for small batches.
        seed: Seed of the weights.

    Raises:
        ConfigError: For an unknown network or stage, or fewer than two classes.
    """
    net = get_net(backbone) if isinstance(backbone, str) else backbone
    if num_classes < 2:
        raise ConfigError(f"num_classes: {num_classes!r} is too small; expected: 2 or more (one is the background)")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(number(seed, "detector"))
        pyramid = Pyramid(net, freeze_at=freeze_at, freeze_norm=freeze_norm)
        sizes = tuple((2**k,) for k in range(5, 10))
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
        detector = FasterRCNN(pyramid, num_classes, rpn_anchor_generator=anchors)
    draw_(pyramid.trunk, seed)
    return detector
