"""MobileNet 1.0-224, ShuffleNet 1x with 3 groups and their SE twins: Table 3 of arXiv:1709.01507v4.

Expected on ImageNet, single 224 crop, top-1/top-5 error in percent (Table 3, the authors' re-implementation):
MobileNet 28.4/9.4, SE-MobileNet 25.3/7.7; ShuffleNet 32.6/12.5, SE-ShuffleNet 31.0/11.1. None was released.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from senet.blocks import block_costs
from senet.blocks.cost import Cost, Shape
from senet.config import check_at_least
from senet.errors import ConfigError
from senet.models.net import StagedNet, slash
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class MobileStage:
    """One row: the pairs of convolutions at one resolution.

    Attributes:
        depth: Number of pairs.
        out: Channels of a pair's output.
        stride: Stride of the first pair.
    """

    depth: int
    out: int
    stride: int = 1


@dataclass(frozen=True, kw_only=True)
class MobileNet(StagedNet, kind="mobile"):
    """MobileNet (arXiv:1704.04861, Table 1): pairs of a depthwise and a pointwise convolution.

    Attributes:
        stages: One row per resolution.
        stem_width: Channels of the first convolution, 3x3 with stride 2.
        se_at: The unit's place: after the ReLU of the "pointwise" convolution, which gives the parameters of Table 3,
            or of the "depthwise" one.
    """

    stages: tuple[MobileStage, ...]
    stem_width: int = 32
    se_at: Literal["pointwise", "depthwise"] = "pointwise"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "stem_width")
        for i, row in enumerate(self.stages):
            check_at_least(row, 1, "depth", "out", "stride", path=f"stages[{i}]")

    @property
    def stem_channels(self) -> int:
        """Channels of the first convolution."""
        return self.stem_width

    @property
    def stem_stride(self) -> int:
        """Stride of the first convolution."""
        return 2

    def layers(self, part: str) -> str:
        """Describe a part: `[dw 3x3, 1x1 128, fc 8-128] x 2 /2`."""
        if part == "head":
            return "mean"
        if part == "stem":
            return f"3x3 {self.stem_width} /2"
        number = int(part.removeprefix("stage"))
        row = self.row(number)

        def pair(channels: int) -> str:
            if self.se_at == "depthwise":
                return f"dw 3x3{self.unit_layers(number, channels)}, 1x1 {row.out}"
            return f"dw 3x3, 1x1 {row.out}{self.unit_layers(number, row.out)}"

        return _runs(map(pair, self.inputs(number)), row.stride)

    def block_fields(self, number: int, *, is_first: bool) -> dict[str, Any]:
        """Return the arguments of `Separable`."""
        row = self.row(number)
        stride = row.stride if is_first else 1
        return {"out": row.out, "stride": stride, "se": self.unit_in(number), "se_at": self.se_at}

    def block_cost(self, row: MobileStage) -> Callable[..., Shape]:
        """Return the counting function of the pairs."""
        return block_costs.separable

    def count_stem(self, x: Shape, cost: Cost) -> Shape:
        """Add what the first convolution costs."""
        return cost.conv_norm(x, self.stem_width, 3, 2)

    def build_features(self) -> nn.Sequential:
        """Build stem and stages."""
        from torch import nn

        from senet.blocks.mobile import Separable, mobile_stem

        stem = nn.Sequential(mobile_stem(self.in_channels, self.stem_width))
        return nn.Sequential(OrderedDict(stem=stem, **self.build_stages(lambda _row: Separable)))


@dataclass(frozen=True, kw_only=True)
class ShuffleStage:
    """One row: the units at one resolution. The first one has stride 2 and concatenates.

    Attributes:
        depth: Number of units.
        out: Channels of a unit's output.
    """

    depth: int
    out: int

    stride: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class ShuffleNet(StagedNet, kind="shuffle"):
    """ShuffleNet (arXiv:1707.01083, Table 1). A unit's inner width is a quarter of its output.

    Attributes:
        stages: One row per resolution.
        stem_width: Channels of the first convolution, 3x3 with stride 2. Maximum pooling, 3x3 with stride 2, follows.
        groups: Groups of the 1x1 convolutions. The very first one is not grouped.
        se_at: The SE unit's place: at the end of the "branch", before the sum or concatenation, as the paper does in
            residual networks, or after the ReLU of the whole "unit".
    """

    stages: tuple[ShuffleStage, ...]
    stem_width: int = 24
    groups: int = 3
    se_at: Literal["branch", "unit"] = "branch"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "stem_width", "groups")
        channels = self.stem_width
        for i, row in enumerate(self.stages):
            check_at_least(row, 1, "depth", "out", path=f"stages[{i}]")
            if row.out % 4 or row.out <= channels:
                raise ConfigError(f"stages[{i}].out: {row.out} must be a multiple of 4 above the {channels} before it")
            for width in (row.out // 4, row.out - channels, row.out):
                if width % self.groups:
                    raise ConfigError(f"groups: {self.groups} does not divide {width} channels of stage {i + 2}")
            channels = row.out

    @property
    def stem_channels(self) -> int:
        """Channels of the first convolution."""
        return self.stem_width

    @property
    def stem_stride(self) -> int:
        """Stride of the first convolution and the pooling."""
        return 4

    def layers(self, part: str) -> str:
        """Describe a part: `[1x1 240, dw 3x3, 1x1 480, concat] x 1 /2, [1x1 240, dw 3x3, 1x1 960] x 3`."""
        if part == "head":
            return "mean"
        if part == "stem":
            return f"3x3 {self.stem_width} /2, max 3x3/2"
        number = int(part.removeprefix("stage"))
        out = self.row(number).out

        def unit(is_first: bool, channels: int) -> str:
            branch = out - channels if is_first else out
            first_groups, groups = _grouped(self._first_groups(number, is_first)), _grouped(self.groups)
            se = self.unit_layers(number, branch if self.se_at == "branch" else out)
            join = ", concat" if is_first else ""
            end = se + join if self.se_at == "branch" else join + se
            return f"1x1 {out // 4}{first_groups}, dw 3x3, 1x1 {branch}{groups}{end}"

        return _runs((unit(i == 0, channels) for i, channels in enumerate(self.inputs(number))), 2)

    def _first_groups(self, stage: int, is_first: bool) -> int:
        return 1 if stage == 2 and is_first else self.groups

    def block_fields(self, number: int, *, is_first: bool) -> dict[str, Any]:
        """Return the arguments of `ShuffleUnit`."""
        return {
            "out": self.row(number).out,
            "stride": 2 if is_first else 1,
            "groups": self.groups,
            "first_groups": self._first_groups(number, is_first),
            "se": self.unit_in(number),
            "se_at": self.se_at,
        }

    def block_cost(self, row: ShuffleStage) -> Callable[..., Shape]:
        """Return the counting function of the units."""
        return block_costs.shuffle_unit

    def count_stem(self, x: Shape, cost: Cost) -> Shape:
        """Add what the first convolution costs; pool."""
        return cost.pool(cost.conv_norm(x, self.stem_width, 3, 2), 3, 2, padding=1)

    def build_features(self) -> nn.Sequential:
        """Build stem and stages."""
        from torch import nn

        from senet.blocks.mobile import ShuffleUnit, mobile_stem

        stem = mobile_stem(self.in_channels, self.stem_width)
        stem["pool"] = nn.MaxPool2d(3, 2, 1)
        stages = self.build_stages(lambda _row: ShuffleUnit)
        return nn.Sequential(OrderedDict(stem=nn.Sequential(stem), **stages))


def _runs(blocks: Iterable[str], stride: int) -> str:
    """Join the notation of a stage's blocks, equal ones together: `[a] x 1 /2, [b] x 3`."""
    first, *rest = (f"[{block}] x {len(list(run))}" for block, run in groupby(blocks))
    return ", ".join((first + slash(stride), *rest))


def _grouped(groups: int) -> str:
    return f" g={groups}" if groups > 1 else ""


mobilenet = MobileNet(
    stages=(
        MobileStage(depth=1, out=64),
        MobileStage(depth=2, out=128, stride=2),
        MobileStage(depth=2, out=256, stride=2),
        MobileStage(depth=6, out=512, stride=2),
        MobileStage(depth=2, out=1024, stride=2),
    ),
)
shufflenet_g3 = ShuffleNet(
    stages=(
        ShuffleStage(depth=4, out=240),
        ShuffleStage(depth=8, out=480),
        ShuffleStage(depth=4, out=960),
    ),
)

se_mobilenet = replace(mobilenet, se=SEConfig())
se_shufflenet_g3 = replace(shufflenet_g3, se=SEConfig())
