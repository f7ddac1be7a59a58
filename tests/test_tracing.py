"""What a forward pass did: hand-made blocks with known sums, and networks whose residual blocks one can count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from senet import SEConfig, create_model
from senet.errors import ConfigError
from senet.tracing import trace

Forward = Callable[["Block", Tensor], Tensor]


class Block(nn.Module):
    """Layers of equal width, and a forward of the test's own."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Identity()
        self.fc = nn.Linear(8, 8)
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def branch(m: Block, x: Tensor) -> Tensor:
    return m.bn(m.conv2(F.relu(m.conv1(x))))


def in_place(m: Block, x: Tensor) -> Tensor:
    out = branch(m, x)
    out += x
    return out


def into_the_shortcut(m: Block, x: Tensor) -> Tensor:
    x = m.conv3(x)
    return torch.ops.aten.add_(x, branch(m, x))


def through_another_view(m: Block, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out.view(-1).copy_(branch(m, x).flatten())
    return out + x


def channels_last(m: Block, x: Tensor) -> Tensor:
    u = m.fc(m.conv1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return x + m.drop(m.gamma * u)


SUMS: list[tuple[Forward, str | None, str | None]] = [
    (lambda m, x: branch(m, x) + x, "bn", None),
    (lambda m, x: torch.add(x, branch(m, x), alpha=2), "bn", None),
    (in_place, "bn", None),
    (into_the_shortcut, "bn", "conv3"),
    (through_another_view, None, None),
    (lambda m, x: x + m.drop(branch(m, x)), "bn", None),
    (lambda m, x: x + m.drop(branch(m, x) * 0.17), "drop", None),
    (lambda m, x: x + branch(m, x) * 0.17, None, None),
    (channels_last, "drop", None),
    (lambda m, x: x + m.bn(F.avg_pool2d(x, 3, 1, 1)), "bn", None),
    # A projection: fewer layers, whatever the order, gates not counted.
    (lambda m, x: m.conv3(x) + branch(m, x), "bn", "conv3"),
    (lambda m, x: branch(m, x) + m.conv3(F.max_pool2d(x, 3, 1, 1)), "bn", "conv3"),
    (lambda m, x: branch(m, x) + F.pad(x[:, :4], (0, 0, 0, 0, 0, 4)), "bn", None),
    (lambda m, x: branch(m, x) + m.conv3(x) * m.fc(m.fc(x.mean((2, 3))))[..., None, None], "bn", None),
    (lambda m, x: checkpoint(lambda x: branch(m, x), x, use_reentrant=False) + x, "bn", None),  # type: ignore[operator]
]


@pytest.mark.parametrize("case", range(len(SUMS)))
def test_what_is_a_residual_sum(case: int) -> None:
    forward, branch_module, shortcut_module = SUMS[case]
    t = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Block(forward), nn.Conv2d(8, 2, 1)), torch.zeros(1, 3, 6, 6))
    (s,) = t.sums
    assert s.module == "2"
    assert t.module_at(s.branch) == (branch_module and f"2.{branch_module}")
    assert t.module_at(s.shortcut) == (f"2.{shortcut_module}" if shortcut_module else "1" if s.shortcut == 2 else None)
    assert t.nodes[s.out].op in ("add", "add_")
    assert t.nodes[s.out].shape == (1, 8, 6, 6)
    assert {s.branch, s.shortcut, 0} <= t.ancestors(s.out)
    assert s.branch not in t.ancestors(s.shortcut)
    # What is behind the sum comes from it, through whatever view.
    assert s.out in t.ancestors(t.outputs[0])


def pyramid(m: Block, x: Tensor) -> Tensor:
    deep = m.conv2(F.max_pool2d(m.conv1(x), 2))
    return torch.cat([m.conv3(x) + F.interpolate(deep, scale_factor=2), F.interpolate(m.conv3(deep), (6, 6))], 1)


def into_half(m: Block, x: Tensor) -> Tensor:
    out = branch(m, x)
    out[:, :4] += x[:, :4]
    return out


NO_SUMS: list[Forward] = [
    lambda m, x: m.conv1(x) + m.gamma,
    lambda m, x: m.conv1(x) + 1,
    lambda m, x: m.conv1(x) + m.conv2(x),
    lambda m, x: branch(m, x) + m.bn(m.conv3(m.conv3(x))),
    lambda m, x: m.conv1(x) + m.conv1(x).mean((2, 3), keepdim=True),
    lambda m, x: (x + 0.04 * x**3).tanh() * m.conv1(x),
    lambda m, x: m.conv1(x) + m.fc(x.mean((2, 3)) + m.fc(x.mean((2, 3))))[..., None, None],
    lambda m, x: (y := m.conv1(x)) + y,
    # A projection is one layer; this may be two levels of a network that meet.
    lambda m, x: m.conv1(branch(m, x)) + m.conv2(m.conv1(x)),
    pyramid,
    into_half,
]


