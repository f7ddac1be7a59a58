"""Insert attention units into an existing network; its parameter names and its outputs do not change."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_module_registration_hook

from senet import functional as sf
from senet.config import UnitConfig, check_concrete
from senet.errors import ConfigError
from senet.initialization import check_not_inference, draw_
from senet.outputs import describe, reason
from senet.tracing import CONVOLUTIONS, PERMUTES, VIEWS, Call, Example, Sum, Trace, check_model, trace
from senet.units.unit import Unit

CHILD = "se"
"""Name of the child that holds the unit, in the module whose output it gates."""

BESIDE = "inserted_se"
"""The name if the module has an attribute `se` that is None, since its own forward would call it."""

CONTAINERS = (nn.Sequential, nn.ModuleDict, nn.ModuleList)
"""Modules that treat each child as a step or an entry."""

PLACES = ("residual", "concat", "conv", "auto")
"""Words for `where`."""

AFFINE = {"add", "sub", "mul", "div", "neg", "clone", "_to_copy"}
"""Elementwise operations that are not activations."""


@dataclass(frozen=True)
class Site:
    """The place of an inserted unit and its cost.

    Attributes:
        name: The module whose output is gated.
        channels: Channels of that output.
        params: Parameters of the unit.
        macs: Multiply-adds of the unit's convolutions and linear layers per image of the example's size
            (`torch.utils.flop_counter` divided by two).
    """

    name: str
    channels: int
    params: int
    macs: int


class InsertedUnit(nn.Module):
    """A unit that starts as the identity: `(N, C, *) -> (N, C, *)`.

    Its last layer is zero, so its gates are s = gate(0). The feature map is multiplied by `s / gate(0)`, that is `2 s`
    for sigmoid and hard sigmoid, or by `1 + s` if gate(0) is zero (tanh), which is exactly one. These gates are
    steepest at zero: the last layer learns from the first step on, the layers before it from the second.

    Loading a state dict that has all other parameters of the surrounding module but none of this unit, such as one
    saved before the insertion, resets the unit to the identity. Otherwise its absence is a missing key.
    """

    recalibrate = staticmethod(sf.recalibrate)

    def __init__(self, unit: Unit, site: Site, seed: int) -> None:
        super().__init__()
        self.unit, self.site, self.seed = unit, site, seed
        self.start = self.reset_()

    def reset_(self) -> float:
        """Draw the weights as at insertion, in place, and return gate(0)."""
        draw_(self.unit, self.seed, f"{self.site.name}.{CHILD}.unit")
        return self.unit.zero_()

    def gate(self, u: Tensor) -> Tensor:
        """Return the unit's gates relative to their initial value, `(N, C)` or `(N, C, *)`."""
        s = self.unit.gate(u)
        return s / self.start if self.start else 1 + s

    def forward(self, u: Tensor) -> Tensor:
        """Multiply the feature map by its gates."""
        return self.recalibrate(u, self)


def _others(module: nn.Module, prefix: str = "") -> list[str]:
    """List the parameters of a module that do not belong to inserted units."""
    units = tuple(f"{name}." for name, m in module.named_modules(prefix=prefix) if isinstance(m, InsertedUnit))
    names = (name for name, _ in module.named_parameters(prefix=prefix, remove_duplicate=False))
    return [name for name in names if not name.startswith(units)]


def _around(modules: dict[str, nn.Module], site: str, holder: nn.Module) -> nn.Module:
    """Return the innermost module that contains a site, its unit and parameters of its own."""
    name = site.rpartition(".")[0]
    while name and not (_others(modules[name]) and holder in modules[name].modules()):
        name = name.rpartition(".")[0]
    return modules[name]


def _begin_again(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: object) -> None:
    """Hook: add the initial weights of units to a state dict that has everything else of the module."""
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
    """The forward hook of a site: it multiplies the output by the gates of the unit that the called module has.

    A class, so that the network can still be pickled. Not a reference to the unit: replicas of the module have units
    of their own, and users replace children.

    Attributes:
        child: Name of the unit in the module.
        unit: The unit if the site is a container, which cannot have it as a child. `_Point` keeps it up to date.
    """

    def __init__(self, child: str, unit: nn.Module | None = None) -> None:
        self.child, self.unit = child, unit

    def of(self, module: nn.Module) -> nn.Module | None:
        """Return the unit that gates a module's output; None if it was deleted."""
        return self.unit if isinstance(module, CONTAINERS) else module._modules.get(self.child)

    def __call__(self, module: nn.Module, _inputs: object, output: Tensor) -> Any:
        unit = self.of(module)
        if unit is None:
            return output
        if isinstance(output, Proxy):
            # `torch.fx` records the unit as one layer: its checks read shapes, which proxies do not have.
            tracer: Any = output.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(unit), (output,), {})
        return unit(output)


