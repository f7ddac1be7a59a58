"""Move channel shuffles (arXiv:1707.01083) behind depthwise convolutions, where the next 1x1 convolution does them.

A depthwise convolution commutes with a shuffle if its weights are put in the other order. Behind it the squeeze's layer
and a dense 1x1 convolution take their weights in that order too, and a grouped one in C gathers the channels as it
copies them. So a shuffle costs no pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from senet.deploy.fold import layer_of, set_weights, weights_of
from senet.deploy.graph import Graph, aten, only_user, operation, shape
from senet.deploy.squeeze_early import first_layer, groups_of, is_mean, is_squeeze, pointwise_layer

VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)


def move_shuffles(g: Graph) -> None:
    """Move each shuffle that only a depthwise convolution reads behind it; `aten.index_select` stands for it there."""
    for node in g.calls(*VIEWS):
        found = _shuffle(node)
        conv = only_user(node)
        if found is None or layer_of(g, conv) is None or conv.target is not aten.conv2d.default:  # type: ignore[union-attr]
            continue
        assert conv is not None
        channels = shape(node)[1]
        if conv.args[0] is node and groups_of(conv) == channels == len(g.constant(conv.args[1])):  # type: ignore[arg-type]
            _move(g, conv, *found)


def _shuffle(node: fx.Node) -> tuple[fx.Node, Tensor] | None:
    """What a view is a shuffle of, and the channel of it that each of its own is; None if it is another view."""
    swapped = _before(node)
    if swapped is None or operation(swapped) not in ("transpose", "permute"):
        return None
    parts = _before(swapped, copies=False)
    x = _before(parts) if parts is not None and parts.target in VIEWS else None
    if parts is None or x is None or len(shape(parts)) != 5 or len(shape(x)) != 4 or shape(x) != shape(node):
        return None
    _, groups, each, *size = shape(parts)
    if shape(swapped) != (shape(x)[0], each, groups, *size) or size != list(shape(x)[2:]):
        return None
    is_swap = sorted(swapped.args[1:3]) == [1, 2] if operation(swapped) == "transpose" else False  # type: ignore[type-var]
    if not is_swap and swapped.args[1:] != ([0, 2, 1, 3, 4],):
        return None
    return x, torch.arange(groups * each).reshape(groups, each).t().flatten()


def _before(node: fx.Node, *, copies: bool = True) -> fx.Node | None:
    """The input of a view, behind copies of it; None if anything else reads what is between."""
    x: Any = node.args[0]
    while copies and operation(x) in ("clone", "contiguous") and only_user(x) is not None:
        x = x.args[0]
    return x if isinstance(x, fx.Node) and (x.target not in VIEWS or only_user(x) is not None) else None


def _move(g: Graph, conv: fx.Node, x: fx.Node, order: Tensor) -> None:
    layers = _readers(g, conv)
    if layers is None:
        return
    inverse = torch.argsort(order)
    weight, bias = weights_of(g, conv)
    set_weights(g, conv, weight[inverse], None if bias is None else bias[inverse])
    conv.replace_input_with(conv.args[0], x)  # type: ignore[arg-type]
    for layer in layers:
        weight, bias = weights_of(g, layer)
        if groups_of(layer) == 1 or layer.target is aten.linear.default:
            set_weights(g, layer, weight[:, inverse], bias)
        else:
            with g.graph.inserting_before(layer):
                index = g.add_constant(f"{layer.args[1].target}_order", order)  # type: ignore[union-attr]
                select = g.graph.call_function(aten.index_select.default, (conv, 1, index))
            select.meta = dict(conv.meta)
            layer.replace_input_with(conv, select)
    g.graph.eliminate_dead_code()


def _readers(g: Graph, conv: fx.Node) -> Sequence[fx.Node] | None:
    """The layers that read a convolution, by themselves or behind a squeeze; None if anything else does."""
    layers = []
    for user in conv.users:
        if is_squeeze(user) and is_mean(user):
            _, layer = first_layer(g, user)
        else:
            layer = pointwise_layer(g, user)
        if layer is None:
            return None
        layers.append(layer)
    return layers
