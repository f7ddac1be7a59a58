"""Shake-Shake for CIFAR, arXiv:1705.07485, and its SE twins: two residual branches, mixed at random in training.

Expected error in percent, plain and SE, with Cutout (Tables 4 and 5 of arXiv:1709.01507v4): Shake-Shake 26 2x96d on
CIFAR-10 2.56, 2.12; Shake-Even 29 2x4x64d on CIFAR-100 15.85 (which its original reports without Cutout), 15.41.

The paper does not say where the unit sits: at the end of each branch (the default: each is a residual branch) or once,
on the mixture, `se_at="mixed"`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from senet.blocks import block_costs
from senet.blocks.cost import Cost, Shape
from senet.config import check_at_least
from senet.errors import ConfigError
from senet.models.net import Stage, StagedNet, slash
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ShakeNet(StagedNet, kind="shake"):
    """Two branches per block, mixed by a weight per image: drawn in training, one half in evaluation.

    Attributes:
        stages: One row per stage, all of one kind of block: "basic" as in the 26-layer network (ReLU first),
            "bottleneck" as in the 29-layer one (ResNeXt, stride in the 3x3, ReLU last).
        stem_width: Channels of the first 3x3 convolution. Batch norm follows it, and a ReLU before bottlenecks.
        shake: Mixing weights of the gradients in training: drawn again ("shake") or one half ("even").
        se_at: The unit's place, always before the sum: "each_branch", at the end of both branches, or "mixed", once on
            the mixture.
    """

    num_classes: int = 10
    image_size: int = 32
    stages: tuple[Stage, ...]
    stem_width: int = 16
    shake: Literal["shake", "even"] = "shake"
    se_at: Literal["each_branch", "mixed"] = "each_branch"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "stem_width")
        if len({row.block for row in self.stages}) > 1:
            raise ConfigError("stages: 'basic' and 'bottleneck' rows do not mix; one begins with its ReLU, one ends so")
        channels = self.stem_width
        for i, row in enumerate(self.stages):
            path = f"stages[{i}]"
            check_at_least(row, 1, "depth", "mid", "out", "stride", "groups", path=path)
            if row.groups > 1 and row.block == "basic":
                raise ConfigError(f"{path}.groups: {row.groups} has no effect in basic blocks; expected: 1")
            if row.mid % row.groups:
                raise ConfigError(f"{path}.groups: {row.groups} does not divide {row.mid} channels")
            if row.block == "basic" and row.out % 2 and (row.stride > 1 or row.out != channels):
                raise ConfigError(f"{path}.out: {row.out} is odd; the shortcut joins two halves")
            channels = row.out

    @property
    def stem_channels(self) -> int:
        """Channels of the first convolution."""
        return self.stem_width

    @property
    def is_basic(self) -> bool:
        """Whether the blocks are basic. They start with a ReLU; bottlenecks end with one."""
        return self.stages[0].block == "basic"

    @property
    def parts(self) -> tuple[str, ...]:
        """Basic blocks are followed by a last ReLU."""
        return (*super().parts, *(("last",) if self.is_basic else ()))

    def layers(self, part: str) -> str:
        """Describe a part: `[2 (3x3 96, 3x3 96, fc 6-96)] x 4`."""
        if not part.startswith("stage"):
            return {"stem": f"3x3 {self.stem_width}", "last": "ReLU", "head": "mean"}[part]
        number = int(part.removeprefix("stage"))
        row = self.row(number)
        groups = f" g={row.groups}" if row.groups > 1 else ""
        convs = f"1x1 {row.mid}, 3x3 {row.mid}{groups}, 1x1" if row.block == "bottleneck" else f"3x3 {row.mid}, 3x3"
        unit = self.unit_layers(number, row.out)
        each, mixed = (unit, "") if self.se_at == "each_branch" else ("", unit)
        return f"[2 ({convs} {row.out}{each}){mixed}] x {row.depth}{slash(row.stride)}"

    def block_fields(self, number: int, *, is_first: bool) -> dict[str, Any]:
        """Return the arguments of `ShakeBasic` or `ShakeBottleneck`."""
        row = self.row(number)
        fields = {
            "mid": row.mid,
            "out": row.out,
            "stride": row.stride if is_first else 1,
            "shake": self.shake,
            "se": self.unit_in(number),
            "se_at": self.se_at,
        }
        return fields if self.is_basic else fields | {"groups": row.groups}

    def block_cost(self, row: Stage) -> Callable[..., Shape]:
        """Return the counting function of the blocks."""
        return block_costs.shake_basic if self.is_basic else block_costs.shake_bottleneck

    def count_stem(self, x: Shape, cost: Cost) -> Shape:
        """Add what the first convolution costs."""
        return cost.conv_norm(x, self.stem_width, 3)

    def count_last(self, x: Shape, cost: Cost) -> Shape:
        """Return `x`: the last ReLU costs nothing."""
        return x

    def build_features(self) -> nn.Sequential:
        """Build the stem, the stages, and the last ReLU if the blocks do not end in one."""
        from torch import nn

        from senet.blocks.shake import ShakeBasic, ShakeBottleneck

        stem = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(self.in_channels, self.stem_width, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(self.stem_width),
        )
        if not self.is_basic:
            stem["relu"] = nn.ReLU(inplace=True)
        stages = self.build_stages(lambda _row: ShakeBasic if self.is_basic else ShakeBottleneck)
        parts = OrderedDict[str, nn.Module](stem=nn.Sequential(stem), **stages)
        if self.is_basic:
            parts["last"] = nn.ReLU()
        return nn.Sequential(parts)


shake_shake_26_2x96d = ShakeNet(
    stages=(
        Stage(block="basic", depth=4, mid=96, out=96),
        Stage(block="basic", depth=4, mid=192, out=192, stride=2),
        Stage(block="basic", depth=4, mid=384, out=384, stride=2),
    ),
)
shake_even_29_2x4x64d = ShakeNet(
    stem_width=64,
    stages=(
        Stage(block="bottleneck", depth=3, mid=256, out=256, groups=4),
        Stage(block="bottleneck", depth=3, mid=512, out=512, stride=2, groups=4),
        Stage(block="bottleneck", depth=3, mid=1024, out=1024, stride=2, groups=4),
    ),
    shake="even",
    num_classes=100,
)

se_shake_shake_26_2x96d = replace(shake_shake_26_2x96d, se=SEConfig())
se_shake_even_29_2x4x64d = replace(shake_even_29_2x4x64d, se=SEConfig())
