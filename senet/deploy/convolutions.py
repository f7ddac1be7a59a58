"""Convolutions of a CPU as it runs them best, the sums and activations that follow as their epilogues.

Those that `senet.kernels.conv3x3_cpu` suits go there. Where no `torch.compile` follows, the others go to oneDNN, their
weights laid out ahead: what it would make of them, done to the graph itself.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import fx

from senet.deploy.fold import layer_of
from senet.deploy.fuse_epilogues import is_spare
from senet.deploy.graph import Graph, aten, only_user, place, shape
from senet.kernels import conv3x3_cpu

ACTIVATIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.hardswish.default: "hardswish",
    aten.silu.default: "swish",
}
"""What oneDNN applies to a convolution's result, by its names for them."""

CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)
"""With padding in numbers, and by name."""


class Convolution(NamedTuple):
    """The arguments of one, those left out too, sizes as pairs."""

    x: Any
    weight: Any
    bias: Any
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN, and it computes in the type on this processor."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def use_winograd(g: Graph, batch: int) -> list[str]:
    """Give 3x3 convolutions to the C kernel where it is faster for `batch` images of the example's size; their places.

    Raises RuntimeError where the kernel is not `available`.
    """
    done = []
    packed: dict[str, fx.Node] = {}
    for node in g.calls(*CONVOLUTIONS):
        conv = _arguments(node)
        weight = g.constant(node.args[1])
        if conv is None or weight is None or not _suits(conv, weight, node, batch):
            continue
        name = str(conv.weight.target)
        if name not in packed:
            packed[name] = g.add_constant(f"{name}_winograd", conv3x3_cpu.pack(weight))
        end, e = _sum(node)
        relu = only_user(end)
        end = relu if relu is not None and relu.target is aten.relu.default else end
        args = (conv.x, packed[name], len(weight), conv.padding, conv.bias, e, end is relu)
        done.append(place(node))
        _replace(g, end, torch.ops.senet.conv3x3_packed.default, args)
    return done


def _suits(conv: Convolution, weight: torch.Tensor, node: fx.Node, batch: int) -> bool:
    is_kind = weight.shape[2:] == (3, 3) and conv.stride == conv.dilation == [1, 1] and conv.groups == 1
    size = shape(node)[2:]
    tiles = prod(-(-d // conv3x3_cpu.TILE) for d in size)
    return is_kind and conv3x3_cpu.suits(weight, batch * prod(size), batch * tiles)


def use_onednn(g: Graph) -> None:
    """Give every 2-D convolution with constant weights to oneDNN, with the sum and activation that follow it."""
    for node in g.calls(*CONVOLUTIONS):
        conv = _arguments(node)
        if conv is None or layer_of(g, node) is None or not has_onednn(node.meta["val"].dtype):
            continue
        x, weight, bias, stride, padding, dilation, groups = conv
        size = [d if isinstance(d, int) else 1 for d in shape(x)]
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            g.constant(weight), padding, stride, dilation, groups, size
        )
        w = g.add_constant(f"{weight.target}_onednn", packed)
        options = (padding, stride, dilation, groups)
        end, e = _sum(node)
        # In place later, `write_in_place`: another convolution may yet move behind this one and read e there.
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


def _arguments(node: fx.Node) -> Convolution | None:
    """A convolution's; None for one of a map without a batch, or whose padding differs from side to side."""
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
    """The sum that a convolution's result goes into, and the other term; else conv."""
    add = only_user(conv)
    if add is None or add.target is not aten.add.Tensor or add.kwargs or len(add.args) != 2:
        return conv, None
    e = next((a for a in add.args if a is not conv), None)
    # Neither term is broadcast or cast.
    if not isinstance(e, fx.Node) or not shape(conv) == shape(e) == shape(add):
        return conv, None
    return (add, e) if conv.meta["val"].dtype == e.meta["val"].dtype else (conv, None)


def _replace(g: Graph, end: fx.Node, operation: Any, args: tuple[Any, ...]) -> None:
    with g.graph.inserting_before(end):
        y = g.graph.call_function(operation, args)
    y.meta = dict(end.meta)
    end.replace_all_uses_with(y)
    g.graph.eliminate_dead_code()
