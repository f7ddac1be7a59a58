"""MobileNet 1.0-224, ShuffleNet 1x with 3 groups and their SE twins: Table 3 of arXiv:1709.01507v4.

Expected on ImageNet, single 224 crop, top-1/top-5 error in percent (Table 3, the authors' re-implementation):
MobileNet 28.4/9.4, SE-MobileNet 25.3/7.7; ShuffleNet 32.6/12.5, SE-ShuffleNet 31.0/11.1. None was released.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from senet.config import check_at_least
from senet.errors import ConfigError
from senet.models.net import Net, StageMap, slash
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class MobileStage:
    """One row: `depth` pairs of `out` channels at one resolution; the first one has the stride."""

    depth: int
    out: int
    stride: int = 1


@dataclass(frozen=True, kw_only=True)
class MobileNet(Net, kind="mobile"):
    """MobileNet (arXiv:1704.04861, Table 1), its pairs of a depthwise and a pointwise convolution staged by resolution.

    stem_width: channels of the first convolution, 3x3 with stride 2.
    se_at: after the ReLU of the pair's "pointwise" convolution, the standard place, which gives the parameters of
        Table 3, or after that of its "depthwise" one.
    """

    stem_width: int = 32
    stages: tuple[MobileStage, ...]
    se_at: Literal["pointwise", "depthwise"] = "pointwise"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "stem_width")
        if not self.stages:
            raise ConfigError("stages: () must have at least one row")
        for i, row in enumerate(self.stages):
            check_at_least(row, 1, "depth", "out", "stride", path=f"stages[{i}]")

    @property
    def maps(self) -> tuple[StageMap, ...]:
        """One per row of the table."""
        maps, stride = [], 2
        for number, row in enumerate(self.stages, start=2):
            stride *= row.stride
            maps.append(StageMap(stage=number, channels=row.out, stride=stride))
        return tuple(maps)

    def layers(self, part: str) -> str:
        """Table 1's notation: `[dw 3x3, 1x1 128, fc 8-128] x 2 /2`."""
        if part == "head":
            return "mean"
        if part == "stem":
            return f"3x3 {self.stem_width} /2"
        number = int(part.removeprefix("stage"))
        row = self.stages[number - 2]

        def words(channels: int) -> str:
            if self.se_at == "depthwise":
                return f"dw 3x3{self.unit_words(number, channels)}, 1x1 {row.out}"
            return f"dw 3x3, 1x1 {row.out}{self.unit_words(number, row.out)}"

        return _runs(map(words, _inputs(self, number)), row.stride)

    def build_features(self) -> nn.Sequential:
        """Stem and stages."""
        from torch import nn

        from senet.blocks.mobile import Separable, mobile_stem

        parts = OrderedDict[str, nn.Module](stem=nn.Sequential(mobile_stem(self.in_channels, self.stem_width)))
        for number, row in zip(self.stage_numbers, self.stages, strict=True):
            blocks = OrderedDict[str, nn.Module]()
            for i, channels in enumerate(_inputs(self, number)):
                stride = row.stride if i == 0 else 1
                blocks[f"block{i + 1}"] = Separable(
                    channels, row.out, stride=stride, se=self.unit_in(number), se_at=self.se_at
                )
            parts[f"stage{number}"] = nn.Sequential(blocks)
        return nn.Sequential(parts)


@dataclass(frozen=True, kw_only=True)
class ShuffleStage:
    """One row: `depth` units of `out` channels; the first one has stride 2 and concatenates."""

    depth: int
    out: int


@dataclass(frozen=True, kw_only=True)
class ShuffleNet(Net, kind="shuffle"):
    """ShuffleNet (arXiv:1707.01083, Table 1). A unit's inner width is a quarter of its output.

    stem_width: channels of the first convolution, 3x3 with stride 2; maximum pooling, 3x3 with stride 2, follows.
    groups: of the 1x1 convolutions, except the very first, which is not grouped.
    se_at: at the end of the "branch", before the sum or concatenation, which is the paper's rule for residual
        networks, or after the ReLU of the whole "unit".
    """

    stem_width: int = 24
    stages: tuple[ShuffleStage, ...]
    groups: int = 3
    se_at: Literal["branch", "unit"] = "branch"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "stem_width", "groups")
        if not self.stages:
            raise ConfigError("stages: () must have at least one row")
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
    def maps(self) -> tuple[StageMap, ...]:
        """One per row of the table."""
        return tuple(StageMap(stage=n, channels=row.out, stride=2 ** (n + 1)) for n, row in enumerate(self.stages, 2))

    def layers(self, part: str) -> str:
        """Table 1's notation: `[1x1 240, dw 3x3, 1x1 480, concat] x 1 /2, [1x1 240, dw 3x3, 1x1 960] x 3`."""
        if part == "head":
            return "mean"
        if part == "stem":
            return f"3x3 {self.stem_width} /2, max 3x3/2"
        number = int(part.removeprefix("stage"))
        out = self.stages[number - 2].out

        def words(first: bool, channels: int) -> str:
            branch = out - channels if first else out
            first_groups, groups = _grouped(self._first_groups(number, first)), _grouped(self.groups)
            se = self.unit_words(number, branch if self.se_at == "branch" else out)
            join = ", concat" if first else ""
            tail = se + join if self.se_at == "branch" else join + se
            return f"1x1 {out // 4}{first_groups}, dw 3x3, 1x1 {branch}{groups}{tail}"

        return _runs((words(i == 0, channels) for i, channels in enumerate(_inputs(self, number))), 2)

    def _first_groups(self, stage: int, first: bool) -> int:
        return 1 if stage == 2 and first else self.groups

    def build_features(self) -> nn.Sequential:
        """Stem and stages."""
        from torch import nn

        from senet.blocks.mobile import ShuffleUnit, mobile_stem

        stem = mobile_stem(self.in_channels, self.stem_width)
        stem["pool"] = nn.MaxPool2d(3, 2, 1)
        parts = OrderedDict[str, nn.Module](stem=nn.Sequential(stem))
        for number, row in zip(self.stage_numbers, self.stages, strict=True):
            blocks = OrderedDict[str, nn.Module]()
            for i, channels in enumerate(_inputs(self, number)):
                blocks[f"block{i + 1}"] = ShuffleUnit(
                    channels,
                    row.out,
                    stride=2 if i == 0 else 1,
                    groups=self.groups,
                    first_groups=self._first_groups(number, i == 0),
                    se=self.unit_in(number),
                    se_at=self.se_at,
                )
            parts[f"stage{number}"] = nn.Sequential(blocks)
        return nn.Sequential(parts)


def _inputs(net: MobileNet | ShuffleNet, stage: int) -> list[int]:
    """Channels that each block of a stage takes."""
    before, out = (net.stem_width, *(row.out for row in net.stages))[stage - 2 : stage]
    return [before] + [out] * (net.stages[stage - 2].depth - 1)


def _runs(blocks: Iterable[str], stride: int) -> str:
    """The blocks of a stage, equal ones together: `[a] x 1 /2, [b] x 3`."""
    first, *rest = (f"[{words}] x {len(list(run))}" for words, run in groupby(blocks))
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
