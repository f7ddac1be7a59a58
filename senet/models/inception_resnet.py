"""Inception-ResNet-v2 and SE-Inception-ResNet-v2: arXiv:1602.07261, as TF-slim released it or as that paper draws it.

Expected on ImageNet, single 299 crop, top-1/top-5 error in percent (Table 2 of arXiv:1709.01507v4, the authors'
re-implementation): Inception-ResNet-v2 20.37/5.21, SE-Inception-ResNet-v2 19.80/4.79. They released neither, and their
11.75 and 11.76 G multiply-adds are those of no natural stacking of the blocks: here it is 13.16 G, or 9.26 G as drawn.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from senet.blocks.cost import Cost, Shape
from senet.config import UnitConfig
from senet.errors import ConfigError
from senet.models.net import Net, StageOutput, slash
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn

    from senet.blocks.inception import Mixed

V = False
"""`pad` of the convolutions that the paper's figures mark with a V (valid)."""


class Conv(NamedTuple):
    """Convolution, batch norm, ReLU: `out` filters of `kernel`, where "1x7" is one high and seven wide."""

    kernel: str
    out: int
    stride: int = 1
    pad: bool = True

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        height, width = map(int, self.kernel.split("x"))
        return height, width

    def width(self, channels: int) -> int:
        """Return the channels of its output."""
        return self.out

    def layers(self) -> str:
        """Describe it in the notation of Table 1."""
        return f"{self.kernel} {self.out}{slash(self.stride)}"

    def count(self, x: Shape, cost: Cost) -> Shape:
        """Add what it costs; return the shape of its output."""
        return cost.conv_norm(x, self.out, self.sides, self.stride, padding=None if self.pad else 0)

    def build(self, channels: int) -> nn.Module:
        """Build the module for `channels` input channels."""
        from senet.blocks.inception import ConvNormReLU

        # TF-slim's epsilon.
        return ConvNormReLU(channels, self.out, self.sides, self.stride, pad=self.pad, eps=1e-3)


class Pool(NamedTuple):
    """3x3 pooling: "max" with stride 2 and no padding, "avg" with stride 1 and padding that does not count."""

    how: Literal["max", "avg"]

    def width(self, channels: int) -> int:
        """Return the channels of its output."""
        return channels

    def layers(self) -> str:
        """Describe it in the notation of Table 1."""
        return "max 3x3/2" if self.how == "max" else "avg 3x3"

    def count(self, x: Shape, cost: Cost) -> Shape:
        """Return the shape of its output."""
        return cost.pool(x, 3, 2) if self.how == "max" else cost.pool(x, 3, 1, padding=1)

    def build(self, channels: int) -> nn.Module:
        """Build the module for `channels` input channels."""
        from torch import nn

        return nn.MaxPool2d(3, 2) if self.how == "max" else nn.AvgPool2d(3, 1, 1, count_include_pad=False)


class Join(NamedTuple):
    """Branches, concatenated by their channels."""

    branches: tuple[tuple[Conv | Pool, ...], ...]

    def width(self, channels: int) -> int:
        """Return the channels of its output."""
        return sum(width(branch, channels) for branch in self.branches)

    def layers(self) -> str:
        """Describe it in the notation of Table 1, with a bar between branches."""
        return f"({' | '.join(', '.join(layer.layers() for layer in branch) for branch in self.branches)})"

    def count(self, x: Shape, cost: Cost) -> Shape:
        """Add what the branches cost; return the shape of the concatenation."""
        outputs = [count(branch, x, cost) for branch in self.branches]
        return outputs[0]._replace(channels=sum(y.channels for y in outputs))

    def build(self, channels: int, se: UnitConfig | None = None) -> Mixed:
        """Build the module for `channels` input channels."""
        from senet.blocks.inception import Mixed

        return Mixed([chain(branch, channels) for branch in self.branches], self.width(channels), se)


Layers = Sequence[Conv | Pool | Join]


def width(layers: Layers, channels: int) -> int:
    """Return the channels after a chain of layers."""
    for layer in layers:
        channels = layer.width(channels)
    return channels


def count(layers: Layers, x: Shape, cost: Cost) -> Shape:
    """Add what a chain of layers costs; return the shape of its output."""
    for layer in layers:
        x = layer.count(x, cost)
    return x


def chain(layers: Layers, channels: int) -> nn.Sequential:
    """Build a chain of layers, `layer1`, `layer2`, ..."""
    from torch import nn

    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i, layer in enumerate(layers, start=1):
        parts[f"layer{i}"] = layer.build(channels)
        channels = layer.width(channels)
    return nn.Sequential(parts)


