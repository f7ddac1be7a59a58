"""Fuse the end of a block into one operation: the last 1x1 convolution, gates, sum and activation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from senet.deploy.convolutions import activation_of, flat_gates, gated_input, pointwise_weight
from senet.deploy.graph import Graph, aten, only_user, place, shape
from senet.deploy.squeeze_early import Gated, groups_of, pointwise_layer
from senet.kernels import dispatch


@dataclass(frozen=True)
class Epilogue:
    """`end = act(s u + e)`.

    Attributes:
        end: the last node: the sum or the activation.
        u: the feature map that is gated.
        s: its gates; None without.
        e: the other term of the sum; None without.
        act: the activation, by its name in `packed.ACTIVATIONS`.
    """

    end: fx.Node
    u: fx.Node
    s: fx.Node | None
    e: fx.Node | None
    act: str


def fuse_epilogues(g: Graph, gates: Mapping[fx.Node, Gated], *, compile: bool, gpu_kernels: bool) -> list[str]:
    """Replace each epilogue by one operation where this machine has one. Return the places of those replaced.

    Args:
        g: changed in place.
        gates: the gated products of `find_gates`, by node.
        compile: the graph is compiled afterwards; a compiler fuses products and sums by itself.
        gpu_kernels: use our kernels on a GPU.
    """
    # Each is fused before the next is found: it may change what the next one reads.
    return [place(t.end) for t in _find(g, gates) if _fuse(g, t, gates, compile, gpu_kernels)]


def _find(g: Graph, gates: Mapping[fx.Node, Gated]) -> Iterator[Epilogue]:
    """Sums of a gated feature map, or of a 1x1 convolution, with the activation that follows. No node is in two."""
    for add in g.calls(aten.add.Tensor):
        if len(add.args) != 2 or add.kwargs or not all(isinstance(a, fx.Node) for a in add.args):
            continue
        a, b = add.args
        if shape(a) != shape(b) or len(shape(a)) < 3:
            continue
        sides: list[Any] = [(x, y) for x, y in ((a, b), (b, a)) if only_user(x) is add]  # type: ignore[arg-type]
        gated = next(((gates[x], y) for x, y in sides if x in gates), None)
        conv = next(((x, y) for x, y in sides if pointwise_layer(g, x) is not None and groups_of(x) == 1), None)
        end, act = activation_of(add)
        if gated is not None:
            yield Epilogue(end, gated[0].u, gated[0].s, gated[1], act)
        elif conv is not None:
            yield Epilogue(end, conv[0], None, conv[1], act)


def _fuse(g: Graph, t: Epilogue, gates: Mapping[fx.Node, Gated], compile: bool, gpu_kernels: bool) -> bool:
    """Put one operation in an epilogue's place; False if there is none."""
    value = t.u.meta["val"]
    if len({n.meta["val"].dtype for n in (t.u, t.s, t.e, t.end) if n is not None}) > 1:
        return False
    conv, kernel = pointwise_layer(g, t.u), "torch"
    if conv is not None and groups_of(conv) == 1 and len(t.u.users) == 1 and len(shape(t.u)) == 4:
        channels = shape(conv.args[0])[1]
        kernel = dispatch.conv1x1(value.device, value.dtype, channels, gpu_kernels=gpu_kernels)
    if conv is None or kernel == "torch" or (kernel == "triton" and t.act not in ("none", "relu")):
        return t.s is not None and not compile and (_gated(g, t) or _addcmul(g, t))
    h, weight, bias = conv.args[0], conv.args[1], conv.args[2] if len(conv.args) > 2 else None
    s = None if t.s is None else flat_gates(g, t.s, t.end)
    h, gate = gated_input(g, h, conv, gates) if kernel == "c" else (h, None)
    with g.graph.inserting_before(t.end):
        if kernel == "triton":
            import senet.kernels.conv1x1.operation  # noqa: F401  (defines the operation)

            y = g.graph.call_function(torch.ops.senet.conv1x1.default, (h, weight, bias, s, t.e, t.act == "relu"))
        else:
            channels = shape(t.u)[1]
            args = (h, pointwise_weight(g, conv), channels, gate, bias, s, t.e, t.act)
            y = g.graph.call_function(torch.ops.senet.conv1x1_packed.default, args)
    y.meta = dict(t.end.meta)
    t.end.replace_all_uses_with(y)
    return True


def use_products(g: Graph, gates: Mapping[fx.Node, Gated]) -> None:
    """Give products with gates that nothing else has taken to C, with the activation that follows."""
    for product, gated in gates.items():
        if not product._erased and product.users:
            end, act = activation_of(product)
            _gated(g, Epilogue(end, gated.u, gated.s, None, act))
    g.graph.eliminate_dead_code()


def _gated(g: Graph, t: Epilogue) -> bool:
    value = t.u.meta["val"]
    if len(shape(t.u)) != 4 or shape(t.s) != (*shape(t.u)[:2], 1, 1) or shape(t.end) != shape(t.u):
        return False
    dtypes = {n.meta["val"].dtype for n in (t.u, t.s, t.e, t.end) if n is not None}
    if len(dtypes) > 1 or not dispatch.c_convolutions(value.device, value.dtype):
        return False
    import senet.kernels.gates.c  # noqa: F401  (defines the operation)

    s = flat_gates(g, t.s, t.end)  # type: ignore[arg-type]
    with g.graph.inserting_before(t.end):
        y = g.graph.call_function(torch.ops.senet.gated.default, (t.u, s, shape(t.u)[1], t.e, t.act))
    y.meta = dict(t.end.meta)
    t.end.replace_all_uses_with(y)
    return True


def _addcmul(g: Graph, t: Epilogue) -> bool:
    with g.graph.inserting_before(t.end):
        y = g.graph.call_function(aten.addcmul.default, (t.e, t.u, t.s))
        y.meta = dict(t.end.meta)
    if t.act == "none":
        t.end.replace_all_uses_with(y)
    else:
        t.end.replace_input_with(t.end.args[0], y)  # type: ignore[arg-type]
    return True
