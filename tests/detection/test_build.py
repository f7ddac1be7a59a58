"""Detectors: torchvision's, with our network as their trunk, and with Detectron's rules where they differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from senet import ConfigError, create_model, get_net
from senet.detection.build import ImageByImage, outside
from senet.models.detector import DetectorNet
from senet.models.registry import canonical_name, plain_twin

FEW = {f"rpn_{a}_nms_top_n_{b}": 20 for a in ("pre", "post") for b in ("train", "test")}
FEW["box_batch_size_per_image"] = 16


def detector_of(name: str, seed: int = 0, **fields: Any) -> Any:
    """A detector of three classes that looks at few boxes, for speed."""
    net = get_net(name)
    few = {} if name.startswith("retinanet") else {"rois": 16, "proposals": (20, 20)}
    return create_model(replace(net, **{"num_classes": 3, **few, **fields}), seed=seed)


def trunk(detector: Any) -> Any:
    return detector.backbone.trunk


def learning(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def batch(masks: bool = False) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of other shapes, with two objects and with none."""
    images = [torch.randn(3, *side, generator=torch.Generator().manual_seed(side[0])) for side in ((64, 96), (90, 70))]
    targets: list[dict[str, Tensor]] = [
        {"boxes": torch.tensor([[8.0, 8.0, 50.0, 40.0], [30.0, 2.0, 90.0, 60.0]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    if masks:
        for image, t in zip(images, targets, strict=True):
            t["masks"] = torch.zeros(len(t["boxes"]), *image.shape[1:], dtype=torch.uint8)
            t["masks"][:, 10:30, 10:40] = 1
    return images, targets


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("fasterrcnn_se_resnet18_fpn", "loss_classifier loss_box_reg loss_objectness loss_rpn_box_reg"),
        ("maskrcnn_resnet18_fpn+eca", "loss_classifier loss_box_reg loss_mask loss_objectness loss_rpn_box_reg"),
        ("retinanet_se_resnet18_fpn", "classification bbox_regression"),
        ("fasterrcnn_timm:resnet18_fpn+se", "loss_classifier loss_box_reg loss_objectness loss_rpn_box_reg"),
        ("retinanet_torchvision:mobilenet_v3_small_fpn", "classification bbox_regression"),
    ],
)
def test_it_learns_and_detects(name: str, terms: str) -> None:
    detector = detector_of(name)
    images, targets = batch(masks=True)
    before = {n: b.clone() for n, b in trunk(detector).named_buffers()}
    losses = detector.train()(images, targets)
    assert set(losses) == set(terms.split())
    torch.stack(list(losses.values())).sum().backward()
    # Two stages and all norms are frozen, neither weights nor statistics move.
    for n, p in trunk(detector).named_parameters():
        assert (p.grad is not None) == p.requires_grad or name.endswith("small_fpn"), n
    assert 0 < len(learning(trunk(detector))) < len(list(trunk(detector).parameters()))
    assert all(torch.equal(b, before[n]) for n, b in trunk(detector).named_buffers())
    assert {"boxes", "labels", "scores"} <= set(detector.eval()(images)[0])


@pytest.mark.parametrize(
    ("typed", "name", "plain"),
    [
        ("FasterRCNN-SE-ResNet50-FPN", "fasterrcnn_se_resnet50_fpn", "fasterrcnn_resnet50_fpn"),
        ("maskrcnn_seresnext50_fpn", "maskrcnn_se_resnext50_32x4d_fpn", "maskrcnn_resnext50_32x4d_fpn"),
        ("retinanet_timm:resnet18_fpn+se", "retinanet_timm:resnet18_fpn+se", "retinanet_timm:resnet18_fpn"),
    ],
)
def test_names(typed: str, name: str, plain: str) -> None:
    assert canonical_name(typed) == name
    assert plain_twin(name) == plain
    assert replace(get_net(name), se=None) == get_net(plain)


def test_the_trunk_starts_as_the_classifier_does_and_twins_share_weights() -> None:
    detector, model = detector_of("fasterrcnn_se_resnet18_fpn", seed=3), create_model("se_resnet18", seed=3)
    own = trunk(detector).state_dict()
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in own.items())
    whole, plain = detector.state_dict(), detector_of("fasterrcnn_resnet18_fpn", seed=3).state_dict()
    assert all(torch.equal(t, whole[name]) for name, t in plain.items())


def test_seeds_and_the_global_random_state() -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    one, again, two = (detector_of("retinanet_resnet18_fpn", seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["backbone.fpn.inner_blocks.0.0.weight"], two["backbone.fpn.inner_blocks.0.0.weight"])


@pytest.mark.parametrize(
    ("name", "fields", "stages"),
    [
        ("fasterrcnn_se_resnet18_fpn", {"freeze_at": 0, "freeze_norm": False}, {"stem", "stage2", "stage3"}),
        ("fasterrcnn_se_resnet18_fpn", {"freeze_at": 1}, {"stage2", "stage3"}),
        ("fasterrcnn_se_resnet18_fpn", {"freeze_at": 3}, set()),
        ("fasterrcnn_se_resnet18_fpn", {"freeze_units": False}, {"stage2.se", "stage3"}),
        ("fasterrcnn_timm:resnet18_fpn", {"freeze_at": 1}, {"stage2", "stage3"}),
        ("fasterrcnn_timm:resnet18_fpn", {"freeze_at": 0, "freeze_norm": False}, {"stem", "stage2", "stage3"}),
        ("fasterrcnn_torchvision:resnet18_fpn+se", {"freeze_units": False}, {"stage2.se", "stage3"}),
    ],
)
def test_what_learns(name: str, fields: dict[str, Any], stages: set[str]) -> None:
    """Of the stem and of the stages 2 and 3, by the names of our ResNets and of the libraries'."""
    rename = {"conv1": "stem", "bn1": "stem", "layer1": "stage2", "layer2": "stage3"}
    found = set()
    for parameter in learning(trunk(detector_of(name, **fields))):
        words = parameter.split(".")
        part = rename.get(words[1], words[1])
        is_unit = any(word in parameter for word in (".se.", ".unit."))
        found.add(part if not (is_unit and part == "stage2" and "freeze_units" in fields) else f"{part}.se")
    assert found & {"stem", "stage2", "stage2.se", "stage3"} == stages


class Bare(nn.Module):
    """A trunk's pyramid as torchvision takes it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.body, self.out_channels = backbone, 256

    def forward(self, x: Tensor) -> Any:
        return self.body(x)


@pytest.mark.parametrize("head", ["fasterrcnn", "maskrcnn", "retinanet"])
def test_protocol_torchvision_is_torchvisions_own(head: str) -> None:
    ours = detector_of(f"{head}_se_resnet18_fpn", protocol="torchvision")
    same = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True}
    same |= {"min_size": 64, "max_size": 96}
    sizes = tuple((2**k,) for k in range(5, 10))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    if head == "retinanet":
        theirs: Any = RetinaNet(Bare(ours.backbone), 4, **same)
    else:
        cls = FasterRCNN if head == "fasterrcnn" else MaskRCNN
        theirs = cls(Bare(ours.backbone), 4, rpn_anchor_generator=anchors, **same, **FEW)
        # But for the random numbers that choose boxes.
        for part in ("rpn", "roi_heads"):
            getattr(theirs, part).fg_bg_sampler = getattr(ours, part).fg_bg_sampler
    weights = {n.replace("backbone.", "backbone.body."): t for n, t in ours.state_dict().items()}
    theirs.load_state_dict(weights)
    images, targets = batch(masks=head == "maskrcnn")
    images, targets = [images[0], images[0].flip(1)], [targets[0], targets[0]]
    found = []
    for detector in (ours, theirs):
        torch.manual_seed(1)
        found.append(detector.train()(images, targets))
    assert found[0] == found[1]
    one, two = (detector.eval()(images) for detector in (ours, theirs))
    assert all(torch.equal(a[k], b[k]) for a, b in zip(one, two, strict=True) for k in a)


def test_no_proposals_inside_crowds() -> None:
    proposals = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 14], [0.0, 0, 10, 15], [20.0, 20, 30, 30]])
    # 10 of 10, 10 of 14 and 10 of 15 rows are inside: 100 %, 71 %, 67 %.
    assert outside(proposals, torch.tensor([[0.0, 0, 10, 10]])).tolist() == proposals[2:].tolist()
    assert len(outside(proposals, torch.zeros(0, 4))) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze_at": 6}, "freeze_at: 6 is not known; 0 for nothing, or stages: 0, 1, 2, 3, 4, 5"),
        ({"num_classes": 0}, "num_classes: 0 is too small; expected: 1 or more"),
        ({"head": "retinanet"}, "protocol: 'detectron' is that of R-CNNs; expected for RetinaNet: torchvision"),
        ({"freeze_units": False, "se": None}, "freeze_units: false has no effect with no unit"),
        ({"freeze_units": False, "freeze_at": 1}, "freeze_units: false has no effect with no frozen stage"),
        ({"rois": 0}, "rois: 0 is too small; expected: 1 or more"),
        ({"proposals": (0, 9)}, r"proposals: \(0, 9\) are too few; expected: 1 or more"),
        ({"head": "retinanet", "protocol": "torchvision", "rois": 9}, "rois: 9 has no effect on RetinaNet"),
        ({"trunk": get_net("se_resnet18")}, "trunk.se: is the detector's own `se`"),
    ],
    ids=str,
)
def test_wrong_values(fields: dict[str, Any], message: str) -> None:
    net = get_net("fasterrcnn_se_resnet18_fpn")
    assert isinstance(net, DetectorNet)
    with pytest.raises(ConfigError, match=message):
        replace(net, **fields)


def test_trunks_without_feature_maps() -> None:
    with pytest.raises(ConfigError, match="trunk: timm:vit_tiny_patch16_224 does not take images of 128x128: Input"):
        create_model("fasterrcnn_timm:vit_tiny_patch16_224_fpn")
    with pytest.raises(ConfigError, match="trunk: has 3 stages; expected: 4 or more"):
        create_model("fasterrcnn_resnet20_fpn")


def test_an_image_draws_the_same_boxes_in_any_process() -> None:
    """Also if the images before it have other numbers of boxes."""
    generator = torch.Generator().manual_seed(0)
    matched = [torch.randint(-1, 3, (300 + 50 * i,), generator=generator) for i in range(4)]
    sampler = ImageByImage(32, 0.25)
    torch.manual_seed(1)
    whole = sampler(matched)
    assert (sampler.drawn, sampler.positives) == (4 * 32, 4 * 8)
    after = torch.rand(())
    torch.manual_seed(1)
    sampler.first = 2
    part = sampler(matched[2:])
    for found, expected in zip(part, whole, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected[2:], strict=True))
    assert torch.equal(torch.rand(()), after)
    torch.manual_seed(2)
    assert not torch.equal(sampler(matched[2:])[1][0], part[1][0])