@pytest.mark.parametrize("case", range(len(NO_SUMS)))
def test_what_is_none(case: int) -> None:
    assert trace(nn.Sequential(nn.Conv2d(3, 8, 1), Block(NO_SUMS[case])), torch.zeros(1, 3, 6, 6)).sums == ()


@pytest.mark.parametrize(
    ("make", "sums", "concats"),
    [
        # By the papers' tables: 3+4+6+3 blocks, 10+20+10 blocks. tests/insert/test_places.py has more networks.
        (tv.resnet50, 16, 0),
        (lambda: timm.create_model("inception_resnet_v2"), 40, 3),
        (lambda: timm.create_model("dla34"), 12, 0),
        (tv.densenet121, 0, 4),
    ],
)
def test_networks_of_others(make: Callable[[], nn.Module], sums: int, concats: int) -> None:
    with torch.device("meta"):
        model = make()
    t = trace(model)
    assert len(t.sums) == sums
    assert sum(c.module is not None for c in t.concats) == concats
    assert t.nodes[0].shape == (1, 3, 224, 224)


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity", "identity_before", "conv3x3"])
def test_units_do_not_hide_our_blocks(placement: str) -> None:
    t = trace(create_model("se_resnet50", se=SEConfig(placement=placement), device="meta"))  # type: ignore[arg-type]
    assert len(t.sums) == 16
    last = "se" if placement == "standard" else "norm"
    assert all(t.module_at(s.branch) == f"{s.module}.{last}" for s in t.sums)


def test_our_own_networks_bring_their_image_size() -> None:
    assert trace(create_model("resnet20", in_channels=1)).nodes[0].shape == (1, 1, 32, 32)


def test_calls_say_what_ran() -> None:
    model = tv.resnet18()
    t = trace(model, torch.zeros(2, 3, 64, 64))
    assert len(t.calls["layer1.0.relu"]) == 2
    (call,) = t.calls["layer2.0.bn2"]
    assert (call.name, call.shape, call.dtype) == ("layer2.0.bn2", (2, 128, 8, 8), torch.float32)
    assert call.output is not None
    assert t.nodes[call.output].op == "native_batch_norm"
    assert call.inputs == (t.calls["layer2.0.conv2"][0].output,)
    assert t.calls[""][0].shape == (2, 1000)
    assert list(t.calls)[:3] == ["conv1", "bn1", "relu"]
    assert t.modules_at(call.output) == ("layer2.0.bn2",)
    assert t.modules_at(t.calls["layer1"][0].output or 0)[:2] == ("layer1.1.relu", "layer1.1")


def test_of_modules_that_give_one_node_the_one_that_made_it_comes_first() -> None:
    model = nn.Sequential(Block(lambda m, x: m.drop(F.relu(x))))
    assert trace(model, torch.zeros(1, 8, 2, 2)).modules_at(1) == ("0", "0.drop", "")


def test_nodes_say_where_the_channels_are() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.norm = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(self.norm(self.fc(self.conv(x).flatten(2).transpose(1, 2)))).transpose(-1, -2)

    t = trace(Tokens(), torch.zeros(2, 3, 8, 8))
    axes = {node.op: (node.shape, node.axis) for node in t.nodes}
    assert axes["convolution"] == ((2, 8, 4, 4), 1)
    assert axes["gelu"] == ((2, 16, 8), 2)
    assert t.nodes[t.outputs[0]].axis == 1


class Odd(nn.Module):
    """Changes a buffer, draws random numbers, and may fail."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.conv, self.fails = nn.Conv2d(3, 4, 1), fails
        self.norm = nn.BatchNorm2d(4).eval()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        x += 1
        x = self.norm(self.conv(x + torch.rand_like(x)))
        if self.fails:
            raise ValueError("too small")
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_before(fails: bool) -> None:
    model = Odd(fails)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    count, state, x = model.count, torch.get_rng_state(), torch.zeros(1, 3, 2, 2)
    if fails:
        with pytest.raises(ConfigError, match=r"example: the network does not run on \(1, 3, 2, 2\): too small"):
            trace(model, x)
    else:
        trace(model, (x,))
    assert not x.any()
    assert model.count is count
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in (model, model.conv, model.norm)] == [True, True, False]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.is_grad_enabled()


def test_an_example_that_cannot_be_guessed() -> None:
    with pytest.raises(ConfigError, match="example: cannot be made up, since the network has no convolution"):
        trace(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(ConfigError, match=r"on \(1, 5, 224, 224\) \(the 5 channels of the first convolution, '0'\): "):
        trace(nn.Sequential(nn.Conv2d(5, 4, 1), nn.Conv2d(8, 8, 1)))
    assert trace(nn.Sequential(nn.Conv1d(5, 2, 3)).double()).nodes[0].shape == (1, 5, 224)
    assert trace(nn.Bilinear(2, 2, 2), (torch.zeros(1, 2), torch.zeros(1, 2))).nodes[1].shape == (1, 2)
