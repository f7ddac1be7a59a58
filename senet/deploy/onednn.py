"""Convolutions of a CPU as oneDNN runs them best: weights laid out ahead, activations and sums as their epilogues.

This is what a compiler would make of them; here it is done to the graph itself, so that it pays without one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from senet.deploy.fold import layer_of
from senet.deploy.graph import Graph, aten, only_user, shape
from senet.deploy.tails import is_spare

ACTIVATIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.hardswish.default: "hardswish",
    aten.silu.default: "swish",
}
"""What oneDNN applies to a convolution's result, by its names for them."""


def available(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN, and it computes in the type on this processor."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def use_onednn(g: Graph) -> None:
    """Give every 2-D convolution with constant weights to oneDNN, with the sum and activation that follow it."""
    for conv in g.calls(aten.conv2d.default):
        if layer_of(g, conv) is None or not available(conv.meta["val"].dtype):
            continue
        x, weight, bias, stride, padding, dilation, groups = _arguments(conv)
        size = [d if isinstance(d, int) else 1 for d in shape(x)]
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            g.constant(weight), padding, stride, dilation, groups, size
        )
        w = g.add_constant(f"{weight.target}_onednn", packed)
        options = (padding, stride, dilation, groups)
        end, e = _sum(conv)
        last = only_user(end)
        activation = ACTIVATIONS.get(last.target) if last is not None else None
        if e is not None and activation not in (None, "relu"):
            activation = None
        if activation is not None:
            end = last
        assert end is not None
        with g.graph.inserting_before(end):
            if e is None:
                args: Any = (x, w, bias, *options, activation or "none", [], "")
                y = g.graph.call_function(torch.ops.mkldnn._convolution_pointwise.default, args)
            else:
                # In place later, `write_in_place`: another convolution may yet move behind this one and read e there.
                args = (x, e, w, bias, *options, "add", 1.0, activation, [], None)
                y = g.graph.call_function(torch.ops.mkldnn._convolution_pointwise.binary, args)
        y.meta = dict(end.meta)
        end.replace_all_uses_with(y)
        g.graph.eliminate_dead_code()


def _arguments(conv: fx.Node) -> tuple[Any, ...]:
    """All seven of a convolution, those left out too, sizes as pairs."""
    given = (*conv.args, *(None, None, None, [1, 1], [0, 0], [1, 1], 1)[len(conv.args) :])
    x, weight, bias, *sizes, groups = given
    pairs: list[Any] = sizes
    return x, weight, bias, *([s, s] if isinstance(s, int) else list(s) * (2 // len(s)) for s in pairs), groups


def _sum(conv: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The sum that a convolution's result goes into, and the other term, where that can be written over; else conv."""
    add = only_user(conv)
    if add is None or add.target is not aten.add.Tensor or add.kwargs or len(add.args) != 2:
        return conv, None
    e = next((a for a in add.args if a is not conv), None)
    # Neither term is broadcast or cast.
    is_like = shape(conv) == shape(add) and conv.meta["val"].dtype == add.meta["val"].dtype
    return (add, e) if is_like and isinstance(e, fx.Node) and is_spare(e, add) else (conv, None)
