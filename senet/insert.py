"""Attention units into a network that is already there: its parameter names stay, and so does its function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.flop_counter import FlopCounterMode

from senet import functional as sf
from senet.config import UnitConfig, check_concrete
from senet.errors import ConfigError
from senet.initialization import draw_
from senet.tracing import CONVOLUTIONS, PERMUTES, Call, Sum, Trace, check_model, trace
from senet.units.unit import Unit

CHILD = "se"
"""Name under which a unit is added to the module whose output it gates."""

BESIDE = "inserted_se"
"""That name where the module has an attribute `se` that is None: its own forward would call what stands there."""

CONTAINERS = (nn.Sequential, nn.ModuleDict, nn.ModuleList)
"""What takes each child for a step or an entry."""

PLACES = ("residual", "concat", "conv", "auto")
"""What `where` can say instead of names."""

AFFINE = {"add", "sub", "mul", "div", "neg", "clone", "_to_copy"}
"""Elementwise operations that are no activation."""


@dataclass(frozen=True)
class Site:
    """Where a unit goes: the module's name, the map's channels, and what the unit costs.

    params: the unit's parameters.  macs: the multiply-adds that it adds per image of the example's size, those of its
    convolutions and linear layers (`torch.utils.flop_counter` over two).
    """

    name: str
    channels: int
    params: int
    macs: int


class InsertedUnit(nn.Module):
    """A unit that begins as the identity: `(N, C, *) -> (N, C, *)`.

    The unit's last layer is zero, so its gates are gate(0), and what multiplies the map is `s / gate(0)`, which is
    `2 s` for the sigmoid and the hard sigmoid, or `1 + s` where gate(0) is zero (tanh): exactly one. These gates are
    steepest at zero, so the last layer learns from the first step on, and the layers before it from the second.

    A state dict that holds every other parameter of the module around the site and nothing of this unit, such as the
    network's own from before, makes it the identity again; one with less leaves it as it is, a missing key.
    """

    recalibrate = staticmethod(sf.recalibrate)

    def __init__(self, unit: Unit, site: Site, seed: int) -> None:
        super().__init__()
        self.unit, self.site, self.seed = unit, site, seed
        self.start = self.reset_()

    def reset_(self) -> float:
        """Draw the weights as at insertion, in place, and return the gates: gate(0)."""
        draw_(self.unit, self.seed, f"{self.site.name}.{CHILD}.unit")
        return self.unit.zero_()

    def gate(self, u: Tensor) -> Tensor:
        """The unit's gates over what they were at the start, `(N, C)` or `(N, C, *)`."""
        s = self.unit.gate(u)
        return s / self.start if self.start else 1 + s

    def forward(self, u: Tensor) -> Tensor:
        """The map times its gates."""
        return self.recalibrate(u, self)


def _others(module: nn.Module, prefix: str = "") -> list[str]:
    """The parameters of a module that are not of inserted units."""
    units = tuple(f"{name}." for name, m in module.named_modules(prefix=prefix) if isinstance(m, InsertedUnit))
    names = (name for name, _ in module.named_parameters(prefix=prefix, remove_duplicate=False))
    return [name for name in names if not name.startswith(units)]


def _around(modules: dict[str, nn.Module], site: str, holder: nn.Module) -> nn.Module:
    """The nearest module around a site and its unit that has parameters."""
    name = site.rpartition(".")[0]
    while name and not (_others(modules[name]) and holder in modules[name].modules()):
        name = name.rpartition(".")[0]
    return modules[name]


def _begin_again(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: object) -> None:
    """Put the start of units that a state dict holds nothing of into it, if it holds all else of the module."""
    units = {f"{n}.": m for n, m in module.named_modules(prefix=prefix[:-1]) if isinstance(m, InsertedUnit)}
    absent = {n: unit for n, unit in units.items() if not any(key.startswith(n) for key in state)}
    if not absent or not state.keys() >= set(_others(module, prefix[:-1])):
        return
    for name, unit in absent.items():
        if metadata.get("assign_to_params_buffers") and any(p.is_meta for p in unit.parameters()):
            unit.to_empty(device="cpu")
        unit.reset_()
        state.update({name + key: value for key, value in unit.state_dict().items()})


