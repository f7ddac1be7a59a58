"""A network in inference as one graph of ATen operations, with its weights as constants. Graph passes work on it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from copy import copy
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from senet.errors import ConfigError
from senet.kernels.pages import Arena, is_dense
from senet.outputs import fill, named_tensors, plain_values, reason, tensors
from senet.tracing import evaluating

aten = torch.ops.aten

METADATA = "senet.json"
"""File with metadata in the archive of a `torch.export` program, see `senet.deploy.onnx.metadata`."""

PREFIX = "network."
"""Of the names of the network's parameters and modules, in what `torch.export` captures."""


class Graph:
    """A captured network.

    Attributes:
        module: the graph with its constants. It returns a tuple of tensors.
        outputs: what the network returned for the example, with empty tensors.
        names: names of the tensors in it, "" if it is one tensor.
        any_size: whether it takes any height and width, not only the example's.
        any_batch: whether it takes any batch size.
        smallest: the least height and width that it takes.
    """

    any_size = any_batch = False
    smallest: tuple[int, ...] = ()

    def __init__(self, program: ExportedProgram, outputs: Any) -> None:
        found = named_tensors(outputs)
        self.names = [name for name, _ in found]
        self.outputs = fill(outputs, (t.new_empty(0, device="meta") for _, t in found))
        self.module = _unlifted(program)
        _fold_constants(self)
        if any(self.calls(aten.as_strided.default)):
            raise ConfigError("model: calls as_strided, which fixes the memory format; expected: a network without")
        _drop_expands(self)

    @property
    def graph(self) -> fx.Graph:
        """The `torch.fx.Graph` of `module`."""
        return self.module.graph

    def calls(self, *targets: Any) -> Iterator[fx.Node]:
        """Its operations in order, those of `targets` or all. The graph may change while iterating."""
        for node in list(self.graph.nodes):
            if node.op == "call_function" and (not targets or node.target in targets) and not node._erased:
                yield node

    def constant(self, node: Any) -> Tensor | None:
        """Value of a constant's node; None if the node is not a constant."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            return getattr(self.module, str(node.target))
        return None

    def copy(self) -> Graph:
        """A copy to rewrite further; it shares the constants."""
        nodes = fx.Graph()
        out = nodes.graph_copy(self.graph, {})
        nodes.output(out)
        new = copy(self)
        new.module = fx.GraphModule(self.module, nodes)
        return new

    def add_constant(self, name: str, value: Tensor) -> fx.Node:
        """Add a constant at the start; its name is made unique."""
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            return _constant(self.module, name, value)

    def use_large_pages(self) -> None:
        """Move the constants to large pages of memory."""
        arena, moved = Arena(), dict[int, Tensor]()
        for name, value in [*self.module.named_buffers(recurse=False)]:
            if value.dtype == torch.float32 and value.layout == torch.strided and is_dense(value.shape, value.stride()):
                moved[id(value)] = moved[id(value)] if id(value) in moved else arena.copy(value)
                setattr(self.module, name, moved[id(value)])

    def batch(self, example: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Inputs to export the graph with: torch treats a size of 1 as a constant."""
        return tuple(
            t.new_zeros(max(2, len(t)) if self.any_batch else len(t), *t.shape[1:]) for t in inputs_of(example)
        )

    def tidy(self) -> None:
        """Drop unused operations and constants, and generate the graph's code."""
        self.graph.eliminate_dead_code()
        used = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        for name in [name for name, _ in self.module.named_buffers(recurse=False) if name not in used]:
            delattr(self.module, name)
        self.graph.lint()
        self.module.recompile()


class _Flat(nn.Module):
    """A network that returns the tensors of its output as a tuple: `torch.export` takes no other objects."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors(self.network(*args)))


def inputs_of(example: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the arguments of a call."""
    return example if isinstance(example, tuple) else (example,)