class _Point:
    """The forward pre-hook of a module that has the unit of a container in it: the container uses this unit.

    Replicas share the container's hooks with the original until then.
    """

    def __init__(self, child: str, path: str) -> None:
        self.child, self.path = child, path

    def __call__(self, holder: nn.Module, _inputs: object) -> None:
        site: nn.Module = holder
        for name in self.path.split("."):
            site = site._modules[name]  # type: ignore[assignment]
        unit = holder._modules.get(self.child)
        if any(isinstance(hook, _Gate) and hook.unit is not unit for hook in site._forward_hooks.values()):
            site._forward_hooks = OrderedDict(
                (key, _Gate(self.child, unit) if isinstance(hook, _Gate) else hook)
                for key, hook in site._forward_hooks.items()
            )


def _gate_too(module: nn.Module, name: str, child: object) -> None:
    """Hook: a module that gets a unit as its child gets the hook that applies it.

    So `insert_` adds the child alone, and `SyncBatchNorm.convert_sync_batchnorm`, which replaces a norm by a new module
    and moves the children, keeps the unit.
    """
    if not isinstance(child, InsertedUnit) or name not in (CHILD, BESIDE) or isinstance(module, CONTAINERS):
        return
    if not any(isinstance(hook, _Gate) for hook in module._forward_hooks.values()):
        module.register_forward_hook(_Gate(name))


register_module_module_registration_hook(_gate_too)


