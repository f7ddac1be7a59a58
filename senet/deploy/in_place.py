"""Write results in place: into an input that nothing else reads, for less memory traffic."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from senet.deploy.graph import Graph, aten, operation, shape

IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.addcmul.default: aten.addcmul_.default,
}

PACKED = ("conv1x1_packed", "conv3x3_packed", "direct", "gated")
"""The convolutions in C, and the scaling by gates: `(h, w, c, ..., e, act)`."""

OWNERS = {
    *("conv1d", "conv2d", "conv3d", "linear", "relu", "silu", "hardswish", "sigmoid", "hardsigmoid", "add", "mul"),
    *(
        "addcmul",
        *PACKED,
        "linear_packed",
        "depthwise",
        "_convolution_pointwise",
        "max_pool2d",
        "avg_pool2d",
        "pool",
        "adaptive_avg_pool2d",
    ),
    *("mean", "amax", "cat", "clone"),
}
"""Operations that always return new memory. A schema does not tell: `einsum` and `type_as` may return a view."""


def write_in_place(g: Graph, compiled: bool) -> None:
    """Write activations, sums and products into an input that nothing else reads. Run after all other passes.

    compiled: do so for the sums of the convolutions in C only; a compiler does the rest.
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
    """Whether a node may write its result into x: x owns its memory, and nothing else reads it then or later."""
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
