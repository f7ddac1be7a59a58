"""The arithmetic of `describe` against torch: the flop counter and the sizes of the tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from senet import ConfigError, ECAConfig, Net, NoSqueezeConfig, SEConfig, SharedConfig, Unit, get_net, list_models
from senet.create import create_model
from senet.foreign_models import describe_network
from senet.models.describe import describe
from senet.models.detector import MASKS


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def count(module: nn.Module, *inputs: Any) -> tuple[Any, int]:
    """A module's output and its multiply-adds, as torch counts them."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        out = module(*inputs)
    return out, counter.get_total_flops() // 2


def check(net: Net, image_size: tuple[int, int]) -> None:
    """Every row of `describe`, against the part of the module run by itself."""
    with torch.device("meta"):
        network, x = net.build().eval(), torch.empty(1, net.in_channels, *image_size)
    cost = describe(net, image_size)
    for row, (name, part) in zip(cost.rows, network.features.named_children(), strict=False):
        units = [m for m in part.modules() if isinstance(m, Unit)]
        x, macs = count(part, x)
        assert (row.part, row.params, row.macs) == (name, size(part), macs)
        assert (row.channels, row.height, row.width) == tuple(x.shape[1:])
        assert row.se_params == sum(size(u) for u in units)
    head = nn.Sequential(network.head, network.classifier)
    out, macs = count(head, x)
    row = cost.rows[-1]
    assert (row.part, row.params, row.macs, row.channels) == ("head", size(head), macs, out.shape[1])
    assert len(cost.rows) == len(network.features) + 1
    assert cost.params == size(network)
    assert cost.macs == sum(row.macs for row in cost.rows)
    assert cost.bn_statistics == sum(b.numel() for n, b in network.named_buffers() if "running" in n)
    if net.se:
        plain = describe(replace(net, se=None), image_size)
        assert (cost.params_without_se, cost.macs_without_se) == (plain.params, plain.macs)
        assert sum(row.se_params for row in cost.rows) == cost.params - plain.params
        assert sum(row.se_macs for row in cost.rows) == cost.macs - plain.macs


@pytest.mark.parametrize("name", list_models())
def test_every_network(name: str) -> None:
    net = get_net(name)
    check(net, (net.image_size, net.image_size))


UNITS = (
    SEConfig(reduction=4, bias=False),
    SEConfig(round_to=8),
    NoSqueezeConfig(),
    ECAConfig(),
    SharedConfig(groups=2),
)
PLACES = ("pre", "post", "identity", "identity_before", "conv3x3")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *(("resnet50", {"se": unit}) for unit in UNITS),
        *(("resnet50", {"se": SEConfig(placement=place)}) for place in PLACES),
        *(("preresnet164", {"se": NoSqueezeConfig(placement=place)}) for place in PLACES),
        *(("resnet18", {"se": NoSqueezeConfig(), "pool": pool, "in_channels": 1}) for pool in ("pad", "none")),
        ("se_resnet50", {"stride_on": "3x3", "num_classes": 0}),
        ("se_resnet50", {"se": NoSqueezeConfig(stages=(3, 5))}),
        ("resnext50_32x4d", {"first_1x1": "half", "projection": "3x3"}),
        ("resnet20", {"shortcut": "projection"}),
        ("preresnet110", {"shortcut": "projection", "stem_width": 8}),
        ("se_shake_shake_26_2x96d", {"se": NoSqueezeConfig(), "se_at": "mixed"}),
        ("se_shake_even_29_2x4x64d", {"se_at": "mixed", "num_classes": 7}),
        ("se_vgg16_bn", {"conv_bias": False, "hidden": 64}),
        ("se_bn_inception", {"conv_bias": True, "in_channels": 1}),
        ("se_inception_resnet_v2", {"layout": "figures", "se_at": "all"}),
        ("se_mobilenet", {"se_at": "depthwise", "stem_width": 16}),
        ("se_shufflenet_g3", {"se_at": "unit", "se": NoSqueezeConfig()}),
        ("shufflenet_g3", {"groups": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
)
def test_fields_and_odd_sizes(name: str, fields: dict[str, Any]) -> None:
    net = replace(get_net(name), **fields)
    # An odd side and an even one, so that padding and rounding differ.
    check(net, (37, 46) if net.image_size == 32 else (157, 170))


def test_the_unit_s_error_is_not_the_image_s() -> None:
    net = replace(get_net("resnet50"), se=SharedConfig(groups=7))
    with pytest.raises(ConfigError, match=r"^groups: 7 does not divide the 256 channels of a block"):
        describe(net)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["se_inception_resnet_v2", "resnet50"])
def test_too_small_is_where_torch_refuses(name: str) -> None:
    net = get_net(name)
    with torch.device("meta"):
        network = net.build().eval()
    refused = []
    for side in range(1, 100, 2):
        try:
            network(torch.empty(1, 3, side, side, device="meta"))
        except RuntimeError:
            refused.append(side)
            with pytest.raises(ConfigError, match=f"image_size: {side}x{side} is too small for this network: a window"):
                describe(net, side)
        else:
            assert describe(net, side).macs > 0
    # Inception-ResNet has convolutions without padding.
    assert (len(refused) > 10) == (name == "se_inception_resnet_v2")


@pytest.mark.parametrize("trunk", ["se_resnet18", "vgg16_bn", "timm:resnet18"])
@pytest.mark.parametrize("head", ["fasterrcnn", "maskrcnn", "retinanet"])
def test_detectors(head: str, trunk: str) -> None:
    """Each part of torchvision's detector by itself; the trunk ends with its last stage."""
    net = replace(get_net(f"{head}_{trunk}_fpn"), num_classes=4)
    cost = describe_network(net, 256)
    rows = {row.part: row for row in cost.rows}
    detector: Any = create_model(net).to("meta").eval()
    x = torch.empty(1, 3, *cost.image_size, device="meta")
    trunk_maps, in_trunk = count(detector.backbone.trunk, x)
    pyramid, in_fpn = count(detector.backbone.fpn, dict(enumerate(trunk_maps[-net.levels :])))  # type: ignore[attr-defined]
    expected = {"fpn": (size(detector.backbone.fpn), in_fpn)}
    maps = list(pyramid.values())
    if head == "retinanet":
        for part, module in (("classes", "classification_head"), ("boxes", "regression_head")):
            module = getattr(detector.head, module)
            expected[part] = size(module), count(module, maps)[1]
    else:
        boxes = nn.Sequential(detector.roi_heads.box_head, detector.roi_heads.box_predictor)
        expected["rpn"] = size(detector.rpn.head), count(detector.rpn.head, maps)[1]
        expected["boxes"] = size(boxes), count(boxes, torch.empty(1000, 256, 7, 7, device="meta"))[1]
    if head == "maskrcnn":
        masks = nn.Sequential(detector.roi_heads.mask_head, detector.roi_heads.mask_predictor)
        expected["masks"] = size(masks), count(masks, torch.empty(MASKS, 256, 14, 14, device="meta"))[1]
    assert {part: (rows[part].params, rows[part].macs) for part in expected} == expected
    assert cost.params == size(detector) == sum(row.params for row in cost.rows)
    assert cost.macs == in_trunk + sum(macs for _, macs in expected.values()) == sum(row.macs for row in cost.rows)
    plain = describe_network(replace(net, se=None), 256)
    assert (cost.params_without_se, cost.macs_without_se) == (plain.params, plain.macs)
