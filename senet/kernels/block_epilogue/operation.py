"""The fused block epilogue as one differentiable operation, `senet::block_epilogue`.

    y = relu(s (a (x - mu) + beta) + e)

Batch norm, unit, sum and ReLU, or some of them: without a sum `e` is None, without a unit `unit` is "", without a norm
`norm` is "". Feature maps are read and written by the passes that `dispatch.passes` picks; gates are computed between
them, by `excitation`. Letters and shapes are those of `reference.py`.

In eager mode `block_epilogue` is a `torch.autograd.Function`: over a small feature map a call of an operation written
in Python takes longer than all passes in C. Under `torch.compile` or a dispatch mode it is the operation.

Nothing is changed in place; `fuse.py` updates the running statistics.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from senet.kernels import dispatch
from senet.kernels.block_epilogue.excitation import Params, as_type, excite, excite_backward, read
from senet.kernels.block_epilogue.reference import Affine, wide


class Options(NamedTuple):
    """The arguments that are not tensors.

    Attributes:
        unit: `str(Gates)`, or "" without a unit.
        norm: "batch" (statistics of the batch), "constant" (statistics given), or "" without a norm.
        eps: of the norm.
        relu: apply a ReLU.
        group: name of the process group over which the batch is spread; "" for this process alone.
    """

    unit: str
    norm: str
    eps: float
    relu: bool
    group: str


def _forward(
    x: Tensor,
    e: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    *rest: Any,
) -> tuple[Tensor | None, ...]:
    """Compute y, and what its backward needs: `mu, var` (C), `z0, s` (N, C), `total` (1).

    Args:
        x: (N, C, *).
        e: (N, C, *), of x's dtype.
        gamma: (C), weight of the norm; None for 1.
        beta: (C), bias of the norm; None for 0.
        mean: (C), with norm "constant".
        var: (C), with norm "constant".
        rest: the four `excitation.Params` of the unit, then `Options`.

    Returns:
        y, mu, var, z0, s, total: the last is the positions in the batch of all processes of a group.
    """
    params, o = rest[:4], Options(*rest[4:])
    p, gates, dtype = dispatch.passes(x), read(o.unit), wide(x)
    z0 = z = mu = v = a = s = total = None
    gamma, beta = as_type(dtype, gamma, beta)
    if gates or o.norm == "batch":
        sign = None
        if gates and gates.squeeze == "max":
            sign = x.new_ones(x.shape[1], dtype=dtype) if gamma is None else gamma
        average, m2, extremum = p.moments(x, sign)
        z = z0 = (average if extremum is None else extremum) if gates else None
        if o.norm == "batch":
            mu, v = p.combine(average, m2, x.shape[2:].numel())
            if o.group:
                mu, v, total = _gather(mu, v, x.numel() // x.shape[1], o.eps, o.group)
    if o.norm == "constant":
        mu, v = as_type(dtype, mean, var)
    if o.norm:
        _, a, z = p.normalise(z0, mu, v, gamma, beta, o.eps)
    if gates:
        with torch.autocast(x.device.type, enabled=False):
            s = excite(z, gates, params)  # type: ignore[arg-type]
    y = _like(p.apply(x, e, Affine(mu, a, beta, s), o.relu), x)
    return (y, mu, v, z0, s, total) if o.norm == "batch" else (y, None, None, z0, s, total)


def _gradients(
    g: Tensor,
    x: Tensor,
    y: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mu: Tensor | None,
    var: Tensor | None,
    z0: Tensor | None,
    s: Tensor | None,
    total: Tensor | None,
    *rest: Any,
) -> tuple[Tensor | None, ...]:
    """Compute the gradients of x, e, gamma, beta and the four parameters of the unit.

    Those of gamma and beta are of this process's images, as with torch's SyncBatchNorm.

    Args:
        g: gradient of y.
        x: as in `_forward`.
        y: the output, where there are `e` and a ReLU; else None, and the gradient of `e` is None here: it is g.
        gamma: as in `_forward`.
        beta: as in `_forward`.
        mu: result of `_forward`; with norm "constant" its argument `mean`.
        var: likewise.
        z0: result of `_forward`.
        s: result of `_forward`.
        total: result of `_forward`.
        rest: as in `_forward`.
    """
    params, o = rest[:4], Options(*rest[4:])
    p, gates, dtype = dispatch.passes(x), read(o.unit), wide(x)
    count = x.numel() // x.shape[1]
    g = _like(g, x)
    scale, shift, mu, var = as_type(dtype, gamma, beta, mu, var)
    r = a = dz = b0 = b1 = None
    z = z0
    if o.norm:
        r, a, z = p.normalise(z0, mu, var, scale, shift, o.eps)
    f = Affine(mu, a, shift, s)
    extremum = z0 if gates and gates.squeeze == "max" else None
    t, T0, T1, ties = p.reduce(g, x, y, f, extremum, relu=o.relu, keep=y is not None)
    dparams: Params = (None, None, None, None)
    if gates:
        ds = p.gate_gradient(T0, T1, f)
        with torch.autocast(x.device.type, enabled=False):
            dz, dparams = excite_backward(ds, z, gates, params)  # type: ignore[arg-type]
    dgamma = dbeta = None
    if o.norm:
        b0, b1 = p.sums(T0, T1, f, dz, z0)
        dgamma = None if gamma is None else (r * b1).to(gamma.dtype)
        dbeta = None if beta is None else b0.to(beta.dtype)
        if o.norm == "constant":
            b0 = b1 = None
        elif total is not None:
            b0, b1 = (b * (count / total) for b in _add_up(b0, b1, o.group))
    masked = g if t is None else t
    dx = p.input_gradient(masked, x, f, r, dz, extremum, ties, b0, b1, count, relu=o.relu and t is None)
    return _like(dx, x), t, dgamma, dbeta, *dparams


def _like(t: Tensor, x: Tensor) -> Tensor:
    """`t` in x's memory format: a gradient may have another, or be one number expanded."""
    return t if t.stride() == x.stride() else torch.empty_like(x).copy_(t)


