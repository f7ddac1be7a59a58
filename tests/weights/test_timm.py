"""timm's networks, new and legacy, with random weights: ours give the same logits after loading."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from senet import create_model
from senet.errors import CheckpointError
from senet.models.registry import get_net
from senet.weights.export import state_as
from senet.weights.identify import identify
from senet.weights.load import become_, load_weights_
from tests.weights.sources import equal, gap, random_

SHORT = (1, 1, 1, 1)
NEW = {
    "seresnet50": ("se_resnet50", ("pool", "stride_on")),
    "seresnet18": ("se_resnet18", ("pool",)),
    "seresnext50_32x4d": ("se_resnext50_32x4d", ("pool",)),
    "senet154": ("senet154", ("pool",)),
    "resnet50": ("resnet50", ("pool", "stride_on")),
}
LEGACY = {
    "legacy_seresnet50": "se_resnet50",
    "legacy_seresnext50_32x4d": "se_resnext50_32x4d",
    "legacy_senet154": "senet154",
}


def short(name: str):
    return get_net(name).depths(*SHORT)


def theirs(name: str):
    return random_(timm.create_model(name, layers=SHORT))


@pytest.mark.parametrize("name", NEW)
def test_a_new_network_gives_the_same_logits(name):
    ours, fields = NEW[name]
    source = theirs(name)
    model = create_model(short(ours))
    report = load_weights_(model, source.state_dict(), quiet=True)
    assert gap(model, source) < 1e-5
    assert (report.missing, report.unused) == ((), ())
    changed = {line.partition(":")[0] for line in report.changed}
    assert changed == {*fields, *(["se.round_to"] if name == "seresnet18" else [])}
    assert equal(state_as(model, report.convention), source.state_dict())


@pytest.mark.parametrize("name", LEGACY)
def test_a_legacy_network_gives_the_same_logits(name):
    source = theirs(name)
    model = create_model(short(LEGACY[name]), pool="pad", stride_on="3x3")
    report = load_weights_(model, source.state_dict(), quiet=True)
    assert report.convention == "cadene"
    assert gap(model, source) < 1e-5
    assert model.net == short(LEGACY[name])
    assert equal(state_as(model, "cadene"), source.state_dict())


@pytest.mark.parametrize(("field", "value"), [("pool", "ceil"), ("stride_on", "1x1")])
def test_what_is_changed_counts(field, value):
    source = theirs("seresnet50")
    model = create_model(short("se_resnet50"))
    load_weights_(model, source.state_dict(), quiet=True)
    become_(model, replace(model.net, **{field: value}))
    assert gap(model, source) > 1e-3


def test_the_rounded_width_of_timm_is_found_and_another_refused():
    state = theirs("seresnet18").state_dict()
    assert state["layer1.0.se.fc1.weight"].shape[0] == 8
    model = create_model(short("se_resnet18"))
    load_weights_(model, state, quiet=True)
    assert model.net.se.round_to == 8
    for leaf, shape in {"fc1.weight": (5, 64, 1, 1), "fc1.bias": (5,), "fc2.weight": (64, 5, 1, 1)}.items():
        state[f"layer1.0.se.{leaf}"] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=r"5 hidden units over 64 channels in features.stage2.block1.se.fc1"):
        load_weights_(create_model(short("se_resnet18")), state, quiet=True)


def test_legacy_basic_blocks_are_refused_for_their_second_relu():
    with torch.device("meta"):
        state = timm.create_model("legacy_seresnet18").state_dict()
    with pytest.raises(CheckpointError, match=r"legacy_seresnet18 and -34.* have a ReLU before the unit"):
        load_weights_(create_model("se_resnet18"), state, quiet=True)


@pytest.mark.parametrize(("name", "reason"), [("seresnext26t_32x4d", "averages"), ("resnet50c", "three 3x3")])
def test_other_stems_and_shortcuts_are_refused(name, reason):
    with torch.device("meta"):
        state = timm.create_model(name, layers=SHORT).state_dict()
    ours = "se_resnext50_32x4d" if "next" in name else "resnet50"
    with pytest.raises(CheckpointError, match=reason):
        load_weights_(create_model(short(ours), device="cpu"), state, quiet=True)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("seresnet50", ("se_resnet50", "timm")),
        ("legacy_seresnext101_32x4d", ("se_resnext101_32x4d", "cadene")),
        ("senet154", ("senet154", "timm")),
        ("resnet152", ("resnet152", "torchvision")),
    ],
)
def test_a_full_network_is_identified(name, found):
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=12).state_dict()
    assert identify(state) == found


def test_a_permuted_layer_does_not_hide_a_network():
    """timm's hidden layers of VGG are convolutions, so their shapes differ from ours."""
    with torch.device("meta"):
        theirs = timm.create_model("vgg16_bn", num_classes=7)
    assert identify(theirs.state_dict()) == ("vgg16_bn", "timm")


def test_an_unknown_depth_is_not_identified_but_the_nearest_is_named():
    with torch.device("meta"):
        state = timm.create_model("seresnet50", layers=(3, 4, 6, 2)).state_dict()
    with pytest.raises(CheckpointError, match=r"the nearest: se_resnet50 \(19 tensors differ\)"):
        identify(state)
