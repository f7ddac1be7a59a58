"""Find the attention units of any network by their structure, and record what one forward and backward pass does.

A unit is one of ours, or a module of another library that multiplies a feature map by gates it computes with
- two layers, C to h to C' channels with h <= C and C' <= C, on one value per channel (squeeze and excitation),
- one 1-D convolution across channels (ECA), or
- one or two pointwise layers of any width, if its class is called like a unit (`SEModule`, `EffectiveSEModule`).
The multiplication is observed in the forward pass, so how the network is written does not matter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from senet.errors import ConfigError
from senet.insert import InsertedUnit
from senet.outputs import reason, tensors
from senet.tracing import Example, arguments, evaluating
from senet.units.unit import Unit

NAME = re.compile(
    r"_*(\w*squeeze_?(and_?)?excit\w*|(c|e|s|effective_?)?(se|eca)_?(\d?d|layer|module|block|unit|net)*)_*",
    re.IGNORECASE,
)
"""Class names that other libraries use for such units."""

LAYERS = {"convolution", "addmm", "mm", "bmm", "linear"}


@dataclass(eq=False)
class Candidate:
    """A module that is a unit or looks like one, and what the pass shows about it.

    Attributes:
        name: Name of the module in the network.
        kind: Kind of a unit of ours, or the class name of another one.
        sites: The unit's module, or its two layers where they are children of a block that applies them itself.
        layers: Its convolutions and linear layers.
        params: Its parameters by name.
        unit: The unit, if it is one of ours.
        inserted: Whether `insert_` put it there.
        named: Whether its class is called like a unit.
        squashes: Whether it contains a sigmoid.
        given: Its input, while it runs.
        runs: Calls in the pass.
        alive: Share of the hidden neurons that are not zero for every image.
        gate: Gates of the last call, (N, C, P); P is 1 where there is one gate per channel.
        channels: Channels of the feature map that it multiplies.
        width: Gates per image.
        largest: Largest absolute value of that feature map.
        total: Largest absolute sum over space of one of its channels.
        moved: Largest difference of a channel's mean between two images.
        eps: Machine epsilon of the feature map's type.
        tracked: Whether its output requires a gradient.
        back: Whether the gradient of its output had a nonzero element; None if none arrived.
        reached: Names of its parameters with a nonzero gradient.
        lost: Whether the loss depends on none of its parameters.
        instead: What happens to its gates if they multiply nothing.
        mixes: Whether a change of the first image changes its output for the others.
        effect: How much the loss depends on the size of the channels of its output, relative to its dependence on
            the elements: zero before an instance norm, and about 1 for gradients of random sign.
        undone: Whether the network's output does not depend on the size of these channels.
    """

    name: str
    kind: str
    sites: tuple[nn.Module, ...]
    layers: tuple[nn.Module, ...]
    params: dict[str, nn.Parameter]
    unit: Unit | None = None
    inserted: bool = False
    named: bool = False
    squashes: bool = False
    given: Tensor | None = None
    runs: int = 0
    alive: float | None = None
    gate: Tensor | None = None
    channels: int = 0
    width: int = 0
    largest: float = 0.0
    total: float = 0.0
    moved: float = 0.0
    eps: float = 0.0
    tracked: bool = False
    back: bool | None = None
    reached: set[str] = field(default_factory=set)
    lost: bool = False
    instead: str | None = None
    mixes: bool = False
    effect: float = 1.0
    undone: bool = False

    def measure(self, u: Tensor, s: Tensor) -> None:
        """Record a product of a feature map `u` and gates `s`, both (N, C, *)."""
        # A broadcast axis has stride 0.
        self.width = s.shape[1] if s.stride(1) or s.shape[1] == 1 else 1
        self.gate = per_channel(s)
        x = u.detach().float().reshape(*u.shape[:2], -1)
        total = x.sum(2)
        self.channels, self.eps = u.shape[1], torch.finfo(u.dtype).eps
        self.largest, self.total = float(x.abs().amax()), float(total.abs().amax())
        self.moved = float((total.amax(0) - total.amin(0)).amax()) / x.shape[2]


OnProduct = Callable[[Candidate, Tensor, Tensor], "Tensor | None"]
"""Called with a unit, a feature map and the gates that multiply it; a tensor that it returns replaces the gates."""


@contextmanager
def watch_products(model: nn.Module, candidates: list[Candidate], on_product: OnProduct) -> Iterator[None]:
    """Call `on_product` for each product of a feature map (N, C, *) and gates, expanded to its shape, in one pass.

    Args:
        model: The network that runs inside the context.
        candidates: What `find` returns for it; those that are not units have no products.
        on_product: May replace the gates.
    """
    if not candidates:
        yield
        return
    watch = Watch(model, candidates, on_product)
    with watch.hooks(), watch:
        yield


class CallNames:
    """Names for the calls of units in one pass: the module's name, with "#2" appended at the second call."""

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def name(self, unit: Candidate) -> str:
        """Count a call of this unit and return its name."""
        self.counts[unit.name] += 1
        count = self.counts[unit.name]
        return unit.name if count == 1 else f"{unit.name}#{count}"


