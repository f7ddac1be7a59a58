"""Networks of timm, of torchvision and of a user's file: built, given units and weights, trained and loaded again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from senet import ConfigError, ECAConfig, SEConfig, create_model
from senet.errors import CheckpointError
from senet.foreign_models import CODE, allow_code, build, classifier_name, code_option, describe_network
from senet.models.net import Preprocessing
from senet.models.other import OtherNet
from senet.models.registry import get_net, plain_twin
from senet.runs.checkpoint import load
from senet.weights.load import load_weights_

TINY = """
from pathlib import Path
from torch import nn

Path(__file__).with_suffix(".ran").touch()

def tiny(num_classes=10):
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, num_classes))

def fixed():
    return tiny(7)

def broken():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file that leaves a trace when it runs."""
    monkeypatch.delenv(CODE, raising=False)
    path = tmp_path / "net.py"
    path.write_text(TINY)
    return path


def small(word: str, **fields: object) -> OtherNet:
    """The table of a word, for 32 pixels and 5 classes."""
    net = get_net(word)
    assert isinstance(net, OtherNet)
    return replace(net, **{"num_classes": 5, "image_size": 32} | fields)  # type: ignore[arg-type]


def test_words() -> None:
    assert get_net("timm:resnet18") == OtherNet(source="timm:resnet18")
    assert get_net("timm:resnet18+se:reduction=8,gate=tanh").se == SEConfig(reduction=8, gate="tanh")
    assert get_net("resnet50+eca") == replace(get_net("resnet50"), se=ECAConfig())
    assert get_net("some/where/net.py:make-se+eca") == OtherNet(source="net.py:make", own_units="mean", se=ECAConfig())
    assert plain_twin("timm:resnet18+se") == "timm:resnet18"
    assert plain_twin("resnet50+eca") == "resnet50"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tim:resnet18", "model: 'tim:resnet18' is not known"),
        ("timm:resnet18+sa", r"model: 'sa' is not known.*; units: se"),
        ("timm:resnet18+se:reductoin=8", "no field 'reductoin' .*did you mean 'reduction'"),
        ("timm:resnet18+se:reduction=x", "reduction: 'x' is not a whole number"),
        ("timm:resnet18+se:placement=pre", "placement: have no effect on timm:resnet18; choose places with `where`"),
    ],
)
def test_wrong_words(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_net(word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("timm:seresnet5", "timm has no 'seresnet5'; the nearest of .*seresnet50"),
        ("torchvision:efficientnet", "torchvision has no 'efficientnet'; .*efficientnet_b7"),
        ("timm:resnet10t-se", "own_units: the network has no attention units"),
    ],
)
def test_networks_that_do_not_exist(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(small(word))


@pytest.mark.parametrize("source", ["timm:mobilenetv3_small_050", "torchvision:efficientnet_b0"])
def test_a_librarys_network_as_it_is(source: str) -> None:
    before = torch.get_rng_state()
    found = load(source)
    assert torch.equal(torch.get_rng_state(), before)
    # Both libraries say: 224 of 256 pixels, bicubic, ImageNet's mean and deviation.
    assert found.recipe.data.preprocessing == Preprocessing(interpolation="bicubic")
    assert (found.recipe.name, len(found.classes), found.classes[1]) == (source, 1000, "n01443537")
    with torch.inference_mode():
        assert found.model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_outputs_without_names_are_numbered() -> None:
    found = load("timm:mobilenetv3_large_100.miil_in21k")
    assert (len(found.classes), found.classes[-1]) == (11221, "class 11220")


@pytest.mark.parametrize("source", ["timm:resnet10t", "torchvision:mobilenet_v3_small", "net.py:tiny", "net.py:fixed"])
def test_twins_share_every_weight_and_the_function(source: str, file: Path) -> None:
    allow_code(file)
    plain, _ = build(small(source), seed=3)
    gated, _ = build(small(f"{source}+se"), seed=3)
    other, _ = build(small(source), seed=4)
    a, b, c = plain.state_dict(), gated.state_dict(), other.state_dict()
    assert a.keys() < b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.eval()(x), gated.eval()(x))
    assert gated(x).shape == (2, 5)


def test_costs_are_those_of_the_layers(file: Path) -> None:
    allow_code(file)
    cost = describe_network(small("net.py:tiny+se:reduction=4"))
    # Convolution 3x3 with bias, norm, linear; the unit has 16 to 4 to 16 with biases.
    plain, unit = 3 * 9 * 16 + 16 + 32 + 16 * 5 + 5, 16 * 4 + 4 + 4 * 16 + 16
    assert (cost.params, cost.params_without_se) == (plain + unit, plain)
    assert (cost.macs, cost.macs_without_se) == (3 * 9 * 16 * 30 * 30 + 80 + 128, 3 * 9 * 16 * 30 * 30 + 80)


def test_the_same_counts_as_our_own_table() -> None:
    ours, theirs = describe_network(get_net("resnet18")), describe_network(get_net("torchvision:resnet18"))
    assert (ours.params, ours.macs) == (theirs.params, theirs.macs)


@pytest.mark.parametrize("unit", ["", "+se"])
def test_weights_of_the_very_network(unit: str, tmp_path: Path) -> None:
    trained, _ = build(small("timm:resnet10t"), seed=1)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "net.pth")
    model, report = build(small(f"timm:resnet10t{unit}", num_classes=3), seed=0, weights=tmp_path / "net.pth")
    head = classifier_name(model)
    assert head == "fc"
    for name, value in trained.state_dict().items():
        assert name.startswith(head) or torch.equal(model.state_dict()[name], value)
    assert report is not None
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    assert "classifier 'fc' is drawn" in str(report)
    assert report.preprocessing == Preprocessing(image_size=176, resize=201, interpolation="bicubic")
    # The classifier is a draw of the seed, the same for the twin.
    again, _ = build(small("timm:resnet10t", num_classes=3), seed=0, weights=trained.state_dict())
    assert torch.equal(again.state_dict()["fc.weight"], model.state_dict()["fc.weight"])


def test_wrong_weights_change_nothing() -> None:
    model, _ = build(small("timm:resnet10t"))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    tensors = {**before, "extra.weight": torch.ones(2), "conv1.0.weight": torch.ones(1)}
    del tensors["conv1.1.weight"]
    message = r"1 missing \(conv1.1.weight\), 1 unused \(extra.weight\), 1 of another shape \(conv1.0.weight\)"
    with pytest.raises(CheckpointError, match=message):
        load_weights_(model, tensors)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(ConfigError, match=r"weights: net\.py:make has no released ones"):
        build(small("net.py:make"), weights="pretrained")


def test_units_that_are_taken_out() -> None:
    trained, _ = build(small("timm:mobilenetv3_small_050"), seed=1)
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    state = trained.state_dict()
    mean, _ = build(small("timm:mobilenetv3_small_050-se"), weights=state, images=x)
    one, _ = build(small("timm:mobilenetv3_small_050", own_units="one"), weights=state, images=x)
    scales = {name: t for name, t in mean.state_dict().items() if name.endswith("se.scale")}
    assert len(scales) == 9
    # By hand: the mean over images of the first unit's gates.
    gates: list[torch.Tensor] = []
    unit = trained.get_submodule("blocks.0.0.se")
    unit.get_submodule("gate").register_forward_hook(lambda m, i, out: gates.append(out))
    with torch.no_grad():
        trained.eval()(x)
    torch.testing.assert_close(scales["blocks.0.0.se.scale"], gates[0].mean((0, 2, 3)))
    assert all((one.state_dict()[name] == 1).all() for name in scales)
    # Without its units timm's SE-ResNet is its ResNet.
    assert describe_network(small("timm:seresnet18-se")).params == describe_network(small("timm:resnet18")).params


def test_a_users_file_runs_only_if_the_user_names_it(file: Path) -> None:
    trace = file.with_suffix(".ran")
    with pytest.raises(CheckpointError, match=r"runs only if you name it: --code net\.py"):
        build(small("net.py:tiny"))
    assert not trace.exists()
    allow_code(file)
    assert code_option("net.py:tiny+se") == f" --code {file}"
    assert code_option("other.py:tiny") == code_option("timm:resnet18") == ""
    assert isinstance(build(small("net.py:tiny"))[0], nn.Sequential)
    assert trace.exists()
    with pytest.raises(ConfigError, match=r"broken returns a int; expected: a torch\.nn\.Module"):
        build(small("net.py:broken"))
    with pytest.raises(ConfigError, match="has no function 'absent'; it has: tiny, fixed, broken"):
        build(small("net.py:absent"))
    with pytest.raises(ConfigError, match="no such Python file"):
        allow_code(file.with_name("other.py"))


def test_create_model_takes_them() -> None:
    model = create_model("timm:resnet10t+eca", num_classes=3)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(ConfigError, match="features_only: has no effect on timm:resnet10t"):
        create_model("timm:resnet10t", features_only=True)
