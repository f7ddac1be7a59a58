"""A network is a value: a table of rows such as the paper's Table 1. Its SE twin is that value with one field changed.

Nothing here imports torch: `build` does, when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

import senet.units.config  # noqa: F401  (the kinds of unit that a written table may name)
from senet.config import Kind, Placement, UnitConfig, check_at_least, check_types, field_types, no_field
from senet.errors import ConfigError, unknown

if TYPE_CHECKING:
    from torch import nn

    from senet.models.network import Network


@dataclass(frozen=True, kw_only=True)
class StageMap:
    """A stage's output: the stage's number, its channels, its stride to the image."""

    stage: int
    channels: int
    stride: int


N = TypeVar("N", bound="StagedNet")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a network's weights want their images: grey or RGB, values 0 to 1, then `(x - mean) / std`.

    mean, std: of each channel, 1 for grey and 3 for RGB.
    image_size: pixels a side after the crop.  resize: of the shorter side before it.
    interpolation: "bilinear" or "bicubic".
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    image_size: int = 224
    resize: int = 256
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True, kw_only=True)
class Net(Kind, key="family"):
    """What every network has, whatever its rows; `Network` is the module built from it.

    se: the attention unit of its blocks; `None` makes the plain twin and means nothing else.
    num_classes: outputs of the classifier; 0 leaves the pooled features.
    in_channels: channels of an image, 1 for grey and 3 for RGB.
    image_size: pixels a side it was designed for; any size works that leaves a place in the last map.
    dropout: probability, between the pooling and the classifier.
    """

    se: UnitConfig | None = None
    num_classes: int = 1000
    in_channels: int = 3
    image_size: int = 224
    dropout: float = 0.0

    placements: ClassVar[tuple[str, ...]] = ("standard",)
    """Where a unit may sit in a block; what "standard" is, each family says."""

    @classmethod
    def known(cls) -> dict[str, type[Any]]:
        """Every family by its name."""
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
            legal = ", ".join(self.placements)
            raise ConfigError(f"se.placement: {self.se.placement!r} has no meaning in this network; expected: {legal}")

    @property
    def maps(self) -> tuple[StageMap, ...]:
        """What each stage puts out, shallowest first."""
        raise NotImplementedError

    @property
    def stage_numbers(self) -> tuple[int, ...]:
        """The paper's numbers of the stages: conv2_x is 2, the stem is 1."""
        return tuple(m.stage for m in self.maps)

    @property
    def num_features(self) -> int:
        """Inputs of the classifier: channels of the last map, unless the head has layers of its own."""
        return self.maps[-1].channels

    def layers(self, part: str) -> str:
        """What a part ("stem", "stage2", ..., "head") is made of, in the notation of Table 1."""
        raise NotImplementedError

    def build_features(self) -> nn.Sequential:
        """The module of stem and stages, `(N, in_channels, H, W) -> (N, C, h, w)`.

        Its children are `stem` (where there is one), `stage2`, `stage3`, ... by `stage_numbers`, and `last` where
        layers follow the last stage.
        """
        raise NotImplementedError

    def build_head(self) -> nn.Module:
        """From the last map to what the classifier takes, `(N, C, h, w) -> (N, num_features)`: by default the mean."""
        from senet.blocks.pool import MeanOverSpace

        return MeanOverSpace()

    def build(self) -> Network:
        """The network as a module, its weights not yet drawn; `create_model` draws them."""
        from senet.models.network import Network

        return Network(self)

    def unit_in(self, stage: int) -> UnitConfig | None:
        """The unit of the blocks in one stage, or None."""
        return self.se if self.se and (self.se.stages is None or stage in self.se.stages) else None

    def unit_words(self, stage: int, channels: int) -> str:
        """The unit of a stage's blocks as a row of Table 1 ends with it, ", fc 16-256", or ""."""
        se = self.unit_in(stage)
        return f", {se.summary(channels)}" if se else ""


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The first convolution: `width` filters of `kernel` x `kernel`, batch norm, ReLU.

    before: widths of further such convolutions in front of it, the first of which then has the stride: (64, 64) in
        SENet-154.
    """

    width: int
    kernel: int
    stride: int
    before: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of Table 1: `depth` blocks of `mid` inner and `out` outer channels; the first one has the stride."""

    block: Literal["basic", "bottleneck"]
    depth: int
    mid: int
    out: int
    stride: int = 1
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class StagedNet(Net):
    """Abstract: one row of equal blocks per stage, numbered from 2."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise ConfigError("stages: () must have at least one row")

    @property
    def stride_before(self) -> int:
        """Stride of what comes before the first stage."""
        return 1

    @property
    def maps(self) -> tuple[StageMap, ...]:
        """One per row of the table."""
        maps, stride = [], self.stride_before
        for number, row in enumerate(self.stages, start=2):
            stride *= row.stride
            maps.append(StageMap(stage=number, channels=row.out, stride=stride))
        return tuple(maps)

    def row(self, part: str) -> tuple[int, Stage]:
        """Number and row of a stage by its name, "stage2"."""
        number = int(part.removeprefix("stage"))
        return number, self.stages[number - 2]

    def depths(self: N, *depths: int) -> N:
        """The same table with other numbers of blocks: ResNet-101 is ResNet-50 with (3, 4, 23, 3)."""
        if len(depths) != len(self.stages):
            raise ConfigError(f"depths: {depths!r} must name {len(self.stages)} stages")
        return replace(self, stages=tuple(replace(row, depth=d) for row, d in zip(self.stages, depths, strict=True)))


@dataclass(frozen=True, kw_only=True)
class ResidualNet(StagedNet, kind="residual"):
    """ResNet, ResNeXt, SENet-154 and the CIFAR forms. The unit's standard place: on the branch, before the sum.

    pool: after the stem. "ceil" is the released SE networks' (3x3, stride 2, no padding, ceil), "pad" torchvision's
        and timm's (padding 1: the same size, other windows), "none" the CIFAR networks'.
    stride_on: the convolution of a bottleneck that carries the stride: "1x1" in the released SE-ResNets, "3x3" in the
        released SE-ResNeXts, torchvision and timm.
    shortcut: where the shape changes, "projection" (option B) or "zero_pad" (option A).
    projection: kernel of the projections that have a stride: "1x1", or "3x3" in SENet-154.
    first_1x1: width of a bottleneck's first convolution, "full" (that of its 3x3) or "half", as in SENet-154.
    """

    placements: ClassVar[tuple[str, ...]] = get_args(Placement)

    stem: Stem
    pool: Literal["ceil", "pad", "none"] = "ceil"
    stride_on: Literal["1x1", "3x3"] = "1x1"
    shortcut: Literal["projection", "zero_pad"] = "projection"
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
            channels = row.out
        if self.se and self.se.placement == "conv3x3" and any(row.block == "basic" for row in self.stages):
            raise ConfigError(
                "se.placement: 'conv3x3' needs bottlenecks, whose branch has one 3x3; a basic block has two"
            )
        if all(row.block == "basic" for row in self.stages):
            for name, usual in (("first_1x1", "full"), ("stride_on", "1x1")):
                if getattr(self, name) != usual:
                    raise ConfigError(f"{name}: {getattr(self, name)!r} needs bottlenecks; a basic block has no 1x1")
        if self.projection == "3x3" and self.shortcut == "zero_pad":
            raise ConfigError("projection: '3x3' has no effect with shortcut='zero_pad', which has no convolution")

    @property
    def stride_before(self) -> int:
        """The stem's and the pool's."""
        return self.stem.stride * (1 if self.pool == "none" else 2)

    def first_width(self, row: Stage) -> int:
        """Channels after the first 1x1 of a row's bottlenecks."""
        return row.mid // 2 if self.first_1x1 == "half" else row.mid

    def layers(self, part: str) -> str:
        """Table 1's notation: `[1x1 64, 3x3 64, 1x1 256, fc 16-256] x 3`."""
        if part == "head":
            return "mean"
        if part == "stem":
            pool = "" if self.pool == "none" else ", max 3x3/2"
            kernel = f"{self.stem.kernel}x{self.stem.kernel}"
            first, *rest = (*self.stem.before, self.stem.width)
            convs = (f"{kernel} {first}{slash(self.stem.stride)}", *(f"{kernel} {width}" for width in rest))
            return ", ".join(convs) + pool
        number, row = self.row(part)
        groups = f" g={row.groups}" if row.groups > 1 else ""
        if row.block == "basic":
            convs = f"3x3 {row.mid}{groups}, 3x3 {row.out}{groups}"
        else:
            convs = f"1x1 {self.first_width(row)}, 3x3 {row.mid}{groups}, 1x1 {row.out}"
        return f"[{convs}{self.unit_words(number, row.out)}] x {row.depth}{slash(row.stride)}"

    def build_features(self) -> nn.Sequential:
        """Stem and stages."""
        from senet.models.network import residual_features

        return residual_features(self)


def slash(stride: int) -> str:
    """A stride as the rows of a table show it: " /2", or "" for none."""
    return f" /{stride}" if stride > 1 else ""


def with_fields(net: Net, fields: dict[str, Any]) -> Net:
    """A copy of `net` with fields changed; ConfigError, naming the legal ones, for a field it does not have."""
    legal = field_types(type(net))
    for name in fields:
        if name not in legal:
            hint = _FOREIGN.get(name)
            raise ConfigError(f"{no_field(name, legal)}" + (f" ({hint})" if hint else ""))
    changed = replace(net, **fields)
    if "se_at" in fields and changed.se is None:
        raise ConfigError(f"se_at: {fields['se_at']!r} has no effect, the network has no attention unit (se=None)")
    return changed


_FOREIGN = {
    "pretrained": "here: weights='timm:seresnet50.ra2_in1k', or a file",
    "in_chans": "here: in_channels",
    "drop_rate": "here: dropout",
    "rd_ratio": "here: se=SEConfig(reduction=...), with reduction = 1 / rd_ratio",
    "se_ratio": "here: se=SEConfig(reduction=...), with reduction = 1 / se_ratio",
    "reduction": "here: se=SEConfig(reduction=...)",
}
