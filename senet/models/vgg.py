"""VGG-16 with batch norm and SE-VGG-16: configuration D of arXiv:1409.1556, section 3.3 of arXiv:1709.01507v4.

Expected on ImageNet, single 224 crop, top-1/top-5 error in percent (Table 2, the authors' re-implementation):
VGG-16 27.02/8.81, SE-VGG-16 25.22/7.70. The authors released neither.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from senet.config import check_at_least
from senet.errors import ConfigError
from senet.models.net import Net, StageMap
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class VGGStage:
    """One row: `depth` 3x3 convolutions of `out` channels, then 2x2 maximum pooling."""

    depth: int
    out: int


@dataclass(frozen=True, kw_only=True)
class VGGNet(Net, kind="vgg"):
    """VGG with batch norm. The unit's place: after the ReLU of each convolution. There is no stem, conv1_x is stage 1.

    dropout: behind each of the two hidden layers of the head.
    hidden: width of those layers, which follow a grid of 7x7 means.
    conv_bias: biases on the convolutions, redundant before batch norm: 4,224 parameters, as in torchvision. The paper
        does not say.
    """

    stages: tuple[VGGStage, ...]
    hidden: int = 4096
    conv_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise ConfigError("stages: () must have at least one row")
        for i, row in enumerate(self.stages):
            check_at_least(row, 1, "depth", "out", path=f"stages[{i}]")
        check_at_least(self, 1, "hidden")

    @property
    def maps(self) -> tuple[StageMap, ...]:
        """One per row of the table, after its pooling."""
        return tuple(StageMap(stage=n, channels=row.out, stride=2**n) for n, row in enumerate(self.stages, start=1))

    @property
    def num_features(self) -> int:
        """Inputs of the classifier: the hidden width."""
        return self.hidden

    def layers(self, part: str) -> str:
        """Table 1's notation: `[3x3 64, fc 4-64] x 2, max 2x2/2`."""
        if part == "head":
            return f"mean to 7x7, fc {self.hidden}, fc {self.hidden}"
        number = int(part.removeprefix("stage"))
        row = self.stages[number - 1]
        return f"[3x3 {row.out}{self.unit_words(number, row.out)}] x {row.depth}, max 2x2/2"

    def build_features(self) -> nn.Sequential:
        """The stages: `stage1.block1`, ..., `stage1.pool`, `stage2.block1`, ..."""
        from torch import nn

        from senet.blocks.vgg import VGGBlock

        parts, channels = OrderedDict[str, nn.Module](), self.in_channels
        for number, row in zip(self.stage_numbers, self.stages, strict=True):
            layers = OrderedDict[str, nn.Module]()
            for i in range(row.depth):
                layers[f"block{i + 1}"] = VGGBlock(channels, row.out, bias=self.conv_bias, se=self.unit_in(number))
                channels = row.out
            layers["pool"] = nn.MaxPool2d(2)
            parts[f"stage{number}"] = nn.Sequential(layers)
        return nn.Sequential(parts)

    def build_head(self) -> nn.Module:
        """The 7x7 grid of means and the two hidden layers."""
        from senet.blocks.vgg import VGGHead

        return VGGHead(self.maps[-1].channels, self.hidden, self.dropout)


vgg16_bn = VGGNet(
    stages=(
        VGGStage(depth=2, out=64),
        VGGStage(depth=2, out=128),
        VGGStage(depth=3, out=256),
        VGGStage(depth=3, out=512),
        VGGStage(depth=3, out=512),
    ),
    dropout=0.5,
)

se_vgg16_bn = replace(vgg16_bn, se=SEConfig())
