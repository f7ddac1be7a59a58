"""Pick the fastest convolutions of a CPU, with the sums and activations that follow as their epilogues.

Depthwise convolutions, with the expansion before and the squeeze that reads them, and 1x1 ones, with the gates of their
input, go to C; 3x3 ones to Winograd's algorithm in C where `dispatch.conv3x3` says so; others with groups, the first
layer and pooling to C too. Without `torch.compile` the rest goes to oneDNN with weights in its own layout, as inductor
would do.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import fx

from senet.deploy.fold import layer_of, weights_of
from senet.deploy.graph import Graph, aten, only_user, operation, place, shape
from senet.deploy.in_place import is_spare
from senet.deploy.squeeze_early import VIEWS, Gated, groups_of, is_mean, is_squeeze, pointwise_layer
from senet.kernels import dispatch

ONEDNN = {"relu": "relu", "hardswish": "hardswish", "silu": "swish"}
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


def use_depthwise(g: Graph) -> list[str]:
    """Give depthwise convolutions to C, with activation and squeeze; return their places."""
    done = []
    for node in g.calls(*CONVOLUTIONS):
        conv = arguments(node)
        weight = g.constant(node.args[1])
        if conv is None or weight is None or not _is_depthwise(conv, weight):
            continue
        from senet.kernels.depthwise.c import pack

        end, act = activation_of(node)
        w = g.add_constant(f"{conv.weight.target}_depthwise", pack(weight))
        args = (conv.x, w, conv.bias, conv.stride[0], conv.padding, act, None)
        squeezes = [n for n in end.users if is_squeeze(n) and is_mean(n) and not n.kwargs]
        done.append(place(node))
        if not squeezes:
            _replace(g, end, torch.ops.senet.depthwise.default, args)
            continue
        with g.graph.inserting_before(end):
            both = g.graph.call_function(torch.ops.senet.depthwise_squeeze.default, args)
            y, z = (g.graph.call_function(operator.getitem, (both, i)) for i in (0, 1))
        y.meta = dict(end.meta)
        z.meta = {"val": end.meta["val"].new_empty(shape(end)[:2])}
        for squeeze in squeezes:
            with g.graph.inserting_before(squeeze):
                flat: Any = z
                if len(shape(squeeze)) > 2:
                    flat = g.graph.call_function(aten.reshape.default, (z, [-1, shape(end)[1], 1, 1]))
                    flat.meta = dict(squeeze.meta)
            squeeze.replace_all_uses_with(flat)
        end.replace_all_uses_with(y)
        g.graph.eliminate_dead_code()
    return done


def _is_depthwise(conv: Convolution, weight: torch.Tensor) -> bool:
    if not dispatch.c_convolutions(weight.device, weight.dtype):
        return False
    from senet.kernels.depthwise.c import SIZES, STRIDES, lanes

    (channels, inputs, *size), strides = weight.shape, conv.stride
    is_square = size[0] == size[1] and strides[0] == strides[1] and conv.dilation == [1, 1]
    fits = is_square and size[0] in SIZES and strides[0] in STRIDES and channels >= lanes()
    return fits and inputs == 1 and conv.groups == channels == shape(conv.x)[1]


def gate_depthwise(g: Graph, gates: Mapping[fx.Node, Gated]) -> None:
    """Give depthwise convolutions in C the gates of their input: they are factors of its results.

    gates: the gated products of `find_gates`, by node.
    """
    for node in g.calls():
        if operation(node) in ("depthwise", "depthwise_squeeze"):
            h, gate = gated_input(g, node.args[0], node, gates)
            node.args = (h, *node.args[1:6], gate)
    g.graph.eliminate_dead_code()


def use_pointwise(g: Graph, gates: Mapping[fx.Node, Gated]) -> None:
    """Give 1x1 convolutions to C, with the gates of their input and the activation that follows.

    gates: the gated products of `find_gates`, by node.
    """
    for node in g.calls(*CONVOLUTIONS):
        conv, weight = arguments(node), g.constant(node.args[1])
        if conv is None or weight is None or pointwise_layer(g, node) is None or groups_of(node) != 1:
            continue
        if dispatch.conv1x1(weight.device, weight.dtype, weight.shape[1]) == "c":
            end, act = activation_of(node)
            h, gate = gated_input(g, conv.x, node, gates)
            args = (h, pointwise_weight(g, node), len(weight), gate, conv.bias, None, None, act)
            _replace(g, end, torch.ops.senet.conv1x1_packed.default, args)


def join_expansions(g: Graph) -> None:
    """Compute a 1x1 convolution row by row inside of the depthwise one that reads it, where `dispatch` says so."""
    for node in g.calls():
        # By name: without a kernel its operation is not defined.
        if operation(node) not in ("depthwise", "depthwise_squeeze"):
            continue
        h: Any = node.args[0]
        if operation(h) != "conv1x1_packed" or only_user(h) is not node:
            continue
        x, w1, _, gate, b1, s, e, act1 = h.args
        channels, *size = shape(h)[1:]
        if not (gate is s is e is node.args[6] is None) or not dispatch.is_joined(shape(x)[1], channels, prod(size)):
            continue
        with g.graph.inserting_before(node):
            both = g.graph.call_function(torch.ops.senet.expanded_depthwise.default, (x, w1, b1, act1, *node.args[1:6]))
            if operation(node) == "depthwise":
                y = g.graph.call_function(operator.getitem, (both, 0))
                y.meta, both = dict(node.meta), y
        node.replace_all_uses_with(both)
    g.graph.eliminate_dead_code()


def pointwise_weight(g: Graph, conv: fx.Node) -> fx.Node:
    """The weight of a 1x1 convolution, packed for the one in C."""
    from senet.kernels.conv1x1.c import pack, pack_fast

    weight, _ = weights_of(g, conv)
    of = pack_fast if dispatch.is_fast(weight, prod(shape(conv)[2:])) else pack
    return g.add_constant(f"{conv.args[1].target}_packed", of(weight.float()))  # type: ignore[union-attr]


def gated_input(g: Graph, x: Any, conv: fx.Node, gates: Mapping[fx.Node, Gated]) -> tuple[Any, fx.Node | None]:
    """The feature map and the gates (N, K) that a convolution's input x is the product of; (x, None) if it is none."""
    gated = gates.get(x)
    if gated is None or only_user(x) is not conv or gated.u.meta["val"].dtype != gated.s.meta["val"].dtype:
        return x, None
    return gated.u, flat_gates(g, gated.s, conv)


