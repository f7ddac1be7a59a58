"""Fusing a network: its blocks' epilogues, norms and units by the fused operations, in place, and back.

Blocks and units call what kernels can do by attributes (`functional.block_epilogue`, `norm_relu`, `recalibrate`).
`fuse_` gives each an attribute of its own, one of the functions here; no module is replaced and no parameter is
renamed. They look at each call: where it is not exactly what the operations compute, the reference runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from senet import functional as sf
from senet.blocks import mobile
from senet.errors import ConfigError
from senet.insert import InsertedUnit
from senet.kernels import ops
from senet.kernels.gates import Gates, Params
from senet.kernels.passes import wide
from senet.units.eca import ECA
from senet.units.se import SqueezeExcite
from senet.units.shared import SharedExcite

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
UNITS = (SqueezeExcite, ECA, SharedExcite)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

TENSORS = ("weight", "bias", "link", "running_mean", "running_var")
"""What norms, units and their layers hold, by name, since in replicas of `nn.DataParallel` they are no parameters."""

NONE: tuple[str, Params] = "", (None, None, None, None)
"""No unit, as the operations take it."""


@dataclass(frozen=True)
class Fusion:
    """What `fuse_` did: the names of modules with what is one call in them now, and with why it is none.

    fused: (name, what).  left: (name, why).
    """

    fused: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        """One line for each kind of thing, with the names."""
        lines = []
        for title, pairs in (("fused", self.fused), ("left", self.left)):
            for what in dict.fromkeys(what for _, what in pairs):
                names = [name or "the model itself" for name, w in pairs if w == what]
                lines.append(f"{title}: {what}, {len(names)} times: {', '.join(names[:2])}{', ...' * (len(names) > 2)}")
        return "\n".join(lines)


def fuse_(model: nn.Module, *, everywhere: bool = False) -> Fusion:
    """Let a network's blocks and units run as fused operations, in place; say which, and which not and why.

    In training a block's epilogue (batch norm, unit, sum, ReLU) then moves less memory than batch norm alone in eager
    mode; a batch norm and its ReLU are one call, and so is a unit by itself. On a GPU they are Triton kernels, on a CPU
    (see `everywhere`) C compiled on first use. The outputs are those of the unfused network but for rounding, and sums,
    gates and statistics are in float32 whatever the map's type; names, buffers and gradients are the same. There are no
    second derivatives.

    Whatever the operations do not compute exactly runs as before, call by call: off the GPU; on one where Triton does
    not work, as a RuntimeWarning then says; in `torch.export`, so that what is exported needs no senet; under
    `torch.func`; where somebody watches a norm or a unit, or all modules, by hooks, or has put another layer in; where
    types are mixed. A block that is checkpointed without reentry may count `num_batches_tracked` once less.

    model: a network of ours, whole; of another only the units from `insert_` are known.
    everywhere: also off the GPU. On a CPU with a C compiler float32 maps are faster so too; other maps, and all where a
        RuntimeWarning says at the first call that nothing was compiled, go by the same algebra in plain torch, which is
        slower than the reference.

    Raises ConfigError where there is nothing to fuse.

    >>> from senet import create_model
    >>> print(fuse_(create_model("se_resnet20", fused=False)))
    fused: batch norm and ReLU, 10 times: features.stem, features.stage2.block1, ...
    fused: batch norm, unit, sum and ReLU, 9 times: features.stage2.block1, features.stage2.block2, ...
    """
    done = Fusion()
    # What an epilogue or an inserted unit applies is no call of its own.
    inner: set[Any] = {_epilogue_unit(m) for m in model.modules()}
    inner |= {m.unit for m in model.modules() if isinstance(m, InsertedUnit)}
    for name, module in model.named_modules():
        for hook, function in _hooks(module):
            setattr(module, hook, partial(function, everywhere=True) if everywhere else function)
            if module in inner or not _is_called(module, hook):
                continue
            why = _why_not(module, hook)
            (done.left if why else done.fused).append((name, why or _what(module, hook)))
    if not done.fused:
        raise ConfigError("model: has nothing to fuse; expected: a network of senet's, or one with units of insert_")
    return done


def unfuse_(model: nn.Module) -> int:
    """Let a network run unfused again, in place; return how many modules were fused.

    Raises ConfigError where none was.
    """
    fused = [module for module in model.modules() if any(_is_fused(module, hook) for hook in FUSED)]
    if not fused:
        raise ConfigError("model: is not fused")
    for module in fused:
        for hook in [hook for hook in FUSED if _is_fused(module, hook)]:
            delattr(module, hook)
    return len(fused)


def fuse_like_(model: nn.Module, like: nn.Module) -> None:
    """Fuse what is fused in another network, module by module of the same name, in place."""
    others = dict(like.named_modules())
    for name, module in model.named_modules():
        for hook, _ in _hooks(module):
            if name in others and _is_fused(others[name], hook):
                setattr(module, hook, vars(others[name])[hook])


def block_epilogue(
    x: Tensor, norm: nn.Module, se: nn.Module | None, shortcut: Tensor, *, everywhere: bool = False
) -> Tensor:
    """`functional.block_epilogue` by one operation."""
    if _is_meant(x, everywhere) and _fits(norm, x, shortcut):
        gates = NONE if se is None else _gates(se, x)
        if gates is not None:
            return _epilogue(x, norm, gates, shortcut)
    return sf.block_epilogue(x, norm, se, shortcut)


def concat_epilogue(
    x: Tensor, norm: nn.Module, se: nn.Module | None, shortcut: Tensor, *, everywhere: bool = False
) -> Tensor:
    """`mobile.concat_epilogue` with one operation for all but the concatenation."""
    if _is_meant(x, everywhere) and _fits(norm, x):
        gates = NONE if se is None else _gates(se, x)
        if gates is not None:
            return torch.cat([F.relu(shortcut), _epilogue(x, norm, gates, None)], 1)
    return mobile.concat_epilogue(x, norm, se, shortcut)


def norm_relu(x: Tensor, norm: nn.Module, *, everywhere: bool = False) -> Tensor:
    """`functional.norm_relu` by one operation."""
    if _is_meant(x, everywhere) and _fits(norm, x):
        return _epilogue(x, norm, NONE, None)
    return sf.norm_relu(x, norm)


def recalibrate(u: Tensor, unit: Any, *, everywhere: bool = False) -> Tensor:
    """`functional.recalibrate` by one operation."""
    if _is_meant(u, everywhere) and (gates := _gates(unit, u)):
        return ops.block_epilogue(_dense(u), *(None,) * 5, *gates[1], gates[0], "", 0.0, False, "")[0]
    return sf.recalibrate(u, unit)


FUSED: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "norm_relu": (sf.norm_relu, norm_relu),
    "epilogue": (sf.block_epilogue, block_epilogue),
    "concat_epilogue": (mobile.concat_epilogue, concat_epilogue),
    "recalibrate": (sf.recalibrate, recalibrate),
}
"""The attributes by which modules call, each with the function that a class has there and the fused one."""


def _hooks(module: nn.Module) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """The attributes that a module has for kernels, with the fused functions; one set by somebody else is his."""
    for hook, (reference, function) in FUSED.items():
        is_own = hook in vars(module) and not _is_fused(module, hook)
        if getattr(type(module), hook, None) is reference and not is_own:
            yield hook, function


def _is_fused(module: nn.Module, hook: str) -> bool:
    own = vars(module).get(hook)
    return own is not None and getattr(own, "func", own) is FUSED[hook][1]


def _epilogue_unit(module: nn.Module) -> nn.Module | None:
    """The unit that a block's epilogue applies."""
    return module.epilogue_unit if any(hook == "epilogue" for hook, _ in _hooks(module)) else None  # type: ignore[return-value]


