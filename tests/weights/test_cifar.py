"""The public CIFAR ResNets, against a small implementation of their padding and names written here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet import create_model
from senet.blocks.residual import ZeroPad
from senet.errors import CheckpointError
from senet.weights.export import state_as
from senet.weights.identify import identify, read_network
from senet.weights.load import load_weights_
from tests.weights.by_names import Weights
from tests.weights.sources import equal, gap

IMAGE = (2, 3, 32, 32)


def public_resnet20(w: Weights, x: Tensor, head: str, down: str | None, classes: int = 10) -> Tensor:
    """ResNet-20 by its published names. Without `down` a shortcut pads planes/4 zero channels on both sides."""
    x = F.relu(w.norm(w.conv(x, "conv1", 16, 3), "bn1"))
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            stride, name = 2 if stage > 1 and block == 0 else 1, f"layer{stage}.{block}"
            u = F.relu(w.norm(w.conv(x, f"{name}.conv1", width, 3, stride), f"{name}.bn1"))
            u = w.norm(w.conv(u, f"{name}.conv2", width, 3), f"{name}.bn2")
            if stride > 1 and down:
                x = w.norm(w.conv(x, f"{name}.{down}.0", width, 1, 2), f"{name}.{down}.1")
            elif stride > 1:
                zeros = torch.zeros(len(x), width // 4, *u.shape[2:])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
            x = F.relu(u + x)
    return w.linear(x.mean((2, 3)), head, classes)


@pytest.mark.parametrize(
    ("library", "head", "down", "shortcut"),
    [
        ("akamaster", "linear", None, "zero_pad_both"),
        ("akamaster", "linear", "shortcut", "projection"),
        ("chenyaofo", "fc", "downsample", "projection"),
    ],
)
def test_logits_are_the_same(library, head, down, shortcut, tmp_path):
    weights = Weights()
    public_resnet20(weights, torch.zeros(IMAGE), head, down)
    # As akamaster's trainer saves it.
    torch.save(
        {"state_dict": {f"module.{n}": t for n, t in weights.state.items()}, "best_prec1": 91.7}, tmp_path / "a.th"
    )
    name, model, report = read_network(tmp_path / "a.th", quiet=True)
    assert (name, report.convention, model.net.shortcut) == ("resnet20", library, shortcut)
    assert (report.missing, report.unused, report.unknown_fields) == ((), (), ())
    assert gap(model, lambda x: public_resnet20(weights, x, head, down), IMAGE) < 1e-5
    assert equal(state_as(model, library), weights.state)
    if shortcut == "zero_pad_both":
        # The side counts: the same weights are another function with the zero channels last.
        other = create_model("resnet20")
        other.load_state_dict(model.state_dict())
        assert gap(other, model, IMAGE) > 0.1
        with pytest.raises(CheckpointError, match="shortcut is 'zero_pad' in this network and always 'zero_pad_both'"):
            state_as(other, library)


def test_an_se_network_keeps_its_units_and_takes_the_padding():
    weights = Weights()
    public_resnet20(weights, torch.zeros(IMAGE), "linear", None)
    model = create_model("se_resnet20")
    report = load_weights_(model, weights.state, allow="features.*.se", quiet=True)
    assert report.changed == ("shortcut: zero_pad -> zero_pad_both",)
    assert len(report.missing) == 9 * 4
    assert identify(create_model("resnet20", shortcut="zero_pad_both").state_dict())[0] == "resnet20"


@pytest.mark.parametrize(("channels", "out", "before"), [(16, 32, 8), (2, 3, 0), (2, 5, 1), (4, 4, 0)])
def test_half_of_the_zero_channels_are_before(channels, out, before):
    x = torch.rand(1, channels, 4, 4) + 1
    y = ZeroPad(channels, out, 2, both_sides=True)(x)
    assert y.shape == (1, out, 2, 2)
    assert torch.equal(y[:, before : before + channels], x[:, :, ::2, ::2])
    assert int((y == 0).all(dim=(0, 2, 3)).sum()) == out - channels
    # Ours, the original's: all of them behind.
    assert torch.equal(ZeroPad(channels, out, 2)(x)[:, :channels], x[:, :, ::2, ::2])


@pytest.mark.parametrize("name", ["resnet20", "preresnet110"])
def test_the_side_is_a_value_of_the_shortcut(name):
    both, last = create_model(name, shortcut="zero_pad_both"), create_model(name)
    assert equal(dict(both.state_dict()), dict(last.state_dict()))
    assert gap(both, last, IMAGE) > 1e-3
