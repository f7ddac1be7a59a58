"""Parameters and multiply-adds by arithmetic: a shape goes through the layers of a table, and no torch is loaded.

A `Cost` has one method per kind of layer. Each takes the shape of a feature map, adds what the layer costs and returns
the shape that comes out, so counting a network reads like its forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from senet.config import UnitConfig


class TooSmallError(ValueError):
    """A feature map is smaller than the window of a convolution or pooling."""


class Shape(NamedTuple):
    """The shape of one image's feature map."""

    channels: int
    height: int
    width: int


@dataclass
class Cost:
    """What the layers so far cost, for one image.

    Attributes:
        params: Learnable parameters.
        macs: Multiply-adds of convolutions and fully connected layers.
        se_params: Those of `params` that are in the attention units.
        se_macs: Those of `macs` that are in the attention units.
        bn_statistics: Running means and variances, which are not parameters.
    """

    params: int = 0
    macs: int = 0
    se_params: int = 0
    se_macs: int = 0
    bn_statistics: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def conv(
        self,
        x: Shape,
        out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> Shape:
        """Count a convolution. By default the padding is half the kernel."""
        kernels = (kernel, kernel) if isinstance(kernel, int) else kernel
        if padding is None:
            padding = (kernels[0] // 2, kernels[1] // 2)
        y = _slide(x, kernels, stride, padding)._replace(channels=out)
        weights = out * (x.channels // groups) * prod(kernels)
        self.params += weights + bias * out
        self.macs += weights * y.height * y.width
        return y

    def norm(self, x: Shape) -> Shape:
        """Count a batch norm."""
        self.params += 2 * x.channels
        self.bn_statistics += 2 * x.channels
        return x

    def conv_norm(
        self,
        x: Shape,
        out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> Shape:
        """Count a convolution and the batch norm after it."""
        return self.norm(self.conv(x, out, kernel, stride, padding=padding, groups=groups, bias=bias))

    def pool(
        self, x: Shape, kernel: int, stride: int, *, padding: int | tuple[int, int] = 0, ceil: bool = False
    ) -> Shape:
        """The shape after pooling, which costs nothing. `ceil`: a window may reach over the far edge."""
        return _slide(x, (kernel, kernel), stride, padding, ceil)

    def linear(self, inputs: int, outputs: int) -> int:
        """Count a fully connected layer with biases; return its outputs."""
        self.params += (inputs + 1) * outputs
        self.macs += inputs * outputs
        return outputs

    def unit(self, unit: UnitConfig | None, x: Shape) -> Shape:
        """Count an attention unit, if there is one."""
        if unit:
            params, macs = unit.cost(x.channels, x.height * x.width)
            self.params += params
            self.macs += macs
            self.se_params += params
            self.se_macs += macs
        return x


def _slide(x: Shape, kernel: tuple[int, int], stride: int, padding: int | tuple[int, int], ceil: bool = False) -> Shape:
    """The shape after sliding a window over `x`, as torch computes it.

    Raises:
        TooSmallError: If the padded feature map is smaller than the window.
    """
    paddings = (padding, padding) if isinstance(padding, int) else padding
    sides = []
    for side, k, pad in zip((x.height, x.width), kernel, paddings, strict=True):
        room = side + 2 * pad - k
        # torch counts a last, incomplete window only if it starts inside the feature map or its near padding.
        out = min(-(-room // stride), (side + pad - 1) // stride) + 1 if ceil else room // stride + 1
        if out < 1:
            raise TooSmallError(
                f"a window of {kernel[0]}x{kernel[1]} does not fit a feature map of {x.height}x{x.width}"
            )
        sides.append(out)
    return Shape(x.channels, *sides)