# Statistics over several processes. The messages are those of torch's SyncBatchNorm, so that a process in which that
# one runs still fits.


def _group(name: str) -> dist.ProcessGroup:
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined, arg-type]


def _gather(mu: Tensor, var: Tensor, count: int, eps: float, group: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and number of positions over all processes of a group."""
    own = torch.cat([mu, (var + eps).rsqrt(), mu.new_tensor([count])])
    every = [torch.empty_like(own) for _ in range(_group(group).size())]
    dist.all_gather(every, own, _group(group))
    means, inverses, counts = torch.stack(every).split([len(mu), len(mu), 1], 1)
    total = counts.sum(0)
    part = counts / total
    # A process without images sends zeros.
    variances = torch.where(counts > 0, inverses**-2 - eps, 0)
    mu = (part * means).sum(0)
    return mu, (part * (variances + (means - mu).square())).sum(0), total


def _add_up(b0: Tensor, b1: Tensor, group: str) -> tuple[Tensor, Tensor]:
    """Sums over all processes of a group."""
    both = torch.cat([b0, b1])
    dist.all_reduce(both, group=_group(group))
    return both[: len(b0)], both[len(b0) :]


# The operations of torch.library. They return tensors only, so an empty one stands for None.

_REST = "Tensor? w1, Tensor? b1, Tensor? w2, Tensor? b2, str unit, str norm, float eps, bool relu, str group"
_EPILOGUE = (
    f"(Tensor x, Tensor? e, Tensor? gamma, Tensor? beta, Tensor? mean, Tensor? var, {_REST})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor g, Tensor x, Tensor? y, Tensor? gamma, Tensor? beta, Tensor? mu, Tensor? var, Tensor? z0, Tensor? s, "
    f"Tensor? total, {_REST}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _none(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return x.new_empty(0, dtype=dtype)


@torch.library.custom_op("senet::block_epilogue", mutates_args=(), schema=_EPILOGUE)
def _block_epilogue(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(_none(x, wide(x)) if t is None else t for t in _forward(x, *rest))


@_block_epilogue.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    o = Options(*rest[-5:])
    mu = x.shape[1:2] if o.norm == "batch" else (0,)
    z0 = x.shape[:2] if o.unit else (0,)
    total = (1,) if o.group else (0,)
    return torch.empty_like(x), *(x.new_empty(shape, dtype=wide(x)) for shape in (mu, mu, z0, z0, total))


@torch.library.custom_op("senet::block_epilogue_backward", mutates_args=(), schema=_BACKWARD)
def _block_epilogue_backward(g: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(_none(g) if d is None else d for d in _gradients(g, *rest))


@_block_epilogue_backward.register_fake
def _(g: Tensor, x: Tensor, y: Tensor | None, gamma: Tensor | None, beta: Tensor | None, *rest: Any) -> Any:
    params = (
        _none(x) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in (gamma, beta, *rest[5:9])
    )
    return torch.empty_like(x), _none(x) if y is None else torch.empty_like(x), *params


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    x, e, gamma, beta, mean, var, *rest = inputs
    y, mu, v, z0, s, total = output
    params, o = rest[:4], Options(*rest[4:])
    ctx.mark_non_differentiable(*(t for t in output[1:] if t is not None))
    ctx.set_materialize_grads(False)
    if o.norm != "batch":
        mu, v = mean, var
    z0, s = (z0, s) if o.unit else (None, None)
    # Without a shortcut the sign of y is computed again from x: less memory to keep and to read.
    kept = y if e is not None and o.relu else None
    ctx.save_for_backward(x, kept, gamma, beta, mu, v, z0, s, total if o.group else None, *params)
    ctx.options = o
    ctx.adds = e is not None


def _backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if g is None:
        return (None,) * 15
    # Read once: under checkpointing a second read fails.
    saved = ctx.saved_tensors
    is_eager = _is_eager(g)
    if is_eager and _is_batched(g):
        _refuse("do not take a batch of gradients")
    # The operation refuses second derivatives.
    gradients = _gradients if is_eager and not torch.is_grad_enabled() else torch.ops.senet.block_epilogue_backward
    dx, de, *rest = gradients(g, *saved, *ctx.options)
    if saved[1] is None:
        de = g if ctx.adds else None
    given = (*saved[2:4], *saved[9:])
    dgamma, dbeta, *dparams = (None if t is None else d for t, d in zip(given, rest, strict=True))
    return dx, de, dgamma, dbeta, None, None, *dparams, *(None,) * 5


def _refuse(why: str) -> None:
    raise RuntimeError(f"fused kernels {why}; use senet.kernels.unfuse_(model) or create_model(..., fused=False)")


def _no_second(*_: object) -> None:
    _refuse("have no second derivative")


_block_epilogue.register_autograd(_backward, setup_context=_save)
_block_epilogue_backward.register_autograd(_no_second)


class _Eager(torch.autograd.Function):
    """`senet::block_epilogue` without the overhead of torch.library."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        output = _forward(*arguments)
        _save(ctx, arguments, output)
        return output

    backward = staticmethod(_backward)


def _is_eager(x: Tensor) -> bool:
    """Whether x is a plain tensor with data, and no compiler or dispatch mode intercepts calls."""
    is_intercepted = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    return not is_intercepted and type(x) is Tensor and not x.is_meta


def _is_batched(g: Tensor) -> bool:
    """Whether g is a batch of gradients: `torch.autograd.grad(is_grads_batched=True)`, `torch.vmap`."""
    # By name: Python has no constant for this dispatch key.
    return "Batched" in str(torch._C._dispatch_keys(g))


def block_epilogue(x: Tensor, *rest: Any) -> tuple[Any, ...]:
    """`_forward` with gradients; what is None there may be an empty tensor here."""
    return _Eager.apply(x, *rest) if _is_eager(x) else torch.ops.senet.block_epilogue(x, *rest)  # type: ignore[return-value]
