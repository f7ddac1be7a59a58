"""torchvision's networks with random weights: ours give the same logits, pooling and strides inferred."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from senet import SEConfig, create_model
from senet.errors import CheckpointError
from senet.models.inception_resnet import inception_resnet_v2
from senet.models.net import Preprocessing
from senet.models.registry import get_net
from senet.models.vgg import vgg16_bn
from senet.weights.export import state_as
from senet.weights.load import load_weights_
from tests.weights.sources import equal, gap, random_

RESIDUAL = {
    "resnet18": lambda: ResNet(BasicBlock, [1, 1, 1, 1]),
    "resnet50": lambda: ResNet(Bottleneck, [1, 1, 1, 1]),
    "resnext50_32x4d": lambda: ResNet(Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4),
}


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_residual_network_gives_the_same_logits(name):
    source = random_(RESIDUAL[name]())
    model = create_model(get_net(name).depths(1, 1, 1, 1))
    report = load_weights_(model, source.state_dict(), quiet=True)
    assert report.convention == "torchvision"
    assert "pool: ceil -> pad" in report.changed
    assert gap(model, source) < 1e-5
    assert equal(state_as(model, "torchvision"), source.state_dict())


def torchvision_vgg() -> nn.Module:
    """Its VGG-16 with narrow hidden layers, for their 120 million weights take their time."""
    with torch.device("meta"):
        vgg = tv.vgg16_bn()
        vgg.classifier[0], vgg.classifier[3] = nn.Linear(25088, 32), nn.Linear(32, 32)
        vgg.classifier[6] = nn.Linear(32, 9)
    return vgg.to_empty(device="cpu")


def timm_vgg() -> nn.Module:
    """The same of timm's, whose hidden layers are convolutions."""
    with torch.device("meta"):
        vgg = timm.create_model("vgg16_bn")
        vgg.pre_logits.fc1, vgg.pre_logits.fc2 = nn.Conv2d(512, 32, 7), nn.Conv2d(32, 32, 1)
        vgg.head.fc = nn.Linear(32, 9)
    return vgg.to_empty(device="cpu")


NARROW = {"torchvision": torchvision_vgg, "timm": timm_vgg}


@pytest.mark.parametrize("library", NARROW)
def test_vgg_gives_the_same_logits(library):
    source = random_(NARROW[library]())
    model = create_model(replace(vgg16_bn, hidden=32, num_classes=9, conv_bias=False))
    report = load_weights_(model, source.state_dict(), quiet=True)
    assert (report.convention, report.changed) == (library, ("conv_bias: False -> True",))
    assert gap(model, source, (1, 3, 64, 64)) < 1e-5
    assert equal(state_as(model, library), source.state_dict())


def test_inception_resnet_of_timm_gives_the_same_logits():
    source = random_(timm.create_model("inception_resnet_v2"))
    model = create_model(inception_resnet_v2, device="meta").to_empty(device="cpu")
    report = load_weights_(model, source.state_dict(), quiet=True)
    assert gap(model, source, (1, 3, 107, 107)) < 1e-5
    assert equal(state_as(model, "timm"), source.state_dict())
    assert report.preprocessing is not None
    assert (report.preprocessing.image_size, report.preprocessing.resize) == (299, 333)


def test_cadenes_inception_resnet_has_the_background_first():
    source = random_(timm.create_model("inception_resnet_v2", num_classes=1001))
    renamed = {name.replace("classif.", "last_linear."): t for name, t in source.state_dict().items()}
    model = create_model(inception_resnet_v2, device="meta").to_empty(device="cpu")
    report = load_weights_(model, renamed, quiet=True)
    assert report.convention == "cadene"
    assert report.permuted == ("classifier.weight", "classifier.bias")
    halves = (0.5, 0.5, 0.5)
    # 299 / 0.875 = 341.7
    assert report.preprocessing == Preprocessing(mean=halves, std=halves, image_size=299, resize=341)
    assert gap(model, lambda x: source(x)[:, 1:], (1, 3, 107, 107)) < 1e-5


@pytest.mark.parametrize(
    ("ours", "theirs", "library"),
    [
        ("se_resnet152", "seresnet152", "timm"),
        ("senet154", "senet154", "timm"),
        ("se_resnet34", "seresnet34", "timm"),
        ("se_resnet101", "legacy_seresnet101", "cadene"),
        ("senet154", "legacy_senet154", "cadene"),
    ],
)
def test_every_name_of_a_deep_network_is_theirs(ours, theirs, library):
    fields = {} if library == "cadene" else {"pool": "pad", "se": SEConfig(round_to=8)}
    if fields and ours != "se_resnet34":
        fields["stride_on"] = "3x3"
    state = state_as(create_model(ours, device="meta", **fields), library)
    with torch.device("meta"):
        want = timm.create_model(theirs).state_dict()
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in want.items()}


@pytest.mark.parametrize(
    ("library", "fields", "says"),
    [
        ("timm", {}, "timm: pool is 'ceil' in this network and always 'pad' in timm"),
        ("timm", {"pool": "pad"}, "timm: stride_on is '1x1' in this network and always '3x3'"),
        ("cadene", {"pool": "pad"}, "cadene: pool is 'pad'"),
        ("cadene", {"se": None}, "cadene: se is None"),
        ("cadene", {"se": SEConfig(stages=(3, 4))}, r"cadene: se.stages is \(3, 4\)"),
        ("cadene", {"se": SEConfig(gate="tanh")}, "cadene: se.gate is 'tanh'"),
        (
            "moskomule",
            {"pool": "pad", "stride_on": "3x3"},
            "moskomule: se.bias is True in this network and always False",
        ),
        ("torchvision", {"pool": "pad", "stride_on": "3x3"}, "torchvision: se is SEConfig"),
    ],
)
def test_a_network_that_a_library_does_not_build_is_not_written(library, fields, says):
    model = create_model("se_resnet50", device="meta", **fields)
    with pytest.raises(CheckpointError, match=says):
        state_as(model, library)


def test_a_rounding_that_changes_no_width_is_written_and_another_is_not():
    fields = {"pool": "pad", "stride_on": "3x3", "device": "meta"}
    assert len(state_as(create_model("se_resnet50", **fields), "timm")) == 384
    with pytest.raises(CheckpointError, match=r"se.round_to is 1 in this network and always 8"):
        state_as(create_model("se_resnet18", pool="pad", device="meta"), "timm")
