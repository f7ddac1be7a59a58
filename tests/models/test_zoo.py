"""Every network as a whole: forward, backward, layouts, odd sizes, copies, pickles, the meta device, torch.export."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import Network, Unit, create_model, get_net, list_models

SIZES = {32: (17, 9), 224: (65, 97), 299: (95, 107)}
"""Odd heights and widths, by the size a network was designed for. They leave more than one place in the last map."""


def count_calls(model: Network) -> dict[str, int]:
    """How often each unit will have run."""
    calls: dict[str, int] = {}
    for name, unit in model.named_modules():
        if isinstance(unit, Unit):
            calls[name] = 0
            unit.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    return calls


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Of a training step; what is random in it is the same each time."""
    torch.manual_seed(0)
    model.zero_grad()
    F.cross_entropy(model.train()(x), torch.arange(len(x))).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gap(a: Tensor, b: Tensor) -> float:
    """The difference of two tensors, relative to their size."""
    return ((a - b).norm() / a.norm().clamp_min(1e-12)).item()


TWINS = [name for name in list_models() if f"se_{name}" in list_models()]
"""Networks whose SE twin is here too, which is all that they are and more."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_every_plain_twin_learns(name: str) -> None:
    net = get_net(name)
    model = create_model(name, num_classes=5)
    x = torch.randn(2, net.in_channels, *SIZES[net.image_size], generator=torch.Generator().manual_seed(1))
    grads = gradients(model, x.to(memory_format=torch.channels_last))
    assert grads.keys() == dict(model.named_parameters()).keys()
    assert all(torch.isfinite(grad).all() and grad.any() for grad in grads.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if name not in TWINS])
def test_every_network(name: str) -> None:
    net = get_net(name)
    height, width = SIZES[net.image_size]
    model = create_model(name, num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # so that evaluation, after one step, sees maps of ordinary size
    on_meta = create_model(name, num_classes=5, device="meta").state_dict()
    assert {key: t.shape for key, t in on_meta.items()} == {key: t.shape for key, t in model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, net.in_channels, height, width, generator=generator)
    one = torch.randn(1, net.in_channels, width, height, generator=generator)

    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    calls = count_calls(twin)
    for grads in (gradients(model, x), gradients(twin, x.to(memory_format=torch.channels_last))):
        assert grads.keys() == dict(model.named_parameters()).keys()
        for key, grad in grads.items():
            assert torch.isfinite(grad).all(), key
            # A unit's hidden layer of ReLUs may be dead at the start; elsewhere a zero means a cut wire.
            assert grad.any() or ".se." in key, key
        of_units = [grad.any().item() for key, grad in grads.items() if ".se." in key]
        assert 2 * sum(of_units) >= len(of_units)
        del grads
    assert all(count == 1 for count in calls.values()), calls
    assert bool(calls) == (net.se is not None)

    model.zero_grad()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = model.eval()(one)
        assert logits.shape == (1, 5)
        assert torch.isfinite(logits).all()
        assert gap(logits, twin.eval()(one.to(memory_format=torch.channels_last))) < 1e-3
        assert torch.equal(pickle.loads(pickle.dumps(model))(one), logits)
        exported = torch.export.export(model, (one,), strict=False).module()
        assert gap(logits, exported(one)) < 1e-5
