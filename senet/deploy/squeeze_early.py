"""Move the squeeze of a unit before the 1x1 convolution that made its feature map, where that is exact.

A mean over space commutes with a 1x1 convolution: of `u = W3 h + b3` it is `z = W3 mean(h) + b3`, so the first fully
connected layer becomes `W1 z + b1 = (W1 W3) mean(h) + (W1 b3 + b1)`. If h has a quarter of u's channels the squeeze
reads a quarter, the layer is a quarter as large, and u is not read. The mean does not commute with a padded 3x3
convolution or a non-linearity. Without a fully connected layer (ECA), W3 is read a second time, which pays only if u is
larger than W3.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from senet.deploy.fold import layer_of, set_weights, weights_of
from senet.deploy.graph import Graph, aten, only_user, operation, place, shape

CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
VIEWS = ("view", "reshape", "flatten", "squeeze", "unsqueeze", "_unsafe_view", "alias")


@dataclass(frozen=True)
class Gated:
    """`product = u * s`, with gates s computed from global poolings, usually of u.

    Attributes:
        product: the node.
        at: index of u in the arguments of the product.
        squeeze: the pooling; None if there are several.
    """

    product: fx.Node
    at: int
    squeeze: fx.Node | None

    @property
    def u(self) -> fx.Node:
        """The feature map, (N, C, *)."""
        return self.product.args[self.at]  # type: ignore[return-value]

    @property
    def s(self) -> fx.Node:
        """The gates, (N, C, 1, 1)."""
        return self.product.args[1 - self.at]  # type: ignore[return-value]

    @property
    def place(self) -> str:
        """Name of the unit's module."""
        return place(self.product)


def find_gates(g: Graph) -> Iterator[Gated]:
    """Find products of a feature map (N, C, *) with gates (N, C, 1, ...) computed from squeezes and constants only."""
    for product in g.calls(aten.mul.Tensor):
        for at in (0, 1):
            u, s = product.args[at], product.args[1 - at]
            if not _is_gate_of(s, u):
                continue
            roots = {n for n in _roots(s) if n.op != "get_attr"}  # type: ignore[arg-type]
            if roots and all(map(is_squeeze, roots)):
                yield Gated(product, at, roots.pop() if len(roots) == 1 else None)
                break


def _is_gate_of(s: object, u: object) -> bool:
    of_s, of_u = shape(s), shape(u)
    return len(of_u) > 2 and len(of_s) == len(of_u) and of_s[:2] == of_u[:2] and all(d == 1 for d in of_s[2:])


def _roots(s: fx.Node) -> set[fx.Node]:
    """Nodes where the computation of gates starts: squeezes, constants, and whatever has spatial axes."""
    roots, seen, todo = set(), set(), [s]
    while todo:
        n = todo.pop()
        if n in seen:
            continue
        seen.add(n)
        value = n.meta.get("val")
        has_space = isinstance(value, Tensor) and value.dim() > 2 and any(d != 1 for d in value.shape[2:])
        if n.op == "get_attr" or is_squeeze(n) or n.op == "placeholder" or (has_space and not _is_channels(n)):
            roots.add(n)
        elif isinstance(value, Tensor):
            todo += n.all_input_nodes
    return roots


def _is_channels(n: fx.Node) -> bool:
    """Whether axes that look spatial are channels: ECA's `(N, 1, C)`, the groups of shared weights."""
    shapes = map(shape, n.all_input_nodes)
    return n.op == "call_function" and all(len(s) < 4 or all(d == 1 for d in s[2:]) for s in shapes)


def is_squeeze(n: fx.Node) -> bool:
    """Whether a node pools a feature map over all positions."""
    if n.op != "call_function" or not n.all_input_nodes:
        return False
    rank, name = len(shape(n.all_input_nodes[0])), operation(n)
    if rank < 3:
        return False
    if name in ("mean", "amax") and len(n.args) > 1 and n.args[1]:
        return sorted(d % rank for d in n.args[1]) == list(range(2, rank))  # type: ignore[union-attr]
    if name.startswith("adaptive_"):
        return all(d == 1 for d in n.args[1])  # type: ignore[union-attr]
    return False


def is_mean(n: fx.Node) -> bool:
    """Whether a squeeze is a mean."""
    return operation(n) == "mean" or operation(n).startswith("adaptive_avg")


def pointwise_layer(g: Graph, node: fx.Node) -> fx.Node | None:
    """The node, if it is a 1x1 convolution of stride 1 without padding, of any rank and groups; else None."""
    layer = layer_of(g, node)
    if layer is None or layer.target not in CONVOLUTIONS:
        return None
    stride, padding = (*layer.args, *(None, [1], [0])[len(layer.args) - 2 :])[3:5]
    ones = set(g.constant(layer.args[1]).shape[2:]) | set(_list(stride))  # type: ignore[union-attr]
    return layer if ones == {1} and set(_list(padding)) == {0} else None


def groups_of(layer: fx.Node) -> int:
    """The groups of a convolution."""
    return int(layer.args[6]) if len(layer.args) > 6 else 1  # type: ignore[arg-type]


def _list(value: object) -> list[int]:
    return [value] if isinstance(value, int) else list(value)  # type: ignore[call-overload]