class _Gate:
    """The forward hook of a site: named, so that the network still pickles."""

    def __init__(self, unit: InsertedUnit) -> None:
        self.unit = unit

    def __call__(self, _module: nn.Module, _inputs: object, output: Tensor) -> Any:
        if isinstance(output, Proxy):
            # To `torch.fx` the unit is one layer, as convolutions are: its checks read shapes, which a proxy has not.
            tracer: Any = output.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self.unit), (output,), {})
        return self.unit(output)


def _gate_too(module: nn.Module, name: str, child: object) -> None:
    """Give a module that takes over a site's children the site's hook, which nobody copies.

    `SyncBatchNorm.convert_sync_batchnorm` and its like put a new module in a norm's place and hand it the children.
    """
    if not isinstance(child, InsertedUnit) or name not in (CHILD, BESIDE) or isinstance(module, CONTAINERS):
        return
    if _unit_behind(module) is None:
        module.register_forward_hook(_Gate(child))


register_module_module_registration_hook(_gate_too)


def insert_(
    model: nn.Module,
    config: UnitConfig,
    where: str | Iterable[str] | Callable[[str, nn.Module], bool] = "residual",
    *,
    example: Tensor | tuple[Any, ...] | None = None,
    dry_run: bool = False,
    seed: int = 0,
) -> list[Site]:
    """Add a unit behind modules of any network, in place; return where, in the order in which they run.

    The network's outputs do not move at all until the units learn, and its parameters keep their names; a state dict
    from before still loads. The units' parameters are new, under `<site>.se.unit.`, or `<site>.inserted_se.unit.` where
    the site has a `se` that is None, as the plain networks of ours have; where the site is a container (a
    Sequential, DenseNet's block) under the nearest module around it that is none, as `se_<site>.unit.`. The network is
    run before and after, to find the places and to see each unit run (`senet.tracing`).
    Make its optimizer afterwards. `remove_` takes the units out.

    A unit runs when its site does. What replaces norms and hands their children on, such as
    `SyncBatchNorm.convert_sync_batchnorm`, keeps it; what drops them (fusing norms into convolutions, freezing by
    replacement) goes before the insertion, or the units are lost. `senet.doctor` reports a unit that is there and does
    not run.

    where: a word, names, or a function of name and module.
        "residual": the end of every residual branch, before the sum (arXiv:1709.01507v4, section 3.3). That is behind
            the module which made what is added, else the first that passed it on (a drop path); if it was made outside
            modules (scaling), behind the nearest one before it from which only elementwise operations and permutations
            lead to the sum. Only maps (N, C, *) are gated: sums of tokens or of maps with channels last, as in most
            transformers, are not among them, and neither are differences, x - f(x).
        "concat": every module whose output is maps joined along channels: Inception modules, DenseNet's blocks. What is
            joined in the midst of a forward, such as a U-Net's, is no module's output.
        "conv": behind the activation that follows each convolution with a kernel above 1, as in the paper's VGG; where
            the activation is no module of its own that runs once, behind the norm or the convolution before it. Behind
            a depthwise convolution that a 1x1 follows, the place is the latter's, as in the paper's MobileNet.
        "auto": "residual", and "concat" outside residual branches; "conv" in a network of neither.
        Names are those of `model.named_modules()`, shell patterns allowed ("layer*.bn3"); one that is spelled like a
        word above goes in a list.
    example: what the network is called with to find the places, see `senet.tracing.trace`.
    dry_run: change nothing.
    seed: of the units' weights, drawn by name.

    Raises ConfigError where nothing is found; where a module is called other than once, gives no map (N, C, *), has a
    unit already or channels that the unit cannot take; the gate has no gradient at zero ("relu"); or the network is
    scripted. Nothing is changed then.

    >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU())
    >>> from senet import SEConfig
    >>> insert_(net, SEConfig(), "conv")
    [Site(name='1', channels=32, params=162, macs=128)]
    """
    check_model(model)
    if not isinstance(config, UnitConfig):
        raise ConfigError(f"config: {config!r} is no unit's; expected: a UnitConfig, such as SEConfig()")
    check_concrete("config", config)
    if getattr(config, "gate", None) == "relu":
        raise ConfigError(
            "gate: 'relu' cannot learn from where it changes nothing; expected: sigmoid, hard_sigmoid, tanh"
        )
    if config.placement != "standard" or config.stages is not None:
        raise ConfigError("placement, stages: have no effect on insertion, where `where` says it; leave them out")
    modules = dict(model.named_modules())
    word = where if isinstance(where, str) and where in PLACES else None
    named = [] if word else _named(modules, where)
    t = trace(model, example)
    names = set(_placed(modules, t, word) if word else named)
    calls = [_call(modules, t, name) for name in modules if name in names]
    calls.sort(key=lambda call: call.output)  # type: ignore[arg-type, return-value]
    cost = cache(partial(_cost, config))
    sites = [Site(call.name, call.shape[1], *cost(call.shape[1:])) for call in calls]  # type: ignore[index]
    holders = [_holder(modules, site.name) for site in sites]
    if dry_run:
        return sites
    # All are built before the first is attached, so that one that cannot be leaves the network as it was.
    units = []
    for site, call in zip(sites, calls, strict=True):
        unit = InsertedUnit(config.build(site.channels), site, seed)  # type: ignore[arg-type]
        units.append(unit.to(call.device, call.dtype).train(modules[site.name].training))
    for around in {_around(modules, site.name, holder) for site, (holder, _) in zip(sites, holders, strict=True)}:
        around.register_load_state_dict_pre_hook(_begin_again)
    for unit, (holder, child) in zip(units, holders, strict=True):
        modules[unit.site.name].register_forward_hook(_Gate(unit))
        holder.add_module(child, unit)
    try:
        _check_runs(model, units, example)
    except BaseException:
        _take_out(model, units)
        raise
    # What `torch.compile` made of the network before does not look whether a module has got a hook since.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    return sites


