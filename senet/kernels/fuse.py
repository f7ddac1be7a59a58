"""Fuse a network in place, and back: its blocks' epilogues, norms and units run as fused operations.

Blocks and units call functions of `senet.functional` by an attribute: `epilogue`, `norm_relu`, `recalibrate` and
`concat_epilogue`. `fuse_` sets these attributes to the functions below; no module is replaced and no parameter renamed.
Each call is checked: where the operation would not compute exactly the same, the reference runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from senet.kernels import dispatch
from senet.kernels.block_epilogue import operation
from senet.kernels.block_epilogue.excitation import Gates, Params
from senet.kernels.block_epilogue.reference import wide
from senet.units.eca import ECA
from senet.units.se import SqueezeExcite
from senet.units.shared import SharedExcite

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
UNITS = (SqueezeExcite, ECA, SharedExcite)

TENSORS = ("weight", "bias", "link", "running_mean", "running_var")
"""Tensors of norms, units and their layers, by name: in replicas of `nn.DataParallel` they are not parameters."""

NONE: tuple[str, Params] = "", (None, None, None, None)
"""No unit, as the operation takes it."""


@dataclass(frozen=True)
class Fusion:
    """What `fuse_` did.

    Attributes:
        fused: (module's name, what is one operation now).
        skipped: (module's name, why it is not fused).
    """

    fused: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        for title, pairs in (("fused", self.fused), ("skipped", self.skipped)):
            for what in dict.fromkeys(what for _, what in pairs):
                names = [name or "the model itself" for name, w in pairs if w == what]
                lines.append(f"{title}: {what}, {len(names)} times: {', '.join(names[:2])}{', ...' * (len(names) > 2)}")
        return "\n".join(lines)


def fuse_(model: nn.Module) -> Fusion:
    """Run a network's blocks and units as fused operations, in place, to train faster.

    The end of a block (batch norm, unit, sum, ReLU) is one operation that moves less memory than batch norm alone in
    eager mode; so are a batch norm with its ReLU, and a unit by itself. `dispatch.block_epilogue` says what computes
    them: Triton on a GPU; C in float32 on a CPU with a compiler, which is run once; else the same algebra in plain
    torch, which is slower than separate layers. Outputs differ from the separate layers' by rounding only. Names,
    buffers and gradients are the same. Sums, gates and statistics are float32 in every precision. There is no second
    derivative.

    A call runs layer by layer, as before, where the operation would not do exactly the same: on a GPU where Triton
    does not work (a RuntimeWarning says why), in `torch.export` and `torch.func`, with hooks on a norm or a unit,
    another kind of layer in its place, or mixed dtypes. A block under non-reentrant checkpointing may count
    `num_batches_tracked` once less.

    Args:
        model: a network of senet's, or any network with units of `insert_`, of which only these units are fused.

    Returns:
        What was fused, and what was not and why.

    Raises:
        ConfigError: there is nothing to fuse.

    >>> from senet import create_model
    >>> print(fuse_(create_model("se_resnet20")))
    fused: batch norm and ReLU, 10 times: features.stem, features.stage2.block1, ...
    fused: batch norm, unit, sum and ReLU, 9 times: features.stage2.block1, features.stage2.block2, ...
    """
    done = Fusion()
    # A unit that an epilogue or an inserted unit applies is not called by itself.
    inner: set[Any] = {_epilogue_unit(m) for m in model.modules()}
    inner |= {m.unit for m in model.modules() if isinstance(m, InsertedUnit)}
    for name, module in model.named_modules():
        for hook, function in _hooks(module):
            setattr(module, hook, function)
            if module in inner or not _is_called(module, hook):
                continue
            why = _why_not(module, hook)
            (done.skipped if why else done.fused).append((name, why or _what(module, hook)))
    if not done.fused:
        raise ConfigError("model: has nothing to fuse; expected: a network of senet's, or one with units of insert_")
    return done


def unfuse_(model: nn.Module) -> int:
    """Undo `fuse_`, in place. Return how many modules were fused.

    Raises:
        ConfigError: the network is not fused.
    """
    fused = [module for module in model.modules() if any(_is_fused(module, hook) for hook in FUSED)]
    if not fused:
        raise ConfigError("model: is not fused; expected: one that fuse_ changed")
    for module in fused:
        for hook in [hook for hook in FUSED if _is_fused(module, hook)]:
            delattr(module, hook)
    return len(fused)


def fuse_like_(model: nn.Module, like: nn.Module) -> None:
    """Fuse the modules whose namesakes in another network are fused, in place."""
    others = dict(like.named_modules())
    for name, module in model.named_modules():
        for hook, _ in _hooks(module):
            if name in others and _is_fused(others[name], hook):
                setattr(module, hook, vars(others[name])[hook])


def block_epilogue(x: Tensor, norm: nn.Module, se: nn.Module | None, shortcut: Tensor) -> Tensor:
    """`functional.block_epilogue` as one operation."""
    if _takes(x) and _fits(norm, x, shortcut):
        gates = NONE if se is None else _gates(se, x)
        if gates is not None:
            return _epilogue(x, norm, gates, shortcut)
    return sf.block_epilogue(x, norm, se, shortcut)


def concat_epilogue(x: Tensor, norm: nn.Module, se: nn.Module | None, shortcut: Tensor) -> Tensor:
    """`mobile.concat_epilogue` with one operation for all but the concatenation."""
    if _takes(x) and _fits(norm, x):
        gates = NONE if se is None else _gates(se, x)
        if gates is not None:
            return torch.cat([F.relu(shortcut), _epilogue(x, norm, gates, None)], 1)
    return mobile.concat_epilogue(x, norm, se, shortcut)


def norm_relu(x: Tensor, norm: nn.Module) -> Tensor:
    """`functional.norm_relu` as one operation."""
    return _epilogue(x, norm, NONE, None) if _takes(x) and _fits(norm, x) else sf.norm_relu(x, norm)


def recalibrate(u: Tensor, unit: Any) -> Tensor:
    """`functional.recalibrate` as one operation."""
    if _takes(u) and (gates := _gates(unit, u)):
        name, params = gates
        return operation.block_epilogue(_dense(u), *(None,) * 5, *params, name, "", 0.0, False, "")[0]
    return sf.recalibrate(u, unit)


FUSED: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "norm_relu": (sf.norm_relu, norm_relu),
    "epilogue": (sf.block_epilogue, block_epilogue),
    "concat_epilogue": (mobile.concat_epilogue, concat_epilogue),
    "recalibrate": (sf.recalibrate, recalibrate),
}
"""Attribute by which modules call -> (the reference that is its default, the fused function)."""


def _hooks(module: nn.Module) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """Attributes of a module to fuse, with the fused functions. Those that a user has set are skipped."""
    for hook, (reference, function) in FUSED.items():
        is_own = hook in vars(module) and not _is_fused(module, hook)
        if getattr(type(module), hook, None) is reference and not is_own:
            yield hook, function


def _is_fused(module: nn.Module, hook: str) -> bool:
    return vars(module).get(hook) is FUSED[hook][1]


def _epilogue_unit(module: nn.Module) -> nn.Module | None:
    """The unit that a block's epilogue applies; None without one."""
    return module.epilogue_unit if any(hook == "epilogue" for hook, _ in _hooks(module)) else None  # type: ignore[return-value]


def _is_called(module: nn.Module, hook: str) -> bool:
    """Whether a module calls an attribute: a shuffle unit has two epilogues and uses one."""
    if not isinstance(module, mobile.ShuffleUnit) or hook == "norm_relu":
        return True
    return (hook == "epilogue") == (module.stride == 1)


def _what(module: nn.Module, hook: str) -> str:
    """What becomes one operation."""
    unit = ", unit" if _epilogue_unit(module) is not None else ""
    return {
        "norm_relu": "batch norm and ReLU",
        "recalibrate": "unit",
        "epilogue": f"batch norm{unit}, sum and ReLU",
        "concat_epilogue": f"batch norm{unit} and ReLU before the concatenation",
    }[hook]


def _why_not(module: nn.Module, hook: str) -> str:
    """Why a module would not run fused as it is now; "" if it would."""
    unit = module if hook == "recalibrate" else None if hook == "norm_relu" else _epilogue_unit(module)
    unit = unit.unit if isinstance(unit, InsertedUnit) else unit
    if unit is not None and type(unit) not in UNITS:
        return f"{type(unit).__name__} is not a unit with one gate per channel that the kernels know"
    norm = getattr(module, "norm", None) if hook in ("epilogue", "concat_epilogue") else None
    if norm is not None and type(norm) not in NORMS:
        return f"{type(norm).__name__} is not one of torch's batch norms"
    return "its norm has hooks, perhaps of an inserted unit" if norm is not None and _has_hooks(norm) else ""


def _has_hooks(module: nn.Module) -> bool:
    """Whether hooks observe or change a module's calls."""
    m = module
    own = m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
    return bool(own or _has_any_global_hook())


def _is_plain(module: nn.Module, kinds: tuple[type[nn.Module], ...], x: Tensor) -> bool:
    """Whether a module is of exactly these kinds, without hooks, and of a dtype that fits the feature map."""
    if _has_hooks(module):
        return False
    name, expected = type(module).__name__, (x.dtype, wide(x))
    if type(module) not in kinds or "forward" in vars(module):
        _warn(f"{name} is not, or not only, a {kinds[0].__name__}")
        return False
    for t in (getattr(module, own, None) for own in TENSORS):
        if t is not None and t.dtype not in expected:
            _warn(f"{name}: {t.dtype} with a feature map of {x.dtype}")
            return False
    return True


def _warn(why: str) -> None:
    # Always from this line, so Python shows each text once.
    warnings.warn(f"{why}; this part of the network runs unfused", stacklevel=2)


def _takes(x: Tensor) -> bool:
    """Whether the operation takes a feature map, in this kind of call."""
    if not isinstance(x, Tensor) or x.dim() < 3 or x.numel() == 0:
        return False
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    return not torch._C._are_functorch_transforms_active() and dispatch.is_fused(x)


def _fits(norm: Any, x: Tensor, shortcut: Tensor | None = None) -> bool:
    """Whether a norm is a plain batch norm for a feature map, and the shortcut has its shape and dtype."""
    if not _is_plain(norm, NORMS, x) or norm.num_features != x.shape[1]:
        return False
    if shortcut is not None and (shortcut.shape != x.shape or shortcut.dtype != x.dtype):
        return False
    # One value per channel is an error that torch raises.
    return x.numel() > x.shape[1] or not _uses_batch(norm) or bool(_group(norm))


def _uses_batch(norm: Any) -> bool:
    """Whether a norm uses statistics of the batch."""
    return norm.training or (norm.running_mean is None and norm.running_var is None)


def _group(norm: Any) -> str:
    """Name of the process group over which a norm takes statistics; "" for this process alone."""
    if type(norm) is nn.SyncBatchNorm and norm.training and dist.is_available() and dist.is_initialized():
        group: Any = norm.process_group or dist.group.WORLD
        return group.group_name if group.size() > 1 else ""
    return ""


def _gates(unit: nn.Module, x: Tensor) -> tuple[str, Params] | None:
    """A unit as the operation takes it; None if it cannot."""
    start, own = None, cast(Any, unit)
    if isinstance(unit, InsertedUnit) and not _has_hooks(unit):
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
    """Run the operation, then update the running statistics as torch's batch norm does."""
    norm._check_input_dim(x)
    unit, params = gates
    is_batch, group = _uses_batch(norm), _group(norm)
    mean, var = (None, None) if is_batch else (norm.running_mean, norm.running_var)
    if mean is not None and var is not None and torch.is_grad_enabled():
        # Backward needs their values of now; a forward in training may change them before.
        mean, var = mean.clone(), var.clone()
    kind = "batch" if is_batch else "constant"
    y, mu, var, _, _, total = operation.block_epilogue(
        _dense(x), shortcut, norm.weight, norm.bias, mean, var, *params, unit, kind, norm.eps, True, group
    )
    if norm.training and norm.track_running_stats and norm.running_mean is not None:
        _update_statistics_(norm, mu, var, total if group else x.numel() // x.shape[1])
    return y


def _update_statistics_(norm: Any, mu: Tensor, var: Tensor, count: Tensor | int) -> None:
    """Update the running statistics; `count`: values per channel, for the unbiased variance."""
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1 / norm.num_batches_tracked.to(norm.running_mean.dtype)
    norm.running_mean.lerp_(mu.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_((var * (count / (count - 1))).to(norm.running_var.dtype), momentum)


def _dense(x: Tensor) -> Tensor:
    """x, contiguous or channels-last."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
    return x if x.is_contiguous(memory_format=last) else x.contiguous()