def squeeze_early(g: Graph, batch: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Move the squeezes of all units where that is exact. Return the places of those moved, and (place, why not).

    batch: images that the choice is made for, where moving does not always pay.
    """
    moved, skipped = [], []
    for gated in list(find_gates(g)):
        why = _move(g, gated, batch)
        if why is None:
            moved.append(gated.place)
        else:
            skipped.append((gated.place, why))
    return moved, skipped


def _move(g: Graph, gated: Gated, batch: int) -> str | None:
    """Move the squeeze of one unit; None, or why not."""
    squeeze = gated.squeeze
    if squeeze is None:
        return "the gates are computed from several squeezes"
    if not is_mean(squeeze) or squeeze.kwargs:
        return "the squeeze is not a mean"
    source: Any = squeeze.args[0]
    conv = pointwise_layer(g, source)
    if conv is None:
        maker = "a convolution other than a plain 1x1" if layer_of(g, source) else operation(source)
        return f"the feature map comes from {maker}"
    weight, bias = weights_of(g, conv)
    dense = torch.block_diag(*weight.flatten(1).chunk(groups_of(conv)))
    channels, narrower = dense.shape
    if narrower > channels:
        return "the 1x1 convolution before reduces the channels"
    z, end = first_layer(g, squeeze)
    positions = shape(source)[2:]
    if end is None and all(isinstance(d, int) for d in positions) and narrower > batch * prod(positions):
        return "the feature map is smaller than the weights of the 1x1 convolution"
    keeps = len(shape(z)) > 2
    with g.graph.inserting_before(squeeze):
        mean = g.graph.call_function(aten.mean.dim, (conv.args[0], list(range(2, weight.dim())), keeps))
    of_mean = list(shape(z))
    of_mean[1] = narrower
    mean.meta = squeeze.meta | {"val": squeeze.meta["val"].new_empty(of_mean)}
    if end is not None:
        w1, b1 = weights_of(g, end)
        merged = w1.flatten(1) @ dense
        set_weights(g, end, merged.reshape(*merged.shape, *w1.shape[2:]), _sum(b1, w1, bias))
        end.replace_input_with(z, mean)
        return None
    # No layer takes z itself (ECA): convolve the mean instead.
    with g.graph.inserting_after(mean):
        if keeps:
            moved = g.graph.call_function(conv.target, (mean, *conv.args[1:]))  # type: ignore[arg-type]
        else:
            moved = g.graph.call_function(aten.linear.default, (mean, *conv.args[1:3]))
            set_weights(g, moved, dense, bias)
    moved.meta = dict(squeeze.meta)
    squeeze.replace_all_uses_with(moved)
    return None


def _sum(b1: Tensor | None, w1: Tensor, b3: Tensor | None) -> Tensor | None:
    if b3 is None:
        return b1
    moved = w1.flatten(1) @ b3
    return moved if b1 is None else moved + b1


def first_layer(g: Graph, squeeze: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The layer that takes a squeeze, perhaps through views, and its input; (squeeze, None) if there is none.

    Nothing else may read the squeeze or the views.
    """
    z = squeeze
    while (user := only_user(z)) is not None and operation(user) in VIEWS and shape(user)[1:2] == shape(z)[1:2]:
        z = user
    ranks = {2, len(shape(squeeze.args[0]))}
    if user is None or layer_of(g, user) is None or user.args[0] is not z or len(shape(z)) not in ranks:
        return squeeze, None
    return (z, user) if is_dense(g, user) else (squeeze, None)


def is_dense(g: Graph, layer: fx.Node) -> bool:
    """Whether a layer is linear, or a dense 1x1 convolution."""
    return layer.target is aten.linear.default or (pointwise_layer(g, layer) is not None and groups_of(layer) == 1)


def spread_layers(g: Graph, gated: Gated) -> None:
    """Write a unit's layers as products and sums, which a compiler fuses with what surrounds them.

    At small batches calling a matrix library costs more than these small products.
    """
    todo, seen = [gated.s], set[fx.Node]()
    while todo:
        n = todo.pop()
        # A squeeze may be a result of the depthwise convolution by now.
        if n in seen or n is gated.squeeze or n.op == "get_attr" or n.target is operator.getitem:
            continue
        seen.add(n)
        todo += n.all_input_nodes
        layer = layer_of(g, n)
        if layer is None or not is_dense(g, layer):
            continue
        weight, bias = weights_of(g, layer)
        z: Any = layer.args[0]
        rest = [1] * (len(shape(z)) - 2)
        name = str(layer.args[1].target)  # type: ignore[union-attr]
        dtype = g.constant(layer.args[1]).dtype  # type: ignore[union-attr]
        # w (1, R, K), z (N, 1, K): the sum runs over adjacent memory.
        w = g.add_constant(f"{name}_rows", weight.flatten(1).to(dtype))
        with g.graph.inserting_before(layer):
            if rest:
                z = g.graph.call_function(aten.flatten.using_ints, (z, 1))
            z = g.graph.call_function(aten.unsqueeze.default, (z, 1))
            y = g.graph.call_function(aten.mul.Tensor, (z, w))
            y = g.graph.call_function(aten.sum.dim_IntList, (y, [-1]))
            if bias is not None:
                y = g.graph.call_function(aten.add.Tensor, (y, layer.args[2]))
            for _ in rest:
                y = g.graph.call_function(aten.unsqueeze.default, (y, -1))
        y.meta = dict(layer.meta)
        layer.replace_all_uses_with(y)
        g.graph.erase_node(layer)
