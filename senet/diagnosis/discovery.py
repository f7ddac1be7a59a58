"""Units of any network, found by their structure, and what one forward and one backward pass show of them.

A unit is ours, or two layers C to h to C' that act on one value per channel, h and C' at most C (of any width, or one
layer alone, where the class's name says what it is), or one 1-D convolution across channels (ECA), whose result
multiplies a map. That it does is seen in the pass, so the author of the network does not matter.
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
from senet.tracing import evaluating
from senet.units.unit import Unit

NAME = re.compile(
    r"_*(\w*squeeze_?(and_?)?excit\w*|(c|e|s|effective_?)?(se|eca)_?(\d?d|layer|module|block|unit|net)*)_*",
    re.IGNORECASE,
)
"""What other people call the classes of such units."""

LAYERS = {"convolution", "addmm", "mm", "bmm", "linear"}


@dataclass(eq=False)
class Subject:
    """A unit, or what may be one, and what is seen of it.

    kind: of a unit of ours, or the class of another.
    sites: its module; the two layers where they stand in a block by themselves.
    layers: its convolutions and linear layers.  params: its parameters by name.
    unit: the unit where it is ours.  inserted: whether `insert_` put it there.
    named: whether its class is called as units are.  squashes: whether it holds a sigmoid.

    given: its input while it runs.  runs: calls.  alive: part of the hidden layer not zero for every image.
    gate: (N, C, P) of the last call; P is 1 where the gates are one per channel.
    channels, width: of the map it multiplies, and gates per image.
    largest, total: the largest absolute value of that map, and of its sums over space.
    moved: how far a channel's squeeze differs between images, at most.
    eps: of the map's numbers.
    tracked: whether its output carries a gradient.  back: whether the one that came was not all zero; None: none came.
    reached: parameters whose gradient is not all zero.  lost: whether the backward pass met none of its parameters.
    instead: what becomes of its gates in place of a product.
    mixes: whether another first image moves what it makes of the other images.
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

    def measure(self, u: Tensor, s: Tensor) -> None:
        """Keep what matters of a product of a map and gates, both (N, C, *)."""
        # Along an axis where one value is repeated, the step in memory is zero.
        self.width = s.shape[1] if s.stride(1) or s.shape[1] == 1 else 1
        self.gate = per_channel(s)
        x = u.detach().float().reshape(*u.shape[:2], -1)
        total = x.sum(2)
        self.channels, self.eps = u.shape[1], torch.finfo(u.dtype).eps
        self.largest, self.total = float(x.abs().amax()), float(total.abs().amax())
        self.moved = float((total.amax(0) - total.amin(0)).amax()) / x.shape[2]


See = Callable[[Subject, Tensor, Tensor], "Tensor | None"]
"""Is given a unit, the map and the gates that multiply it; what it returns, if not None, multiplies in their place."""


@contextmanager
def watching(model: nn.Module, subjects: list[Subject], see: See) -> Iterator[None]:
    """For one forward pass: `see` is shown each product of a map `(N, C, *)` and gates, expanded to the map's shape.

    subjects: those of `find`; the ones that are no units have no products.
    """
    if not subjects:
        yield
        return
    watch = Watch(model, subjects, see)
    with watch.hooks(), watch:
        yield


class Calls:
    """The names of units in one pass: their modules', with "#2" behind it at the second call."""

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def name(self, unit: Subject) -> str:
        """That of the call that is going on."""
        self.counts[unit.name] += 1
        count = self.counts[unit.name]
        return unit.name if count == 1 else f"{unit.name}#{count}"


def per_channel(s: Tensor) -> Tensor:
    """Gates expanded to a map, `(N, C, *)`, without the repetitions: `(N, C, P)`, where P is 1 for one per channel."""
    s = s[(slice(None), slice(None), *(slice(None) if step else slice(1) for step in s.stride()[2:]))]
    return s.float().reshape(*s.shape[:2], -1)


def find(model: nn.Module) -> list[Subject]:
    """Everything that is or may be a unit, in the order of the modules; the pass decides."""
    found: list[Subject] = []
    seen: set[nn.Module] = set()

    def walk(name: str, module: nn.Module) -> None:
        if module in seen:
            return
        seen.add(module)
        label = name or type(module).__name__
        here = _own(label, module) or _other(label, module)
        if here:
            found.append(here)
            return
        children = dict(module.named_children())
        found.extend(_pairs(name, module, children))
        for child, inner in children.items():
            walk(f"{name}.{child}" if name else child, inner)

    walk("", model)
    return found


def _own(name: str, module: nn.Module) -> Subject | None:
    inserted = isinstance(module, InsertedUnit)
    unit = module.unit if inserted else module
    if not isinstance(unit, Unit):
        return None
    kind = getattr(getattr(unit, "config", None), "kind", type(unit).__name__)
    layers = tuple(m for m in unit.modules() if isinstance(m, (nn.Linear, _ConvNd)))
    return Subject(name, kind, (module,), layers, dict(module.named_parameters()), unit=unit, inserted=inserted)