def per_channel(s: Tensor) -> Tensor:
    """Undo the broadcasting of gates: (N, C, *) -> (N, C, P); P is 1 where there is one gate per channel."""
    s = s[(slice(None), slice(None), *(slice(None) if step else slice(1) for step in s.stride()[2:]))]
    return s.float().reshape(*s.shape[:2], -1)


def find(model: nn.Module) -> list[Candidate]:
    """List everything that is or may be a unit, in the order of the modules. Only a forward pass tells which are."""
    found: list[Candidate] = []
    seen: set[nn.Module] = set()

    def walk(name: str, module: nn.Module) -> None:
        if module in seen:
            return
        seen.add(module)
        label = name or type(module).__name__
        here = _of_ours(label, module) or _of_another_library(label, module)
        if here:
            found.append(here)
            return
        children = dict(module.named_children())
        found.extend(_pairs(name, module, children))
        for child, inner in children.items():
            walk(f"{name}.{child}" if name else child, inner)

    walk("", model)
    return found


def _of_ours(name: str, module: nn.Module) -> Candidate | None:
    inserted = isinstance(module, InsertedUnit)
    unit = module.unit if inserted else module
    if not isinstance(unit, Unit):
        return None
    kind = getattr(getattr(unit, "config", None), "kind", type(unit).__name__)
    layers = tuple(m for m in unit.modules() if isinstance(m, (nn.Linear, _ConvNd)))
    return Candidate(name, kind, (module,), layers, dict(module.named_parameters()), unit=unit, inserted=inserted)


def _of_another_library(name: str, module: nn.Module) -> Candidate | None:
    if any(isinstance(m, Unit) for m in module.modules()):
        return None
    holders = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
    layers = tuple(m for m in holders if not isinstance(m, nn.PReLU) and "Norm" not in type(m).__name__)
    named = NAME.fullmatch(type(module).__name__) is not None
    if len(layers) == 1 and _is_across(layers[0]):
        fits = True
    elif named:
        fits = len(layers) in (1, 2) and all(map(_is_pointwise, layers))
    else:
        # A norm at either end shows that the module is more than a unit, such as a bottleneck.
        fits = _reduces(layers) and holders[:1] + holders[-1:] == [*layers]
    if not fits:
        return None
    squashes = any(isinstance(m, (nn.Sigmoid, nn.Hardsigmoid)) for m in module.modules())
    params = dict(module.named_parameters())
    return Candidate(name, type(module).__name__, (module,), layers, params, named=named, squashes=squashes)


