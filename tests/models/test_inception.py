"""BN-Inception: the released network's integers, and its layers in plain functions, by the names of its prototxt."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet import ConfigError, Net, Network, SEConfig, create_model, describe
from senet.blocks.inception import HalvingMaxPool
from senet.models.inception import InceptionModule, bn_inception, se_bn_inception
from tests.models.by_hand import gate, norm
from tests.models.library_names import randomise_
from tests.models.test_every_model import units_of

WIDTHS = {
    "3a": ("64", "64 64", "64 96 96", "32"),
    "3b": ("64", "64 96", "64 96 96", "64"),
    "3c": ("", "128 160", "64 96 96", ""),
    "4a": ("224", "64 96", "96 128 128", "128"),
    "4b": ("192", "96 128", "96 128 128", "128"),
    "4c": ("160", "128 160", "128 160 160", "128"),
    "4d": ("96", "128 192", "160 192 192", "128"),
    "4e": ("", "128 192", "192 256 256", ""),
    "5a": ("352", "192 320", "160 224 224", "128"),
    "5b": ("352", "192 320", "192 224 224", "128"),
}
"""`num_output` of the prototxt's layers, by module: 1x1; 3x3_reduce, 3x3; double3x3_reduce, -a, -b; pool_proj."""

LAYERS = ("1x1",), ("3x3_reduce", "3x3"), ("double3x3_reduce", "double3x3a", "double3x3b"), ("pool_proj",)

FEW = tuple(rows[-2:] for rows in bn_inception.stages)
"""3b, 3c, 4d, 4e, 5a, 5b: every kind of module."""


def small(**fields: Any) -> Net:
    return replace(se_bn_inception, stages=FEW, num_classes=5, **fields)


def by_caffe_name(model: Network) -> dict[str, Tensor]:
    """`inception_3a/double3x3a.conv.weight` and so on."""
    stem = {"conv7x7": "conv1/7x7_s2", "conv3x3_reduce": "conv2/3x3_reduce", "conv3x3": "conv2/3x3"}
    named = {}
    for name, tensor in model.state_dict().items():
        name = re.sub(r"features\.stem\.(\w+)", lambda m: stem[m[1]], name)
        name = re.sub(r"features\.stage\d\.(inception_\d\w)\.(?:conv(?=\d))?", r"\1/", name)
        named[name] = tensor
    return named


