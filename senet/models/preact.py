"""Pre-activation CIFAR networks: ResNet-110 and -164 of arXiv:1603.05027, WRN-16-8 of arXiv:1605.07146, and SE twins.

Expected error in percent, plain and SE (Tables 4 and 5 of arXiv:1709.01507v4). CIFAR-10: ResNet-110 6.37, 5.21;
ResNet-164 5.46, 4.39; WRN-16-8 4.27, 3.88. CIFAR-100: 26.88, 23.85; 24.33, 21.31; 20.43, 19.14.

WRN-16-8 has no dropout, and 128 channels after a first convolution of 16.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from senet.blocks import block_costs
from senet.blocks.cost import Cost, Shape
from senet.config import Placement, check_at_least
from senet.errors import ConfigError
from senet.models.net import Shortcut, Stage, StagedNet, check_shortcut, slash
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class PreActNet(StagedNet, kind="preact"):
    """Batch norm and ReLU before each convolution. The unit's standard place: after the branch's last convolution.

    Attributes:
        stages: One row per stage. The stride is that of a block's first convolution.
        stem_width: Channels of the first 3x3 convolution, without batch norm or ReLU after it.
        shortcut: Where the shape changes: "projection" (1x1 without batch norm), "zero_pad" (option A, the zero
            channels last) or "zero_pad_both" (option A, half of them before and half after). All start after the batch
            norm and ReLU of the branch, and so does the first block's identity.
    """

    placements: ClassVar[tuple[str, ...]] = get_args(Placement)

    num_classes: int = 10
    image_size: int = 32
    stages: tuple[Stage, ...]
    stem_width: int = 16
    shortcut: Shortcut = "projection"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "stem_width")
        channels = self.stem_width
        for i, row in enumerate(self.stages):
            path = f"stages[{i}]"
            check_at_least(row, 1, "depth", "mid", "out", "stride", path=path)
            if row.groups != 1:
                raise ConfigError(f"{path}.groups: {row.groups} has no effect here; expected: 1")
            check_shortcut(self.shortcut, channels, row.out)
            channels = row.out
        self.check_placement()

    @property
    def stem_channels(self) -> int:
        """Channels of the first convolution."""
        return self.stem_width

    @property
    def parts(self) -> tuple[str, ...]:
        """The last part is the batch norm and ReLU after the last sum."""
        return (*super().parts, "last")

    def layers(self, part: str) -> str:
        """Describe a part: `[1x1 16, 3x3 16, 1x1 64, fc 4-64] x 18`."""
        if not part.startswith("stage"):
            return {"stem": f"3x3 {self.stem_width}", "last": "norm, ReLU", "head": "mean"}[part]
        number = int(part.removeprefix("stage"))
        row = self.row(number)
        convs = f"1x1 {row.mid}, 3x3 {row.mid}, 1x1" if row.block == "bottleneck" else f"3x3 {row.mid}, 3x3"
        return f"[{convs} {row.out}{self.unit_layers(number, row.out)}] x {row.depth}{slash(row.stride)}"

    def block_fields(self, number: int, *, is_first: bool) -> dict[str, Any]:
        """Return the arguments of `PreActBasic` or `PreActBottleneck`."""
        row = self.row(number)
        return {
            "mid": row.mid,
            "out": row.out,
            "stride": row.stride if is_first else 1,
            "shortcut": self.shortcut,
            "is_first": is_first and number == self.first_stage,
            "se": self.unit_in(number),
        }

    def block_cost(self, row: Stage) -> Callable[..., Shape]:
        """Return the counting function of the row's blocks."""
        return block_costs.preact_basic if row.block == "basic" else block_costs.preact_bottleneck

    def count_stem(self, x: Shape, cost: Cost) -> Shape:
        """Add what the first convolution costs."""
        return cost.conv(x, self.stem_width, 3)

    def count_last(self, x: Shape, cost: Cost) -> Shape:
        """Add what the last batch norm costs."""
        return cost.norm(x)

    def build_features(self) -> nn.Sequential:
        """Build the stem, the stages, and the batch norm and ReLU after the last sum."""
        from torch import nn

        from senet.blocks.preact import PreActBasic, PreActBottleneck

        stem = nn.Conv2d(self.in_channels, self.stem_width, 3, padding=1, bias=False)
        stages = self.build_stages(lambda row: PreActBasic if row.block == "basic" else PreActBottleneck)
        last = OrderedDict[str, nn.Module](norm=nn.BatchNorm2d(self.stages[-1].out), relu=nn.ReLU(inplace=True))
        return nn.Sequential(
            OrderedDict(stem=nn.Sequential(OrderedDict(conv=stem)), **stages, last=nn.Sequential(last))
        )


preresnet110 = PreActNet(
    stages=(
        Stage(block="basic", depth=18, mid=16, out=16),
        Stage(block="basic", depth=18, mid=32, out=32, stride=2),
        Stage(block="basic", depth=18, mid=64, out=64, stride=2),
    ),
    shortcut="zero_pad",
)
preresnet164 = PreActNet(
    stages=(
        Stage(block="bottleneck", depth=18, mid=16, out=64),
        Stage(block="bottleneck", depth=18, mid=32, out=128, stride=2),
        Stage(block="bottleneck", depth=18, mid=64, out=256, stride=2),
    ),
)
wrn_16_8 = PreActNet(
    stages=(
        Stage(block="basic", depth=2, mid=128, out=128),
        Stage(block="basic", depth=2, mid=256, out=256, stride=2),
        Stage(block="basic", depth=2, mid=512, out=512, stride=2),
    ),
)

se_preresnet110 = replace(preresnet110, se=SEConfig())
se_preresnet164 = replace(preresnet164, se=SEConfig())
se_wrn_16_8 = replace(wrn_16_8, se=SEConfig())