def _pairs(name: str, module: nn.Module, children: dict[str, nn.Module]) -> Iterator[Candidate]:
    """Find two adjacent layers of a block whose own forward may use them as a unit."""
    if isinstance(module, nn.Sequential):
        return
    layers = [(child, m) for child, m in children.items() if isinstance(m, (nn.Linear, _ConvNd))]
    for (first, a), (second, b) in pairwise(layers):
        if _reduces((a, b)):
            params = {f"{child}.{p}": v for child, m in ((first, a), (second, b)) for p, v in m.named_parameters()}
            where = f"{name}.{first}+{second}" if name else f"{first}+{second}"
            yield Candidate(where, type(module).__name__, (a, b), (a, b), params)


def _is_pointwise(m: nn.Module) -> bool:
    return isinstance(m, nn.Linear) or (isinstance(m, _ConvNd) and set(m.kernel_size) == {1})


def _is_across(m: nn.Module) -> bool:
    return isinstance(m, nn.Conv1d) and m.in_channels == m.out_channels == 1


def _reduces(layers: tuple[nn.Module, ...]) -> bool:
    """Whether these are two pointwise layers C to h to C' with h <= C and C' <= C."""
    if len(layers) != 2 or not all(map(_is_pointwise, layers)):
        return False
    (c, h), (h2, out) = map(ends, layers)
    return h == h2 and h <= c and out <= c


