"""The fused block epilogue and its gradients, as an autograd function and as the operation `senet::block_epilogue`.

`y = relu(s (a (x - mu) + beta) + e)`: batch norm, unit, sum and ReLU, or any of them: `e` is None for no sum, `unit` ""
for no unit, `norm` "" for no batch norm. What reads and writes maps is in the passes (`passes_for`); the gates, (N, C)
numbers, are those of `gates`, in float32 whatever the map's type. Letters and shapes as in `passes`.

In eager mode `block_epilogue` is an autograd function, for a call of an operation written in Python takes longer than
all of the C passes over a small feature map. Whatever looks at calls, be it `torch.compile` or a dispatch mode, sees
the operations.

Nothing here changes what it is given: running statistics are the caller's affair, see `fuse`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from senet.kernels import passes, probe
from senet.kernels.gates import Params, as_type, excite, excite_backward, read


def by_triton(x: Tensor) -> bool:
    """Whether Triton's passes take maps of this type and device: the one answer that everything here goes by."""
    return x.is_cuda and probe.works(x.device, x.dtype)


def passes_for(x: Tensor) -> Any:
    """The module with the passes for maps of this type and device, for all passes of a call the same.

    Triton's on a GPU where they work (see `probe`); on a CPU, of float32 and with a C compiler, those in C; else plain
    torch.
    """
    if by_triton(x):
        from senet.kernels import triton_passes

        return triton_passes
    if x.is_cpu and x.dtype == torch.float32:
        from senet.kernels import cpu_passes

        return cpu_passes if cpu_passes.available() else passes
    return passes


def _like(t: Tensor, x: Tensor) -> Tensor:
    """`t` in x's memory format; a gradient may be of another, or one number for the whole map."""
    return t if t.stride() == x.stride() else torch.empty_like(x).copy_(t)


def _group(name: str) -> dist.ProcessGroup:
    """A process group by its name, as operations, which take no objects, know it."""
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined, arg-type]


