"""Residual blocks against formulas written out by hand: shortcuts, strides, groups, and the six places of a unit."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import ConfigError, SEConfig
from senet.blocks.residual import Basic, Bottleneck, Projection, ResidualBlock, ZeroPad
from senet.config import Placement
from tests.models.by_hand import draw, gate, norm, randomised

PLACES = get_args(Placement)
SHAPES = [  # in, mid, out, stride, groups
    (8, 8, 8, 1, 1),
    (8, 4, 16, 1, 1),
    (8, 12, 24, 2, 4),
]


def build(kind: type[ResidualBlock], shape: tuple[int, ...], **fields: Any) -> ResidualBlock:
    in_channels, mid, out, stride, groups = shape
    return kind(in_channels, mid=mid, out=out, stride=stride, groups=groups, **fields)


def by_hand(
    block: ResidualBlock, x: Tensor, shape: tuple[int, ...], place: str | None, shortcut: str, stride_on: str
) -> Tensor:
    """Figure 5 of the paper, one line per step."""
    in_channels, _, out, stride, groups = shape
    w = block.state_dict()

    def at(here: str, x: Tensor) -> Tensor:
        return gate(x, w, "se") if place == here else x

    y = at("identity_before", x)
    if stride != 1 or in_channels != out:
        if shortcut == "projection":
            y = norm(F.conv2d(y, w["shortcut.conv.weight"], stride=stride), w, "shortcut.norm")
        else:
            small = y[:, :, ::stride, ::stride]
            y = torch.cat([small, small.new_zeros(small.shape[0], out - in_channels, *small.shape[2:])], 1)
    y = at("identity", y)
    u = at("pre", x)
    if isinstance(block, Basic):
        u = F.conv2d(u, w["conv1.weight"], stride=stride, padding=1, groups=groups)
        u = torch.relu(norm(u, w, "norm1"))
        u = F.conv2d(u, w["conv2.weight"], padding=1, groups=groups)
    else:
        first = stride if stride_on == "1x1" else 1
        u = torch.relu(norm(F.conv2d(u, w["conv1.weight"], stride=first), w, "norm1"))
        u = F.conv2d(u, w["conv2.weight"], stride=stride // first, padding=1, groups=groups)
        u = at("conv3x3", torch.relu(norm(u, w, "norm2")))
        u = F.conv2d(u, w["conv3.weight"])
    u = at("standard", norm(u, w, "norm"))
    return at("post", torch.relu(u + y))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("shortcut", ["projection", "zero_pad"])
@pytest.mark.parametrize(
    ("kind", "stride_on", "place"),
    [
        *((Basic, "1x1", place) for place in (None, *PLACES) if place != "conv3x3"),
        *((Bottleneck, stride_on, place) for stride_on in ("1x1", "3x3") for place in (None, *PLACES)),
    ],
)
def test_block_by_hand(
    kind: type[ResidualBlock], stride_on: str, place: Any, shortcut: str, shape: tuple[int, ...]
) -> None:
    se = SEConfig(placement=place, reduction=4) if place else None
    fields = {"stride_on": stride_on} if kind is Bottleneck else {}
    block = randomised(build(kind, shape, se=se, shortcut=shortcut, **fields))
    in_channels, _, out, stride, _ = shape
    x = draw(2, in_channels, 7, 6)
    kept = x.clone()
    want = by_hand(block, x, shape, place, shortcut, stride_on)
    got = block(x)
    assert want.shape == (2, out, -(-7 // stride), -(-6 // stride))
    assert torch.allclose(got, want, rtol=0, atol=1e-11)
    # The ReLUs in place must not reach what came in.
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("place", "channels"),
    [("standard", 16), ("pre", 8), ("post", 16), ("identity", 16), ("identity_before", 8), ("conv3x3", 4)],
)
def test_width_of_the_unit_at_each_place(place: Any, channels: int) -> None:
    """architectures.md section 9: PRE has the block's input, the 3x3 its inner width, the others its output."""
    block = build(Bottleneck, (8, 4, 16, 2, 1), se=SEConfig(placement=place, reduction=2))
    assert block.se.fc1.weight.shape == (channels // 2, channels)


@pytest.mark.parametrize("kind", [Basic, Bottleneck])
def test_gradients(kind: type[ResidualBlock]) -> None:
    block = randomised(build(kind, (4, 4, 6, 2, 2), se=SEConfig(reduction=2)))
    assert torch.autograd.gradcheck(block, (draw(1, 4, 3, 3).requires_grad_(),))


def test_a_basic_block_refuses_conv3x3() -> None:
    se = SEConfig(placement="conv3x3")
    assert isinstance(build(Bottleneck, (8, 8, 8, 1, 1), se=se), Bottleneck)
    with pytest.raises(ConfigError, match=r"placement: 'conv3x3' needs bottlenecks.* a basic block has two"):
        build(Basic, (8, 8, 8, 1, 1), se=se)


def test_zero_pad_by_hand() -> None:
    x = torch.arange(1.0, 19.0).reshape(1, 2, 3, 3)
    want = torch.zeros(1, 3, 2, 2)
    want[0, 0] = torch.tensor([[1, 3], [7, 9]])
    want[0, 1] = torch.tensor([[10, 12], [16, 18]])
    assert torch.equal(ZeroPad(2, 3, 2)(x), want)
    assert torch.equal(ZeroPad(2, 2, 1)(x), x)
    assert "extra=1, stride=2" in repr(ZeroPad(2, 3, 2))


def test_projection_by_hand() -> None:
    layer = Projection(2, 1, 2).eval()
    with torch.no_grad():
        layer.conv.weight.copy_(torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1))
        layer.norm.bias.fill_(0.5)
    x = torch.arange(1.0, 19.0).reshape(1, 2, 3, 3)
    # 2 a - b at every second pixel, over sqrt(1 + eps), plus a half.
    want = torch.tensor([[2 * 1 - 10, 2 * 3 - 12], [2 * 7 - 16, 2 * 9 - 18.0]]) / (1 + 1e-5) ** 0.5 + 0.5
    assert torch.allclose(layer(x)[0, 0], want)
    assert layer.conv.bias is None


