"""The gates of a unit from its squeeze, and their gradients, in plain torch: (N, C) numbers between the passes.

The equations are those of `senet.functional`. The gradients are written out, since autograd does not reach into a
custom operation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from senet import functional as sf

aten = torch.ops.aten

BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": lambda ds, logits: aten.sigmoid_backward(ds, torch.sigmoid(logits)),
    "tanh": lambda ds, logits: aten.tanh_backward(ds, torch.tanh(logits)),
    "relu": lambda ds, logits: aten.threshold_backward(ds, logits, 0),
    "hard_sigmoid": lambda ds, logits: aten.hardsigmoid_backward(ds, logits),
}
"""Backward of each of `functional.GATES`: gradient of the gate and logits -> gradient of the logits."""


class Gates(NamedTuple):
    """How a unit computes its gates, without its parameters.

    Attributes:
        kind: `kind` of the unit's config: "se", "eca" or "shared".
        gate: arXiv:1709.01507v4, Table 12.
        squeeze: "avg" or "max", Table 11.
        start: of an `InsertedUnit`, which divides the gates by it, or adds 1 where it is 0. None for other units.
    """

    kind: str
    gate: str = "sigmoid"
    squeeze: str = "avg"
    start: float | None = None

    def __str__(self) -> str:
        """As a custom operation takes it, which accepts strings but no objects."""
        return " ".join(str(field) for field in self if field is not None)


@cache
def read(text: str) -> Gates | None:
    """Parse `str(gates)`; "" gives None.

    >>> read(str(Gates("eca", start=0.5)))
    Gates(kind='eca', gate='sigmoid', squeeze='avg', start=0.5)
    """
    if not text:
        return None
    kind, gate, squeeze, *start = text.split()
    return Gates(kind, gate, squeeze, *map(float, start))


Params = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Parameters of a unit, padded with None: "se": W1, b1, W2, b2; "eca": weight; "shared": weight, bias, link."""


def excite(z: Tensor, gates: Gates, params: Params) -> Tensor:
    """Compute gates from a squeeze: `(N, C) -> (N, C)`, in z's dtype."""
    w1, b1, w2, b2 = as_type(z.dtype, *params)
    if gates.kind == "se":
        s = sf.excitation(z, w1, b1, w2, b2, gates.gate)
    elif gates.kind == "eca":
        s = sf.eca_excitation(z, w1, gates.gate)
    else:
        s = sf.shared_excitation(z, w1, b1, w2, gates.gate)
    if gates.start is None:
        return s
    return s / gates.start if gates.start else 1 + s


def excite_backward(ds: Tensor, z: Tensor, gates: Gates, params: Params) -> tuple[Tensor, Params]:
    """Gradients of z and of `params`, each in its own dtype, from the gradient of the gates."""
    w1, b1, w2, b2 = as_type(z.dtype, *params)
    backward, ds = BACKWARD[gates.gate], ds / (gates.start or 1)
    if gates.kind == "se":
        h = torch.relu(F.linear(z, w1, b1))
        dl = backward(ds, F.linear(h, w2, b2))
        dh = aten.threshold_backward(dl @ w2, h, 0)
        dz = dh @ w1
        grads = dh.T @ z, dh.sum(0), dl.T @ h, dl.sum(0)
    elif gates.kind == "eca":
        width = w1.shape[-1]
        near = F.pad(z, (width // 2, width // 2)).unfold(1, width, 1)
        dl = backward(ds, near @ w1.flatten())
        dz = F.conv1d(dl.unsqueeze(1), w1.flip(-1), padding=width // 2).squeeze(1)
        grads = (dl.unsqueeze(-1) * near).sum((0, 1)).reshape(w1.shape), None, None, None
    else:
        groups, mean = z.unflatten(1, (-1, len(w1))), z.mean(1).reshape(-1, 1, 1)
        dl = backward(ds.unflatten(1, groups.shape[1:]), w1 * groups + w2 * mean + b1)
        dz = (dl * w1 + w2 * dl.mean((1, 2), keepdim=True)).flatten(1)
        grads = (dl * groups).sum((0, 1)), dl.sum((0, 1)), (dl * mean).sum().reshape(1), None
    pairs = zip(grads, params, strict=True)
    return dz, tuple(None if g is None or p is None else g.to(p.dtype) for g, p in pairs)  # type: ignore[return-value]


def as_type(dtype: torch.dtype, *tensors: Tensor | None) -> list[Any]:
    """Convert tensors to a dtype; None stays None."""
    return [t if t is None or t.dtype == dtype else t.to(dtype) for t in tensors]
