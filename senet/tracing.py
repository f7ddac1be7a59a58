"""Trace one forward pass of any network: which modules ran, which tensors were summed and concatenated.

The network is run, not analysed: a dispatch mode records each operation, hooks record each module's call. So it works
for any Python code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from senet.errors import ConfigError
from senet.outputs import describe, reason, tensors

CONVOLUTIONS = {"convolution", "_convolution", "deform_conv2d"}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "mkldnn_linear"}
PERMUTES = {"permute", "transpose", "detach", "alias"}
VIEWS = {"view", "_unsafe_view", "_reshape_alias", "reshape"}
STATISTICS = {"mean", "sum", "var", "var_mean", "std", "std_mean", "linalg_vector_norm", "norm", "amax", "amin", "max"}
# Elementwise operations without torch's tag `pointwise`.
POINTWISE = {"hardswish", "hardswish_", "_prelu_kernel", "rrelu", "log_sigmoid_forward", "_to_copy"}


@dataclass(frozen=True, slots=True)
class Node:
    """One version of a tensor that depends on the example; its number is its index in `Trace.nodes`.

    Attributes:
        op: Operation that made it, such as "convolution" or "add_"; "example" for an input of the network.
        inputs: Numbers of the nodes it was made from, without parameters and constants.
        shape: Its shape.
        module: Innermost module that was running; "" for the network itself.
        weights: Whether the operation also read a tensor that does not depend on the example, such as a parameter.
        layer: Whether it is a convolution or a matrix product with weights.
        pointwise: Whether the operation is elementwise.
        axis: Dimension of the channels; None if the layers before it do not determine it.
        statistics: Which statistics of its input it computes, as norms do: "channel" if each channel of an image has
            its own, as in instance norm; else "other". None: no statistics, as in batch norm in evaluation.
    """

    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    module: str = ""
    weights: bool = False
    layer: bool = False
    pointwise: bool = False
    axis: int | None = None
    statistics: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module.

    Attributes:
        name: The module's name.
        inputs: Nodes among its arguments.
        output: Node that it returned; None if that was not a single tensor that depends on the example.
        shape: Shape of the returned tensor; None if it returned something else. `dtype` and `device` likewise.
        dtype: Its type.
        device: Its device.
    """

    name: str
    inputs: tuple[int, ...]
    output: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """A residual sum, `out = branch + shortcut`.

    Attributes:
        branch: Node number of the branch.
        shortcut: Node number of the shortcut.
        out: Node number of the sum.
        module: Innermost module that was running.
    """

    branch: int
    shortcut: int
    out: int
    module: str


@dataclass(frozen=True, slots=True)
class Concat:
    """Feature maps concatenated along their channels.

    Attributes:
        parts: Node numbers of the parts.
        out: Node number of the result.
        module: Module whose output the result is, or None.
    """

    parts: tuple[int, ...]
    out: int
    module: str | None


