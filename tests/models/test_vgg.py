"""VGG-16 with batch norm and its SE twin. They have 138 million parameters: most tests take an eighth of the widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet import ConfigError, Net, SEConfig, create_model, describe
from senet.models.vgg import VGGStage, se_vgg16_bn, vgg16_bn
from tests.models.by_hand import gate, norm
from tests.models.library_names import randomise_
from tests.models.test_every_model import units_of

NARROW = replace(
    vgg16_bn,
    stages=tuple(replace(row, out=row.out // 8) for row in vgg16_bn.stages),
    hidden=32,
    num_classes=5,
    se=SEConfig(reduction=4),
)


def images(height: int, width: int | None = None) -> Tensor:
    return torch.randn(2, 3, height, width or height, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("net", "params", "params_se_bias_false", "macs"),
    [  # complexity.json
        (vgg16_bn, 138_365_992, 138_365_992, 15_470_264_320),
        (replace(vgg16_bn, conv_bias=False), 138_361_768, 138_361_768, 15_470_264_320),
        (se_vgg16_bn, 138_596_784, 138_592_296, 15_470_490_624),
    ],
)
def test_golden_integers(net: Net, params: int, params_se_bias_false: int, macs: int) -> None:
    got = describe(net)
    assert (got.params, got.params_se_bias_false, got.macs) == (params, params_se_bias_false, macs)


def test_rows_read_as_the_table() -> None:
    stage3, head = describe(se_vgg16_bn).rows[2::3]
    assert (stage3.part, stage3.layers) == ("stage3", "[3x3 256, fc 16-256] x 3, max 2x2/2")
    assert head.layers == "mean to 7x7, fc 4096, fc 4096, fc 1000"


def test_equals_torchvision() -> None:
    from torchvision import models

    ours = create_model(vgg16_bn).eval()
    randomise_(ours)
    with torch.device("meta"):
        theirs = models.vgg16_bn().eval()
    state = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    theirs.load_state_dict(state, assign=True)
    for x in (images(64), images(33, 75)):
        with torch.inference_mode():
            mine, other = ours(x), theirs(x)
        assert mine.std() > 0
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


def by_hand(w: dict[str, Tensor], x: Tensor, depths: tuple[int, ...]) -> Tensor:
    """Section 5 of the facts: 3x3, batch norm, ReLU, unit; pools after the units; three layers."""
    for n, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            p = f"features.stage{n}.block{i}."
            x = F.conv2d(x, w[p + "conv.weight"], w[p + "conv.bias"], padding=1)
            x = gate(torch.relu(norm(x, w, p + "norm")), w, p + "se")
        x = F.max_pool2d(x, 2)
    x = F.adaptive_avg_pool2d(x, 7).flatten(1)
    for name in ("head.fc1", "head.fc2", "classifier"):
        x = F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])
        x = x if name == "classifier" else torch.relu(x)
    return x


def test_the_unit_is_after_the_relu_and_before_the_pooling() -> None:
    model = create_model(NARROW).double().eval()
    randomise_(model)
    x = images(64).double()
    with torch.inference_mode():
        mine, other = model(x), by_hand(model.state_dict(), x, (2, 2, 3, 3, 3))
    assert mine.std() > 0
    assert torch.allclose(mine, other, rtol=1e-9)


def test_fields() -> None:
    bare = create_model(NARROW, conv_bias=False, device="meta")
    assert not [name for name, _ in bare.named_parameters() if name.endswith("conv.bias")]
    assert len(units_of(create_model(NARROW, se=SEConfig(stages=(1, 5)), device="meta"))) == 5
    grey = create_model(NARROW, in_channels=1, num_classes=0, dropout=0.3)
    assert grey(images(32)[:, :1]).shape == (2, 32)
    assert [m.p for m in grey.modules() if isinstance(m, torch.nn.Dropout)] == [0.3, 0.3]


@pytest.mark.parametrize("dropout", [0.5, 0.0])
def test_dropout_is_inside_the_head_too(dropout: float) -> None:
    torch.manual_seed(0)
    head, u = create_model(NARROW, dropout=dropout).head, torch.rand(2, 64, 2, 2)
    assert torch.equal(head(u), head(u)) == (dropout == 0)
    head.eval()
    assert torch.equal(head(u), head(u))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 0}, "^hidden: 0 is too small; expected: 1 or more"),
        ({"conv_bias": 1}, "^conv_bias: 1 is not true or false"),
        ({"stages": (VGGStage(depth=0, out=8),)}, r"^stages\[0\].depth: 0 is too small"),
        ({"stages": (VGGStage(depth=1, out=0),)}, r"^stages\[0\].out: 0 is too small"),
        ({"se": SEConfig(stages=(0, 1))}, "se.stages: 0 is not known; stages of this network: 1, 2, 3, 4, 5"),
        ({"se_at": "pointwise"}, "se_at: no field 'se_at'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_illegal_values_raise(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model(vgg16_bn, device="meta", **fields)


def test_too_small_an_image_raises() -> None:
    describe(NARROW, 32)
    with pytest.raises(ConfigError, match="image_size: 31x31 is too small"):
        describe(NARROW, 31)
