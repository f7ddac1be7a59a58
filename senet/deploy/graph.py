"""A network's inference as one graph of ATen operations, with its weights as constants: what the rewrites work on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import TreeSpec, tree_leaves

from senet.errors import ConfigError
from senet.tracing import evaluating

aten = torch.ops.aten


class Graph:
    """A network's inference: `module` is the graph with its constants, `spec` the nest of its outputs.

    any_size: whether it takes maps of any height and width, not only the example's.  any_batch: of any batch.
    smallest: the height and width from which on it takes any.
    """

    any_size = any_batch = False
    smallest: tuple[int, ...] = ()

    def __init__(self, program: ExportedProgram) -> None:
        self.spec: TreeSpec = program.call_spec.out_spec  # type: ignore[assignment]
        self.module = _unlifted(program)
        _fold_constants(self)
        if any(self.calls(aten.as_strided.default)):
            raise ConfigError("model: its as_strided fixes where maps lie in memory; expected: a network without")
        _drop_expands(self)

    @property
    def graph(self) -> fx.Graph:
        """The graph itself."""
        return self.module.graph

    def calls(self, *targets: Any) -> Iterator[fx.Node]:
        """Its operations in their order, of these targets or all; it may change while they are read."""
        for node in list(self.graph.nodes):
            if node.op == "call_function" and (not targets or node.target in targets) and not node._erased:
                yield node

    def constant(self, node: Any) -> Tensor | None:
        """The value of a constant's node; None where the node is none."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            return getattr(self.module, str(node.target))
        return None

    def copy(self) -> Graph:
        """The same graph to rewrite further; the constants are this one's."""
        nodes = fx.Graph()
        out = nodes.graph_copy(self.graph, {})
        nodes.output(out)
        new = copy(self)
        new.module = fx.GraphModule(self.module, nodes)
        return new

    def add_constant(self, name: str, value: Tensor) -> fx.Node:
        """A new constant, before everything; its name is made unique."""
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            return _constant(self.module, name, value)

    def tidy(self) -> None:
        """Drop operations and constants that nothing uses, and compile the graph's Python."""
        self.graph.eliminate_dead_code()
        used = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        for name in [name for name, _ in self.module.named_buffers() if name not in used]:
            delattr(self.module, name)
        self.graph.lint()
        self.module.recompile()


def capture(model: nn.Module, example: Tensor) -> Graph:
    """The graph of a network in eval mode, for any batch and any size where running both says that it is the same.

    The network is as it was when this returns, and the graph's constants are copies. Raises ConfigError for a network
    that `torch.export` cannot capture, whose evaluation changes its own buffers, or that calls `as_strided`.
    """
    try:
        with evaluating(model), torch.autocast(example.device.type, enabled=False), warnings.catch_warnings():
            # torch 2.11 warns of itself.
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated", FutureWarning)
            g = _any_batch(model, example) or Graph(torch.export.export(model, (example,), strict=False))
            n, c, *size = example.shape
            n = 1 if g.any_batch else n
            larger, odd = (n, c, *(d + 32 for d in size)), (n, c, *(d + 1 + i for i, d in enumerate(size)))
            # Networks that halve their maps and join them again do not take the odd one.
            g.any_size = bool(_is_same(model, g, example, larger)) and _is_same(model, g, example, odd) is not False
            g.smallest = _smallest(model, g, example, n) if g.any_size else tuple(size)
            return g
    except ConfigError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise ConfigError(f"model: torch.export cannot capture this network ({text})") from error