class Trace:
    """The record of one forward pass.

    Attributes:
        nodes: Every tensor that depends on the example, in the order of computation.
        outputs: Numbers of the nodes that the network returned, in any nesting of containers and objects.
        calls: Name of each module that ran, as in `model.named_modules()` -> its calls, in the order of return.
        sums: The residual sums: sums of two nodes of one shape with at least three dimensions. If one was made from the
            other, the other is the shortcut. Otherwise both come from a common node, and the shortcut is the one with
            at most one layer since (a projection), if the other has more and nothing after a layer of either is used
            outside the sum. Sums of two equally deep paths, of the levels of a feature pyramid, or with a parameter are
            not residual.
        concats: Concatenations along dimension 1.
    """

    def __init__(self, recorder: _Recorder, outputs: Iterable[int]) -> None:
        self.nodes = tuple(recorder.nodes)
        self.outputs = tuple(outputs)
        self.calls: dict[str, tuple[Call, ...]] = {}
        self._at: dict[int, list[str]] = {}
        for call in recorder.calls:
            self.calls[call.name] = (*self.calls.get(call.name, ()), call)
            if call.output is not None:
                self._at.setdefault(call.output, []).append(call.name)
        # Each node and its ancestors as the bits of an integer.
        self._past: list[int] = []
        for n, node in enumerate(self.nodes):
            self._past.append(1 << n)
            for i in node.inputs:
                self._past[n] |= self._past[i]
        # Nodes that lead to no output, such as the mean that a norm also returns, do not count as consumers.
        live = 0 if self.outputs else -1
        for n in self.outputs:
            live |= self._past[n]
        self._consumers: list[list[int]] = [[] for _ in self.nodes]
        for n in _bits(live & (1 << len(self.nodes)) - 1):
            for i in set(self.nodes[n].inputs):
                self._consumers[i].append(n)
        self.sums = tuple(s for n in range(len(self.nodes)) if (s := self._residual(n)))
        self.concats = tuple(Concat(parts, out, self.module_at(out)) for parts, out in recorder.joined)

    def ancestors(self, node: int) -> frozenset[int]:
        """Return all nodes that this one was made from, without itself."""
        return frozenset(_bits(self._past[node] & ~(1 << node)))

    def consumers(self, node: int) -> tuple[int, ...]:
        """Return the nodes that read this one directly and lead to an output."""
        return tuple(self._consumers[node])

    def modules_at(self, node: int) -> tuple[str, ...]:
        """Return the modules whose output is this node: first the one that made it, then those that returned it."""
        names = self._at.get(node, [])
        made = [name for name in names if name == self.nodes[node].module]
        return tuple(dict.fromkeys([*made, *names]))

    def module_at(self, node: int) -> str | None:
        """Return the first of `modules_at`, or None."""
        return next(iter(self.modules_at(node)), None)

    def branch_of(self, s: Sum) -> frozenset[int]:
        """Return the nodes of a sum's branch that are not ancestors of its shortcut."""
        return frozenset(_bits(self._past[s.branch] & ~self._past[s.shortcut]))

    def step(self, node: int) -> list[int] | None:
        """Return the nodes of the next operation on a feature map, however it is written: a norm, an activation.

        That is all that was made from this node alone, without layers, up to a node of its shape through which
        everything passes: `x * sigmoid(x)` is one step. None if there is no such node, as before a sum or a layer.
        """
        inside, pending = {node}, set(self._consumers[node])
        while pending:
            n = min(pending)
            pending.remove(n)
            here = self.nodes[n]
            if here.layer or not inside.issuperset(here.inputs):
                return None
            inside.add(n)
            if not pending and here.shape == self.nodes[node].shape and here.axis in (1, None):
                return sorted(inside - {node})
            if n in self.outputs:
                return None
            pending.update(self._consumers[n])
        return None

    def _residual(self, out: int) -> Sum | None:
        node = self.nodes[out]
        if node.op not in ("add", "add_") or len(node.inputs) != 2 or len(node.shape) < 3:
            return None
        a, b = node.inputs
        if self.nodes[a].shape != self.nodes[b].shape:
            return None
        only_a, only_b = self._past[a] & ~self._past[b], self._past[b] & ~self._past[a]
        if not only_a or not only_b:
            # An activation written by hand, x + 0.04 x^3, or a norm, such as GRN: no layers, and one piece of code.
            branch_nodes = [self.nodes[n] for n in _bits(only_a | only_b)]
            is_one_module = all(n.module == node.module for n in branch_nodes)
            if not any(n.layer or (n.weights and not is_one_module) for n in branch_nodes):
                return None
            branch, shortcut = (a, b) if only_a else (b, a)
        else:
            depth = self._depths(only_a) | self._depths(only_b)
            shortcut, branch = sorted((a, b), key=depth.__getitem__)
            leaks = (c != out and c not in depth for n in depth if depth[n] for c in self._consumers[n])
            if depth[shortcut] == depth[branch] or depth[shortcut] > 1 or any(leaks):
                return None
        return Sum(branch, shortcut, out, node.module)

    def _depths(self, among: int) -> dict[int, int]:
        """Count the layers on the longest path to each node of a set; the layers that compute gates do not count."""
        depth: dict[int, int] = {}
        for n in _bits(among):
            here = self.nodes[n]
            gated = here.op in ("mul", "mul_")
            before = [i for i in here.inputs if not gated or self.nodes[i].shape == here.shape]
            depth[n] = here.layer + max((depth.get(i, 0) for i in before), default=0)
        return depth


def arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return an input as positional and named arguments of the network's call."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def check_model(model: object) -> None:
    """Raise ConfigError for anything but a module in Python: hooks do not work in scripted ones."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: {describe(model)}; expected: a torch.nn.Module")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(f"model: {name!r} is scripted; expected: a module without torch.jit")


Example: TypeAlias = "Tensor | tuple[Any, ...] | Mapping[str, Any]"
"""The input of a network: one tensor, a tuple of arguments, or a mapping of named arguments."""


def trace(model: nn.Module, example: Example | None = None) -> Trace:
    """Run a network once in evaluation mode without gradients and record what it computes.

    Modes, buffers, the example and the random state are unchanged afterwards. On the meta device nothing is computed.

    Args:
        model: The network.
        example: Its input: a tensor, a tuple of arguments, or a mapping of named arguments. None: zeros `(1, C, size,
            size)` for the C channels of its first convolution; size is the `image_size` of a network of ours, else 224
            (32 in 3-D).

    Raises:
        ConfigError: If the network fails on the example, no example is given and there is no convolution, or the
            network is scripted.

    >>> t = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8))
    >>> [node.op for node in t.nodes], t.calls["1"][0].shape
    (['example', 'convolution', 'relu'], (1, 8, 6, 6))
    """
    check_model(model)
    example, taken = _example(model) if example is None else (example, "")
    recorder = _Recorder()
    with untouched(model), evaluating(model):
        handles = []
        for name, module in model.named_modules():
            before, after = partial(recorder.enter, name), partial(recorder.leave, name)
            handles.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        try:
            # Networks may write to what they are given.
            args, kwargs = tree_map_only(Tensor, Tensor.clone, arguments(example))
            for t in tensors((args, kwargs)):
                recorder.add(t, Node("example", (), tuple(t.shape), axis=1 if t.dim() > 2 else None))
            with recorder:
                out = model(*args, **kwargs)
        except Exception as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors(example)) or describe(example)
            raise ConfigError(f"example: the network does not run on {shapes}{taken}: {reason(error)}") from error
        finally:
            for handle in handles:
                handle.remove()
    return Trace(recorder, (n for t in tensors(out) if (n := recorder.of(t)) is not None))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode without gradients; restore the mode of each module afterwards."""
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, flag in training.items():
            module.training = flag


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Work on copies of the buffers; restore them and the random state afterwards."""
    buffers = [(m, name, b) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    devices = range(torch.cuda.device_count()) if any(p.is_cuda for p in model.parameters()) else ()
    try:
        with torch.random.fork_rng(devices):
            for module, name, b in buffers:
                module._buffers[name] = b.clone()
            yield
    finally:
        for module, name, b in buffers:
            module._buffers[name] = b


class _Recorder(TorchDispatchMode):
    """Gives each tensor that depends on the example a number, and a new one each time it is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.calls: list[Call] = []
        self.joined: list[tuple[tuple[int, ...], int]] = []
        self.running: list[Call] = []
        self.number: dict[int, int] = {}
        self.written: dict[int, int] = {}
        # Keeping the tensors alive keeps their ids unique.
        self.alive: list[Tensor] = []

    def add(self, t: Tensor, node: Node) -> int:
        """Number a tensor and return its number."""
        self.nodes.append(node)
        self.alive.append(t)
        self.number[id(t)] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def of(self, t: Tensor) -> int | None:
        """Return a tensor's number, None if it does not depend on the example."""
        n, written = self.number.get(id(t)), self.written.get(t.untyped_storage()._cdata, -1)
        if written <= (-1 if n is None else n):
            return n
        # Its memory was written to through another view.
        inputs = (written,) if n is None else (n, written)
        axis = None if n is None else self.nodes[n].axis
        return self.add(t, Node("alias", inputs, tuple(t.shape), self.module, axis=axis))

    @property
    def module(self) -> str:
        """The innermost running module."""
        return self.running[-1].name if self.running else ""

    def enter(self, name: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        """Hook: a module is called."""
        self.running.append(Call(name, tuple(n for t in tensors((args, kwargs)) if (n := self.of(t)) is not None)))

    def leave(self, name: str, _module: nn.Module, _args: Any, out: Any) -> None:
        """Hook: a module returns."""
        # A module whose exception the network caught has not returned.
        while (call := self.running.pop()).name != name:
            pass
        if isinstance(out, Tensor):
            call = Call(name, call.inputs, self.of(out), tuple(out.shape), out.dtype, out.device)
        self.calls.append(call)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = list(tensors((args, kwargs)))
        inputs = tuple(n for t in read if (n := self.of(t)) is not None)
        out = func(*args, **kwargs)
        if not inputs:
            return out
        op = func.overloadpacket.__name__
        weights = len(inputs) < len(read)
        layer = weights and op in CONVOLUTIONS | PRODUCTS
        pointwise = torch.Tag.pointwise in func.tags or op in POINTWISE
        written = {id(t): t for t in _written(func, args, kwargs)}
        for t in ({id(t): t for t in tensors(out)} | written).values():
            axis = self.axis(op, args, inputs, tuple(t.shape), layer)
            of = None if pointwise else self.statistics(op, args, inputs, tuple(t.shape))
            n = self.add(t, Node(op, inputs, tuple(t.shape), self.module, weights, layer, pointwise, axis, of))
            if id(t) in written:
                self.written[t.untyped_storage()._cdata] = n
            if op == "cat" and len(inputs) > 1 and t.dim() > 2 and args[1:] in ((1,), (1 - t.dim(),)):
                self.joined.append((inputs, n))
        return out

    def axis(self, op: str, args: Any, inputs: tuple[int, ...], shape: tuple[int, ...], layer: bool) -> int | None:
        """Infer the channel dimension of an operation's result."""
        if op in CONVOLUTIONS or "batch_norm" in op or "group_norm" in op:
            return 1
        if layer or ("layer_norm" in op and len(args[1]) == 1):
            return len(shape) - 1
        sources = [self.nodes[i] for i in inputs]
        source = next((s for s in sources if s.shape == shape), sources[0])
        axis, dims = source.axis, len(source.shape)
        if axis is None:
            return None
        if op == "permute":
            return [d % dims for d in args[1]].index(axis)
        if op == "transpose":
            one, other = (d % dims for d in args[1:3])
            return {one: other, other: one}.get(axis, axis)
        if op in VIEWS:
            if source.shape[: axis + 1] == shape[: axis + 1]:
                return axis
            return len(shape) - 1 if axis == dims - 1 and source.shape[-1:] == shape[-1:] else None
        return axis if len(shape) == dims else None

    def statistics(self, op: str, args: Any, inputs: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
        """Return `Node.statistics` of an operation that is not elementwise."""
        if "batch_norm" in op:
            # Its only boolean says whether it uses statistics of the input; instance norm makes one image of all.
            is_own = any(arg is True for arg in args)
            return None if not is_own else "channel" if shape[0] == 1 else "other"
        if op == "native_group_norm":
            return "channel" if args[4] == args[6] else "other"
        if op in STATISTICS:
            x = self.nodes[inputs[0]]
            is_own = x.axis is not None and x.axis > 0 and prod(shape) == x.shape[0] * x.shape[x.axis]
            return "channel" if is_own else "other"
        return "other" if "_norm" in op else None


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """Yield the tensors that an operation writes to."""
    for i, arg in enumerate(func._schema.arguments):
        if arg.alias_info is not None and arg.alias_info.is_write:
            yield from tensors(args[i] if i < len(args) else kwargs.get(arg.name))


def _bits(numbers: int) -> Iterator[int]:
    while numbers:
        low = numbers & -numbers
        yield low.bit_length() - 1
        numbers ^= low


def _example(model: nn.Module) -> tuple[Tensor, str]:
    """Return zeros for the first convolution, and words for where the shape comes from."""
    name, first = next(((name, m) for name, m in model.named_modules() if isinstance(m, _ConvNd)), ("", None))
    if first is None:
        raise ConfigError(
            "example: cannot be made up, since the network has no convolution; expected: the input of the network"
        )
    weight, space = first.weight, first.weight.dim() - 2
    size = getattr(getattr(model, "net", None), "image_size", 224 if space < 3 else 32)
    zeros = torch.zeros(1, first.in_channels, *[size] * space, dtype=weight.dtype, device=weight.device)
    return zeros, f" (the {first.in_channels} channels of the first convolution, {name!r})"