def _other(name: str, module: nn.Module) -> Subject | None:
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
        # A norm in front or behind belongs to what is around the unit.
        fits = _reduces(layers) and holders[:1] + holders[-1:] == [*layers]
    if not fits:
        return None
    squashes = any(isinstance(m, (nn.Sigmoid, nn.Hardsigmoid)) for m in module.modules())
    params = dict(module.named_parameters())
    return Subject(name, type(module).__name__, (module,), layers, params, named=named, squashes=squashes)


def _pairs(name: str, module: nn.Module, children: dict[str, nn.Module]) -> Iterator[Subject]:
    """Two layers side by side among the children of a block whose own forward makes a unit of them."""
    if isinstance(module, nn.Sequential):
        return
    layers = [(child, m) for child, m in children.items() if isinstance(m, (nn.Linear, _ConvNd))]
    for (first, a), (second, b) in pairwise(layers):
        if _reduces((a, b)):
            params = {f"{child}.{p}": v for child, m in ((first, a), (second, b)) for p, v in m.named_parameters()}
            where = f"{name}.{first}+{second}" if name else f"{first}+{second}"
            yield Subject(where, type(module).__name__, (a, b), (a, b), params)


def _is_pointwise(m: nn.Module) -> bool:
    return isinstance(m, nn.Linear) or (isinstance(m, _ConvNd) and set(m.kernel_size) == {1})


def _is_across(m: nn.Module) -> bool:
    return isinstance(m, nn.Conv1d) and m.in_channels == m.out_channels == 1


def _reduces(layers: tuple[nn.Module, ...]) -> bool:
    """Whether these are two layers C to h to C', h and C' at most C."""
    if len(layers) != 2 or not all(map(_is_pointwise, layers)):
        return False
    (c, h), (h2, out) = map(ends, layers)
    return h == h2 and h <= c and out <= c


def ends(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, _ConvNd)
    return layer.in_channels, layer.out_channels