def remove_(model: nn.Module) -> list[Site]:
    """Take every unit that `insert_` added out of a network again, in place; return where they were.

    The parameters and their names are then those from before, and the outputs are what these parameters give.

    Raises ConfigError where there is none.
    """
    units = [m for m in model.modules() if isinstance(m, InsertedUnit)]
    if not units:
        raise ConfigError("model: has no unit from insert_, so there is nothing to remove")
    _take_out(model, units)
    return [unit.site for unit in units]


def _take_out(model: nn.Module, units: list[InsertedUnit]) -> None:
    names = {module: name for name, module in model.named_modules()}
    for unit in units:
        holder, _, child = names[unit].rpartition(".")
        delattr(model.get_submodule(holder), child)
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, _Gate) and hook.unit in units:
                del module._forward_hooks[key]
        for key, hook in list(module._load_state_dict_pre_hooks.items()):
            if hook.hook is _begin_again and not any(isinstance(m, InsertedUnit) for m in module.modules()):
                del module._load_state_dict_pre_hooks[key]


def _unit_behind(module: nn.Module) -> InsertedUnit | None:
    return next((hook.unit for hook in module._forward_hooks.values() if isinstance(hook, _Gate)), None)


def _holder(modules: dict[str, nn.Module], site: str) -> tuple[nn.Module, str]:
    """The module that gets a site's unit as a child, and the child's name.

    That is the site itself, or the nearest module around it that is no container, which takes every child for a step.
    """
    name, child = site, CHILD
    if getattr(modules[name], CHILD, ...) is None:
        child = BESIDE
    while isinstance(modules[name], CONTAINERS):
        if not name:
            raise ConfigError(f"where: {site!r} is a container within containers alone; name the last module within it")
        name = name.rpartition(".")[0]
        child = f"{CHILD}_{site[len(name) :].strip('.').replace('.', '_')}"
    if hasattr(modules[name], child):
        raise ConfigError(f"where: {name!r}, a {type(modules[name]).__name__}, has something else called {child!r}")
    return modules[name], child