def released(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """The prototxt's layers, one after the other."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        w = p[f"{name}.conv.weight"]
        x = F.conv2d(x, w, p.get(f"{name}.conv.bias"), stride, w.shape[-1] // 2)
        return F.relu(norm(x, p, f"{name}.norm"))

    def module(x: Tensor, name: str, pool: str) -> Tensor:
        stride = 2 if pool == "pass" else 1
        joined = [] if pool == "pass" else [conv(x, f"{name}/1x1")]
        joined.append(conv(conv(x, f"{name}/3x3_reduce"), f"{name}/3x3", stride))
        y = conv(conv(x, f"{name}/double3x3_reduce"), f"{name}/double3x3a")
        joined.append(conv(y, f"{name}/double3x3b", stride))
        if pool == "pass":
            joined.append(F.max_pool2d(x, 3, 2, ceil_mode=True))
        else:
            y = F.avg_pool2d(x, 3, 1, 1) if pool == "avg" else F.max_pool2d(x, 3, 1, 1)
            joined.append(conv(y, f"{name}/pool_proj"))
        u = torch.cat(joined, 1)
        return gate(u, p, f"{name}/se") if f"{name}/se.fc1.weight" in p else u

    x = F.max_pool2d(conv(x, "conv1/7x7_s2", 2), 3, 2, ceil_mode=True)
    x = F.max_pool2d(conv(conv(x, "conv2/3x3_reduce"), "conv2/3x3"), 3, 2, ceil_mode=True)
    pools = {"3c": "pass", "4e": "pass", "5b": "max"}
    for name in WIDTHS:
        x = module(x, f"inception_{name}", pools.get(name, "avg"))
    return F.linear(x.mean((2, 3)), p["classifier.weight"], p["classifier.bias"])


@pytest.mark.parametrize(
    ("net", "params", "without_se_bias", "macs"),
    [
        (bn_inception, 11_285_224, 11_285_224, 2_032_600_064),
        (se_bn_inception, 11_931_622, 11_924_584, 2_033_239_424),
        (replace(bn_inception, conv_bias=True), 11_295_240, 11_295_240, 2_032_600_064),
    ],
    ids=["plain", "se", "conv_bias"],
)
def test_golden_integers(net: Net, params: int, without_se_bias: int, macs: int) -> None:
    got = describe(net)
    assert (got.params, got.params_se_bias_false, got.macs) == (params, without_se_bias, macs)
    assert got.bn_statistics == 20_032


def test_widths_of_the_released_network() -> None:
    named = by_caffe_name(create_model(se_bn_inception, device="meta"))
    for module, row in WIDTHS.items():
        for layers, widths in zip(LAYERS, row, strict=True):
            for layer, width in zip(layers, widths.split() or [None] * len(layers), strict=True):
                weight = named.get(f"inception_{module}/{layer}.conv.weight")
                assert (None if weight is None else str(weight.shape[0])) == width, (module, layer)
    hidden = [named[f"inception_{module}/se.fc1.weight"].shape[0] for module in WIDTHS]
    assert hidden == [16, 20, 36, 36, 36, 38, 38, 66, 64, 64]


@pytest.mark.parametrize("conv_bias", [False, True])
@pytest.mark.parametrize("net", [bn_inception, se_bn_inception], ids=["plain", "se"])
def test_the_released_layers_in_plain_functions(net: Net, conv_bias: bool) -> None:
    model = create_model(net, conv_bias=conv_bias, num_classes=7).double().eval()
    randomise_(model)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        got, want = model(x), released(by_caffe_name(model), x)
    assert want.std() > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stage", [3, 4, 5])
def test_units_in_one_stage(stage: int) -> None:
    names = units_of(create_model(se_bn_inception, se=SEConfig(stages=(stage,)), device="meta"))
    assert len(names) == {3: 3, 4: 5, 5: 2}[stage]
    assert all(name.startswith(f"features.stage{stage}.inception_{stage}") for name in names)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
def test_the_halving_pool_is_that_of_caffe_and_fits_odd_grids(size: int) -> None:
    """Negative numbers, so that a padding of zeros would show; wide and high differ in parity."""
    x = -torch.rand(1, 2, size, 4, generator=torch.Generator().manual_seed(0))
    y, first = HalvingMaxPool()(x), -1 if size % 2 else 0
    assert y.shape == (1, 2, (size + 1) // 2, 2)
    for i in range(y.shape[2]):
        for j in range(2):
            rows = slice(max(first + 2 * i, 0), first + 2 * i + 3)
            assert torch.equal(y[..., i, j], x[:, :, rows, 2 * j : 2 * j + 3].amax((2, 3)))


def test_rows_read_as_the_table() -> None:
    assert se_bn_inception.layers("stage3") == "[3a 256, fc 16-256], [3b 320, fc 20-320], [3c 576, fc 36-576] /2"
    assert bn_inception.layers("stem") == "7x7 64 /2, max 3x3/2, 1x1 64, 3x3 192, max 3x3/2"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ()}, r"stages: \(\) must have at least one stage"),
        ({"stages": (FEW[0], ())}, "stages: .* each at least one module"),
        ({"stem": (64, 0, 192)}, r"stem: \(64, 0, 192\) has a width below 1"),
        ({"se": SEConfig(stages=(2,))}, "se.stages: 2 is not known.*: 3, 4, 5"),
        ({"conv_bias": 1}, "conv_bias: 1 is not true or false"),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_illegal_values(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(se_bn_inception, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"one": 0}, "one: 0 is too small; expected: 1 or more"),
        ({"proj": 0}, "proj: 0 is too small"),
        ({"three": (64, 0)}, r"three: \(64, 0\) has a width below 1"),
        ({"double": (64, 96)}, r"double: \(64, 96\) must have 3 entries"),
        ({"pool": "mean"}, "pool: 'mean' is not known; expected: avg, max"),
        ({"stride": 3}, "stride: 3 is not known; expected: 1, 2"),
        ({"stride": 2}, "stride: 2 needs pool='max', one=0 and proj=0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_illegal_modules(fields: dict[str, Any], message: str) -> None:
    row: dict[str, Any] = {"one": 64, "three": (64, 64), "double": (64, 96, 96), "pool": "avg", "proj": 32}
    assert InceptionModule(**row).out(192) == 64 + 64 + 96 + 32
    with pytest.raises(ConfigError, match=message):
        InceptionModule(**{**row, **fields})