def ends(layer: nn.Module) -> tuple[int, int]:
    """Return a layer's input and output channels."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, _ConvNd)
    return layer.in_channels, layer.out_channels


class Watch(TorchDispatchMode):
    """Observe the products of feature maps and gates while a network runs.

    Attributes:
        candidates: What is watched; after `run`, only those that are units.
        on_product: Called for each product; by default the unit records it.
        stopped: The unit in which the pass failed and why, or None.
        is_aside: Whether an extra call is running that is not part of the pass.
    """

    def __init__(self, model: nn.Module, candidates: list[Candidate], on_product: OnProduct | None = None) -> None:
        super().__init__()
        self.model, self.candidates, self.on_product = model, candidates, on_product or Candidate.measure
        # Images of `run`; without it there are no extra calls.
        self.count = 0
        self.stopped: tuple[Candidate, str] | None = None
        self.inside: list[Candidate] = []
        self.is_aside = False
        # Storage address -> the unit and its gates. Keeping the tensor keeps the address from being used again.
        self.gates: dict[int, tuple[Candidate, Tensor]] = {}
        self.fixed = {_memory(t) for t in (*model.parameters(), *model.buffers())}

    def run(self, images: Example) -> None:
        """Run forward and backward, then drop the candidates that are not units."""
        self.count = len(tensors(images)[0])
        args, kwargs = arguments(images)
        try:
            with self.hooks(), self:
                out = self.model(*args, **kwargs)
        except Exception as error:
            units = [s for s in self.inside if s.unit or s.named or s.squashes]
            if not units and self.stopped is None:
                shapes = ", ".join(str(tuple(t.shape)) for t in tensors(images))
                raise ConfigError(f"batch: the network does not run on {shapes}: {reason(error)}") from error
            self.stopped = self.stopped or (units[-1], reason(error))
        else:
            self.backward(out)
        self.candidates = [s for s in self.candidates if self.is_unit(s)]

    def is_unit(self, s: Candidate) -> bool:
        """Whether a candidate is a unit: its gates multiplied a feature map, or its class or contents tell."""
        stopped = self.stopped is not None and s is self.stopped[0]
        return bool(s.unit or s.named or s.gate is not None or (s.squashes and (not s.runs or s.lost)) or stopped)

    def backward(self, out: Any) -> None:
        """Record which parameters get a gradient from a loss on the outputs."""
        params = [p for p in self.model.parameters() if p.requires_grad]
        losses = [_loss(t) for t in tensors(out) if t.requires_grad]
        if not params or not losses:
            return
        grads = torch.autograd.grad(torch.stack(losses).sum(), params, allow_unused=True)
        met = {id(p): bool(g.any()) for p, g in zip(params, grads, strict=True) if g is not None}
        for s in self.candidates:
            s.reached = {name for name, p in s.params.items() if met.get(id(p))}
            learning = [id(p) for p in s.params.values() if p.requires_grad]
            s.lost = bool(learning) and met.keys().isdisjoint(learning)

    def find_undone(self, images: Example) -> None:
        """Run the network again for each unit whose gates seem to have no effect, with its channels scaled."""
        for s in self.candidates:
            if s.effect < 0.3:
                plain, by_channel, by_element = (self.scaled(images, s, dims) for dims in (0, 2, None))
                s.undone = _distance(plain, by_channel) < 0.05 * _distance(plain, by_element)

    @torch.no_grad()
    def scaled(self, images: Example, s: Candidate, dims: int | None) -> list[Tensor]:
        """Return the network's outputs with a unit's output times random factors, equal behind the first `dims`."""

        def scale(_site: nn.Module, _args: object, out: Tensor) -> Tensor:
            shape = [d if dims is None or i < dims else 1 for i, d in enumerate(out.shape)]
            factors = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32) + 0.5
            return out * factors.to(out)

        torch.default_generator.manual_seed(0)
        args, kwargs = tree_map_only(Tensor, Tensor.clone, arguments(images))
        handle = s.sites[0].register_forward_hook(scale) if dims != 0 else None
        try:
            return tensors(self.model(*args, **kwargs))
        finally:
            if handle is not None:
                handle.remove()

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hook the candidates' modules while the context is open."""
        handles = []
        for s in self.candidates:
            for site in s.sites:
                handles.append(site.register_forward_pre_hook(partial(self.enter, s), with_kwargs=True))
                handles.append(site.register_forward_hook(partial(self.leave, s)))
            if len(s.layers) == 2:
                handles.append(s.layers[1].register_forward_pre_hook(partial(self.hidden, s)))
            if s.unit is None:
                handles.append(s.layers[-1].register_forward_hook(partial(self.excited, s)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def enter(self, s: Candidate, site: nn.Module, args: Any, kwargs: Any) -> None:
        """Hook: a unit's module is called."""
        self.inside.append(s)
        s.given = next((t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)), None)
        if len(s.sites) == 1 and s.given is not None and s.given.dim() > 1 and len(s.given) == self.count:
            with self.aside(site):
                outs = [site.forward(*a, **k) for a, k in _two_batches(args, kwargs)]
                s.mixes = _differ(*(next(t for t in tree_leaves(out) if isinstance(t, Tensor)) for out in outs))

    @contextmanager
    def aside(self, site: nn.Module) -> Iterator[None]:
        """Make an unobserved extra call in evaluation mode. Errors are ignored; the pass itself will raise them."""
        self.is_aside = True
        try:
            with suppress(Exception), evaluating(site):
                yield
        finally:
            self.is_aside = False

    def leave(self, s: Candidate, site: nn.Module, _args: Any, out: Any) -> None:
        """Hook: a unit's module returns."""
        self.inside.pop()
        s.given = None
        if site is not s.sites[-1]:
            return
        s.runs += 1
        result = next((t for t in tree_leaves(out) if isinstance(t, Tensor)), None)
        s.tracked = result is not None and result.requires_grad
        if result is not None and s.tracked:
            result.register_hook(partial(_came_back, s, result.detach()))

    def hidden(self, s: Candidate, layer: nn.Module, args: Any) -> None:
        """Hook: the second layer is called; its input is the hidden activation."""
        if self.is_aside:
            return
        h = args[0].detach().movedim(-1 if isinstance(layer, nn.Linear) else 1, 0)
        s.alive = float(h.flatten(1).any(1).float().mean())

    def excited(self, s: Candidate, layer: nn.Module, _args: Any, out: Tensor) -> None:
        """Hook: the last layer of another library's unit returns; one value per channel is taken for gates."""
        if not self.is_aside and out[0].numel() == (out.shape[-1] if _is_across(layer) else ends(layer)[1]):
            self.gates[_memory(out)] = s, out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_aside:
            return func(*args, **(kwargs or {}))
        tensors = [a for a in args if isinstance(a, Tensor)]
        op = func.overloadpacket.__name__
        if op in ("mul", "mul_") and len(tensors) == 2:
            args = self.product(*tensors)
        out = func(*args, **(kwargs or {}))
        # A function of gates and constants is still gates, unless it is another layer with weights.
        known = [self.gates[_memory(t)] for t in tensors if _memory(t) in self.gates]
        rest = {_memory(t) for t in tensors} - self.gates.keys() - self.fixed
        first = next((t for t in tree_leaves(out) if isinstance(t, Tensor)), None)
        if known and not rest and op not in LAYERS and first is not None:
            self.gates[_memory(first)] = known[0][0], first
        elif known and not rest and op in LAYERS:
            known[0][0].instead = "go into another layer"
        elif known and rest and op in ("add", "add_"):
            known[0][0].instead = "are added to a feature map"
        return out

    def product(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Report a product of a feature map and a unit's gates; return the factors, the gates perhaps replaced."""
        for u, gate in ((a, b), (b, a)):
            s = self.whose(u, gate)
            if s is None or u.dim() < 2:
                continue
            try:
                shape = torch.broadcast_shapes(u.shape, gate.shape)
            except RuntimeError:
                # The multiplication is about to raise.
                self.stopped, s.given = (s, f"its gates are {tuple(gate.shape)}"), u
                return a, b
            # The product with a drop-path mask (N, 1, 1, 1) has the shape of the gates, not of the mask.
            if shape == u.shape and (other := self.on_product(s, u, gate.detach().expand(shape))) is not None:
                return (u, other) if u is a else (other, u)
        return a, b

    def whose(self, u: Tensor, gate: Tensor) -> Candidate | None:
        """The unit whose gates multiply `u`. Inside a unit of ours only a product with its input counts."""
        if self.inside and self.inside[-1].unit is not None:
            s = self.inside[-1]
            return s if s.given is not None and _memory(u) == _memory(s.given) != _memory(gate) else None
        is_feature_map = _memory(u) not in self.gates and _memory(u) not in self.fixed
        return self.gates[_memory(gate)][0] if is_feature_map and _memory(gate) in self.gates else None


def _two_batches(args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a copy of a module's input, then a copy with another first image."""
    for is_other in (False, True):
        copies = tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
        if is_other:
            u = next(t for t in tree_leaves(copies) if isinstance(t, Tensor))
            u[0] = 4 * u[0] + u.std()
        yield copies


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs differ by more than rounding in any image but the first."""
    a, b = a[1:].float(), b[1:].float()
    return bool((a - b).abs().amax() > 1e-3 * a.abs().amax())


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    return sum(float((x - y).float().abs().sum()) for x, y in zip(a, b, strict=True) if x.is_floating_point())


def _memory(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _came_back(s: Candidate, y: Tensor, grad: Tensor) -> None:
    s.back = bool(s.back) or bool(grad.any())
    if s.back and grad.dim() > 2 and len(s.sites) == 1:
        # The derivative by the logarithm of a channel's size.
        product = (grad.float() * y.float()).reshape(*grad.shape[:2], -1)
        s.effect = float(product.sum(2).abs().sum() / product.abs().sum().clamp_min(1e-30)) * product.shape[2] ** 0.5


def _loss(out: Tensor) -> Tensor:
    """Cross entropy of the outputs divided by their largest value, so that the softmax does not saturate."""
    rows = out.float().reshape(len(out), -1) if out.dim() else out.float().reshape(1, 1)
    rows = rows / rows.detach().abs().amax().clamp_min(1e-20)
    if rows.shape[1] == 1:
        return F.softplus(rows).mean()
    return F.cross_entropy(rows, torch.arange(len(rows), device=rows.device) % rows.shape[1])