def capture(model: nn.Module | str | PathLike[str], example: Tensor | tuple[Tensor, ...]) -> Graph:
    """Capture a network in eval mode. Graph and network are then run and compared on other batches and sizes.

    The network is not changed; the graph's constants are copies. Or open the file of one: see `_opened`.

    Raises:
        ConfigError: `torch.export` cannot capture the network, it changes its own buffers, or it calls `as_strided`.
    """
    if isinstance(model, (str, PathLike)):
        return _opened(Path(model), inputs_of(example))
    args, flat = inputs_of(example), _Flat(model)
    shapes = [tuple(t.shape) for t in args]
    try:
        with evaluating(flat), torch.autocast(args[0].device.type, enabled=False), warnings.catch_warnings():
            # A warning of torch 2.11 about itself.
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated", FutureWarning)
            outputs = model(*(t.clone() for t in args))
            g = _any_batch(flat, args, outputs) or Graph(_export(flat, args), outputs)
            if len(args) == 1 and len(shapes[0]) > 2:
                n, c, *size = shapes[0]
                n = 1 if g.any_batch else n
                larger, odd = (n, c, *(d + 32 for d in size)), (n, c, *(d + 1 + i for i, d in enumerate(size)))
                # Networks that halve feature maps and join them again do not take odd sizes.
                g.any_size = bool(_is_same(flat, g, args, [larger])) and _is_same(flat, g, args, [odd]) is not False
                g.smallest = _smallest(flat, g, args, n) if g.any_size else tuple(size)
            return g
    except ConfigError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {reason(error)}"
        raise ConfigError(f"model: torch.export cannot capture this network ({text})") from error


def _opened(path: Path, args: tuple[Tensor, ...]) -> Graph:
    """Open a `.pt2` file of senet as a graph. It takes the batches and sizes that were left open in the file.

    Raises:
        ConfigError: it is no such file, or does not take inputs of these shapes.
    """
    found, field = {METADATA: ""}, f"model: {str(path)!r}"
    if not path.is_file():
        raise ConfigError(f"{field}: no such file; expected: a network, or a .pt2 file that senet wrote")
    try:
        with warnings.catch_warnings():
            # torch 2.11 warns about its own buffers.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            program = torch.export.load(path, extra_files=found)
    except Exception as error:
        raise ConfigError(f"{field}: not a program of torch.export ({reason(error)})") from error
    if not found[METADATA]:
        raise ConfigError(f"{field}: was not written by senet; expected: a file of `senet export` or export_program")
    names = set(program.graph_signature.user_inputs)
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in names]
    open_dims = [[not isinstance(d, int) for d in t.shape] for t in inputs]
    fits = len(inputs) == len(args) and all(
        t.dim() == x.dim()
        and t.dtype == x.dtype
        and all(a or b == c for a, b, c in zip(o, t.shape, x.shape, strict=True))
        for t, x, o in zip(inputs, args, open_dims, strict=True)
    )
    try:
        if not fits:
            raise ValueError("another number of inputs, dtype or shape")
        g = Graph(program, program.module()(*args))
    except (AssertionError, RuntimeError, ValueError) as error:
        wanted = "; ".join(f"{tuple(t.shape)} {t.dtype}" for t in inputs)
        raise ConfigError(f"example: does not fit {path}, which takes {wanted} ({reason(error)})") from error
    g.any_batch, g.any_size = open_dims[0][0], len(args) == 1 and any(open_dims[0][2:])
    stated = json.loads(json.loads(found[METADATA]).get("senet.smallest", "[]"))
    g.smallest = tuple(stated) if g.any_size else tuple(args[0].shape[2:])
    return g