def _check_runs(model: nn.Module, units: list[InsertedUnit], example: Tensor | tuple[Any, ...] | None) -> None:
    """Raise ConfigError unless the network runs and calls each new unit once."""
    names = {m: name for name, m in model.named_modules()}
    try:
        calls = trace(model, example).calls
    except ConfigError as error:
        raise ConfigError(f"where: the network does not run with units there ({error.__cause__})") from error
    for unit in units:
        if len(calls.get(names[unit], ())) != 1:
            raise ConfigError(f"where: {unit.site.name!r} takes every child for one of its steps; name one of them")


def _named(modules: dict[str, nn.Module], where: str | Iterable[str] | Callable[[str, nn.Module], bool]) -> list[str]:
    patterns = [where] if isinstance(where, str) else list(where) if isinstance(where, Iterable) else [where]
    if callable(where) and not isinstance(where, type):
        names = [name for name, module in modules.items() if where(name, module)]
    else:
        names = []
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise ConfigError(
                    f"where: {pattern!r} is no name; expected: {', '.join(PLACES)}, names of modules, or a function"
                )
            matches = [name for name in modules if fnmatchcase(name, pattern)]
            if not matches:
                raise ConfigError(f"where: no module is called {pattern!r}; other expected: {', '.join(PLACES)}")
            names += matches
    if not names:
        raise ConfigError("where: no module matches")
    return names


def _placed(modules: dict[str, nn.Module], t: Trace, where: str) -> list[str]:
    """The modules at the places that a word of `PLACES` means."""
    sums = [s for s in t.sums if t.nodes[s.branch].axis in (1, None)]
    joins = [c for c in t.concats if c.module is not None]
    convs = [name for name, calls in t.calls.items() if _is_spatial(modules[name], calls[0], t)]
    if where == "auto":
        inside = frozenset[int]().union(*map(t.branch_of, sums))
        joins = [c for c in joins if c.out not in inside]
    names = []
    if where in ("residual", "auto"):
        names += [_end_of_branch(modules, t, s) for s in sums]
    if where in ("concat", "auto"):
        names += [_first(modules, t, [c.out]) or str(c.module) for c in joins]
    if where == "conv" or (where == "auto" and not names and not t.sums):
        names += [_behind(modules, t, name) for name in convs]
    if not names:
        last = len(t.sums) - len(sums)
        others = f" (and {last} with channels last, which no unit gates)" if last else ""
        counts = f"residual: {len(sums)}{others}, concat: {len(joins)}, conv: {len(convs)}"
        found = {"residual": sums, "concat": joins, "conv": [] if last else convs}
        advice = next((repr(word) for word in found if found[word]), "names of modules that give maps (N, C, *)")
        raise ConfigError(f"where: {where!r} finds nothing in this network; {counts}; give {advice}")
    return names


def _is_spatial(module: nn.Module, call: Call, t: Trace) -> bool:
    """Whether a module is a convolution over the example's space: those of ECA, over channels, are not."""
    if not isinstance(module, _ConvNd) or max(module.kernel_size) == 1:
        return False
    return call.shape is not None and len(call.shape) == len(t.nodes[0].shape)


def _first(modules: dict[str, nn.Module], t: Trace, path: Iterable[int]) -> str | None:
    """The first module on a path of nodes that runs once and gives a map (N, C, *)."""
    for n in path:
        # The output of a module that has a unit is its unit's.
        maker = t.nodes[n].module
        unit = _unit_behind(modules[maker])
        if unit and any(modules[t.nodes[c].module] is unit for c in t.consumers(n)):
            return maker
        if t.nodes[n].axis in (1, None):
            for name in t.modules_at(n):
                if len(t.calls[name]) == 1 and not isinstance(modules[name], InsertedUnit):
                    return name
    return None


