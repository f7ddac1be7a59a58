"""Tables of networks as frozen values, one row per stage as in the paper's Table 1. Loads no torch.

An SE network's plain twin is the same value with `se=None`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

import senet.units.config  # noqa: F401  (registers the kinds of units, so that from_dict finds them)
from senet.blocks import block_costs
from senet.blocks.cost import Cost, Shape
from senet.blocks.places import at_place
from senet.config import Kind, Placement, UnitConfig, check_at_least, check_types, field_types, no_field
from senet.errors import ConfigError, unknown

if TYPE_CHECKING:
    from torch import nn

    from senet.models.network import Network


@dataclass(frozen=True, kw_only=True)
class StageOutput:
    """The feature map at the end of a stage.

    Attributes:
        stage: The stage's number in the paper's counting: conv2_x is 2.
        channels: Channels of the feature map.
        stride: Image pixels per pixel of the feature map.
    """

    stage: int
    channels: int
    stride: int


N = TypeVar("N", bound="StagedNet")

Shortcut = Literal["projection", "zero_pad", "zero_pad_both"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a network expects its images: grey or RGB, values 0 to 1, resized, cropped, then `(x - mean) / std`.

    The defaults are torchvision's for ImageNet.

    Attributes:
        mean: Per channel, 1 value for grey and 3 for RGB.
        std: Per channel.
        image_size: Side of the central crop in pixels.
        resize: Shorter side before the crop in pixels.
        interpolation: Filter of the resizing, antialiased.
        keep_aspect: Scale both sides by the same factor; False scales each side to `resize`.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    image_size: int = 224
    resize: int = 256
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    keep_aspect: bool = True


@dataclass(frozen=True, kw_only=True)
class Net(Kind, key="family"):
    """The fields and methods of every network's table. `Network` is the module that is built from it.

    Attributes:
        se: The attention unit of its blocks; None for the plain twin.
        num_classes: Outputs of the classifier; 0 for no classifier.
        in_channels: Channels of an image: 1 for grey, 3 for RGB.
        image_size: Side in pixels of the images it was designed for. It also takes other sizes, down to a last feature
            map of one pixel.
        dropout: Probability of the dropout before the classifier.
    """

    se: UnitConfig | None = None
    num_classes: int = 1000
    in_channels: int = 3
    image_size: int = 224
    dropout: float = 0.0

    placements: ClassVar[tuple[str, ...]] = ("standard",)
    """Where a unit can sit in a block. Each family says what "standard" is."""

    @classmethod
    def known(cls) -> dict[str, type[Any]]:
        """Return every family by its name."""
        from senet.models.registry import nets

        nets()
        return cls.kinds

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 0, "num_classes", "dropout")
        check_at_least(self, 1, "in_channels", "image_size")
        if self.dropout >= 1:
            raise ConfigError(f"dropout: {self.dropout!r} is not a probability below 1")
        for number in (self.se.stages or ()) if self.se else ():
            if number not in self.stage_numbers:
                raise unknown("se.stages", number, self.stage_numbers, kind="stages of this network")
        if self.se and self.se.placement not in self.placements:
            expected = ", ".join(self.placements)
            raise ConfigError(
                f"se.placement: {self.se.placement!r} has no meaning in this network; expected: {expected}"
            )

    @property
    def stage_outputs(self) -> tuple[StageOutput, ...]:
        """The feature map at the end of each stage, in order."""
        raise NotImplementedError

    @property
    def stage_numbers(self) -> tuple[int, ...]:
        """Numbers of the stages in the paper's counting: conv2_x is 2, the stem is 1."""
        return tuple(s.stage for s in self.stage_outputs)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of `Network.features` in order: "stem", "stage2", ..., and "last" if layers follow."""
        return ("stem", *(f"stage{number}" for number in self.stage_numbers))

    @property
    def num_features(self) -> int:
        """Inputs of the classifier: the channels of the last feature map, unless the head has layers of its own."""
        return self.stage_outputs[-1].channels

    def sides(self, side: int) -> tuple[int, int]:
        """Height and width of an image of a size in pixels: a square, but for detectors."""
        return side, side

    def layers(self, part: str) -> str:
        """Describe the layers of a part ("stem", "stage2", ..., "head") in the notation of Table 1."""
        raise NotImplementedError

    def count(self, part: str, x: Shape, cost: Cost) -> Shape:
        """Add what one of `parts` costs to `cost`.

        Args:
            part: Name of the part.
            x: Shape of its input.
            cost: Sums to add to.

        Returns:
            The shape of its output.

        Raises:
            TooSmallError: If the feature map is too small for a convolution or pooling.
        """
        if part.startswith("stage"):
            return self.count_stage(int(part.removeprefix("stage")), x, cost)
        return self.count_stem(x, cost) if part == "stem" else self.count_last(x, cost)

    def count_stem(self, x: Shape, cost: Cost) -> Shape:
        """Add what the stem costs; return the shape of its output."""
        raise NotImplementedError

    def count_stage(self, number: int, x: Shape, cost: Cost) -> Shape:
        """Add what a stage costs; return the shape of its output."""
        raise NotImplementedError

    def count_last(self, x: Shape, cost: Cost) -> Shape:
        """Add what the layers after the last stage cost; return the shape of their output."""
        raise NotImplementedError

    def count_head(self, x: Shape, cost: Cost) -> None:
        """Add what the head costs, without the classifier. The default, the mean over space, costs nothing."""

    def build_features(self) -> nn.Sequential:
        """Build stem and stages, `(N, in_channels, H, W) -> (N, C, h, w)`, with the `parts` as children."""
        raise NotImplementedError

    def build_head(self) -> nn.Module:
        """Build what is before the classifier, `(N, C, h, w) -> (N, num_features)`: by default the mean over space."""
        from senet.blocks.pool import MeanOverSpace

        return MeanOverSpace()

    def build(self) -> Network:
        """Build the network as a module, without drawing its weights; `create_model` draws them."""
        from senet.models.network import Network

        return Network(self)

    def unit_in(self, stage: int) -> UnitConfig | None:
        """Return the unit of the blocks of a stage, or None."""
        return self.se if self.se and (self.se.stages is None or stage in self.se.stages) else None

    def unit_layers(self, stage: int, channels: int) -> str:
        """Describe the unit of a stage's blocks in the notation of Table 1: ", fc 16-256", or "" for none."""
        se = self.unit_in(stage)
        return f", {se.summary(channels)}" if se else ""


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The first convolution, with batch norm and ReLU.

    Attributes:
        width: Number of filters.
        kernel: Side of the filters.
        stride: Stride.
        before: Widths of further such convolutions in front of it, (64, 64) in SENet-154. The first one has the stride.
    """

    width: int
    kernel: int
    stride: int
    before: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of Table 1: the blocks of one stage.

    Attributes:
        block: "basic" (two 3x3) or "bottleneck" (1x1, 3x3, 1x1).
        depth: Number of blocks.
        mid: Channels inside a block.
        out: Channels of a block's output.
        stride: Stride of the first block.
        groups: Groups of the 3x3 convolution.
    """

    block: Literal["basic", "bottleneck"]
    depth: int
    mid: int
    out: int
    stride: int = 1
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class StagedNet(Net):
    """Abstract: one row per stage, and equal blocks in a stage. The first block of a stage has the row's stride.

    Attributes:
        stages: The rows. Each has at least `depth`, `out` and `stride`.
    """

    stages: tuple[Any, ...]

    first_stage: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise ConfigError("stages: () must have at least one row")

    @property
    def stem_channels(self) -> int:
        """Channels of the first stage's input."""
        raise NotImplementedError

    @property
    def stem_stride(self) -> int:
        """Stride of the first stage's input to the image."""
        return 1

    @property
    def stage_outputs(self) -> tuple[StageOutput, ...]:
        """The feature map at the end of each row's stage."""
        outputs, stride = [], self.stem_stride
        for number, row in enumerate(self.stages, start=self.first_stage):
            stride *= row.stride
            outputs.append(StageOutput(stage=number, channels=row.out, stride=stride))
        return tuple(outputs)

    def row(self, number: int) -> Any:
        """Return the row of a stage by its number."""
        return self.stages[number - self.first_stage]

    def inputs(self, number: int) -> list[int]:
        """Return the input channels of each block of a stage."""
        row = self.row(number)
        first = self.stem_channels if number == self.first_stage else self.row(number - 1).out
        return [first] + [row.out] * (row.depth - 1)

    def block_fields(self, number: int, *, is_first: bool) -> dict[str, Any]:
        """Return the keyword arguments of a stage's blocks.

        The block's module and its function in `senet.blocks.block_costs` take the same ones.

        Args:
            number: The stage's number.
            is_first: Whether it is the stage's first block.
        """
        raise NotImplementedError

    def build_stages(self, block_of: Callable[[Any], Callable[..., nn.Module]]) -> OrderedDict[str, nn.Module]:
        """Build the stages by name: `stage2` with `block1`, `block2`, ...

        Args:
            block_of: Gives a row's class of blocks, called with the input channels and `block_fields`.
        """
        from torch import nn

        stages: OrderedDict[str, nn.Module] = OrderedDict()
        for number in self.stage_numbers:
            block = block_of(self.row(number))
            stages[f"stage{number}"] = nn.Sequential(
                OrderedDict(
                    (f"block{i}", block(channels, **self.block_fields(number, is_first=i == 1)))
                    for i, channels in enumerate(self.inputs(number), start=1)
                )
            )
        return stages

    def block_cost(self, row: Any) -> Callable[..., Shape]:
        """Return the function of `senet.blocks.block_costs` for a row's blocks."""
        raise NotImplementedError

    def count_stage(self, number: int, x: Shape, cost: Cost) -> Shape:
        """Add what the stage's blocks cost; return the shape of the last one's output."""
        count = self.block_cost(self.row(number))
        for i in range(self.row(number).depth):
            x = count(cost, x, **self.block_fields(number, is_first=i == 0))
        return x

    def check_placement(self) -> None:
        """Raise ConfigError if the rows' residual blocks lack the unit's place."""
        if self.se is None:
            return
        for row in self.stages:
            at_place(self.se, row.block, before=None, inside=None, after=None)

    def depths(self: N, *depths: int) -> N:
        """Return the table with other numbers of blocks: ResNet-101 is ResNet-50 with (3, 4, 23, 3)."""
        if len(depths) != len(self.stages):
            raise ConfigError(f"depths: {depths!r} must name {len(self.stages)} stages")
        return replace(self, stages=tuple(replace(row, depth=d) for row, d in zip(self.stages, depths, strict=True)))


