"""Multiply by gates as ONNX Runtime does it fastest on a CPU: as a depthwise 1x1 convolution with the gates as weights.

ONNX Runtime keeps feature maps in blocks of 8 or 16 channels and fuses a convolution with the sum and ReLU behind it.
Around a product with gates (N, C, 1, 1) it leaves that layout: five passes over the widest feature map. But
`relu(s u + e)` is a depthwise 1x1 convolution of u by the weights s, plus e, and ReLU: one pass in blocks. Only
constant weights get that layout, so there are two steps. `mark_gates` multiplies by a constant that identifies the
unit; `put_gates` replaces it by the gates in the file that ONNX Runtime has optimized. Weights are shared by a batch,
so a batch becomes one image of N C channels there.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from senet.deploy.graph import Graph, aten, shape
from senet.deploy.squeeze_early import find_gates, is_mean
from senet.errors import ConfigError

GATES = "gates{}"
"""Names of the outputs that stand for the gates of each unit."""

FIRST = 1e6
"""Weight that marks the first unit, the next ones by 1 more each. No real weight is as large."""


def mark_gates(g: Graph) -> int:
    """Replace gates by marks, and add the gates to the graph's outputs. Return how many units there are.

    The graph is then only good for export and `put_gates`.
    """
    gates = [gated for gated in find_gates(g) if len(shape(gated.u)) == 4]
    outputs = g.graph.output_node()
    for number, gated in enumerate(gates):
        channels, squeeze = shape(gated.u)[1], gated.squeeze
        marker = g.add_constant(
            f"number{number}", torch.full((channels, 1, 1, 1), FIRST + number, dtype=torch.float32, device="cpu")
        )
        with g.graph.inserting_before(gated.product):
            args = (gated.u, marker, None, [1, 1], [0, 0], [1, 1], channels)
            marked = g.graph.call_function(aten.conv2d.default, args)
        outputs.args = ([*outputs.args[0], gated.s],)  # type: ignore[misc]
        gated.product.replace_all_uses_with(marked)
        if squeeze is not None and is_mean(squeeze) and not squeeze._erased:
            with g.graph.inserting_before(squeeze):
                z = g.graph.call_function(_mean_of_map, (squeeze.args[0], len(shape(squeeze)) == 2))
            squeeze.replace_all_uses_with(z)
    g.tidy()
    return len(gates)


def _mean_of_map(u: Tensor, flat: bool) -> Tensor:
    # It keeps the blocked layout; the exporter's choice, ReduceMean, does not.
    z = torch.onnx.ops.symbolic("GlobalAveragePool", (u,), dtype=u.dtype, shape=(*u.shape[:2], 1, 1))
    return z.flatten(1) if flat else z


def put_gates(proto: bytes, units: int) -> bytes:
    """Optimize an ONNX file of one batch size by ONNX Runtime on this machine, and put gates in the place of marks.

    Args:
        proto: the file, exported after `mark_gates`.
        units: how many units were marked.

    Raises:
        ConfigError: ONNX Runtime has merged the product of a unit with something else.
    """
    from onnx import helper, numpy_helper

    model = _as_run_here(proto)
    graph = model.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    constants = {t.name: t for t in graph.initializer}
    nodes: list[Any] = []
    found = set()

    def added(op: str, name: str, new: str, *values: int) -> str:
        key = f"{op}_{'_'.join(map(str, values))}"
        if key not in constants:
            constants[key] = numpy_helper.from_array(torch.tensor(values, device="cpu").numpy(), key)
        nodes.append(helper.make_node(op, [name, key], [new]))
        return new

    for node in graph.node:
        number, channels = _number(node, constants)
        if number is None:
            nodes.append(node)
            continue
        found.add(number)
        out, group = node.output[0], next(a for a in node.attribute if a.name == "group")
        s, filled, width = GATES.format(number), group.i, batch * group.i
        if channels < filled:
            s = added("Pad", s, f"{out}_filled", *(0, 0, 0, 0), *(0, filled - channels, 0, 0))
        node.input[1] = added("Reshape", s, f"{out}_gates", width, 1, 1, 1)
        if batch > 1:
            # 0 keeps a height and a width.
            for i in {0, 3} & set(range(len(node.input))):
                node.input[i] = added("Reshape", node.input[i], f"{out}_in{i}", 1, width, 0, 0)
            node.output[0], group.i = f"{out}_one_image", width
        nodes.append(node)
        if batch > 1:
            added("Reshape", node.output[0], out, batch, filled, 0, 0)
    if len(found) < units:
        missing = units - len(found)
        raise ConfigError(f"optimize: 'machine' cannot express {missing} units; expected: 'any' or None")
    outputs = [o for o in graph.output if o.name not in map(GATES.format, range(units))]
    ordered = _in_order(nodes, {*constants, *(i.name for i in graph.input)})
    used = {name for node in ordered for name in node.input}
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.node.extend(ordered)
    graph.initializer.extend(t for name, t in constants.items() if name in used)
    graph.output.extend(outputs)
    return model.SerializeToString()


def _number(node: Any, constants: dict[str, Any]) -> tuple[int | None, int]:
    """If a node is a depthwise 1x1 convolution by a mark: the unit's number, and its channels without padding."""
    from onnx import numpy_helper

    weight = constants.get(node.input[1]) if node.op_type in ("Conv", "FusedConv") else None
    if weight is None or list(weight.dims[1:]) != [1, 1, 1]:
        return None, 0
    values = numpy_helper.to_array(weight).flatten()
    marked = values[values >= FIRST]
    return (int(marked[0] - FIRST), len(marked)) if len({*marked}) == 1 else (None, 0)


def _in_order(nodes: list[Any], known: set[str]) -> list[Any]:
    """Sort nodes by what they need: gates may be computed after the place of their mark."""
    ordered, waiting = [], nodes
    while waiting:
        late = []
        for node in waiting:
            if known.issuperset(filter(None, node.input)):
                ordered.append(node)
                known.update(node.output)
            else:
                late.append(node)
        assert len(late) < len(waiting)
        waiting = late
    return ordered


def _as_run_here(proto: bytes) -> Any:
    """The file, optimized by ONNX Runtime for this machine."""
    import onnx
    import onnxruntime

    with TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        # It would warn that the file is for this machine.
        options.log_severity_level = 3
        onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        return onnx.load(path)