def _is_called(module: nn.Module, hook: str) -> bool:
    """Whether a module calls this attribute: a shuffle unit has two epilogues and uses one."""
    if not isinstance(module, mobile.ShuffleUnit) or hook == "norm_relu":
        return True
    return (hook == "epilogue") == (module.stride == 1)


def _what(module: nn.Module, hook: str) -> str:
    """What becomes one call."""
    unit = ", unit" if _epilogue_unit(module) is not None else ""
    return {
        "norm_relu": "batch norm and ReLU",
        "recalibrate": "unit",
        "epilogue": f"batch norm{unit}, sum and ReLU",
        "concat_epilogue": f"batch norm{unit} and ReLU before the concatenation",
    }[hook]


def _why_not(module: nn.Module, hook: str) -> str:
    """What in a module keeps it from running fused, as it is now; "" for nothing."""
    unit = module if hook == "recalibrate" else None if hook == "norm_relu" else _epilogue_unit(module)
    unit = unit.unit if isinstance(unit, InsertedUnit) else unit
    if unit is not None and type(unit) not in UNITS:
        return f"a {type(unit).__name__} is no unit known here with one gate per channel"
    norm = getattr(module, "norm", None) if hook in ("epilogue", "concat_epilogue") else None
    if norm is not None and type(norm) not in NORMS:
        return f"a {type(norm).__name__} is no batch norm of torch's"
    return "its norm is watched by hooks, as of an inserted unit" if norm is not None and _is_watched(norm) else ""


def _is_watched(module: nn.Module) -> bool:
    """Whether anybody sees a module's calls, or changes what they give."""
    m = module
    own = m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
    return bool(own or _has_any_global_hook())


