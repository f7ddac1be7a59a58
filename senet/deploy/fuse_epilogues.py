"""The end of a block in one operation: the last 1x1 convolution, gates, sum and ReLU; else gates and sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from senet.deploy.fold import weights_of
from senet.deploy.graph import Graph, aten, only_user, operation, shape
from senet.deploy.squeeze_early import VIEWS, Gated, groups_of, pointwise_layer

WIDEST = 1024
"""Input channels up to which the C kernel beats oneDNN: a tile's rows stay in the nearest cache."""


@dataclass(frozen=True)
class Epilogue:
    """`end = relu(s u + e)`: `u` what the gates multiply; s, or e, or the ReLU may be missing."""

    end: fx.Node
    u: fx.Node
    s: fx.Node | None
    e: fx.Node | None
    relu: bool


def find_epilogues(g: Graph, gates: dict[fx.Node, Gated]) -> Iterator[Epilogue]:
    """Residual sums of a gated map or of a convolution, with the ReLU that follows; each node is in one epilogue.

    A epilogue reads what the graph is by then, so those before it may be fused meanwhile.
    """
    for add in g.calls(aten.add.Tensor):
        if len(add.args) != 2 or add.kwargs or not all(isinstance(a, fx.Node) for a in add.args):
            continue
        a, b = add.args
        if shape(a) != shape(b) or len(shape(a)) < 3:
            continue
        sides: list[Any] = [(x, y) for x, y in ((a, b), (b, a)) if only_user(x) is add]  # type: ignore[arg-type]
        gated = next(((gates[x], y) for x, y in sides if x in gates), None)
        conv = next(((x, y) for x, y in sides if pointwise_layer(g, x) is not None and groups_of(x) == 1), None)
        relu = only_user(add)
        end = relu if relu is not None and relu.target is aten.relu.default else add
        if gated is not None:
            yield Epilogue(end, gated[0].u, gated[0].s, gated[1], end is not add)
        elif conv is not None:
            yield Epilogue(end, conv[0], None, conv[1], end is not add)


def fuse_epilogue(g: Graph, t: Epilogue, how: str) -> bool:
    """Put one operation in an epilogue's place; False where it stays.

    how: "c" for the C kernel (a CPU with a compiler), "cuda" for the Triton kernel, "eager" for `addcmul`.
    """
    if len({n.meta["val"].dtype for n in (t.u, t.s, t.e, t.end) if n is not None}) > 1:
        return False
    conv = pointwise_layer(g, t.u)
    is_own = conv is not None and groups_of(conv) == 1 and len(t.u.users) == 1 and len(shape(t.u)) == 4
    if how == "eager" or conv is None or not is_own or (how == "c" and not _suits(g, conv)):
        return t.s is not None and how == "eager" and _addcmul(g, t)
    h, weight, bias = conv.args[0], conv.args[1], conv.args[2] if len(conv.args) > 2 else None
    s = None if t.s is None else _flat(g, t.s, t.end)
    with g.graph.inserting_before(t.end):
        if how == "cuda":
            import senet.kernels.conv1x1  # noqa: F401  (defines the operation)

            y = g.graph.call_function(torch.ops.senet.conv1x1.default, (h, weight, bias, s, t.e, t.relu))
        else:
            y = _packed(g, conv, h, bias, s, t)
    y.meta = dict(t.end.meta)
    t.end.replace_all_uses_with(y)
    return True


def _suits(g: Graph, conv: fx.Node) -> bool:
    weight = g.constant(conv.args[1])
    return weight is not None and weight.dtype == torch.float32 and weight.shape[1] <= WIDEST


def _packed(g: Graph, conv: fx.Node, h: Any, bias: Any, s: fx.Node | None, t: Epilogue) -> fx.Node:
    from senet.kernels.conv1x1_cpu import pack

    weight, _ = weights_of(g, conv)
    w = g.add_constant(f"{conv.args[1].target}_packed", pack(weight.float()))  # type: ignore[union-attr]
    args = (h, w, weight.shape[0], bias, s, t.e, t.relu)
    return g.graph.call_function(torch.ops.senet.conv1x1_packed.default, args)


def _flat(g: Graph, s: fx.Node, before: fx.Node) -> fx.Node:
    """Gates (N, C, 1, 1) as (N, C)."""
    if operation(s) in VIEWS and shape(s.args[0]) == shape(s)[:2]:
        return s.args[0]  # type: ignore[return-value]
    with g.graph.inserting_before(before):
        flat = g.graph.call_function(aten.flatten.using_ints, (s, 1))
    flat.meta = {"val": s.meta["val"].flatten(1)}
    return flat


def _addcmul(g: Graph, t: Epilogue) -> bool:
    with g.graph.inserting_before(t.end):
        y = g.graph.call_function(aten.addcmul.default, (t.e, t.u, t.s))
        y.meta = dict(t.end.meta)
        if t.relu:
            y = g.graph.call_function(aten.relu.default, (y,))
            y.meta = dict(t.end.meta)
    t.end.replace_all_uses_with(y)
    return True


IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.addcmul.default: aten.addcmul_.default,
}

PACKED = ("conv1x1_packed", "conv3x3_packed")
"""The C kernels: `(h, w, c, ..., e, relu)`."""

OWNERS = {
    *("conv1d", "conv2d", "conv3d", "linear", "relu", "silu", "hardswish", "sigmoid", "hardsigmoid", "add", "mul"),
    *("addcmul", *PACKED, "_convolution_pointwise", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    *("mean", "amax", "cat", "clone"),
}
"""Operations whose result is new memory, always. (A schema does not tell: `einsum` and `type_as` may give a view.)"""


def write_in_place(g: Graph, compiled: bool) -> None:
    """Results into an input that nothing else reads: activations, sums, products, and the C kernels' sums.

    compiled: the last one alone; a compiler does the others itself. After all other rewrites, which may move a reader.
    """
    for node in g.calls(*IN_PLACE) if not compiled else ():
        if is_spare(node.args[0], node):
            node.target = IN_PLACE[node.target]  # type: ignore[index]
    for node in g.calls():
        if operation(node) in PACKED and is_spare(node.args[-2], node):
            e: Any = node.args[-2]
            in_place = getattr(torch.ops.senet, f"{operation(node)}_").default
            with g.graph.inserting_before(node):
                g.graph.call_function(in_place, (*node.args[:2], *node.args[3:]))
            node.replace_all_uses_with(e)
            g.graph.erase_node(node)
        elif str(node.target) == "mkldnn._convolution_pointwise.binary" and is_spare(node.args[1], node):
            node.target = torch.ops.mkldnn._convolution_pointwise_.binary
            node.args = (node.args[1], node.args[0], *node.args[2:])


def is_spare(x: Any, node: fx.Node) -> bool:
    """Whether a node may write its result into x: memory of x's own, which nothing reads later or as another input."""
    if shape(x) != shape(node) or len(shape(x)) < 3 or x.meta["val"].dtype != node.meta["val"].dtype:
        return False
    owner = x
    while owner.target in IN_PLACE.values() or operation(owner) == "_convolution_pointwise_":
        owner = owner.args[0]
    if owner.op != "call_function" or operation(owner) not in OWNERS or node.args.count(x) > 1:
        return False
    memory, todo = {owner}, [owner]
    while todo:
        for user in todo.pop().users:
            if user not in memory and user is not node and operation(user) not in OWNERS:
                memory.add(user)
                todo.append(user)
    reads = {n for n in node.all_input_nodes if n is not x}
    return not memory & reads and all(user <= node for m in memory for user in m.users)
