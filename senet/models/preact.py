"""Pre-activation CIFAR networks: ResNet-110 and -164 of arXiv:1603.05027, WRN-16-8 of arXiv:1605.07146, and SE twins.

Expected error in percent, plain and SE (Tables 4 and 5 of arXiv:1709.01507v4). CIFAR-10: ResNet-110 6.37, 5.21;
ResNet-164 5.46, 4.39; WRN-16-8 4.27, 3.88. CIFAR-100: 26.88, 23.85; 24.33, 21.31; 20.43, 19.14.

WRN-16-8 has no dropout, and 128 channels after a first convolution of 16.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from senet.config import Placement, check_at_least
from senet.errors import ConfigError
from senet.models.net import Stage, StagedNet, slash
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class PreActNet(StagedNet, kind="preact"):
    """Batch norm and ReLU before each convolution. The unit's standard place: after the branch's last convolution.

    stem_width: channels of the first 3x3 convolution, which neither batch norm nor ReLU follows.
    stages: one row per stage; the stride is the first convolution's, in a bottleneck the first 1x1's.
    shortcut: where the shape changes, "projection" (1x1 without batch norm) or "zero_pad" (option A); either begins at
        the batch norm and ReLU that it shares with the branch, and so does that of the very first unit.
    """

    placements: ClassVar[tuple[str, ...]] = get_args(Placement)

    num_classes: int = 10
    image_size: int = 32
    stem_width: int = 16
    shortcut: Literal["projection", "zero_pad"] = "projection"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "stem_width")
        channels = self.stem_width
        for i, row in enumerate(self.stages):
            path = f"stages[{i}]"
            check_at_least(row, 1, "depth", "mid", "out", "stride", path=path)
            if row.groups != 1:
                raise ConfigError(f"{path}.groups: {row.groups} has no effect here; expected: 1")
            if self.shortcut == "zero_pad" and row.out < channels:
                raise ConfigError(f"shortcut: 'zero_pad' cannot go from {channels} to {row.out} channels")
            channels = row.out
        if self.se and self.se.placement == "conv3x3" and any(row.block == "basic" for row in self.stages):
            raise ConfigError(
                "se.placement: 'conv3x3' needs bottlenecks, whose branch has one 3x3; a basic block has two"
            )

    def layers(self, part: str) -> str:
        """Table 1's notation: `[1x1 16, 3x3 16, 1x1 64, fc 4-64] x 18`."""
        if not part.startswith("stage"):
            return {"stem": f"3x3 {self.stem_width}", "last": "norm, ReLU", "head": "mean"}[part]
        number, row = self.row(part)
        convs = f"1x1 {row.mid}, 3x3 {row.mid}, 1x1" if row.block == "bottleneck" else f"3x3 {row.mid}, 3x3"
        return f"[{convs} {row.out}{self.unit_words(number, row.out)}] x {row.depth}{slash(row.stride)}"

    def build_features(self) -> nn.Sequential:
        """Stem, stages, and the batch norm and ReLU after the last sum."""
        from torch import nn

        from senet.blocks.preact import PreActBasic, PreActBottleneck, PreActSpec

        blocks = {"basic": PreActBasic, "bottleneck": PreActBottleneck}
        channels = self.stem_width
        stem = nn.Conv2d(self.in_channels, channels, 3, padding=1, bias=False)
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(OrderedDict(conv=stem)))
        for number, row in zip(self.stage_numbers, self.stages, strict=True):
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(row.depth):
                spec = PreActSpec(
                    in_channels=channels,
                    mid=row.mid,
                    out=row.out,
                    stride=row.stride if i == 0 else 1,
                    shortcut=self.shortcut,
                    is_first=number == self.stage_numbers[0] and i == 0,
                    se=self.unit_in(number),
                )
                stage[f"block{i + 1}"] = blocks[row.block](spec)
                channels = row.out
            parts[f"stage{number}"] = nn.Sequential(stage)
        parts["last"] = nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True)))
        return nn.Sequential(parts)


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