class Stage(NamedTuple):
    """One row: `mixed` comes before the blocks, and `block` has the branches of the `depth` residual blocks."""

    mixed: Join | None
    block: Join
    depth: int
    scale: float


class Layout(NamedTuple):
    """A network's table.

    Attributes:
        stem: Layers before the first stage.
        stages: One row per stage.
        last: Layers after the last stage.
        linear_end: Whether the last block has scale 1 and no ReLU.
    """

    stem: Layers
    stages: tuple[Stage, ...]
    last: tuple[Conv, ...] = ()
    linear_end: bool = False

    def out(self, index: int, in_channels: int) -> int:
        """Return the output channels of the stage with this index; -1 is the stem."""
        mixed = (stage.mixed for stage in self.stages[: index + 1] if stage.mixed)
        return width((*self.stem, *mixed), in_channels)


MIXED_5B = Join(
    (
        (Conv("1x1", 96),),
        (Conv("1x1", 48), Conv("5x5", 64)),
        (Conv("1x1", 64), Conv("3x3", 96), Conv("3x3", 96)),
        (Pool("avg"), Conv("1x1", 64)),
    )
)
BLOCK35 = Join(
    (
        (Conv("1x1", 32),),
        (Conv("1x1", 32), Conv("3x3", 32)),
        (Conv("1x1", 32), Conv("3x3", 48), Conv("3x3", 64)),
    )
)
REDUCTION_A = Join(
    (
        (Conv("3x3", 384, 2, V),),
        (Conv("1x1", 256), Conv("3x3", 256), Conv("3x3", 384, 2, V)),
        (Pool("max"),),
    )
)
BLOCK17 = Join(
    (
        (Conv("1x1", 192),),
        (Conv("1x1", 128), Conv("1x7", 160), Conv("7x1", 192)),
    )
)
REDUCTION_B = Join(
    (
        (Conv("1x1", 256), Conv("3x3", 384, 2, V)),
        (Conv("1x1", 256), Conv("3x3", 288, 2, V)),
        (Conv("1x1", 256), Conv("3x3", 288), Conv("3x3", 320, 2, V)),
        (Pool("max"),),
    )
)
BLOCK8 = Join(
    (
        (Conv("1x1", 192),),
        (Conv("1x1", 192), Conv("1x3", 224), Conv("3x1", 256)),
    )
)