def _any_batch(model: nn.Module, example: Tensor) -> Graph | None:
    """The graph of a network for any batch; None where it has one of its own."""
    # torch takes a size of 1 for a constant; and it leaves its marks on what it is given.
    batch = example.new_zeros(max(2, len(example)), *example.shape[1:])
    try:
        program = torch.export.export(model, (batch,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    except Exception:
        return None
    if not all(r.lower <= 2 and r.upper > 2**30 for r in program.range_constraints.values()):
        return None
    g = Graph(program)
    g.any_batch = all(_is_same(model, g, example, (n, *example.shape[1:])) is not False for n in (1, 3))
    return g if g.any_batch else None


def _smallest(model: nn.Module, g: Graph, example: Tensor, n: int) -> tuple[int, ...]:
    """The last of ever smaller powers of two down to which a graph and its network are the same for n images."""
    size = tuple(example.shape[2:])
    while max(size) > 1:
        smaller = tuple(1 << max((d - 1).bit_length() - 1, 0) for d in size)
        if not _is_same(model, g, example, (n, example.shape[1], *smaller)):
            break
        size = smaller
    return size


def _is_same(model: nn.Module, g: Graph, example: Tensor, shape: Sequence[int]) -> bool | None:
    """Whether a graph and its network give the same for random images of a shape; None where neither takes it."""
    generator = torch.Generator(example.device).manual_seed(0)
    x = torch.randn(shape, dtype=example.dtype, device=example.device, generator=generator)
    results: list[Any] = []
    for net in (model, g.module):
        try:
            with _one_algorithm():
                results.append(tree_leaves(net(x.clone())))
        except Exception:
            results.append(None)
    want, have = results
    return None if want is have is None else None not in (want, have) and all(map(_is_close, want, have))


@contextmanager
def _one_algorithm() -> Iterator[None]:
    """Let a GPU convolve the same way each time, without TF32."""
    cudnn: Any = torch.backends.cudnn
    was = cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision
    # Not `cudnn.flags`, which raises where the caller has set `fp32_precision`.
    cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision = True, False, "ieee"
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision = was


def _is_close(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a == b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    # Both run the same operations; what differs is much more, or the shape.
    near = torch.finfo(a.dtype).eps ** 0.5 / 8 if a.is_floating_point() else 0
    return torch.allclose(a, b, rtol=0, atol=near * float(a.abs().max()) if a.numel() else 0, equal_nan=True)


def _unlifted(program: ExportedProgram) -> fx.GraphModule:
    """The program's graph of ATen operations with copies of its parameters and buffers as constants, not inputs."""
    program = program.run_decompositions({})
    changed = [o for o in program.graph_signature.output_specs if o.kind != OutputKind.USER_OUTPUT]
    if changed:
        what = changed[0].target
        raise ConfigError(f"model: its evaluation changes {what!r}; expected: one that changes nothing")
    new = fx.GraphModule(nn.Module(), fx.Graph())
    values: dict[fx.Node, fx.Node] = {}
    specs = {s.arg.name: s for s in program.graph_signature.input_specs}
    for node in program.graph_module.graph.nodes:
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if spec is not None and spec.kind != InputKind.USER_INPUT:
            target = str(spec.target)
            value = program.state_dict.get(target, program.constants.get(target))
            values[node] = _constant(new, target, value.detach().clone())  # type: ignore[union-attr]
        elif node.op == "get_attr":
            raise ConfigError(
                f"model: {node.target!r} is a graph within the graph (control flow); expected: a network without"
            )
        else:
            values[node] = new.graph.node_copy(node, values.__getitem__)
    new.recompile()
    return new


def _constant(module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    """A constant of a unique name like this one, where the graph inserts."""
    name, i = name.replace(".", "_"), 0
    unique = name
    while hasattr(module, unique):
        i += 1
        unique = f"{name}_{i}"
    module.register_buffer(unique, value)
    node = module.graph.get_attr(unique)
    node.meta["val"] = value
    return node


def _fold_constants(g: Graph) -> None:
    """What is made from constants alone, such as standardised weights, once and for all."""
    known: dict[fx.Node, Any] = {n: g.constant(n) for n in g.graph.nodes if n.op == "get_attr"}
    for node in g.calls():
        is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.all_input_nodes and all(n in known for n in node.all_input_nodes) and not is_random:
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    for node, value in known.items():
        if node.op == "call_function" and isinstance(value, Tensor) and any(user not in known for user in node.users):
            node.replace_all_uses_with(g.add_constant(node.name, value))


def _drop_expands(g: Graph) -> None:
    """Let products and sums do what `y.expand_as(x) * x` does before them: it would fix the size."""
    for node in g.calls(aten.mul.Tensor, aten.add.Tensor):
        for x, other in (node.args[:2], node.args[1::-1]):
            # The other has the whole shape itself.
            if isinstance(x, fx.Node) and x.target is aten.expand.default and shape(other) == shape(node):
                node.replace_input_with(x, x.args[0])  # type: ignore[arg-type]
    g.tidy()


def operation(node: fx.Node) -> str:
    """The bare name of what a node calls: "conv2d"."""
    return getattr(node.target, "_opname", None) or getattr(node.target, "__name__", str(node.target))


def shape(node: Any) -> tuple[Any, ...]:
    """The shape of a node's tensor; () where it has none."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def place(node: fx.Node) -> str:
    """The innermost module that a node comes from, by its name in the network."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [name for name, _ in stack.values()]
    return names[-1] if names else node.name


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that uses this one; None where there are none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None