class Watch(TorchDispatchMode):
    """Sees the products of maps and gates while a network runs.

    see: is shown the products; by default the subjects measure them.
    stopped: what the pass stopped in, if it did, and why.  is_aside: whether what runs is no part of the pass.
    """

    def __init__(self, model: nn.Module, subjects: list[Subject], see: See | None = None) -> None:
        super().__init__()
        self.model, self.subjects, self.see = model, subjects, see or Subject.measure
        # Of `run`; without it nothing runs aside.
        self.count = 0
        self.stopped: tuple[Subject, str] | None = None
        self.inside: list[Subject] = []
        self.is_aside = False
        # By the memory they are in: gates with whose they are, kept so that no other tensor takes the place.
        self.gates: dict[int, tuple[Subject, Tensor]] = {}
        self.fixed = {_memory(t) for t in (*model.parameters(), *model.buffers())}

    def run(self, images: Tensor) -> None:
        """Forward and backward; afterwards `subjects` are those that are units."""
        self.count = len(images)
        try:
            with self.hooks(), self:
                out = self.model(images)
        except Exception as error:
            units = [s for s in self.inside if s.unit or s.named or s.squashes]
            if not units and self.stopped is None:
                raise ConfigError(f"batch: the network does not run on {tuple(images.shape)}: {error}") from error
            self.stopped = self.stopped or (units[-1], str(error).splitlines()[0])
        else:
            self.backward(out)
        self.subjects = [s for s in self.subjects if self.is_unit(s)]

    def is_unit(self, s: Subject) -> bool:
        """Whether a subject is a unit: its gates multiplied a map, or what it is called or holds leaves no doubt."""
        stopped = self.stopped is not None and s is self.stopped[0]
        return bool(s.unit or s.named or s.gate is not None or (s.squashes and (not s.runs or s.lost)) or stopped)

    def backward(self, out: Any) -> None:
        """Note which parameters a loss on the outputs reaches."""
        params = [p for p in self.model.parameters() if p.requires_grad]
        losses = [_loss(t) for t in tree_leaves(out) if isinstance(t, Tensor) and t.requires_grad]
        if not params or not losses:
            return
        grads = torch.autograd.grad(torch.stack(losses).sum(), params, allow_unused=True)
        met = {id(p): bool(g.any()) for p, g in zip(params, grads, strict=True) if g is not None}
        for s in self.subjects:
            s.reached = {name for name, p in s.params.items() if met.get(id(p))}
            learning = [id(p) for p in s.params.values() if p.requires_grad]
            s.lost = bool(learning) and met.keys().isdisjoint(learning)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Watch the subjects' calls."""
        handles = []
        for s in self.subjects:
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

    def enter(self, s: Subject, site: nn.Module, args: Any, kwargs: Any) -> None:
        """A site begins."""
        self.inside.append(s)
        s.given = next((t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)), None)
        if len(s.sites) == 1 and s.given is not None and s.given.dim() > 1 and len(s.given) == self.count:
            with self.aside(site):
                outs = [site.forward(*a, **k) for a, k in _two_batches(args, kwargs)]
                s.mixes = _differ(*(next(t for t in tree_leaves(out) if isinstance(t, Tensor)) for out in outs))

    @contextmanager
    def aside(self, site: nn.Module) -> Iterator[None]:
        """Call a module without seeing it, in evaluation mode; an error is for the pass itself to raise."""
        self.is_aside = True
        try:
            with suppress(Exception), evaluating(site):
                yield
        finally:
            self.is_aside = False

    def leave(self, s: Subject, site: nn.Module, _args: Any, out: Any) -> None:
        """A site ends."""
        self.inside.pop()
        s.given = None
        if site is not s.sites[-1]:
            return
        s.runs += 1
        result = next((t for t in tree_leaves(out) if isinstance(t, Tensor)), None)
        s.tracked = result is not None and result.requires_grad
        if result is not None and s.tracked:
            result.register_hook(partial(_came_back, s))

    def hidden(self, s: Subject, layer: nn.Module, args: Any) -> None:
        """The second layer begins, with the hidden one as its input."""
        if self.is_aside:
            return
        h = args[0].detach().movedim(-1 if isinstance(layer, nn.Linear) else 1, 0)
        s.alive = float(h.flatten(1).any(1).float().mean())

    def excited(self, s: Subject, layer: nn.Module, _args: Any, out: Tensor) -> None:
        """The last layer of another's unit has given one value per channel, or it is not a unit's."""
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
        # What is made of gates and constants alone are gates still, but not what another layer makes of them.
        known = [self.gates[_memory(t)] for t in tensors if _memory(t) in self.gates]
        rest = {_memory(t) for t in tensors} - self.gates.keys() - self.fixed
        first = next((t for t in tree_leaves(out) if isinstance(t, Tensor)), None)
        if known and not rest and op not in LAYERS and first is not None:
            self.gates[_memory(first)] = known[0][0], first
        elif known and not rest and op in LAYERS:
            known[0][0].instead = "go into another layer"
        elif known and rest and op in ("add", "add_"):
            known[0][0].instead = "are added to a map"
        return out

    def product(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors are going to be multiplied: note it if they are a map and a unit's gates; return the factors."""
        for u, gate in ((a, b), (b, a)):
            s = self.whose(u, gate)
            if s is None or u.dim() < 2:
                continue
            try:
                shape = torch.broadcast_shapes(u.shape, gate.shape)
            except RuntimeError:
                # The product itself will raise.
                self.stopped, s.given = (s, f"its gates are {tuple(gate.shape)}"), u
                return a, b
            # A mask of dropped paths is no map.
            if shape == u.shape and (other := self.see(s, u, gate.detach().expand(shape))) is not None:
                return (u, other) if u is a else (other, u)
        return a, b

    def whose(self, u: Tensor, gate: Tensor) -> Subject | None:
        """The subject whose gates multiply `u` here: ours multiplies what it was given."""
        if self.inside and self.inside[-1].unit is not None:
            s = self.inside[-1]
            return s if s.given is not None and _memory(u) == _memory(s.given) != _memory(gate) else None
        is_map = _memory(u) not in self.gates and _memory(u) not in self.fixed
        return self.gates[_memory(gate)][0] if is_map and _memory(gate) in self.gates else None


def _two_batches(args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """Copies of a module's input, then once more with another first image in its first tensor."""
    for is_other in (False, True):
        copies = tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
        if is_other:
            u = next(t for t in tree_leaves(copies) if isinstance(t, Tensor))
            u[0] = 4 * u[0] + u.std()
        yield copies


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs differ in an image other than the first by more than rounding."""
    a, b = a[1:].float(), b[1:].float()
    return bool((a - b).abs().amax() > 1e-3 * a.abs().amax())


def _memory(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _came_back(s: Subject, grad: Tensor) -> None:
    s.back = bool(s.back) or bool(grad.any())


def _loss(out: Tensor) -> Tensor:
    """A cross entropy of the outputs over their largest, so that no softmax is saturated."""
    rows = out.float().reshape(len(out), -1) if out.dim() else out.float().reshape(1, 1)
    rows = rows / rows.detach().abs().amax().clamp_min(1e-20)
    if rows.shape[1] == 1:
        return F.softplus(rows).mean()
    return F.cross_entropy(rows, torch.arange(len(rows), device=rows.device) % rows.shape[1])
