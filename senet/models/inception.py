"""BN-Inception and SE-BN-Inception: arXiv:1502.03167, with the widths of the released SE-BN-Inception.prototxt.

Expected on ImageNet, single 224 crop, top-1/top-5 error in percent (Table 2 of arXiv:1709.01507v4, the authors'
re-implementation): BN-Inception 25.38/7.89, SE-BN-Inception 24.23/7.14; the released network 23.62/7.04.

The printed table of BN-Inception has 576 and 1024 channels where the released network has 608 (4c, 4d) and 1056 (4e).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from senet.blocks import block_costs
from senet.blocks.cost import Cost, Shape
from senet.config import check_at_least, check_types
from senet.errors import ConfigError
from senet.models.net import Net, StageOutput, slash
from senet.units.config import SEConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class InceptionModule:
    """One row of the table: the widths of a module's branches, in the order of their concatenation.

    Attributes:
        one: Width of the 1x1.
        three: Widths of the 1x1 and the 3x3 after it.
        double: Widths of the 1x1 and the two 3x3 after it.
        pool: The 3x3 pooling, "avg" or "max".
        proj: Width of the 1x1 after the pooling.
        stride: Stride of the last 3x3 in both branches and of the pooling. With stride 2 the pooling is "max", and
            `one` and `proj` are 0: the pooled feature map is concatenated as it is.

    Raises:
        ConfigError: For a width below 1, and for a module whose branches have different sizes.
    """

    one: int = 0
    three: tuple[int, int]
    double: tuple[int, int, int]
    pool: Literal["avg", "max"]
    proj: int = 0
    stride: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("three", "double"):
            if min(getattr(self, name)) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)!r} has a width below 1")
        if self.stride == 1:
            check_at_least(self, 1, "one", "proj")
        elif (self.one, self.pool, self.proj) != (0, "max", 0):
            raise ConfigError("stride: 2 needs pool='max', one=0 and proj=0; no 1x1 convolution has a stride")

    def out(self, in_channels: int) -> int:
        """Return the channels after the concatenation."""
        return self.one + self.three[-1] + self.double[-1] + (self.proj or in_channels)


@dataclass(frozen=True, kw_only=True)
class BNInception(Net, kind="inception"):
    """BN-Inception. The unit's standard place: on the concatenated output of a module.

    Attributes:
        stem: Widths of the stem's 7x7/2, 1x1 and 3x3.
        stages: Rows of modules, numbered from 3; 3a is `stage3.inception_3a`. The last module of a stage can have a
            stride.
        conv_bias: Biases on the convolutions. The released network has none, some ports of the plain one have them.
    """

    stem: tuple[int, int, int] = (64, 64, 192)
    stages: tuple[tuple[InceptionModule, ...], ...]
    conv_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.stem) < 1:
            raise ConfigError(f"stem: {self.stem!r} has a width below 1")
        if not self.stages or not all(self.stages):
            raise ConfigError(f"stages: {self.stages!r} must have at least one stage, and each at least one module")

    @property
    def stage_outputs(self) -> tuple[StageOutput, ...]:
        """The feature map at the end of each stage, after the stride of its last module."""
        outputs, channels, stride = [], self.stem[-1], 8
        for number, rows in enumerate(self.stages, start=3):
            for row in rows:
                channels, stride = row.out(channels), stride * row.stride
            outputs.append(StageOutput(stage=number, channels=channels, stride=stride))
        return tuple(outputs)

    def modules(self, stage: int) -> list[tuple[str, int, InceptionModule]]:
        """Return the modules of a stage: name, such as "3a", input channels, row."""
        index, found = self.stage_numbers.index(stage), []
        channels = self.stage_outputs[index - 1].channels if index else self.stem[-1]
        for i, row in enumerate(self.stages[index]):
            found.append((f"{stage}{chr(ord('a') + i)}", channels, row))
            channels = row.out(channels)
        return found

    def module_fields(self, number: int, row: InceptionModule) -> dict[str, Any]:
        """Return the arguments of `blocks.inception.Inception`."""
        return {**vars(row), "conv_bias": self.conv_bias, "se": self.unit_in(number)}

    def count_stem(self, x: Shape, cost: Cost) -> Shape:
        """Add what the three convolutions cost; pool twice."""
        first, second, third = self.stem
        x = cost.pool(cost.conv_norm(x, first, 7, 2, bias=self.conv_bias), 3, 2, ceil=True)
        x = cost.conv_norm(x, second, 1, bias=self.conv_bias)
        return cost.pool(cost.conv_norm(x, third, 3, bias=self.conv_bias), 3, 2, ceil=True)

    def count_stage(self, number: int, x: Shape, cost: Cost) -> Shape:
        """Add what the stage's modules cost."""
        for _name, _channels, row in self.modules(number):
            x = block_costs.inception(cost, x, **self.module_fields(number, row))
        return x

    def layers(self, part: str) -> str:
        """Describe a part by its modules: `[3a 256, fc 16-256], [3b 320, fc 20-320], [3c 576, fc 36-576] /2`."""
        if part == "head":
            return "mean"
        if part == "stem":
            first, second, third = self.stem
            return f"7x7 {first} /2, max 3x3/2, 1x1 {second}, 3x3 {third}, max 3x3/2"
        number = int(part.removeprefix("stage"))
        rows = [(name, row.out(channels), row.stride) for name, channels, row in self.modules(number)]
        return ", ".join(f"[{name} {out}{self.unit_layers(number, out)}]{slash(stride)}" for name, out, stride in rows)

    def build_features(self) -> nn.Sequential:
        """Build stem and stages."""
        from torch import nn

        from senet.blocks.inception import ConvNormReLU, Inception

        first, second, third = self.stem
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["stem"] = nn.Sequential(
            OrderedDict(
                conv7x7=ConvNormReLU(self.in_channels, first, 7, 2, bias=self.conv_bias),
                pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
                conv3x3_reduce=ConvNormReLU(first, second, 1, bias=self.conv_bias),
                conv3x3=ConvNormReLU(second, third, 3, bias=self.conv_bias),
                pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
            )
        )
        for number in self.stage_numbers:
            parts[f"stage{number}"] = nn.Sequential(
                OrderedDict(
                    (
                        f"inception_{name}",
                        Inception(channels, **self.module_fields(number, row)),
                    )
                    for name, channels, row in self.modules(number)
                )
            )
        return nn.Sequential(parts)


bn_inception = BNInception(
    stages=(
        (
            InceptionModule(one=64, three=(64, 64), double=(64, 96, 96), pool="avg", proj=32),
            InceptionModule(one=64, three=(64, 96), double=(64, 96, 96), pool="avg", proj=64),
            InceptionModule(three=(128, 160), double=(64, 96, 96), pool="max", stride=2),
        ),
        (
            InceptionModule(one=224, three=(64, 96), double=(96, 128, 128), pool="avg", proj=128),
            InceptionModule(one=192, three=(96, 128), double=(96, 128, 128), pool="avg", proj=128),
            InceptionModule(one=160, three=(128, 160), double=(128, 160, 160), pool="avg", proj=128),
            InceptionModule(one=96, three=(128, 192), double=(160, 192, 192), pool="avg", proj=128),
            InceptionModule(three=(128, 192), double=(192, 256, 256), pool="max", stride=2),
        ),
        (
            InceptionModule(one=352, three=(192, 320), double=(160, 224, 224), pool="avg", proj=128),
            InceptionModule(one=352, three=(192, 320), double=(192, 224, 224), pool="max", proj=128),
        ),
    ),
)

se_bn_inception = replace(bn_inception, se=SEConfig())
