"""Give a unit's squeeze, and its two fully connected layers with their activations, to C: one call each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from senet.deploy.convolutions import activation
from senet.deploy.fold import layer_of, weights_of
from senet.deploy.graph import Graph, aten, operation, shape
from senet.deploy.squeeze_early import VIEWS, Gated, is_dense, is_mean, is_squeeze
from senet.kernels import dispatch


def use_squeeze(g: Graph) -> None:
    """Replace means of feature maps over all positions by one operation in C."""
    for node in g.calls():
        if not is_squeeze(node) or not is_mean(node) or node.kwargs or len(shape(u := node.args[0])) != 4:
            continue
        value = node.meta["val"]
        if not dispatch.c_convolutions(value.device, value.dtype):
            continue
        import senet.kernels.gates.c  # noqa: F401  (defines the operation)

        with g.graph.inserting_before(node):
            z: Any = g.graph.call_function(torch.ops.senet.global_mean.default, (u,))
            z.meta = {"val": value.new_empty(shape(u)[:2])}
            if len(shape(node)) > 2:
                z = g.graph.call_function(aten.reshape.default, (z, [-1, shape(u)[1], 1, 1]))
                z.meta = dict(node.meta)
        node.replace_all_uses_with(z)
    g.graph.eliminate_dead_code()


def use_gates(g: Graph, gates: Iterable[Gated]) -> None:
    """Replace what is between a squeeze and its product by one operation in C: two linear layers, or ECA's one."""
    for gated in gates:
        if _use_channel_gates(g, gated):
            continue
        gate = _behind_views(gated.s)
        second = _layer(g, gate) if activation(gate) != "none" else None
        if second is None:
            continue
        inner = _behind_views(second.args[0])
        first = _layer(g, inner) if activation(inner) != "none" else layer_of(g, inner)
        if first is None or not is_dense(g, first):
            continue
        (w1, b1), (w2, b2) = (weights_of(g, layer) for layer in (first, second))
        z, value = _behind_views(first.args[0]), gate.meta["val"]
        if not dispatch.c_convolutions(value.device, value.dtype) or shape(z)[:2] != (shape(gate)[0], w1.shape[1]):
            continue
        import senet.kernels.gates.c  # noqa: F401  (defines the operation)

        name = str(first.args[1].target)  # type: ignore[union-attr]
        constants = [
            None if t is None else g.add_constant(f"{name}_{of}", t.float())
            for of, t in (("w1", w1.flatten(1)), ("b1", b1), ("w2", w2.flatten(1).t().contiguous()), ("b2", b2))
        ]
        with g.graph.inserting_before(gate):
            flat: Any = z
            if len(shape(z)) > 2:
                flat = g.graph.call_function(aten.flatten.using_ints, (z, 1))
                flat.meta = {"val": z.meta["val"].flatten(1)}
            args = (flat, *constants, activation(inner), activation(gate))
            s = g.graph.call_function(torch.ops.senet.gates.default, args)
            s.meta = {"val": value.new_empty((shape(gate)[0], len(w2)))}
            last = s
            if len(shape(gate)) > 2:
                last = g.graph.call_function(aten.reshape.default, (s, [-1, len(w2), *[1] * (len(shape(gate)) - 2)]))
                last.meta = dict(gate.meta)
        gate.replace_all_uses_with(last)
    g.graph.eliminate_dead_code()


def _use_channel_gates(g: Graph, gated: Gated) -> bool:
    """Replace a convolution over channels, with the gate behind it; False if the unit has another form."""
    gate = _behind_all_views(gated.s)
    conv = _behind_all_views(gate.args[0]) if activation(gate) != "none" else None
    if conv is None or conv.target is not aten.conv1d.default:
        return False
    weight = g.constant(conv.args[1])
    k = 0 if weight is None else weight.shape[-1]
    given = [*conv.args[2:], *(None, [1], [0], [1], 1)[len(conv.args) - 2 :]]
    z, value = _behind_all_views(conv.args[0]), gate.meta["val"]
    if weight is None or weight.shape[:2] != (1, 1) or k % 2 == 0 or given != [None, [1], [k // 2], [1], 1]:
        return False
    channels = shape(gated.s)[:2]
    if shape(conv) != (channels[0], 1, channels[1]) or not dispatch.c_convolutions(value.device, value.dtype):
        return False
    import senet.kernels.gates.c  # noqa: F401  (defines the operation)

    w = g.add_constant(f"{conv.args[1].target}_row", weight.flatten().float())  # type: ignore[union-attr]
    with g.graph.inserting_before(gate):
        flat: Any = z
        if len(shape(z)) > 2:
            flat = g.graph.call_function(aten.reshape.default, (z, [-1, channels[1]]))
            flat.meta = {"val": value.new_empty(channels)}
        s = g.graph.call_function(torch.ops.senet.channel_gates.default, (flat, w, activation(gate)))
        s.meta = {"val": value.new_empty(channels)}
        last = g.graph.call_function(aten.reshape.default, (s, [-1, *shape(gated.s)[1:]]))
        last.meta = dict(gated.s.meta)
    gated.product.replace_input_with(gated.s, last)
    return True


def _layer(g: Graph, node: fx.Node) -> fx.Node | None:
    """The fully connected layer that an activation applies to; None if it is none."""
    layer = layer_of(g, _behind_views(node.args[0]))
    return layer if layer is not None and is_dense(g, layer) else None


def _behind_all_views(node: Any) -> Any:
    while operation(node) in VIEWS:
        node = node.args[0]
    return node


def _behind_views(node: Any) -> Any:
    """What a node is a view of, through views that keep images and channels."""
    while operation(node) in VIEWS and shape(node)[:2] == shape(node.args[0])[:2]:
        node = node.args[0]
    return node
