"""The table of a detector: a trunk, a feature pyramid and heads, as torchvision builds them. Loads no torch.

Its attention unit is the trunk's, so an SE detector's plain twin is the same table with `se=None`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from senet.blocks.cost import Cost, Shape
from senet.config import check_at_least
from senet.errors import ConfigError, unknown
from senet.models.net import Net, StageOutput

WIDTH = 256
"""Channels of every feature map of the pyramid."""

HIDDEN = 1024
"""Width of the two hidden layers of the box head."""

ROI_SIZE = 7
"""Each box is pooled to 7x7, and for its mask to twice that."""

MASKS = 100
"""Boxes of an image that get a mask."""

LONGEST = 1333 / 800
"""Longest side of an image over its shorter side before scaling: Detectron's and torchvision's 800 and 1333 pixels."""

Parts = list[tuple[str, str, Shape, Cost]]
"""Name, layers, shape of the output, and cost."""


@dataclass(frozen=True, kw_only=True)
class DetectorNet(Net, kind="detector"):
    """Faster R-CNN, Mask R-CNN or RetinaNet with a feature pyramid (Table 7).

    `num_classes` are the classes of objects; the background is not among them. `image_size` is the shorter side.

    Attributes:
        head: "fasterrcnn" (arXiv:1506.01497), "maskrcnn" (arXiv:1703.06870) or "retinanet" (arXiv:1708.02002), with a
            pyramid (arXiv:1612.03144).
        trunk: the network below the pyramid, without its unit, which is `se`.
        protocol: "detectron", the original's: box loss with beta 1, best 2000 proposals of each two images, none of
            them inside crowds, its initial values; or "torchvision", that library's own.
        freeze_at: last stage of the trunk that does not learn: 1 for the stem alone, 2 in Detectron, 0 for none.
        freeze_units: units of stages that do not learn do not learn either, as in Detectron; false trains them.
        freeze_norm: batch norms of the trunk keep statistics and weights, as in Detectron; they need a trained trunk.
        rois: boxes of an image that train the second stage of an R-CNN, at most a quarter of them objects.
        proposals: boxes that the first stage of an R-CNN proposes in training and in evaluation, at most.
    """

    head: Literal["fasterrcnn", "maskrcnn", "retinanet"] = "fasterrcnn"
    trunk: Net
    num_classes: int = 80
    image_size: int = 800
    protocol: Literal["detectron", "torchvision"] = "detectron"
    freeze_at: int = 2
    freeze_units: bool = True
    freeze_norm: bool = True
    rois: int = 512
    proposals: tuple[int, int] = (2000, 1000)

    def __post_init__(self) -> None:
        if self.trunk.se is not None:
            raise ConfigError("trunk.se: is the detector's own `se`; expected: None")
        super().__post_init__()
        check_at_least(self, 1, "num_classes", "rois")
        if min(self.proposals) < 1:
            raise ConfigError(f"proposals: {self.proposals!r} are too few; expected: 1 or more")
        for name, default in (("rois", 512), ("proposals", (2000, 1000))):
            if self.head == "retinanet" and getattr(self, name) != default:
                raise ConfigError(f"{name}: {getattr(self, name)!r} has no effect on RetinaNet, which has one stage")
        if self.dropout:
            raise ConfigError(f"dropout: {self.dropout!r} has no effect on a detector, which has no such layer")
        if self.head == "retinanet" and self.protocol == "detectron":
            raise ConfigError("protocol: 'detectron' is that of R-CNNs; expected for RetinaNet: torchvision")
        stages = (0, 1, *self.stage_numbers) if self.stage_numbers else range(6)
        if self.freeze_at not in stages:
            raise unknown("freeze_at", self.freeze_at, tuple(stages), kind="0 for nothing, or stages")
        if not self.freeze_units and (self.se is None or self.freeze_at < 2):
            why = "no unit" if self.se is None else f"no frozen stage with units, freeze_at={self.freeze_at}"
            raise ConfigError(f"freeze_units: false has no effect with {why}")
        _ = self.whole_trunk

    @property
    def whole_trunk(self) -> Net:
        """The trunk with its unit and for the detector's images, without a classifier."""
        return replace(self.trunk, se=self.se, in_channels=self.in_channels, num_classes=0)

    @property
    def placements(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the trunk."""
        return self.trunk.placements

    @property
    def stage_outputs(self) -> tuple[StageOutput, ...]:
        """Those of the trunk; none of a trunk that is not ours."""
        return self.trunk.stage_outputs

    @property
    def levels(self) -> int:
        """How many of the trunk's last stages the pyramid is built on."""
        return 3 if self.head == "retinanet" else 4

    def sides(self, side: int) -> tuple[int, int]:
        """Height and width of the largest image whose shorter side is `side`, padded as in a batch."""
        return -(-side // 32) * 32, -(-int(side * LONGEST) // 32) * 32

    def head_parts(self, maps: Sequence[Shape]) -> Parts:
        """What comes after the trunk's feature maps, and what it costs, with all `proposals` and `MASKS` masks."""
        fpn, pyramid = Cost(), []
        for shape in maps:
            inner = fpn.conv(shape, WIDTH, 1, bias=True)
            pyramid.append(fpn.conv(inner, WIDTH, 3, bias=True))
        layers = f"1x1 {WIDTH}, 3x3 {WIDTH}"
        if self.head == "retinanet":
            pyramid.append(fpn.conv(pyramid[-1], WIDTH, 3, 2, bias=True))
            pyramid.append(fpn.conv(pyramid[-1], WIDTH, 3, 2, bias=True))
            layers += f", two 3x3 {WIDTH} of stride 2"
        else:
            # The coarsest level is every second pixel of the one before.
            pyramid.append(fpn.pool(pyramid[-1], 1, 2))
        parts: Parts = [("fpn", layers, pyramid[0], fpn)]
        outputs = self.num_classes + 1
        if self.head == "retinanet":
            for part, channels in (("classes", 9 * outputs), ("boxes", 36)):
                per_level = [_tower(shape, 4, (channels,), 3) for shape in pyramid]
                words = f"four 3x3 {WIDTH}, 3x3 {channels}"
                parts.append((part, words, pyramid[0]._replace(channels=channels), _on_all(per_level)))
            return parts
        per_level = [_tower(shape, 1, (3, 12), 1) for shape in pyramid]
        parts.append(("rpn", f"3x3 {WIDTH}, 1x1 3, 1x1 12", pyramid[0]._replace(channels=15), _on_all(per_level)))
        per_box = Cost()
        hidden = per_box.linear(per_box.linear(WIDTH * ROI_SIZE**2, HIDDEN), HIDDEN)
        for count in (outputs, 4 * outputs):
            per_box.linear(hidden, count)
        words = f"fc {HIDDEN}, fc {HIDDEN}, fc {outputs}, fc {4 * outputs}"
        parts.append(
            ("boxes", words, Shape(5 * outputs, 1, 1), replace(per_box, macs=self.proposals[1] * per_box.macs))
        )
        if self.head == "maskrcnn":
            side = 2 * ROI_SIZE
            per_mask, x = Cost(), Shape(WIDTH, side, side)
            for _ in range(4):
                x = per_mask.conv(x, WIDTH, 3, bias=True)
            # A 2x2 deconvolution of stride 2: each input pixel makes four.
            per_mask.params += 4 * WIDTH * WIDTH + WIDTH
            per_mask.macs += 4 * WIDTH * WIDTH * side * side
            x = per_mask.conv(Shape(WIDTH, 2 * side, 2 * side), outputs, 1, bias=True)
            words = f"four 3x3 {WIDTH}, 2x2 {WIDTH} of stride 1/2, 1x1 {outputs}"
            parts.append(("masks", words, x, replace(per_mask, macs=MASKS * per_mask.macs)))
        return parts


def _tower(x: Shape, depth: int, outputs: Sequence[int], kernel: int) -> Cost:
    """3x3 convolutions, then one for each of the outputs."""
    cost = Cost()
    for _ in range(depth):
        x = cost.conv(x, WIDTH, 3, bias=True)
    for channels in outputs:
        cost.conv(x, channels, kernel, bias=True)
    return cost


def _on_all(per_level: Sequence[Cost]) -> Cost:
    """One head on all levels: its multiply-adds are those of every level, its parameters count once."""
    return replace(per_level[0], macs=sum(cost.macs for cost in per_level))


def split_name(name: str) -> tuple[str, str] | None:
    """The head and the trunk of a detector's name; None for other names.

    >>> split_name("fasterrcnn_se_resnet50_fpn"), split_name("resnet50")
    (('fasterrcnn', 'se_resnet50'), None)
    """
    found = re.fullmatch(r"(fasterrcnn|maskrcnn|retinanet)[-_](.+)[-_]fpn", name, re.IGNORECASE)
    return (found[1].lower(), found[2]) if found else None


def detector_net(head: str, trunk: Net) -> DetectorNet:
    """The detector of a head over a trunk, with the trunk's unit."""
    protocol = "torchvision" if head == "retinanet" else "detectron"
    return DetectorNet(head=head, trunk=replace(trunk, se=None), se=trunk.se, protocol=protocol)  # type: ignore[arg-type]