def insert_(
    model: nn.Module,
    config: UnitConfig,
    where: str | Iterable[str] | Callable[[str, nn.Module], bool] = "residual",
    *,
    example: Example | None = None,
    dry_run: bool = False,
    seed: int = 0,
) -> list[Site]:
    """Add attention units after modules of any network, in place.

    The outputs do not change until the units learn, parameters keep their names, and earlier state dicts still load.
    The units' parameters are named `<site>.se.unit...`, or `<site>.inserted_se.unit...` if the site has an attribute
    `se` that is None, as our plain networks have. If the site is a container (a Sequential, DenseNet's block) they
    belong to the nearest enclosing module that is not, as `se_<site>.unit...`. The network is run before the insertion,
    to find the places, and after it, to check that each unit runs. Create the optimizer afterwards.

    A unit runs when its site does. `SyncBatchNorm.convert_sync_batchnorm` and other code that replaces a norm and
    moves its children keeps the unit. Code that drops the children (fusing or freezing norms by replacement) must run
    before the insertion. `senet.doctor` reports units that do not run.

    Args:
        model: The network.
        config: The unit, such as `SEConfig()`.
        where: One of these words, names of modules, or a function of name and module.
            "residual": the end of each residual branch, before the sum (arXiv:1709.01507v4, section 3.3): after the
            module that computes the summand, or the first that passes it on (a drop path). If no module does
            (scaling), after the last one before it with only elementwise operations and permutations in between. Only
            feature maps `(N, C, *)` are gated, not sums of tokens or of channels-last tensors, as in most transformers,
            nor differences x - f(x).
            "concat": each module whose output is a concatenation along channels: Inception modules, DenseNet's blocks.
            A concatenation inside a forward, such as a U-Net's, is not the output of a module.
            "conv": after the activation of each convolution with a kernel above 1, as in the paper's VGG; after the
            norm or the convolution if the activation is not a module that runs once. A depthwise convolution and the
            1x1 after it count as one, as in the paper's MobileNet.
            "auto": "residual", and "concat" outside residual branches; "conv" if there is neither.
            Names are those of `model.named_modules()` or shell patterns (`"layer*.bn3"`). Put a name that equals one of
            the words in a list.
        example: Input of the network, see `senet.tracing.trace`.
        dry_run: Only return the sites; change nothing.
        seed: For the units' weights, which are drawn by name.

    Returns:
        The sites in the order in which they run.

    Raises:
        ConfigError: If there is no site, a module is not called exactly once, its output is not a feature map
            `(N, C, *)`, it has a unit already or a number of channels that the unit cannot take; if the gate has no
            gradient at zero ("relu"); if the network is scripted. The network is then unchanged.

    >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU())
    >>> from senet import SEConfig
    >>> insert_(net, SEConfig(), "conv")
    [Site(name='1', channels=32, params=162, macs=128)]
    """
    check_model(model)
    if not dry_run:
        check_not_inference(model, "insert_")
    if not isinstance(config, UnitConfig):
        raise ConfigError(f"config: {describe(config)}; expected: a UnitConfig, such as SEConfig()")
    check_concrete("config", config)
    if getattr(config, "gate", None) == "relu":
        raise ConfigError(
            "gate: 'relu' has no gradient where the unit is the identity; expected: sigmoid, hard_sigmoid, tanh"
        )
    if config.placement != "standard" or config.stages is not None:
        raise ConfigError("placement, stages: have no effect on insertion; use `where`")
    modules = dict(model.named_modules())
    word = where if isinstance(where, str) and where in PLACES else None
    named = [] if word else _named(modules, where)
    t = trace(model, example)
    names = set(_placed(modules, t, word) if word else named)
    calls = [_call(modules, t, name) for name in modules if name in names]
    calls.sort(key=lambda call: call.output)  # type: ignore[arg-type, return-value]
    sites = [Site(c.name, c.shape[1], *config.cost(c.shape[1], prod(c.shape[2:]))) for c in calls]  # type: ignore[index]
    holders = [_holder(modules, site.name) for site in sites]
    if dry_run:
        return sites
    # Build all before attaching the first, so that an error leaves the network unchanged.
    units = []
    for site, call in zip(sites, calls, strict=True):
        # On the CPU in float32 whatever torch's defaults: weights are the same for a seed.
        with torch.device("cpu"):
            unit = InsertedUnit(config.build(site.channels).float(), site, seed)  # type: ignore[arg-type]
        units.append(unit.to(call.device, call.dtype).train(modules[site.name].training))
    for around in {_around(modules, site.name, holder) for site, (holder, _) in zip(sites, holders, strict=True)}:
        around.register_load_state_dict_pre_hook(_begin_again)
    names = {module: name for name, module in modules.items()}
    for unit, (holder, child) in zip(units, holders, strict=True):
        holder.add_module(child, unit)
        site = modules[unit.site.name]
        if holder is not site:
            path = unit.site.name.removeprefix(f"{names[holder]}.")
            site.register_forward_hook(_Gate(child, unit))
            holder.register_forward_pre_hook(_Point(child, path))
    try:
        _check_runs(model, units, example)
    except BaseException:
        _take_out(model, units)
        raise
    # Code compiled before does not check whether a module has got a hook since.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    return sites


def remove_(model: nn.Module) -> list[Site]:
    """Remove all units that `insert_` added, in place; the other parameters and their names do not change.

    Returns:
        The sites where they were.

    Raises:
        ConfigError: If there are none.
    """
    units = [m for m in model.modules() if isinstance(m, InsertedUnit)]
    if not units:
        raise ConfigError("model: has no unit from insert_; expected: one or more")
    _take_out(model, units)
    return [unit.site for unit in units]


def _take_out(model: nn.Module, units: list[InsertedUnit]) -> None:
    names = {module: name for name, module in model.named_modules()}
    places = {names[unit].rpartition(".")[::2] for unit in units}
    for name, module in list(model.named_modules()):
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, _Gate) and hook.of(module) in (None, *units):
                del module._forward_hooks[key]
        for key, pointer in list(module._forward_pre_hooks.items()):
            if isinstance(pointer, _Point) and (name, pointer.child) in places:
                del module._forward_pre_hooks[key]
    for holder, child in places:
        delattr(model.get_submodule(holder), child)
    for module in model.modules():
        for key, hook in list(module._load_state_dict_pre_hooks.items()):
            if hook.hook is _begin_again and not any(isinstance(m, InsertedUnit) for m in module.modules()):
                del module._load_state_dict_pre_hooks[key]


def _unit_behind(module: nn.Module) -> nn.Module | None:
    return next((hook.of(module) for hook in module._forward_hooks.values() if isinstance(hook, _Gate)), None)