@dataclass(frozen=True, kw_only=True)
class ResidualNet(StagedNet, kind="residual"):
    """ResNet, ResNeXt, SENet-154 and the CIFAR ResNets. The unit's standard place: on the branch, before the sum.

    Attributes:
        stem: The first convolution.
        stages: One row per stage.
        pool: Pooling after the stem, 3x3 with stride 2. "ceil" is the released SE networks' (no padding, rounded up),
            "pad" torchvision's and timm's (padding 1; the same size, other windows), "none" the CIFAR networks'.
        stride_on: The convolution of a bottleneck that has the stride: "1x1" in the released SE-ResNets, "3x3" in the
            released SE-ResNeXts, torchvision and timm.
        shortcut: Where the shape changes: "projection" (option B), "zero_pad" (option A, the zero channels last) or
            "zero_pad_both" (option A, half of them before and half after, as in the public CIFAR ResNets).
        projection: Kernel of the projections that have a stride: "1x1", or "3x3" in SENet-154.
        first_1x1: Width of a bottleneck's first convolution: "full", that of its 3x3, or "half", as in SENet-154.
    """

    placements: ClassVar[tuple[str, ...]] = get_args(Placement)

    stages: tuple[Stage, ...]
    stem: Stem
    pool: Literal["ceil", "pad", "none"] = "ceil"
    stride_on: Literal["1x1", "3x3"] = "1x1"
    shortcut: Shortcut = "projection"
    projection: Literal["1x1", "3x3"] = "1x1"
    first_1x1: Literal["full", "half"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self.stem, 1, "width", "kernel", "stride", path="stem")
        if any(width < 1 for width in self.stem.before):
            raise ConfigError(f"stem.before: {self.stem.before!r} has a width below 1")
        channels = self.stem.width
        for number, row in enumerate(self.stages, start=2):
            path = f"stages[{number - 2}]"
            check_at_least(row, 1, "depth", "mid", "out", "stride", "groups", path=path)
            grouped = (self.first_width(row), row.mid) if row.block == "bottleneck" else (channels, row.mid, row.out)
            for width in grouped:
                if width % row.groups:
                    raise ConfigError(f"{path}.groups: {row.groups} does not divide {width} channels of stage {number}")
            check_shortcut(self.shortcut, channels, row.out)
            channels = row.out
        self.check_placement()
        if all(row.block == "basic" for row in self.stages):
            for name, usual in (("first_1x1", "full"), ("stride_on", "1x1")):
                if getattr(self, name) != usual:
                    raise ConfigError(f"{name}: {getattr(self, name)!r} needs bottlenecks; a basic block has no 1x1")
        if self.projection == "3x3" and self.shortcut != "projection":
            raise ConfigError(f"projection: '3x3' has no effect with shortcut={self.shortcut!r}: it has no convolution")

    @property
    def stem_channels(self) -> int:
        """Channels of the stem's output."""
        return self.stem.width

    @property
    def stem_stride(self) -> int:
        """Stride of the stem and the pooling."""
        return self.stem.stride * (1 if self.pool == "none" else 2)

    def first_width(self, row: Stage) -> int:
        """Return the channels after the first 1x1 of a row's bottlenecks."""
        return row.mid // 2 if self.first_1x1 == "half" else row.mid

    def layers(self, part: str) -> str:
        """Describe a part: `[1x1 64, 3x3 64, 1x1 256, fc 16-256] x 3`."""
        if part == "head":
            return "mean"
        if part == "stem":
            pool = "" if self.pool == "none" else ", max 3x3/2"
            kernel = f"{self.stem.kernel}x{self.stem.kernel}"
            first, *rest = (*self.stem.before, self.stem.width)
            convs = (f"{kernel} {first}{slash(self.stem.stride)}", *(f"{kernel} {width}" for width in rest))
            return ", ".join(convs) + pool
        number = int(part.removeprefix("stage"))
        row = self.row(number)
        groups = f" g={row.groups}" if row.groups > 1 else ""
        if row.block == "basic":
            convs = f"3x3 {row.mid}{groups}, 3x3 {row.out}{groups}"
        else:
            convs = f"1x1 {self.first_width(row)}, 3x3 {row.mid}{groups}, 1x1 {row.out}"
        return f"[{convs}{self.unit_layers(number, row.out)}] x {row.depth}{slash(row.stride)}"

    def block_fields(self, number: int, *, is_first: bool) -> dict[str, Any]:
        """Return the arguments of `Basic` or `Bottleneck`."""
        row = self.row(number)
        fields = {
            "mid": row.mid,
            "out": row.out,
            "stride": row.stride if is_first else 1,
            "groups": row.groups,
            "shortcut": self.shortcut,
            "projection": self.projection,
            "se": self.unit_in(number),
        }
        if row.block == "bottleneck":
            fields |= {"first": self.first_width(row), "stride_on": self.stride_on}
        return fields

    def block_cost(self, row: Stage) -> Callable[..., Shape]:
        """Return the counting function of the row's blocks."""
        return block_costs.basic if row.block == "basic" else block_costs.bottleneck

    def count_stem(self, x: Shape, cost: Cost) -> Shape:
        """Add what the convolutions before the first stage cost."""
        for i, width in enumerate((*self.stem.before, self.stem.width)):
            x = cost.conv_norm(x, width, self.stem.kernel, self.stem.stride if i == 0 else 1)
        if self.pool == "none":
            return x
        return cost.pool(x, 3, 2, ceil=True) if self.pool == "ceil" else cost.pool(x, 3, 2, padding=1)

    def build_features(self) -> nn.Sequential:
        """Build stem and stages."""
        from torch import nn

        from senet.blocks.residual import Basic, Bottleneck, StemBlock

        stem = StemBlock(
            self.in_channels, (*self.stem.before, self.stem.width), self.stem.kernel, self.stem.stride, self.pool
        )
        stages = self.build_stages(lambda row: Basic if row.block == "basic" else Bottleneck)
        return nn.Sequential(OrderedDict(stem=stem, **stages))