def flat_gates(g: Graph, s: fx.Node, before: fx.Node) -> fx.Node:
    """Gates (N, C, 1, 1) as (N, C)."""
    if operation(s) in VIEWS and shape(s.args[0]) == shape(s)[:2]:
        return s.args[0]  # type: ignore[return-value]
    with g.graph.inserting_before(before):
        flat = g.graph.call_function(aten.flatten.using_ints, (s, 1))
    flat.meta = {"val": s.meta["val"].flatten(1)}
    return flat


def activation_of(node: fx.Node) -> tuple[fx.Node, str]:
    """The activation that alone reads a node, and its name in `packed.ACTIVATIONS`; (node, "none") if there is none."""
    user = only_user(node)
    if user is None or user.op != "call_function" or (name := activation(user)) == "none":
        return node, "none"
    return (user, name) if user.meta["val"].dtype == node.meta["val"].dtype else (node, "none")


def activation(node: fx.Node) -> str:
    """Name of an activation in `packed.ACTIVATIONS`; "none" for another node."""
    name, rest = operation(node).removesuffix("_"), (*node.args[1:], *node.kwargs.values())
    if name in ("hardtanh", "clamp"):
        return "relu6" if [x for x in rest if isinstance(x, (int, float))] == [0, 6] else "none"
    if name == "gelu":
        return "none" if "tanh" in rest else "gelu"
    return name if name in ("relu", "relu6", "hardswish", "silu", "sigmoid", "hardsigmoid") and not rest else "none"