@pytest.mark.parametrize(
    ("shape", "shortcut", "kind"),
    [
        ((8, 8, 8, 1, 1), "projection", nn.Identity),
        ((8, 8, 8, 1, 1), "zero_pad", nn.Identity),
        ((8, 8, 8, 2, 1), "projection", Projection),
        ((8, 8, 8, 2, 1), "zero_pad", ZeroPad),
        ((8, 8, 16, 1, 1), "projection", Projection),
        ((8, 8, 16, 1, 1), "zero_pad", ZeroPad),
        ((8, 8, 4, 1, 1), "projection", Projection),
    ],
)
def test_shortcuts(shape: tuple[int, ...], shortcut: str, kind: type[nn.Module]) -> None:
    for block in (Basic, Bottleneck):
        assert type(build(block, shape, shortcut=shortcut).shortcut) is kind


def test_the_epilogue_is_one_attribute() -> None:
    """A kernel replaces it; with what the block ends in, it is all that the standard place needs."""
    block = randomised(build(Bottleneck, (8, 4, 8, 1, 1), se=SEConfig(reduction=4)))
    x, seen = draw(2, 8, 5, 5), []
    usual = block.epilogue

    def epilogue(u: Tensor, layer: nn.Module, se: nn.Module | None, shortcut: Tensor) -> Tensor:
        seen.append((tuple(u.shape), layer is block.norm, se is block.se, torch.equal(shortcut, x)))
        return usual(u, layer, se, shortcut)

    before = block(x)
    block.epilogue = epilogue
    assert torch.equal(block(x), before)
    assert seen == [((2, 8, 5, 5), True, True, True)]
    assert "epilogue" not in "".join(block.state_dict())


@pytest.mark.parametrize("place", [p for p in PLACES if p != "standard"])
def test_elsewhere_the_epilogue_gets_no_unit(place: Any) -> None:
    block = randomised(build(Bottleneck, (8, 4, 8, 1, 1), se=SEConfig(placement=place, reduction=4)))
    seen = []
    block.epilogue = lambda u, layer, se, shortcut: seen.append(se) or torch.relu(layer(u) + shortcut)
    block(draw(1, 8, 4, 4))
    assert seen == [None]


@pytest.mark.parametrize("kind", [Basic, Bottleneck])
def test_parameter_names(kind: type[ResidualBlock]) -> None:
    names = {name for name, _ in build(kind, (8, 4, 16, 2, 1), se=SEConfig()).named_parameters()}
    convs = ["conv1", "conv2"] + (["conv3"] if kind is Bottleneck else [])
    norms = ["norm1", "norm"] + (["norm2"] if kind is Bottleneck else [])
    assert names == {
        *(f"{c}.weight" for c in convs),
        *(f"{n}.{p}" for n in (*norms, "shortcut.norm") for p in ("weight", "bias")),
        "shortcut.conv.weight",
        *(f"se.fc{i}.{p}" for i in (1, 2) for p in ("weight", "bias")),
    }