LAYOUTS = {
    "slim": Layout(
        stem=(
            Conv("3x3", 32, 2, V),
            Conv("3x3", 32, 1, V),
            Conv("3x3", 64),
            Pool("max"),
            Conv("1x1", 80),
            Conv("3x3", 192, 1, V),
            Pool("max"),
        ),
        stages=(
            Stage(MIXED_5B, BLOCK35, depth=10, scale=0.17),
            Stage(REDUCTION_A, BLOCK17, depth=20, scale=0.10),
            Stage(REDUCTION_B, BLOCK8, depth=10, scale=0.20),
        ),
        last=(Conv("1x1", 1536),),
        linear_end=True,
    ),
    "figures": Layout(
        stem=(
            Conv("3x3", 32, 2, V),
            Conv("3x3", 32, 1, V),
            Conv("3x3", 64),
            Join(((Pool("max"),), (Conv("3x3", 96, 2, V),))),
            Join(
                (
                    (Conv("1x1", 64), Conv("3x3", 96, 1, V)),
                    (Conv("1x1", 64), Conv("1x7", 64), Conv("7x1", 64), Conv("3x3", 96, 1, V)),
                )
            ),
            Join(((Conv("3x3", 192, 2, V),), (Pool("max"),))),
        ),
        stages=(
            Stage(None, BLOCK35, depth=5, scale=0.17),
            Stage(REDUCTION_A, BLOCK17, depth=10, scale=0.10),
            Stage(REDUCTION_B, BLOCK8, depth=5, scale=0.20),
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class InceptionResNet(Net, kind="inception_resnet"):
    """Inception-ResNet-v2. The unit's standard place: on the residual branch, before its scaling and the sum.

    Images need at least 75 pixels a side: not all convolutions are padded.

    Attributes:
        layout: "slim" is TF-slim's released network, with 10, 20 and 10 blocks. "figures" is the one that
            arXiv:1602.07261 draws in Figures 3, 7 and 15 to 19: Inception-v4's stem, 5, 10 and 5 blocks, no last 1x1.
            Its figures print 1154 and 2048 channels, which do not fit a sum; here they are 1152 and 2144, as the
            reductions give. The scales of the residuals are TF-slim's.
        se_at: "residual", on the branch of every block, or "all", also after the modules without a shortcut: the first
            of "slim" (mixed_5b) and both reductions.
    """

    image_size: int = 299
    layout: Literal["slim", "figures"] = "slim"
    se_at: Literal["residual", "all"] = "residual"

    def __post_init__(self) -> None:
        super().__post_init__()
        with_unit = [row for n, row in zip(self.stage_numbers, self.table.stages, strict=True) if self.unit_in(n)]
        if self.se_at == "all" and with_unit and not any(row.mixed for row in with_unit):
            raise ConfigError("se_at: 'all' has no effect, no stage of se.stages has a module without a shortcut")

    @property
    def table(self) -> Layout:
        """The layout's rows."""
        return LAYOUTS[self.layout]

    @property
    def stage_outputs(self) -> tuple[StageOutput, ...]:
        """The feature map at the end of each stage: 35x35, 17x17 and 8x8 for a 299x299 image."""
        outs = [self.table.out(i, self.in_channels) for i in range(3)]
        return tuple(StageOutput(stage=n, channels=out, stride=2 ** (n + 1)) for n, out in enumerate(outs, start=2))

    @property
    def parts(self) -> tuple[str, ...]:
        """The layout "slim" has a last convolution."""
        return (*super().parts, *(("last",) if self.table.last else ()))

    @property
    def num_features(self) -> int:
        """Inputs of the classifier: the channels after the last layer."""
        return width(self.table.last, self.stage_outputs[-1].channels)

    def layers(self, part: str) -> str:
        """Describe a part, branches by their channels only: `mixed 1088 /2, [inception 1088, fc 68-1088] x 20`."""
        if part == "head":
            return "mean"
        if part in ("stem", "last"):
            return ", ".join(layer.layers() for layer in getattr(self.table, part))
        number = int(part.removeprefix("stage"))
        row, out = self.table.stages[number - 2], self.stage_outputs[number - 2].channels
        unit = self.unit_layers(number, out)
        blocks = f"[inception {out}{unit}] x {row.depth}"
        mixed = f"mixed {out}{slash(2 if number > 2 else 1)}{unit if self.se_at == 'all' else ''}"
        return f"{mixed}, {blocks}" if row.mixed else blocks

    def count_stem(self, x: Shape, cost: Cost) -> Shape:
        """Add what the stem costs."""
        return count(self.table.stem, x, cost)

    def count_stage(self, number: int, x: Shape, cost: Cost) -> Shape:
        """Add what the module without a shortcut and the residual blocks cost."""
        row, se = self.table.stages[number - 2], self.unit_in(number)
        if row.mixed:
            x = row.mixed.count(x, cost)
            if self.se_at == "all":
                cost.unit(se, x)
        for _ in range(row.depth):
            # The 1x1 after the branches has biases and no batch norm.
            x = cost.unit(se, cost.conv(row.block.count(x, cost), x.channels, 1, bias=True))
        return x

    def count_last(self, x: Shape, cost: Cost) -> Shape:
        """Add what the last convolution costs."""
        return count(self.table.last, x, cost)

    def build_features(self) -> nn.Sequential:
        """Build stem, stages and the last convolution: `stage2.mixed`, `stage2.block1`, ..."""
        from torch import nn

        from senet.blocks.inception import ResidualInception

        table, parts = self.table, OrderedDict[str, nn.Module]()
        parts["stem"] = chain(table.stem, self.in_channels)
        for i, (number, row) in enumerate(zip(self.stage_numbers, table.stages, strict=True)):
            before, channels = table.out(i - 1, self.in_channels), table.out(i, self.in_channels)
            se, blocks = self.unit_in(number), OrderedDict[str, nn.Module]()
            if row.mixed:
                blocks["mixed"] = row.mixed.build(before, se if self.se_at == "all" else None)
            for j in range(row.depth):
                is_end = table.linear_end and number == self.stage_numbers[-1] and j == row.depth - 1
                blocks[f"block{j + 1}"] = ResidualInception(
                    channels,
                    row.block.build(channels),
                    row.block.width(channels),
                    scale=1.0 if is_end else row.scale,
                    relu=not is_end,
                    se=se,
                )
            parts[f"stage{number}"] = nn.Sequential(blocks)
        if table.last:
            parts["last"] = chain(table.last, channels)
        return nn.Sequential(parts)


inception_resnet_v2 = InceptionResNet()
se_inception_resnet_v2 = replace(inception_resnet_v2, se=SEConfig())