def _is_plain(module: nn.Module, kinds: tuple[type[nn.Module], ...], x: Tensor) -> bool:
    """Whether a module is one of these and nothing more, and of a type that goes with the map."""
    if _is_watched(module):
        return False
    name, legal = type(module).__name__, (x.dtype, wide(x))
    if type(module) not in kinds or "forward" in vars(module):
        _say(f"a {name} is not, or not only, a {kinds[0].__name__}")
        return False
    for t in (getattr(module, own, None) for own in TENSORS):
        if t is not None and t.dtype not in legal:
            _say(f"a {name} of {t.dtype} has a map of {x.dtype}")
            return False
    return True


def _say(why: str) -> None:
    # Where it comes from one place, Python shows one text once.
    warnings.warn(f"{why}: this part of the network runs unfused", stacklevel=2)


def _is_meant(x: Tensor, everywhere: bool) -> bool:
    """Whether a call is for the operations at all."""
    if not everywhere and x.is_cuda is not True:
        return False
    if not isinstance(x, Tensor) or x.dtype not in DTYPES or x.dim() < 3 or x.numel() == 0:
        return False
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    return not x.is_cuda or ops.by_triton(x)


def _fits(norm: Any, x: Tensor, shortcut: Tensor | None = None) -> bool:
    """Whether a norm is a plain batch norm that can take a map, and the shortcut a map like it."""
    if not _is_plain(norm, NORMS, x) or norm.num_features != x.shape[1]:
        return False
    if shortcut is not None and (shortcut.shape != x.shape or shortcut.dtype != x.dtype):
        return False
    # One value per channel is an error, and torch raises it.
    return x.numel() > x.shape[1] or not _uses_batch(norm) or bool(_group(norm))


def _uses_batch(norm: Any) -> bool:
    """Whether a norm takes the statistics of its batch."""
    return norm.training or (norm.running_mean is None and norm.running_var is None)


def _group(norm: Any) -> str:
    """The processes over which a norm takes its statistics, by their group's name; "" for this one alone."""
    if type(norm) is nn.SyncBatchNorm and norm.training and dist.is_available() and dist.is_initialized():
        group: Any = norm.process_group or dist.group.WORLD
        return group.group_name if group.size() > 1 else ""
    return ""


def _gates(unit: nn.Module, x: Tensor) -> tuple[str, Params] | None:
    """A unit as the operations take it; None where they cannot."""
    start, own = None, cast(Any, unit)
    if isinstance(unit, InsertedUnit) and not _is_watched(unit):
        start, own = unit.start, cast(Any, unit.unit)
    if type(own) not in UNITS or not _is_plain(own, UNITS, x):
        return None
    if not all(_is_plain(layer, (nn.Linear, nn.Conv1d), x) for layer in own._modules.values()):
        return None
    if type(own) is SqueezeExcite:
        params = own.fc1.weight, own.fc1.bias, own.fc2.weight, own.fc2.bias
    else:
        params = (own.conv.weight, None, None, None) if type(own) is ECA else (own.weight, own.bias, own.link, None)
    squeeze = getattr(own.config, "squeeze", "avg")
    return str(Gates(own.config.kind, own.config.gate, squeeze, start)), params


def _epilogue(x: Tensor, norm: Any, gates: tuple[str, Params], shortcut: Tensor | None) -> Tensor:
    """The operation, and then the running statistics as torch's batch norm follows them."""
    norm._check_input_dim(x)
    unit, params = gates
    is_batch, group = _uses_batch(norm), _group(norm)
    mean, var = (None, None) if is_batch else (norm.running_mean, norm.running_var)
    if mean is not None and var is not None and torch.is_grad_enabled():
        # Backward wants them as they are now, also after a forward in training that moves them.
        mean, var = mean.clone(), var.clone()
    kind = "batch" if is_batch else "constant"
    y, mu, var, _, _, total = ops.block_epilogue(
        _dense(x), shortcut, norm.weight, norm.bias, mean, var, *params, unit, kind, norm.eps, True, group
    )
    if norm.training and norm.track_running_stats and norm.running_mean is not None:
        _follow_(norm, mu, var, total if group else x.numel() // x.shape[1])
    return y


def _follow_(norm: Any, mu: Tensor, var: Tensor, count: Tensor | int) -> None:
    """Move the running statistics; `count`: numbers per channel, for the variance without bias."""
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1 / norm.num_batches_tracked.to(norm.running_mean.dtype)
    norm.running_mean.lerp_(mu.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_((var * (count / (count - 1))).to(norm.running_var.dtype), momentum)


def _dense(x: Tensor) -> Tensor:
    """The map, contiguous or channels-last."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
    return x if x.is_contiguous(memory_format=last) else x.contiguous()