def _holder(modules: dict[str, nn.Module], site: str) -> tuple[nn.Module, str]:
    """Return the module that gets a site's unit as a child, and the child's name.

    It is the site itself, or the nearest enclosing module that is not a container.
    """
    name, child = site, CHILD
    if getattr(modules[name], CHILD, ...) is None:
        child = BESIDE
    while isinstance(modules[name], CONTAINERS):
        if not name:
            raise ConfigError(f"where: {site!r} is a container inside containers only; name the last module in it")
        name = name.rpartition(".")[0]
        child = f"{CHILD}_{site[len(name) :].strip('.').replace('.', '_')}"
    if hasattr(modules[name], child):
        raise ConfigError(f"where: {name!r}, a {type(modules[name]).__name__}, already has an attribute {child!r}")
    return modules[name], child


def _check_runs(model: nn.Module, units: list[InsertedUnit], example: Example | None) -> None:
    """Raise ConfigError unless the network runs and calls each new unit once."""
    names = {m: name for name, m in model.named_modules()}
    try:
        calls = trace(model, example).calls
    except ConfigError as error:
        raise ConfigError(f"where: the network does not run with units there ({reason(error.__cause__)})") from error
    for unit in units:
        if len(calls.get(names[unit], ())) != 1:
            raise ConfigError(f"where: {unit.site.name!r} runs all its children as steps; name one of them")


def _named(modules: dict[str, nn.Module], where: str | Iterable[str] | Callable[[str, nn.Module], bool]) -> list[str]:
    patterns = [where] if isinstance(where, str) else list(where) if isinstance(where, Iterable) else [where]
    if callable(where) and not isinstance(where, type):
        names = [name for name, module in modules.items() if where(name, module)]
    else:
        names = []
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise ConfigError(
                    f"where: {describe(pattern)} is not a name; expected: {', '.join(PLACES)}, names of modules, or a "
                    "function"
                )
            matches = [name for name in modules if fnmatchcase(name, pattern)]
            if not matches:
                raise ConfigError(
                    f"where: no module is called {pattern!r}; expected: a module's name, {', '.join(PLACES)}"
                )
            names += matches
    if not names:
        raise ConfigError("where: no module matches")
    return names


def _placed(modules: dict[str, nn.Module], t: Trace, where: str) -> list[str]:
    """List the sites that a word of `PLACES` stands for."""
    dims = len(t.nodes[0].shape)
    sums = [s for s in t.sums if t.nodes[s.branch].axis in (1, None) and len(t.nodes[s.out].shape) == dims]
    joins = [c for c in t.concats if c.module is not None]
    convs = [name for name, calls in t.calls.items() if _is_spatial(modules[name], calls[0], t)]
    if where == "auto":
        inside = frozenset[int]().union(*map(t.branch_of, sums))
        joins = [c for c in joins if c.out not in inside]
    names = []
    if where in ("residual", "auto"):
        names += [name for s in sums if (name := _end_of_branch(modules, t, s, sums)) is not None]
    if where in ("concat", "auto"):
        names += [_first(modules, t, [c.out]) or str(c.module) for c in joins]
    if where == "conv" or (where == "auto" and not names and not t.sums):
        names += [_behind(modules, t, name) for name in convs]
    if not names:
        last = len(t.sums) - len(sums)
        others = f" (and {last} of tokens or channels-last, which units cannot gate)" if last else ""
        counts = f"residual: {len(sums)}{others}, concat: {len(joins)}, conv: {len(convs)}"
        found = {"residual": sums, "concat": joins, "conv": [] if last else convs}
        advice = next((repr(word) for word in found if found[word]), "names of modules with output (N, C, *)")
        raise ConfigError(f"where: {where!r} finds nothing in this network; {counts}; give {advice}")
    return names


def _is_spatial(module: nn.Module, call: Call, t: Trace) -> bool:
    """Whether a module is a convolution over space with a kernel above 1; ECA's, over channels, is not."""
    if not isinstance(module, _ConvNd) or max(module.kernel_size) == 1:
        return False
    return call.shape is not None and len(call.shape) == len(t.nodes[0].shape)


def _first(modules: dict[str, nn.Module], t: Trace, path: Iterable[int]) -> str | None:
    """Return the first module on a path of nodes that runs once and outputs a feature map (N, C, *)."""
    for n in path:
        # With a unit already inserted, the output of the module is that of the unit.
        maker = t.nodes[n].module
        unit = _unit_behind(modules[maker])
        if unit is not None and any(modules[t.nodes[c].module] is unit for c in t.consumers(n)):
            return maker
        if t.nodes[n].axis in (1, None):
            for name in t.modules_at(n):
                if len(t.calls[name]) == 1 and not isinstance(modules[name], InsertedUnit):
                    return name
    return None


