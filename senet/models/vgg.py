"""VGG-16 with batch norm and SE-VGG-16: configuration D of arXiv:1409.1556, section 3.3 of arXiv:1709.01507v4.

Expected on ImageNet, single 224 crop, top-1/top-5 error in percent (Table 2, the authors' re-implementation):
VGG-16 27.02/8.81, SE-VGG-16 25.22/7.70. The authors released neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from senet.blocks import block_costs
from senet.blocks.cost import Cost, Shape
from senet.config import check_at_least
from senet.models.net import StagedNet
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn


GRID = 7
"""The head's input is pooled to 7x7."""


@dataclass(frozen=True, kw_only=True)
class VGGStage:
    """One row: 3x3 convolutions, then 2x2 maximum pooling.

    Attributes:
        depth: Number of convolutions.
        out: Channels.
    """

    depth: int
    out: int

    stride: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class VGGNet(StagedNet, kind="vgg"):
    """VGG with batch norm. The unit's place: after the ReLU of each convolution. No stem; conv1_x is stage 1.

    Attributes:
        stages: One row per stage.
        dropout: Probability of the dropout after each of the head's two hidden layers.
        hidden: Width of those layers. The feature map is averaged to 7x7 before them.
        conv_bias: Biases on the convolutions, which batch norm makes redundant: 4,224 parameters, as in torchvision.
            The paper does not say.
    """

    stages: tuple[VGGStage, ...]
    hidden: int = 4096
    conv_bias: bool = True

    first_stage: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, row in enumerate(self.stages):
            check_at_least(row, 1, "depth", "out", path=f"stages[{i}]")
        check_at_least(self, 1, "hidden")

    @property
    def stem_channels(self) -> int:
        """Channels of the image."""
        return self.in_channels

    @property
    def parts(self) -> tuple[str, ...]:
        """The stages; VGG has no stem."""
        return tuple(f"stage{number}" for number in self.stage_numbers)

    @property
    def num_features(self) -> int:
        """Inputs of the classifier: the hidden width."""
        return self.hidden

    def layers(self, part: str) -> str:
        """Describe a part: `[3x3 64, fc 4-64] x 2, max 2x2/2`."""
        if part == "head":
            return f"mean to 7x7, fc {self.hidden}, fc {self.hidden}"
        number = int(part.removeprefix("stage"))
        row = self.row(number)
        return f"[3x3 {row.out}{self.unit_layers(number, row.out)}] x {row.depth}, max 2x2/2"

    def block_fields(self, number: int, *, is_first: bool) -> dict[str, Any]:
        """Return the arguments of `VGGBlock`."""
        return {"out": self.row(number).out, "bias": self.conv_bias, "se": self.unit_in(number)}

    def block_cost(self, row: VGGStage) -> Callable[..., Shape]:
        """Return the counting function of the blocks."""
        return block_costs.vgg

    def count_stage(self, number: int, x: Shape, cost: Cost) -> Shape:
        """Add what the convolutions cost; pool."""
        return cost.pool(super().count_stage(number, x, cost), 2, 2)

    def count_head(self, x: Shape, cost: Cost) -> None:
        """Add what the two hidden layers cost."""
        cost.linear(cost.linear(x.channels * GRID**2, self.hidden), self.hidden)

    def build_features(self) -> nn.Sequential:
        """Build the stages: `stage1.block1`, ..., `stage1.pool`, `stage2.block1`, ..."""
        from torch import nn

        from senet.blocks.vgg import VGGBlock

        stages = self.build_stages(lambda _row: VGGBlock)
        for stage in stages.values():
            stage.add_module("pool", nn.MaxPool2d(2))
        return nn.Sequential(stages)

    def build_head(self) -> nn.Module:
        """Build the pooling to 7x7 and the two hidden layers."""
        from senet.blocks.vgg import VGGHead

        return VGGHead(self.stages[-1].out, GRID, self.hidden, self.dropout)


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