def _export(flat: _Flat, args: tuple[Tensor, ...], dims: Any = None) -> ExportedProgram:
    """Call `torch.export.export` without its log: of a network that it cannot capture it prints the whole graph."""
    with quiet():
        return torch.export.export(flat, args, dynamic_shapes=None if dims is None else (dims,), strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from printing pages about sizes that it cannot reason about."""
    was = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(was)


def _any_batch(flat: _Flat, args: tuple[Tensor, ...], outputs: Any) -> Graph | None:
    """Capture a network for any batch size; None if it works for one size only."""
    if len({len(t) for t in args}) > 1:
        return None
    # torch treats a size of 1 as a constant, and it marks the tensors that it is given.
    batch = tuple(t.new_zeros(max(2, len(t)), *t.shape[1:]) for t in args)
    try:
        program = _export(flat, batch, tuple({0: Dim.DYNAMIC} for _ in args))
    except Exception:
        return None
    if not all(r.lower <= 2 and r.upper > 2**30 for r in program.range_constraints.values()):
        return None
    g = Graph(program, outputs)
    sizes = [[(n, *t.shape[1:]) for t in args] for n in (1, 3)]
    g.any_batch = all(_is_same(flat, g, args, shapes) is not False for shapes in sizes)
    return g if g.any_batch else None


def _smallest(flat: _Flat, g: Graph, args: tuple[Tensor, ...], n: int) -> tuple[int, ...]:
    """The least height and width, going down by powers of two, at which graph and network agree for n images."""
    _, c, *size = args[0].shape
    while max(size) > 1:
        smaller = [1 << max((d - 1).bit_length() - 1, 0) for d in size]
        if not _is_same(flat, g, args, [(n, c, *smaller)]):
            break
        size = smaller
    return tuple(size)


def _is_same(flat: _Flat, g: Graph, args: tuple[Tensor, ...], shapes: Sequence[Sequence[int]]) -> bool | None:
    """Whether graph and network agree on random inputs of these shapes; None if neither takes them."""
    generator = torch.Generator(args[0].device).manual_seed(0)
    xs = [
        torch.randn(wanted, dtype=t.dtype, device=t.device, generator=generator)
        for wanted, t in zip(shapes, args, strict=True)
    ]
    results: list[Any] = []
    for net in (flat.network, g.module):
        try:
            with _one_algorithm():
                results.append(net(*(x.clone() for x in xs)))
        except Exception:
            results.append(None)
    want, have = results
    if want is None or have is None:
        return None if want is have else False
    # The graph has the numbers of the example in its output.
    if plain_values(want) != plain_values(g.outputs):
        return False
    return all(map(_is_close, tensors(want), have))


@contextmanager
def _one_algorithm() -> Iterator[None]:
    """Make cuDNN deterministic, and without TF32."""
    cudnn: Any = torch.backends.cudnn
    was = cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision
    # Not `cudnn.flags`, which raises if the caller has set `fp32_precision`.
    cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision = True, False, "ieee"
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision = was


def _is_close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    # Both run the same operations; another function differs by much more.
    near = torch.finfo(a.dtype).eps ** 0.5 / 8 if a.is_floating_point() else 0
    return torch.allclose(a, b, rtol=0, atol=near * float(a.abs().max()) if a.numel() else 0, equal_nan=True)


def _unlifted(program: ExportedProgram) -> fx.GraphModule:
    """The program's graph, with copies of its parameters and buffers as constants in place of inputs."""
    program = program.run_decompositions({})
    changed = [o for o in program.graph_signature.output_specs if o.kind != OutputKind.USER_OUTPUT]
    if changed:
        is_input = changed[0].kind == OutputKind.USER_INPUT_MUTATION
        what = "its input" if is_input else repr(str(changed[0].target).removeprefix(PREFIX))
        raise ConfigError(f"model: changes {what} in evaluation; expected: one that changes nothing")
    new = fx.GraphModule(nn.Module(), fx.Graph())
    values: dict[fx.Node, fx.Node] = {}
    specs = {s.arg.name: s for s in program.graph_signature.input_specs}
    for node in program.graph_module.graph.nodes:
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if spec is not None and spec.kind != InputKind.USER_INPUT:
            target = str(spec.target)
            value = program.state_dict.get(target, program.constants.get(target))
            values[node] = _constant(new, target.removeprefix(PREFIX), value.detach().clone())  # type: ignore[union-attr]
        elif node.op == "get_attr":
            raise ConfigError(f"model: has control flow ({node.target!r}); expected: a network without")
        else:
            values[node] = new.graph.node_copy(node, values.__getitem__)
    new.recompile()
    return new


def _constant(module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    """Add a constant, with a unique name like this one, at the graph's insertion point."""
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
    """Compute once what depends on constants alone, such as standardised weights."""
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
    """Drop `expand` before products and sums, as in `y.expand_as(x) * x`: they broadcast, and it fixes the size."""
    for node in g.calls(aten.mul.Tensor, aten.add.Tensor):
        for x, other in (node.args[:2], node.args[1::-1]):
            # The other factor has the full shape.
            if isinstance(x, fx.Node) and x.target is aten.expand.default and shape(other) == shape(node):
                node.replace_input_with(x, x.args[0])  # type: ignore[arg-type]
    g.tidy()


def operation(node: fx.Node) -> str:
    """Name of the operation that a node calls: "conv2d"."""
    return getattr(node.target, "_opname", None) or getattr(node.target, "__name__", str(node.target))


def shape(node: Any) -> tuple[Any, ...]:
    """Shape of a node's tensor; () if it has none."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def place(node: fx.Node) -> str:
    """Name of the innermost module that a node comes from."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [name for name, _ in stack.values()]
    return (names[-1] if names else "").removeprefix(PREFIX) or node.name


def only_user(node: fx.Node) -> fx.Node | None:
    """The only node that uses this one; None if there are none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None
