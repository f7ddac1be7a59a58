"""Fold batch norms and constant factors into the convolution or linear layer before them, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from senet.deploy.graph import Graph, aten, only_user, place, shape

LAYERS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
NORM = aten._native_batch_norm_legit_no_training.default
OF_BATCH = aten._native_batch_norm_legit.no_stats


def fold_norms(g: Graph) -> tuple[list[str], list[tuple[str, str]]]:
    """Fold batch norms into the layer before. Return the places of those folded, and (place, why not) of the rest."""
    folded, skipped = [], []
    for norm in g.calls(NORM, OF_BATCH):
        if norm.target is OF_BATCH:
            skipped.append((place(norm), "it uses statistics of the batch"))
            continue
        x, *tensors = norm.args[:5]
        values = [g.constant(t) for t in tensors]
        layer = layer_of(g, x)
        if any(n.args[1] != 0 for n in norm.users):
            skipped.append((place(norm), "its statistics are read"))
        elif any(v is None and t is not None for v, t in zip(values, tensors, strict=True)):
            skipped.append((place(norm), "its statistics are not constants"))
        elif layer is None or only_user(layer) is not norm:
            skipped.append((place(norm), "the node before is not a convolution, or is read elsewhere too"))
        else:
            gamma, beta, mean, var = (None if v is None else v.double() for v in values)
            a = (var + float(norm.args[6])).rsqrt()  # type: ignore[operator, arg-type]
            a = a if gamma is None else a * gamma
            scale_layer(g, layer, a, (0 if beta is None else beta) - a * mean)  # type: ignore[operator]
            folded.append(place(norm))
            for use in list(norm.users):
                use.replace_all_uses_with(layer)
                g.graph.erase_node(use)
            g.graph.erase_node(norm)
    return folded, skipped


def fold_factors(g: Graph) -> int:
    """Fold constant factors of a layer's output, or of a gated feature map: `0.1 (s u) = (0.1 s) u`. Count them."""
    count = 0
    for node in g.calls(aten.mul.Tensor, aten.mul.Scalar):
        x, factor = node.args
        if isinstance(x, (int, float)):
            x, factor = factor, x
        if not isinstance(factor, (int, float)) or not isinstance(x, fx.Node) or only_user(x) is not node:
            continue
        if layer_of(g, x) is not None:
            scale_layer(g, x, torch.tensor(float(factor), dtype=torch.float64, device="cpu"), None)
        elif x.target is aten.mul.Tensor and (gate := _narrow(x)) is not None:
            with g.graph.inserting_before(x):
                scaled = g.graph.call_function(aten.mul.Tensor, (gate, factor))
            scaled.meta = dict(gate.meta)
            x.replace_input_with(gate, scaled)
        else:
            continue
        node.replace_all_uses_with(x)
        g.graph.erase_node(node)
        count += 1
    return count


def _narrow(product: fx.Node) -> fx.Node | None:
    """The factor of a product that has one value per channel; None if there is none."""
    for n in product.all_input_nodes:
        value = n.meta.get("val")
        if isinstance(value, Tensor) and value.dim() > 2 and all(d == 1 for d in value.shape[2:]):
            return n
    return None


def layer_of(g: Graph, node: Any) -> fx.Node | None:
    """The node, if it is a convolution or linear layer with constant weights, (N, C, *) -> (N, C, *); else None."""
    if not isinstance(node, fx.Node) or node.target not in LAYERS:
        return None
    weight, bias = g.constant(node.args[1]), node.args[2] if len(node.args) > 2 else None
    if weight is None or (bias is not None and g.constant(bias) is None):
        return None
    # Others: a linear layer over tokens has channels last, a convolution without a batch has them first.
    return node if len(shape(node)) == weight.dim() else None


def weights_of(g: Graph, layer: fx.Node) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer, in float64."""
    weight, bias = g.constant(layer.args[1]), g.constant(layer.args[2]) if len(layer.args) > 2 else None
    assert weight is not None
    return weight.double(), None if bias is None else bias.double()


def set_weights(g: Graph, layer: fx.Node, weight: Tensor, bias: Tensor | None) -> None:
    """Give a layer new weights, in its dtype. The old ones stay for other layers that share them."""
    old: Any = layer.args[1]
    dtype = g.constant(old).dtype  # type: ignore[union-attr]
    name = f"{str(old.target).removesuffix('_folded')}_folded"
    args = [layer.args[0], g.add_constant(name, weight.to(dtype))]
    args.append(None if bias is None else g.add_constant(f"{name}_bias", bias.to(dtype)))
    layer.args = (*args, *layer.args[3:])


def scale_layer(g: Graph, layer: fx.Node, a: Tensor, d: Tensor | None) -> None:
    """Make a layer compute `a y + d` in place of y; a and d are one number or one per output channel."""
    weight, bias = weights_of(g, layer)
    weight = weight * a.reshape(a.shape + (1,) * (weight.dim() - 1)) if a.dim() else weight * a
    bias = None if bias is None else bias * a
    if d is not None:
        bias = d if bias is None else bias + d
    set_weights(g, layer, weight, bias)
