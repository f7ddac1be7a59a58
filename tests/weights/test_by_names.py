"""Libraries that are not installed: a plain function of their published names gives the same logits as our network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet import create_model
from senet.errors import CheckpointError
from senet.models.inception import BNInception, bn_inception
from senet.models.net import Net, Preprocessing, ResidualNet
from senet.models.registry import get_net
from senet.weights.export import state_as
from senet.weights.identify import identify
from senet.weights.load import load_weights_
from tests.weights.by_names import Residual, Weights
from tests.weights.sources import equal, gap

WIDE, NARROW = (64, 128, 256, 512), (16, 32, 64)
OUT = (256, 512, 1024, 2048)


def layers(prefix: str, squeeze: str, excite: str) -> Callable[[int, int, str], str]:
    """`layer1.0.conv1`, as torchvision and most others count."""
    parts = {"down": "downsample.0", "down_norm": "downsample.1", "squeeze": squeeze, "excite": excite}

    def name(stage: int, block: int, layer: str) -> str:
        return f"{prefix}layer{stage}.{block}.{parts.get(layer, layer.replace('norm', 'bn'))}"

    return name


def units(stage: int, block: int, layer: str) -> str:
    """pytorchcv's names."""
    parts = {
        "down": "identity_conv.conv",
        "down_norm": "identity_conv.bn",
        "squeeze": "se.conv1",
        "excite": "se.conv2",
    }
    inner = f"body.conv{layer[-1]}.{'conv' if layer.startswith('conv') else 'bn'}"
    return f"features.stage{stage}.unit{block + 1}.{parts.get(layer, inner)}"


def short(name: str) -> ResidualNet:
    net = get_net(name)
    assert isinstance(net, ResidualNet)
    return net.depths(*(1 for _ in net.stages))


TORCH_STEM = (("conv1", "bn1", 64),)
CIFAR_STEM = (("conv1", "bn1", 16),)
PCV_STEM = (("features.init_block.conv.conv", "features.init_block.conv.bn", 64),)
PCV_DEEP = tuple(
    (f"features.init_block.conv{i}.conv", f"features.init_block.conv{i}.bn", c) for i, c in ((1, 64), (2, 64), (3, 128))
)
CADENE_STEM = (("layer0.conv1", "layer0.bn1", 64),)
CADENE = layers("", "se_module.fc1", "se_module.fc2")
MOSKOMULE = layers("", "se.fc.0", "se.fc.2")
MM = layers("backbone.", "se_layer.conv1.conv", "se_layer.conv2.conv")

SOURCES: dict[str, tuple[Net, Residual, str, tuple[str, ...]]] = {
    "moskomule": (
        short("se_resnet50"),
        Residual(name=MOSKOMULE, stem=TORCH_STEM, head="fc", mid=WIDE, out=OUT, linear=True, bias=False),
        "moskomule",
        ("pool: ceil -> pad", "se.bias: True -> False", "stride_on: 1x1 -> 3x3"),
    ),
    "moskomule, basic": (
        short("se_resnet18"),
        Residual(
            name=MOSKOMULE, stem=TORCH_STEM, head="fc", mid=WIDE, out=WIDE, bottleneck=False, linear=True, bias=False
        ),
        "moskomule",
        ("pool: ceil -> pad", "se.bias: True -> False"),
    ),
    "moskomule, CIFAR": (
        get_net("se_resnet20"),
        Residual(
            name=MOSKOMULE,
            stem=CIFAR_STEM,
            head="fc",
            mid=NARROW,
            out=NARROW,
            bottleneck=False,
            linear=True,
            bias=False,
            pool=None,
            blocks=3,
        ),
        "moskomule",
        ("se.bias: True -> False", "shortcut: zero_pad -> projection"),
    ),
    "mmpretrain": (
        short("se_resnet50"),
        Residual(name=MM, stem=(("backbone.conv1", "backbone.bn1", 64),), head="head.fc", mid=WIDE, out=OUT),
        "mmpretrain",
        ("pool: ceil -> pad", "stride_on: 1x1 -> 3x3"),
    ),
    "cadene": (
        replace(short("se_resnet50"), pool="pad", stride_on="3x3"),
        Residual(
            name=CADENE,
            stem=CADENE_STEM,
            head="last_linear",
            mid=WIDE,
            out=OUT,
            first_stride=True,
            pool={"ceil_mode": True},
        ),
        "cadene",
        ("pool: pad -> ceil", "stride_on: 3x3 -> 1x1"),
    ),
    "pytorchcv": (
        short("se_resnet50"),
        Residual(name=units, stem=PCV_STEM, head="output", mid=WIDE, out=OUT, first_stride=True),
        "pytorchcv",
        ("pool: ceil -> pad",),
    ),
    "pytorchcv, SENet": (
        short("senet154"),
        Residual(
            name=units,
            stem=PCV_DEEP,
            head="output.fc",
            mid=OUT,
            out=OUT,
            groups=64,
            halve=True,
            wide_down=True,
        ),
        "pytorchcv",
        ("pool: ceil -> pad",),
    ),
    "pytorchcv, CIFAR": (
        get_net("se_resnet20"),
        Residual(
            name=units,
            stem=(("features.init_block.conv", "features.init_block.bn", 16),),
            head="output",
            mid=NARROW,
            out=NARROW,
            bottleneck=False,
            pool=None,
            blocks=3,
        ),
        "pytorchcv",
        ("shortcut: zero_pad -> projection",),
    ),
}