def use_winograd(g: Graph, batch: int) -> list[str]:
    """Give 3x3 convolutions to Winograd's algorithm in C where it is faster; return their places.

    batch: images of the example's size that the choice is made for.
    """
    done = []
    packed: dict[str, fx.Node] = {}
    for node in g.calls(*CONVOLUTIONS):
        conv = arguments(node)
        weight = g.constant(node.args[1])
        if conv is None or weight is None or not _is_winograd(conv, weight, node, batch):
            continue
        from senet.kernels.conv3x3.c import pack

        name = str(conv.weight.target)
        if name not in packed:
            packed[name] = g.add_constant(f"{name}_winograd", pack(weight, conv.groups))
        end, e = _sum(node)
        end, act = activation_of(end)
        args = (conv.x, packed[name], len(weight), conv.groups, conv.padding, conv.bias, e, act)
        done.append(place(node))
        _replace(g, end, torch.ops.senet.conv3x3_packed.default, args)
    return done


def _is_winograd(conv: Convolution, weight: torch.Tensor, node: fx.Node, batch: int) -> bool:
    if weight.shape[2:] != (3, 3) or not conv.stride == conv.dilation == [1, 1]:
        return False
    size = shape(node)[2:]
    tiles = prod(-(-d // 4) for d in size)
    return dispatch.conv3x3(weight, batch * prod(size), batch * tiles, conv.groups) == "c"


def use_direct(g: Graph, batch: int) -> None:
    """Give grouped and small convolutions and those of a first layer to C, with several threads all others too.

    Run after `use_winograd`.

    An input image is read as it is given: only this convolution would need it channels-last.

    batch: images of the example's size that the choice is made for.
    """
    for node in g.calls(*CONVOLUTIONS):
        conv, weight = arguments(node), g.constant(node.args[1])
        if conv is None or weight is None or conv.dilation != [1, 1] or conv.stride[0] != conv.stride[1]:
            continue
        if dispatch.direct(weight, conv.groups, batch * prod(shape(node)[2:])) != "c":
            continue
        from senet.kernels.direct.c import merged, pack

        x, is_image, order = conv.x, False, None
        if x.target is aten.contiguous.default and x.args[0].op == "placeholder" and conv.groups == 1:
            x, is_image = x.args[0], True
        elif x.target is aten.index_select.default and x.args[1] == 1:
            x, _, index = x.args
            order = g.add_constant(f"{index.target}_int32", g.constant(index).int())  # type: ignore[union-attr]
        together, groups = merged(weight, conv.groups)
        w = g.add_constant(f"{conv.weight.target}_direct", pack(together, groups, planar=is_image))
        end, e = _sum(node)
        end, act = activation_of(end)
        sizes = groups, list(weight.shape[2:]), conv.stride[0], conv.padding, is_image
        _replace(g, end, torch.ops.senet.direct.default, (x, w, len(weight), *sizes, order, conv.bias, e, act))


def use_linear(g: Graph) -> None:
    """Give fully connected layers to C, with the activation that follows, and 1x1 convolutions of what a mean returned.

    Run after `use_pointwise`.
    """
    for node in g.calls():
        # By name: without a kernel its operation is not defined.
        if operation(node) == "conv1x1_packed" and shape(node)[2:] == (1, 1):
            h, w, c, gate, b, s, e, act = node.args
            x = _flat(h)
            if gate is s is e is None and len(shape(x)) == 2:
                with g.graph.inserting_before(node):
                    y = g.graph.call_function(torch.ops.senet.linear_packed.default, (x, w, c, b, act))
                    y.meta = {"val": node.meta["val"].flatten(1)}
                    view = g.graph.call_function(aten.reshape.default, (y, [-1, c, 1, 1]))
                    view.meta = dict(node.meta)
                node.replace_all_uses_with(view)
    g.graph.eliminate_dead_code()
    for node in g.calls(aten.linear.default):
        x, name, b = (*node.args, None)[:3]
        weight, bias = g.constant(name), g.constant(b)
        if weight is None or (bias is None) != (b is None) or len(shape(node)) != 2 or node.kwargs:
            continue
        if not dispatch.c_convolutions(weight.device, weight.dtype) or node.meta["val"].dtype != torch.float32:
            continue
        from senet.kernels.conv1x1.c import pack

        end, act = activation_of(node)
        w = g.add_constant(f"{name.target}_packed", pack(weight))  # type: ignore[union-attr]
        _replace(g, end, torch.ops.senet.linear_packed.default, (_flat(x), w, len(weight), b, act))


def _flat(x: Any) -> Any:
    """What (N, K) or (N, K, 1, 1) is a view of, as far as that has one of these shapes too."""
    k = shape(x)[1:2]
    while operation(x) in VIEWS and shape(x.args[0])[1:] in (k, (*k, 1, 1)):
        x = x.args[0]
    return x


def use_pooling(g: Graph) -> None:
    """Give max and mean pooling over windows to C."""
    for node in g.calls(aten.max_pool2d.default, aten.avg_pool2d.default):
        value = node.meta["val"]
        if len(shape(node)) != 4 or node.kwargs or not dispatch.c_convolutions(value.device, value.dtype):
            continue
        is_mean = node.target is aten.avg_pool2d.default
        x, kernel, *given = node.args
        rest: Any = (False, True, None) if is_mean else (1, False)
        stride, padding, *others = (*given, *([], 0, *rest)[len(given) :])
        if is_mean:
            ceil, counts, divisor = others
        else:
            dilation, ceil = others
            counts, divisor = False, None if set(_pair(dilation)) == {1} else dilation
        if divisor is not None:
            continue
        import senet.kernels.pool.c  # noqa: F401  (defines the operation)

        kernel = _pair(kernel)
        args = (x, kernel, _pair(stride) if stride else kernel, _pair(padding), ceil, is_mean, counts)
        _replace(g, node, torch.ops.senet.pool.default, args)


def use_cat(g: Graph) -> None:
    """Give concatenations of feature maps to C, with the activation that follows: what is around is one chain then."""
    for node in g.calls(aten.cat.default):
        maps, *axis = node.args
        values = [n.meta["val"] for n in maps]  # type: ignore[union-attr]
        is_map = len(shape(node)) == 4 and axis in ([1], [-3]) and not node.kwargs
        if is_map and all(v.dtype == torch.float32 and dispatch.c_convolutions(v.device, v.dtype) for v in values):
            import senet.kernels.pool.c  # noqa: F401  (defines the operation)

            end, act = activation_of(node)
            _replace(g, end, torch.ops.senet.cat.default, (maps, act))


def use_onednn(g: Graph, dtype: torch.dtype) -> None:
    """Give 2-D convolutions with constant weights to oneDNN, with the sum and activation that follow.

    Does nothing if this torch has no oneDNN, or it does not compute in this dtype on this processor.
    """
    if not _has_onednn(dtype):
        return
    for node in g.calls(*CONVOLUTIONS):
        conv = arguments(node)
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
        last, act = activation_of(end)
        act = ONEDNN.get(act, "none") if e is None or act == "relu" else "none"
        end = end if act == "none" else last
        if e is None:
            args: Any = (x, w, bias, *options, act, [], "")
            _replace(g, end, torch.ops.mkldnn._convolution_pointwise.default, args)
        else:
            args = (x, e, w, bias, *options, "add", 1.0, None if act == "none" else act, [], None)
            _replace(g, end, torch.ops.mkldnn._convolution_pointwise.binary, args)


def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def arguments(node: fx.Node) -> Convolution | None:
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
