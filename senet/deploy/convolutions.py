"""Pick the fastest convolutions of a CPU, with the sums and activations that follow as their epilogues.

3x3 convolutions go to Winograd's algorithm in C where `dispatch.conv3x3` says so. Without `torch.compile` the rest goes
to oneDNN with weights in its own layout, as inductor would do.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import fx

from senet.deploy.fold import layer_of
from senet.deploy.graph import Graph, aten, only_user, place, shape
from senet.deploy.in_place import is_spare
from senet.kernels import dispatch

ACTIVATIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.hardswish.default: "hardswish",
    aten.silu.default: "swish",
}
"""Activations that oneDNN can apply to a convolution's result, by its names."""

CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)
"""With padding as numbers, and as "same" or "valid"."""


class Convolution(NamedTuple):
    """All arguments of a 2-D convolution, with defaults filled in and sizes as pairs."""

    x: Any
    weight: Any
    bias: Any
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def use_winograd(g: Graph, batch: int) -> list[str]:
    """Give 3x3 convolutions to Winograd's algorithm in C where it is faster; return their places.

    batch: images of the example's size that the choice is made for.
    """
    done = []
    packed: dict[str, fx.Node] = {}
    for node in g.calls(*CONVOLUTIONS):
        conv = _arguments(node)
        weight = g.constant(node.args[1])
        if conv is None or weight is None or not _is_winograd(conv, weight, node, batch):
            continue
        from senet.kernels.conv3x3.c import pack

        name = str(conv.weight.target)
        if name not in packed:
            packed[name] = g.add_constant(f"{name}_winograd", pack(weight))
        end, e = _sum(node)
        relu = only_user(end)
        end = relu if relu is not None and relu.target is aten.relu.default else end
        args = (conv.x, packed[name], len(weight), conv.padding, conv.bias, e, end is relu)
        done.append(place(node))
        _replace(g, end, torch.ops.senet.conv3x3_packed.default, args)
    return done


def _is_winograd(conv: Convolution, weight: torch.Tensor, node: fx.Node, batch: int) -> bool:
    if weight.shape[2:] != (3, 3) or not conv.stride == conv.dilation == [1, 1] or conv.groups != 1:
        return False
    size = shape(node)[2:]
    tiles = prod(-(-d // 4) for d in size)
    return dispatch.conv3x3(weight, batch * prod(size), batch * tiles) == "c"


def use_onednn(g: Graph, dtype: torch.dtype) -> None:
    """Give 2-D convolutions with constant weights to oneDNN, with the sum and activation that follow.

    Does nothing if this torch has no oneDNN, or it does not compute in this dtype on this processor.
    """
    if not _has_onednn(dtype):
        return
    for node in g.calls(*CONVOLUTIONS):
        conv = _arguments(node)
        if conv is None or layer_of(g, node) is None or not _has_onednn(node.meta["val"].dtype):
            continue
        x, weight, bias, stride, padding, dilation, groups = conv
        size = [d if isinstance(d, int) else 1 for d in shape(x)]
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            g.constant(weight), padding, stride, dilation, groups, size
        )
        w = g.add_constant(f"{weight.target}_onednn", packed)
        options = (padding, stride, dilation, groups)
        end, e = _sum(node)
        # `write_in_place` decides later: another convolution may still move behind this one and read e.
        if e is not None and not is_spare(e, end):
            end, e = node, None
        last = only_user(end)
        activation = ACTIVATIONS.get(last.target) if last is not None else None
        if e is not None and activation not in (None, "relu"):
            activation = None
        if activation is not None:
            assert last is not None
            end = last
        if e is None:
            args: Any = (x, w, bias, *options, activation or "none", [], "")
            _replace(g, end, torch.ops.mkldnn._convolution_pointwise.default, args)
        else:
            args = (x, e, w, bias, *options, "add", 1.0, activation, [], None)
            _replace(g, end, torch.ops.mkldnn._convolution_pointwise.binary, args)


def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _arguments(node: fx.Node) -> Convolution | None:
    """Arguments of a convolution; None without a batch axis, or if the padding of two sides differs."""
    if len(shape(node)) != 4:
        return None
    zero: Any = "valid" if node.target is aten.conv2d.padding else [0, 0]
    given: Any = (*node.args, *(None, None, None, [1, 1], zero, [1, 1], 1)[len(node.args) :])
    x, weight, bias, stride, padding, dilation, groups = given
    stride, dilation = _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        missing = [d * (k - 1) for d, k in zip(dilation, shape(weight)[2:], strict=True)]
        if padding == "same" and any(m % 2 for m in missing):
            return None
        padding = [m // 2 if padding == "same" else 0 for m in missing]
    return Convolution(x, weight, bias, stride, _pair(padding), dilation, groups)


def _pair(sizes: Any) -> list[int]:
    return [sizes, sizes] if isinstance(sizes, int) else list(sizes) * (2 // len(sizes))


def _sum(conv: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The sum that reads a convolution's result, and its other term; (conv, None) if there is none."""
    add = only_user(conv)
    if add is None or add.target is not aten.add.Tensor or add.kwargs or len(add.args) != 2:
        return conv, None
    e = next((a for a in add.args if a is not conv), None)
    # Neither term may be broadcast or cast.
    if not isinstance(e, fx.Node) or not shape(conv) == shape(e) == shape(add):
        return conv, None
    return (add, e) if conv.meta["val"].dtype == e.meta["val"].dtype else (conv, None)


def _replace(g: Graph, end: fx.Node, operation: Any, args: tuple[Any, ...]) -> None:
    with g.graph.inserting_before(end):
        y = g.graph.call_function(operation, args)
    y.meta = dict(end.meta)
    end.replace_all_uses_with(y)
    g.graph.eliminate_dead_code()
