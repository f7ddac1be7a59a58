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

from senet.config import UnitConfig
from senet.errors import ConfigError
from senet.models.net import Net, StageMap, slash
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn

    from senet.blocks.inception import Mixed

V = False
"""`pad` of the convolutions that the figures mark with a V."""


class Conv(NamedTuple):
    """Convolution, batch norm, ReLU: `out` filters of `kernel`, where "1x7" is one high and seven wide."""

    kernel: str
    out: int
    stride: int = 1
    pad: bool = True

    def width(self, channels: int) -> int:
        """Channels behind it."""
        return self.out

    def words(self) -> str:
        """Table 1's notation."""
        return f"{self.kernel} {self.out}{slash(self.stride)}"

    def build(self, channels: int) -> nn.Module:
        """The module for maps of `channels` channels."""
        from senet.blocks.inception import ConvNormReLU

        high, wide = map(int, self.kernel.split("x"))
        # TF-slim's epsilon.
        return ConvNormReLU(channels, self.out, (high, wide), self.stride, pad=self.pad, eps=1e-3)


class Pool(NamedTuple):
    """3x3 pooling: "max" with stride 2 and no padding, "avg" with stride 1 and padding that does not count."""

    how: Literal["max", "avg"]

    def width(self, channels: int) -> int:
        """Channels behind it."""
        return channels

    def words(self) -> str:
        """Table 1's notation."""
        return "max 3x3/2" if self.how == "max" else "avg 3x3"

    def build(self, channels: int) -> nn.Module:
        """The module for maps of `channels` channels."""
        from torch import nn

        return nn.MaxPool2d(3, 2) if self.how == "max" else nn.AvgPool2d(3, 1, 1, count_include_pad=False)


class Join(NamedTuple):
    """Branches, joined by their channels."""

    branches: tuple[tuple[Conv | Pool, ...], ...]

    def width(self, channels: int) -> int:
        """Channels behind it."""
        return sum(width(branch, channels) for branch in self.branches)

    def words(self) -> str:
        """Table 1's notation, a bar between branches."""
        return f"({' | '.join(', '.join(layer.words() for layer in branch) for branch in self.branches)})"

    def build(self, channels: int, se: UnitConfig | None = None) -> Mixed:
        """The module for maps of `channels` channels."""
        from senet.blocks.inception import Mixed

        return Mixed([chain(branch, channels) for branch in self.branches], self.width(channels), se)


Layers = Sequence[Conv | Pool | Join]


def width(layers: Layers, channels: int) -> int:
    """Channels behind a chain of layers."""
    for layer in layers:
        channels = layer.width(channels)
    return channels


def chain(layers: Layers, channels: int) -> nn.Sequential:
    """The layers one behind the other, `layer1`, `layer2`, ..."""
    from torch import nn

    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i, layer in enumerate(layers, start=1):
        parts[f"layer{i}"] = layer.build(channels)
        channels = layer.width(channels)
    return nn.Sequential(parts)


class Stage(NamedTuple):
    """One row: `mixed` is what comes before the blocks, `block` the branches of `depth` residual blocks."""

    mixed: Join | None
    block: Join
    depth: int
    scale: float


class Layout(NamedTuple):
    """A network's table.

    last: behind the last stage.  linear_end: the last block has scale 1 and no ReLU.
    """

    stem: Layers
    stages: tuple[Stage, ...]
    last: tuple[Conv, ...] = ()
    linear_end: bool = False

    def out(self, index: int, in_channels: int) -> int:
        """Channels of the stage of an index; -1 is the stem."""
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

    An image has at least 75 pixels a side; fewer do not reach the last stage, whose convolutions are not all padded.

    layout: "slim" is TF-slim's released network, with 10, 20 and 10 blocks. "figures" is the one that arXiv:1602.07261
        draws, Figures 3, 7 and 15 to 19: Inception-v4's stem, 5, 10 and 5 blocks, no last 1x1. Where its figures
        print 1154 and 2048 channels, which do not fit a sum, it has the 1152 and 2144 of the reductions; the scales
        of the residuals are TF-slim's.
    se_at: "residual", on the branch of every block, or "all", also behind the modules without a shortcut: the first
        of "slim" (mixed_5b) and both reductions.
    """

    image_size: int = 299
    layout: Literal["slim", "figures"] = "slim"
    se_at: Literal["residual", "all"] = "residual"

    def __post_init__(self) -> None:
        super().__post_init__()
        gated = [row for n, row in zip(self.stage_numbers, self.table.stages, strict=True) if self.unit_in(n)]
        if self.se_at == "all" and gated and not any(row.mixed for row in gated):
            raise ConfigError("se_at: 'all' has no effect, no stage of se.stages has a module without a shortcut")

    @property
    def table(self) -> Layout:
        """The layout's rows."""
        return LAYOUTS[self.layout]

    @property
    def maps(self) -> tuple[StageMap, ...]:
        """One per stage: 35x35, 17x17 and 8x8 of a 299x299 image."""
        outs = [self.table.out(i, self.in_channels) for i in range(3)]
        return tuple(StageMap(stage=n, channels=out, stride=2 ** (n + 1)) for n, out in enumerate(outs, start=2))

    @property
    def num_features(self) -> int:
        """Inputs of the classifier: the channels behind the last layer."""
        return width(self.table.last, self.maps[-1].channels)

    def layers(self, part: str) -> str:
        """Branches as channels only: `mixed 1088 /2, [inception 1088, fc 68-1088] x 20`."""
        if part == "head":
            return "mean"
        if part in ("stem", "last"):
            return ", ".join(layer.words() for layer in getattr(self.table, part))
        number = int(part.removeprefix("stage"))
        row, out = self.table.stages[number - 2], self.maps[number - 2].channels
        unit = self.unit_words(number, out)
        blocks = f"[inception {out}{unit}] x {row.depth}"
        mixed = f"mixed {out}{slash(2 if number > 2 else 1)}{unit if self.se_at == 'all' else ''}"
        return f"{mixed}, {blocks}" if row.mixed else blocks

    def build_features(self) -> nn.Sequential:
        """Stem, stages and what follows them: `stage2.mixed`, `stage2.block1`, ..."""
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
