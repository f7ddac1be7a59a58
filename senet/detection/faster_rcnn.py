"""Faster R-CNN with a feature pyramid (arXiv:1506.01497, arXiv:1612.03144) over any network here: Table 7's detector.

The paper gives no complexity for it; its baselines' AP are those of Detectron's FPN networks, which this follows:
pyramid of 256 channels on stages 2 to 5, three anchors per place, two hidden layers of 1024 in the box head.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from senet.errors import ConfigError, unknown
from senet.initialization import draw_, number
from senet.models.describe import Description, Row, describe
from senet.models.net import Net
from senet.models.network import StageMaps
from senet.models.registry import get_net

WIDTH = 256
"""Channels of every map of the pyramid."""

ROIS = 1000
"""Boxes that the second stage looks at, in an image."""


class Pyramid(nn.Module):
    """Trunk and feature pyramid: `(N, C, H, W) ->` maps of 256 channels, one for each stage and a coarser one.

    trunk: `StageMaps` of the last four stages.  fpn: torchvision's pyramid.
    frozen: what does not learn: the stages up to `freeze_at` and, with `freeze_norm`, every batch norm, which then also
        uses its running statistics in training.
    """

    def __init__(self, net: Net, *, freeze_at: int, freeze_norm: bool) -> None:
        super().__init__()
        stages = net.stage_numbers[-4:]
        if freeze_at not in (0, 1, *net.stage_numbers):
            raise unknown("freeze_at", freeze_at, (0, 1, *net.stage_numbers), kind="0 for nothing, or stages")
        self.trunk = StageMaps(net, stages)
        self.fpn = FeaturePyramidNetwork(list(self.trunk.channels), WIDTH, LastLevelMaxPool())
        self.out_channels = WIDTH
        self.freeze_norm = freeze_norm
        parts = [p for name, p in self.trunk.features.named_children() if _stage(name) <= freeze_at]
        norms = [m for m in self.trunk.modules() if isinstance(m, _BatchNorm)] if freeze_norm else []
        for module in (*parts, *norms):
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Pyramid:
        """As every module's, but frozen norms stay in evaluation mode."""
        super().train(mode)
        for module in self.trunk.modules():
            if self.freeze_norm and isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """The maps by name, finest first, as torchvision's detectors take them."""
        return self.fpn(self.by_level(self.trunk(x)))

    @staticmethod
    def by_level(maps: list[Tensor]) -> OrderedDict[str, Tensor]:
        """The trunk's maps as torchvision's pyramid takes them."""
        return OrderedDict((str(i), m) for i, m in enumerate(maps))


def _stage(part: str) -> int:
    return 1 if part == "stem" else int(part.removeprefix("stage"))


def faster_rcnn(
    backbone: str | Net, *, num_classes: int = 81, freeze_at: int = 0, freeze_norm: bool = True, seed: int = 0
) -> FasterRCNN:
    """torchvision's Faster R-CNN over one of our networks, weights drawn; images and targets as torchvision takes them.

    backbone: a name such as "se_resnet50", or a table. Its weights may be loaded afterwards into
        `detector.backbone.trunk`, under the names they have in the classifying network.
    num_classes: with the background, 81 for COCO.
    freeze_at: the last stage that does not learn, 1 for the stem alone, 2 as in Detectron, 0 for none.
    freeze_norm: batch norms of the trunk keep their statistics and weights, as is usual for small batches.

    Raises ConfigError for an unknown network, stage or fewer than two classes.
    """
    net = get_net(backbone) if isinstance(backbone, str) else backbone
    if num_classes < 2:
        raise ConfigError(f"num_classes: {num_classes!r} is too small; expected: 2 or more (one is the background)")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(number(seed, "detector"))
        pyramid = Pyramid(net, freeze_at=freeze_at, freeze_norm=freeze_norm)
        detector = _build(pyramid, num_classes)
    draw_(pyramid.trunk, seed)
    return detector


def _build(pyramid: Pyramid, num_classes: int) -> FasterRCNN:
    sizes = tuple((2**k,) for k in range(5, 10))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    return FasterRCNN(pyramid, num_classes, rpn_anchor_generator=anchors)


def describe_detector(net: Net, image_size: tuple[int, int] = (800, 1344), num_classes: int = 81) -> Description:
    """Count the detector's parameters and multiply-adds, with 1000 boxes in the second stage, on the meta device.

    image_size: height and width, in pixels.
    """
    trunk = describe(replace(net, num_classes=0), image_size)
    with torch.device("meta"):
        detector: Any = _build(Pyramid(net, freeze_at=0, freeze_norm=False), num_classes).eval()
        image, boxes = torch.empty(1, net.in_channels, *image_size), torch.empty(ROIS, WIDTH, 7, 7)
    pyramid, rpn, heads = detector.backbone, detector.rpn.head, detector.roi_heads
    box_head = nn.Sequential(heads.box_head, heads.box_predictor)
    maps, in_pyramid = _count(pyramid.fpn, pyramid.by_level(pyramid.trunk(image)))
    _, in_rpn = _count(rpn, list(maps.values()))
    _, in_boxes = _count(box_head, boxes)

    def row(part: str, layers: str, shape: tuple[int, int, int], module: nn.Module, macs: int) -> Row:
        params = sum(p.numel() for p in module.parameters())
        size = dict(zip(("channels", "height", "width"), shape, strict=True))
        return Row(part=part, layers=layers, **size, params=params, macs=macs, se_params=0, se_macs=0)

    height, width = maps["0"].shape[-2:]
    fc = f"fc 1024, fc 1024, fc {num_classes}, fc {4 * num_classes}"
    rows = (
        row("fpn", f"1x1 {WIDTH}, 3x3 {WIDTH}", (WIDTH, height, width), pyramid.fpn, in_pyramid),
        row("rpn", f"3x3 {WIDTH}, 1x1 3, 1x1 12", (15, height, width), rpn, in_rpn),
        row("boxes", fc, (5 * num_classes, 1, 1), box_head, in_boxes),
    )
    params, macs = sum(r.params for r in rows), sum(r.macs for r in rows)
    return replace(
        trunk,
        rows=(*trunk.rows[:-1], *rows),
        params=trunk.params + params,
        params_se_bias_true=trunk.params_se_bias_true + params,
        params_se_bias_false=trunk.params_se_bias_false + params,
        params_without_se=trunk.params_without_se + params,
        macs=trunk.macs + macs,
        macs_without_se=trunk.macs_without_se + macs,
    )


def _count(module: nn.Module, x: Any) -> tuple[Any, int]:
    """A module's output for `x`, and its multiply-adds."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        out = module(x)
    return out, counter.get_total_flops() // 2
