"""Whole networks against independent implementations: timm's legacy ones (the released networks) and torchvision's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from senet import Network, create_model, get_net
from senet.blocks.residual import Basic
from tests.models.library_names import copy_weights, randomise_


def images(size: int, *, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_same(ours: Network, theirs: torch.nn.Module, size: int) -> None:
    x = images(size)
    with torch.inference_mode():
        mine, other = ours(x), theirs(x)
    assert mine.std() > 0
    assert torch.allclose(mine, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())


@pytest.mark.parametrize("size", [64, 97])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("se_resnet50", "legacy_seresnet50"),
        ("se_resnext50_32x4d", "legacy_seresnext50_32x4d"),
    ],
)
def test_equals_timms_legacy_networks(name: str, theirs: str, size: int) -> None:
    import timm

    ours = create_model(name, num_classes=7).double().eval()
    randomise_(ours)
    other = timm.create_model(theirs, num_classes=7).double().eval()
    copy_weights(ours, other, stem="layer0.", head="last_linear")
    assert_same(ours, other, size)


def test_timms_legacy_basic_blocks_have_one_relu_more() -> None:
    """They rectify before the unit, which neither the paper (Figure 3) nor the released bottlenecks do."""
    import timm

    ours = create_model("se_resnet18", num_classes=7).double().eval()
    randomise_(ours)
    other = timm.create_model("legacy_seresnet18", num_classes=7).double().eval()
    copy_weights(ours, other, stem="layer0.", head="last_linear")
    with torch.inference_mode():
        assert not torch.allclose(ours(images(64)), other(images(64)), rtol=0.01)
    for block in ours.modules():
        if isinstance(block, Basic):
            block.epilogue = lambda u, norm, se, shortcut: torch.relu(se(torch.relu(norm(u))) + shortcut)
    assert_same(ours, other, 64)


@pytest.mark.parametrize("size", [64, 97])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_equals_torchvision_with_its_pool_and_stride(name: str, size: int) -> None:
    from torchvision import models

    # Basic blocks have one convolution that can carry the stride.
    net = replace(get_net(name), pool="pad", stride_on="1x1" if name == "resnet18" else "3x3")
    ours = create_model(net, num_classes=7).double().eval()
    randomise_(ours)
    other = getattr(models, name)(num_classes=7).double().eval()
    copy_weights(ours, other)
    assert_same(ours, other, size)


def test_the_released_pool_and_stride_are_others_than_torchvisions() -> None:
    from torchvision import models

    ours = create_model("resnet50", num_classes=7).double().eval()
    other = models.resnet50(num_classes=7).double().eval()
    copy_weights(ours, other)
    with torch.inference_mode():
        x = images(64)
        assert not torch.allclose(ours(x), other(x), rtol=0.01)


def test_training_step_equals_torchvisions() -> None:
    """Batch statistics and gradients, not only evaluation."""
    from torchvision import models

    ours = create_model("resnet18", pool="pad", num_classes=7).double()
    other = models.resnet18(num_classes=7).double()
    copy_weights(ours, other)
    x, targets = images(64, batch=4), torch.tensor([0, 1, 2, 3])
    for model in (ours, other):
        torch.nn.functional.cross_entropy(model(x), targets).backward()
    mine, theirs = ours.features.stem.conv.weight.grad, other.conv1.weight.grad
    assert torch.allclose(mine, theirs, rtol=1e-7, atol=1e-9 * theirs.abs().max().item())
    assert torch.allclose(ours.features.stem.norm.running_var, other.bn1.running_var)


def test_the_table_of_a_torchvision_network_is_one_change_away() -> None:
    net = get_net("resnet50")
    assert (net.pool, net.stride_on) == ("ceil", "1x1")
    assert (get_net("resnext50_32x4d").pool, get_net("resnext50_32x4d").stride_on) == ("ceil", "3x3")