def _end_of_branch(modules: dict[str, nn.Module], t: Trace, s: Sum) -> str:
    name = _first(modules, t, _backwards(t, s))
    if name is None:
        before = ", ".join(map(repr, dict.fromkeys(_makers(modules, t, s)))) or "none"
        raise ConfigError(
            f"where: the residual branch in {s.module!r} ends in no module that runs once and gives a map (N, C, *); "
            f"say where by names (nearest before its end: {before})"
        )
    return name


def _makers(modules: dict[str, nn.Module], t: Trace, s: Sum) -> Iterator[str]:
    """The nearest modules that can take a unit before the end of a branch, on every path that is mixed there."""
    branch, ends = t.branch_of(s), [s.branch]
    while ends:
        if (n := ends.pop(0)) not in branch:
            continue
        if name := _first(modules, t, [n]):
            yield name
        elif t.nodes[n].pointwise:
            ends += t.nodes[n].inputs


def _backwards(t: Trace, s: Sum) -> Iterator[int]:
    """The nodes of a branch from its end, as far as elementwise operations and permutations lead."""
    branch, n = t.branch_of(s), s.branch
    while n in branch:
        yield n
        node = t.nodes[n]
        if len(node.inputs) != 1 or not (node.pointwise or node.op in PERMUTES):
            return
        (n,) = node.inputs


def _behind(modules: dict[str, nn.Module], t: Trace, name: str) -> str:
    """The last module of a convolution, its norm and its activation."""
    conv: Any = modules[name]
    call, *more = t.calls[name]
    if more or call.output is None:
        return name
    path = _onwards(t, call.output)
    after = t.consumers(path[-1])
    if conv.groups == conv.in_channels > 1 and len(after) == 1 and t.nodes[after[0]].op in CONVOLUTIONS:
        pointwise = modules[t.nodes[after[0]].module]
        if isinstance(pointwise, _ConvNd) and max(pointwise.kernel_size) == 1:
            path = _onwards(t, after[0])
    return _first(modules, t, reversed(path)) or name


def _onwards(t: Trace, n: int) -> list[int]:
    """A node and what follows it up to its activation: norms, elementwise operations."""
    path = [n]
    while len(after := t.consumers(n)) == 1:
        node = t.nodes[n := after[0]]
        is_norm = "_norm" in node.op
        if not (is_norm or node.pointwise) or len(node.inputs) != 1 or node.shape != t.nodes[path[0]].shape:
            break
        path.append(n)
        if not is_norm and node.op.rstrip("_") not in AFFINE:
            break
    return path


def _call(modules: dict[str, nn.Module], t: Trace, name: str) -> Call:
    """The one call of a module that can take a unit; ConfigError for another."""
    module, calls = modules[name], t.calls.get(name, ())
    output = calls[0].output if calls else None
    shape = () if output is None else t.nodes[output].shape
    if isinstance(module, (Unit, InsertedUnit)):
        wrong = "is a unit itself"
    elif _unit_behind(module):
        wrong = "has a unit already"
    elif len(calls) != 1:
        wrong = f"is called {len(calls)} times"
    elif output is None or len(shape) < 3:
        wrong = f"gives {shape}" if output is not None else "gives no tensor made from the example"
    elif t.nodes[output].axis not in (1, None):
        wrong = f"gives {shape} with channels in dimension {t.nodes[output].axis}"
    else:
        return calls[0]
    raise ConfigError(
        f"where: {name!r}, a {type(module).__name__}, {wrong}; a unit goes behind a module that is called once and "
        "gives one map (N, C, *)"
    )


def _cost(config: UnitConfig, shape: tuple[int, ...]) -> tuple[int, int]:
    """Parameters and multiply-adds of a unit on a map (C, *)."""
    with torch.device("meta"):
        unit, u = config.build(shape[0]), torch.empty(1, *shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unit(u)
    return sum(p.numel() for p in unit.parameters()), counter.get_total_flops() // 2