@pytest.mark.parametrize("name", SOURCES)
@torch.no_grad()
def test_logits_are_the_same(name):
    net, network, convention, changed = SOURCES[name]
    size = (2, 3, 32, 32) if network.pool is None else (2, 3, 64, 48)
    source = Weights()
    network(source, torch.zeros(size))
    model = create_model(net)
    report = load_weights_(model, source.state, quiet=True)
    assert (report.convention, tuple(sorted(report.changed))) == (convention, changed)
    assert gap(model, lambda x: network(source, x), size) < 1e-5
    assert equal(state_as(model, convention), source.state)


@torch.no_grad()
def test_pytorchcv_tells_the_stride_by_its_file_name_or_not_at_all(tmp_path):
    network = Residual(name=units, stem=PCV_STEM, head="output", mid=WIDE, out=OUT)
    source = Weights()
    network(source, torch.zeros(1, 3, 64, 48))
    model = create_model(short("se_resnet50"))
    report = load_weights_(model, source.state, quiet=True)
    assert "stride_on: kept at 1x1; these names do not tell seresnet50 (1x1) from seresnet50b (3x3)" in report.notes
    assert gap(model, lambda x: network(source, x)) > 1e-3
    torch.save(source.state, path := tmp_path / "seresnet50b-0206-bf2b9ef0.pth")
    report = load_weights_(model, path, quiet=True)
    assert (report.changed, report.notes) == (("stride_on: 1x1 -> 3x3",), ())
    assert gap(model, lambda x: network(source, x)) < 1e-5


@torch.no_grad()
def test_an_encoder_of_segmentation_models_is_cadenes_without_a_classifier():
    _, network, *_ = SOURCES["cadene"]
    source = Weights()
    network(source, torch.zeros(1, 3, 64, 48))
    encoder = {f"encoder.{name}": t for name, t in source.state.items() if not name.startswith("last_linear")}
    model = create_model(short("se_resnet50"), num_classes=0)
    whole = encoder | {"decoder.blocks.0.conv1.0.weight": torch.zeros(3)}
    report = load_weights_(model, whole, allow=["decoder"], quiet=True)
    assert report.convention == "segmentation"
    assert equal(state_as(model, "segmentation"), {n.removeprefix("encoder."): t for n, t in encoder.items()})
    with pytest.raises(CheckpointError, match="num_classes is 1000 in this network and always 0 in segmentation"):
        state_as(create_model(short("se_resnet50"), device="meta"), "segmentation")
    assert report.unused == ("decoder.blocks.0.conv1.0.weight",)
    model.classifier = torch.nn.Linear(2048, 1000)
    model.classifier.load_state_dict({leaf: source.state[f"last_linear.{leaf}"] for leaf in ("weight", "bias")})
    assert gap(model, lambda x: network(source, x)) < 1e-5


def bn_inception_by_names(w: Weights, x: Tensor, net: BNInception) -> Tensor:
    """Cadene's `bninception`, of BGR images: every convolution has a bias, and a batch norm after its name."""

    def conv(x: Tensor, name: str, out: int, kernel: int, stride: int = 1) -> Tensor:
        return F.relu(w.norm(w.conv(x, name, out, kernel, stride, bias=True), f"{name}_bn"))

    x = F.max_pool2d(conv(x, "conv1_7x7_s2", 64, 7, 2), 3, 2, ceil_mode=True)
    x = conv(conv(x, "conv2_3x3_reduce", 64, 1), "conv2_3x3", 192, 3)
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for stage, rows in enumerate(net.stages, start=3):
        for row, letter in zip(rows, "abcde", strict=False):
            at = f"inception_{stage}{letter}"
            branches = [conv(x, f"{at}_1x1", row.one, 1)] if row.one else []
            u = conv(x, f"{at}_3x3_reduce", row.three[0], 1)
            branches.append(conv(u, f"{at}_3x3", row.three[1], 3, row.stride))
            u = conv(conv(x, f"{at}_double_3x3_reduce", row.double[0], 1), f"{at}_double_3x3_1", row.double[1], 3)
            branches.append(conv(u, f"{at}_double_3x3_2", row.double[2], 3, row.stride))
            if row.stride == 2:
                branches.append(F.max_pool2d(x, 3, 2, ceil_mode=True))
            else:
                pool = F.avg_pool2d(x, 3, 1, 1) if row.pool == "avg" else F.max_pool2d(x, 3, 1, 1)
                branches.append(conv(pool, f"{at}_pool_proj", row.proj, 1))
            x = torch.cat(branches, 1)
    return w.linear(x.mean((2, 3)), "last_linear", 1000)


@torch.no_grad()
def test_cadenes_bn_inception_has_biases_and_takes_bgr():
    source = Weights()
    bn_inception_by_names(source, torch.zeros(1, 3, 64, 64), bn_inception)
    model = create_model(bn_inception)
    report = load_weights_(model, source.state, quiet=True)
    assert report.changed == ("conv_bias: False -> True",)
    assert report.permuted == ("features.stem.conv7x7.conv.weight",)
    assert gap(model, lambda x: bn_inception_by_names(source, x.flip(1), bn_inception), (2, 3, 64, 64)) < 1e-5
    assert equal(state_as(model, "cadene"), source.state)
    assert model.preprocessing is not None
    assert model.preprocessing.mean[2] == pytest.approx(104 / 255)


def test_a_cifar_network_of_another_library_is_identified():
    _, network, *_ = SOURCES["moskomule, CIFAR"]
    source = Weights()
    with torch.no_grad():
        network(source, torch.zeros(1, 3, 32, 32))
    assert identify(source.state) == ("se_resnet20", "moskomule")
    images = load_weights_(create_model("se_resnet20"), source.state, quiet=True).preprocessing
    # The moments of CIFAR-10, red, green and blue.
    assert images == Preprocessing(
        mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), image_size=32, resize=32
    )
