"""The equations of arXiv:1709.01507v4 in plain torch: the reference by which every faster version is judged.

Letters of the paper: `u` `(N, C, *)` is a feature map with any number of spatial dimensions, `z` (N, C) its squeeze,
`s` (N, C) the gates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "hard_sigmoid": F.hardsigmoid,
}
"""Table 12's gates by name, and the hard sigmoid."""


@torch.no_grad()
def zero_gate_(layer: nn.Module, gate: str) -> float:
    """Zero the parameters of the layer before a gate, in place, and return gate(0)."""
    for p in layer.parameters(recurse=False):
        p.zero_()
    return float(GATES[gate](torch.zeros((), dtype=torch.float32, device="cpu")))


def _check_space(u: Tensor) -> None:
    if u.dim() < 3:
        raise ValueError(f"u: a feature map (N, C, *) has at least one spatial dimension; this one is {tuple(u.shape)}")


@torch.fx.wrap
def squeeze(u: Tensor, how: str = "avg") -> Tensor:
    """Eq. 2, F_sq: each channel's mean over space, or its maximum (Table 11). `(N, C, *) -> (N, C)`.

    Raises ValueError for a tensor without space, `(N, C)`, of which torch would take the mean over everything.

    >>> squeeze(torch.tensor([[[1.0, 2.0, 6.0]]]))
    tensor([[3.]])
    """
    _check_space(u)
    space = tuple(range(2, u.dim()))
    return u.mean(space) if how == "avg" else u.amax(space)


def excitation(
    z: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, gate: str = "sigmoid"
) -> Tensor:
    """Eq. 3, F_ex: `s = gate(W2 relu(W1 z))`. `(N, C) -> (N, C)`, with w1 (C/r, C), w2 (C, C/r), b1 (C/r), b2 (C)."""
    return GATES[gate](F.linear(torch.relu(F.linear(z, w1, b1)), w2, b2))


@torch.fx.wrap
def scale(u: Tensor, s: Tensor) -> Tensor:
    """Eq. 4, F_scale: each channel times its gate `s` (N, C), or each element its own, `(N, C, *)`. Shape of `u`."""
    return u * s.reshape(s.shape + (1,) * (u.dim() - s.dim()))


class Gates(Protocol):
    """What makes gates from a feature map: a unit."""

    def gate(self, u: Tensor) -> Tensor:
        """`(N, C, *) -> (N, C)` or `(N, C, *)`."""
        ...


def recalibrate(u: Tensor, unit: Gates) -> Tensor:
    """Eqs. 2 to 4: a feature map times the gates that the unit makes from it. Same shape.

    Units call it by an attribute, `Unit.recalibrate`, and kernels replace that one.
    """
    return scale(u, unit.gate(u))


@torch.fx.wrap
def excitation_map(
    u: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, gate: str = "sigmoid"
) -> Tensor:
    """Table 16, NoSqueeze: Eq. 3 at every position, as 1x1 convolutions. `(N, C, *) -> (N, C, *)`; weights as there.

    Raises ValueError for a tensor without space, `(N, C)`.
    """
    _check_space(u)
    conv = (F.conv1d, F.conv2d, F.conv3d)[u.dim() - 3]
    ones = (1,) * (u.dim() - 2)
    hidden = torch.relu(conv(u, w1.reshape(w1.shape + ones), b1))
    return GATES[gate](conv(hidden, w2.reshape(w2.shape + ones), b2))


def eca_excitation(z: Tensor, weight: Tensor, gate: str = "sigmoid") -> Tensor:
    """arXiv:1910.03151, Eq. 10: a 1-D convolution over channels. `(N, C) -> (N, C)`, weight (1,1,k)."""
    return GATES[gate](F.conv1d(z.unsqueeze(1), weight, padding=weight.shape[-1] // 2).squeeze(1))


def shared_excitation(z: Tensor, weight: Tensor, bias: Tensor, link: Tensor, gate: str = "sigmoid") -> Tensor:
    """The student report's proposal: `s[n,g,k] = gate(weight[k] z[n,g,k] + link mean_c(z[n,c]) + bias[k])`.

    `(N, C) -> (N, C)`; weight and bias (C/G) are shared by the G groups, `link` (1) is the report's global weight.
    """
    groups = z.reshape(z.shape[0], -1, weight.shape[0])
    logits = weight * groups + link * z.mean(1).reshape(-1, 1, 1) + bias
    return GATES[gate](logits.reshape(z.shape))


def norm_relu(x: Tensor, norm: nn.Module) -> Tensor:
    """Batch norm and ReLU. Same shape. Blocks call it by an attribute, `norm_relu`, and kernels replace that one."""
    return F.relu(norm(x), inplace=True)


def block_epilogue(x: Tensor, norm: nn.Module, se: nn.Module | None, shortcut: Tensor) -> Tensor:
    """How a residual block ends: batch norm, the unit, the sum, ReLU. `(N, C, H, W) -> (N, C, H, W)`.

    x: output of the block's last convolution.  shortcut: the identity branch, of the same shape.
    The authors fuse scale and sum into one layer, Axpy; kernels replace this function (see
    `ResidualBlock.epilogue`).
    """
    u = norm(x)
    if se is not None:
        u = se(u)
    return F.relu(u + shortcut, inplace=True)