def check_shortcut(shortcut: str, channels: int, out: int) -> None:
    """Raise ConfigError for a zero-padded shortcut to fewer channels."""
    if shortcut != "projection" and out < channels:
        raise ConfigError(f"shortcut: {shortcut!r} cannot go from {channels} to {out} channels")


def slash(stride: int) -> str:
    """Write a stride in the notation of Table 1: " /2", or "" for 1."""
    return f" /{stride}" if stride > 1 else ""


def with_fields(net: Net, fields: dict[str, Any]) -> Net:
    """Return `net` with some fields changed.

    Raises:
        ConfigError: For a field that the network does not have (the message lists those it has), a wrong value, and a
            `se_at` in a network without units.
    """
    known = field_types(type(net))
    for name in fields:
        if name not in known:
            hint = _FOREIGN.get(name)
            raise ConfigError(f"{no_field(name, known)}" + (f" ({hint})" if hint else ""))
    changed = replace(net, **fields)
    if "se_at" in fields and changed.se is None:
        raise ConfigError(f"se_at: {fields['se_at']!r} has no effect, the network has no attention unit (se=None)")
    return changed


# Arguments of timm and others, with the argument that means the same here.
_FOREIGN = {
    "pretrained": "here: weights='timm:seresnet50.ra2_in1k', or a file",
    "in_chans": "here: in_channels",
    "drop_rate": "here: dropout",
    "rd_ratio": "here: se=SEConfig(reduction=...), with reduction = 1 / rd_ratio",
    "se_ratio": "here: se=SEConfig(reduction=...), with reduction = 1 / se_ratio",
    "reduction": "here: se=SEConfig(reduction=...)",
}