def _gather(mu: Tensor, var: Tensor, count: int, eps: float, group: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and number of positions over all processes.

    The messages are those of torch's own SyncBatchNorm, so that a process in which that one runs still fits.
    """
    mine = torch.cat([mu, (var + eps).rsqrt(), mu.new_tensor([count])])
    theirs = [torch.empty_like(mine) for _ in range(_group(group).size())]
    dist.all_gather(theirs, mine, _group(group))
    means, inverses, counts = torch.stack(theirs).split([len(mu), len(mu), 1], 1)
    total = counts.sum(0)
    part = counts / total
    # A process without images sends zeros.
    variances = torch.where(counts > 0, inverses**-2 - eps, 0)
    mu = (part * means).sum(0)
    return mu, (part * (variances + (means - mu).square())).sum(0), total


def _add_up(b0: Tensor, b1: Tensor, group: str) -> tuple[Tensor, Tensor]:
    """The sums over all processes; the message is that of torch's SyncBatchNorm too."""
    both = torch.cat([b0, b1])
    dist.all_reduce(both, group=_group(group))
    return both[: len(b0)], both[len(b0) :]


def _forward(
    x: Tensor,
    e: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    unit: str,
    norm: str,
    eps: float,
    relu: bool,
    group: str,
) -> tuple[Tensor | None, ...]:
    """The fused epilogue: `y`, and what its backward wants: `mu, var` (C), `z0, s` (N, C), `total` (1).

    x, e: (N, C, *) of one type.  gamma, beta: (C); None: 1, 0.  mean, var: (C), with norm "constant".
    w1, b1, w2, b2: the unit's, as in `gates.Params`.  unit: `str(Gates)`.
    norm: statistics of the "batch", those given ("constant"), or "" for no batch norm.  eps: of the norm.
    group: name of the process group over whose processes the batch is spread, "" for none.
    total: with a group, the positions in all of the batch.
    """
    p, gates, wide = passes_for(x), read(unit), passes.wide(x)
    z0 = z = mu = v = a = s = total = None
    gamma, beta = as_type(wide, gamma, beta)
    if gates or norm == "batch":
        sign = None
        if gates and gates.squeeze == "max":
            sign = x.new_ones(x.shape[1], dtype=wide) if gamma is None else gamma
        average, m2, extremum = p.moments(x, sign)
        z = z0 = (average if extremum is None else extremum) if gates else None
        if norm == "batch":
            mu, v = p.combine(average, m2, x.shape[2:].numel())
            if group:
                mu, v, total = _gather(mu, v, x.numel() // x.shape[1], eps, group)
    if norm == "constant":
        mu, v = as_type(wide, mean, var)
    if norm:
        _, a, z = p.normalise(z0, mu, v, gamma, beta, eps)
    if gates:
        with torch.autocast(x.device.type, enabled=False):
            s = excite(z, gates, (w1, b1, w2, b2))  # type: ignore[arg-type]
    y = _like(p.apply(x, e, mu, a, beta, s, relu), x)
    return (y, mu, v, z0, s, total) if norm == "batch" else (y, None, None, z0, s, total)


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
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    unit: str,
    norm: str,
    eps: float,
    relu: bool,
    group: str,
) -> tuple[Tensor | None, ...]:
    """The gradients of x, e, gamma, beta, w1, b1, w2 and b2.

    g: of y.  y: where there are `e` and a ReLU; without, the gradient of `e` is None here, and is g if there is an `e`.
    mu, var, z0, s, total: what the forward gave; with norm "constant" mu and var are what it was given.
    The gradients of gamma and beta are of this process's images, as with torch's SyncBatchNorm.
    """
    p, gates, wide = passes_for(x), read(unit), passes.wide(x)
    count = x.numel() // x.shape[1]
    g = _like(g, x)
    scale, shift, mu, var = as_type(wide, gamma, beta, mu, var)
    r = a = dz = B0 = B1 = None
    z = z0
    if norm:
        r, a, z = p.normalise(z0, mu, var, scale, shift, eps)
    extremum = z0 if gates and gates.squeeze == "max" else None
    t, T0, T1, ties = p.reduce(g, x, y, mu, a, shift, s, extremum, relu=relu, keep=y is not None)
    dparams: Params = (None, None, None, None)
    if gates:
        ds = p.gate_gradient(T0, T1, a, shift)
        with torch.autocast(x.device.type, enabled=False):
            dz, dparams = excite_backward(ds, z, gates, (w1, b1, w2, b2))  # type: ignore[arg-type]
    dgamma = dbeta = None
    if norm:
        B0, B1 = p.sums(T0, T1, s, dz, z0, mu)
        dgamma = None if gamma is None else (r * B1).to(gamma.dtype)
        dbeta = None if beta is None else B0.to(beta.dtype)
        if norm == "constant":
            B0 = B1 = None
        elif total is not None:
            B0, B1 = (b * (count / total) for b in _add_up(B0, B1, group))
    masked = g if t is None else t
    dx = p.input_gradient(masked, x, mu, a, shift, r, s, dz, extremum, ties, B0, B1, count, relu=relu and t is None)
    return _like(dx, x), t, dgamma, dbeta, *dparams


def _none(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """What operations, which give nothing but tensors, give for None."""
    return x.new_empty(0, dtype=dtype)


_OPTIONS = "Tensor? w1, Tensor? b1, Tensor? w2, Tensor? b2, str unit, str norm, float eps, bool relu, str group"
_EPILOGUE = (
    f"(Tensor x, Tensor? e, Tensor? gamma, Tensor? beta, Tensor? mean, Tensor? var, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor g, Tensor x, Tensor? y, Tensor? gamma, Tensor? beta, Tensor? mu, Tensor? var, Tensor? z0, Tensor? s, "
    f"Tensor? total, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("senet::block_epilogue", mutates_args=(), schema=_EPILOGUE)
def _block_epilogue(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(_none(x, passes.wide(x)) if t is None else t for t in _forward(x, *rest))


@_block_epilogue.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, unit, norm, _, _, group = rest
    mu = x.shape[1:2] if norm == "batch" else (0,)
    z0 = x.shape[:2] if unit else (0,)
    total = (1,) if group else (0,)
    return torch.empty_like(x), *(x.new_empty(shape, dtype=passes.wide(x)) for shape in (mu, mu, z0, z0, total))


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


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    x, e, gamma, beta, mean, var, *params, unit, norm, eps, relu, group = inputs
    y, mu, v, z0, s, total = output
    ctx.mark_non_differentiable(*(t for t in output[1:] if t is not None))
    ctx.set_materialize_grads(False)
    if norm != "batch":
        mu, v = mean, var
    z0, s = (z0, s) if unit else (None, None)
    # Without a shortcut the sign of y is computed again from x, which is less to keep and to read.
    kept = y if e is not None and relu else None
    ctx.save_for_backward(x, kept, gamma, beta, mu, v, z0, s, total if group else None, *params)
    ctx.options = unit, norm, eps, relu, group
    ctx.adds = e is not None


def _backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if g is None:
        return (None,) * 15
    # Once: checkpointing gives them out a single time.
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
    raise RuntimeError(
        f"the fused kernels {why}; senet.kernels.unfuse_(model), or senet.create_model(..., fused=False), gives a "
        "model without them"
    )


def _no_second(*_: object) -> None:
    _refuse("have no second derivative")


_block_epilogue.register_autograd(_backward, setup_context=_keep)
_block_epilogue_backward.register_autograd(_no_second)


class _Eager(torch.autograd.Function):
    """`senet::block_epilogue` without its overhead."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        output = _forward(*arguments)
        _keep(ctx, arguments, output)
        return output

    backward = staticmethod(_backward)


def _is_eager(x: Tensor) -> bool:
    """Whether a map has data, and nothing but autograd looks at what is called with it."""
    is_watched = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    return not is_watched and type(x) is Tensor and not x.is_meta


def _is_batched(g: Tensor) -> bool:
    """Whether a gradient stands for several: `torch.autograd.grad(is_grads_batched=True)`, `torch.vmap`."""
    # By name, for torch gives Python no key of the first kind.
    return "Batched" in str(torch._C._dispatch_keys(g))


def block_epilogue(x: Tensor, *rest: Any) -> tuple[Any, ...]:
    """`_forward` with its gradients; what is None there may be an empty tensor here."""
    return _Eager.apply(x, *rest) if _is_eager(x) else torch.ops.senet.block_epilogue(x, *rest)  # type: ignore[return-value]