def _end_of_branch(modules: dict[str, nn.Module], t: Trace, s: Sum, sums: list[Sum]) -> str | None:
    """Return the module that ends a residual branch; None for a sum inside another branch that no module ends.

    Such an inner sum is a step of an operation, as in attention.
    """
    name = _first(modules, t, _backwards(t, s))
    if name is None and not any(s.out in t.branch_of(other) for other in sums if other is not s):
        before = ", ".join(map(repr, dict.fromkeys(_makers(modules, t, s)))) or "none"
        raise ConfigError(
            f"where: no module that runs once and outputs (N, C, *) ends the residual branch in {s.module!r}; "
            f"name the module (nearest before the end: {before})"
        )
    return name


def _makers(modules: dict[str, nn.Module], t: Trace, s: Sum) -> Iterator[str]:
    """Yield the last modules of a branch that can take a unit, one on each path that elementwise operations join."""
    branch, ends = t.branch_of(s), [s.branch]
    while ends:
        if (n := ends.pop(0)) not in branch:
            continue
        if name := _first(modules, t, [n]):
            yield name
        elif t.nodes[n].pointwise:
            ends += t.nodes[n].inputs


def _backwards(t: Trace, s: Sum) -> Iterator[int]:
    """Walk a branch back from its end through elementwise operations and permutations."""
    branch, n = t.branch_of(s), s.branch
    while n in branch:
        yield n
        node = t.nodes[n]
        if len(node.inputs) != 1 or not (node.pointwise or node.op in PERMUTES):
            return
        (n,) = node.inputs


def _behind(modules: dict[str, nn.Module], t: Trace, name: str) -> str:
    """Return the last module of a convolution, its norm and its activation."""
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
    # No further back than to a norm that would undo the gate.
    start = max((i for i, n in enumerate(path) if i and _undoes(t, path[i - 1], n)), default=0)
    found = _first(modules, t, reversed(path[start:]))
    if found is None and start:
        raise ConfigError(
            f"where: the norm behind {name!r} is not a module, and would undo the gate of a unit before it; name the "
            "module that returns its output"
        )
    return name if found is None else found


def _undoes(t: Trace, before: int, after: int) -> bool:
    """Whether a step divides each channel of an image by its own size, as instance norm does."""
    return any(t.nodes[n].statistics == "channel" for n in t.step(before) or ())


def _onwards(t: Trace, n: int) -> list[int]:
    """Return a node and the ends of the norms and activations after it: to the activation and norms behind that."""
    path, is_active = [n], False
    while step := t.step(path[-1]):
        nodes = [t.nodes[i] for i in step if t.nodes[i].op not in VIEWS | PERMUTES]
        is_norm = any(node.statistics for node in nodes)
        others = [node for node in nodes if "_norm" not in node.op]
        is_affine = all(node.op.rstrip("_") in AFFINE for node in others)
        if not is_norm and not all(node.pointwise for node in others):
            break
        # What an activation's own code does after its last non-linear operation belongs to it.
        is_rest = is_affine and (len(others) == len(nodes)) and t.module_at(path[-1]) is None
        if is_active and nodes and not is_norm and not is_rest:
            break
        path.append(step[-1])
        is_active |= not is_norm and not is_affine
    return path


def _call(modules: dict[str, nn.Module], t: Trace, name: str) -> Call:
    """Return the only call of a module; ConfigError if the module cannot take a unit."""
    module, calls = modules[name], t.calls.get(name, ())
    output = calls[0].output if calls else None
    shape = () if output is None else t.nodes[output].shape
    if isinstance(module, (Unit, InsertedUnit)):
        wrong = "is a unit"
    elif _unit_behind(module) is not None:
        wrong = "has a unit already (senet.remove_ takes units out)"
    elif len(calls) != 1:
        wrong = f"is called {len(calls)} times"
    elif output is None or len(shape) < 3:
        wrong = f"outputs {shape}" if output is not None else "outputs no tensor that depends on the example"
    elif t.nodes[output].axis not in (1, None):
        wrong = f"outputs {shape} with channels in dimension {t.nodes[output].axis}"
    else:
        return calls[0]
    raise ConfigError(
        f"where: {name!r}, a {type(module).__name__}, {wrong}; expected: a module that is called once and "
        "outputs one feature map (N, C, *)"
    )
