"""Public calls under other defaults of torch: the same bits as under its own, on the CPU in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet import (
    ECAConfig,
    Net,
    SEConfig,
    SharedConfig,
    create_model,
    doctor,
    from_dict,
    get_net,
    insert_,
    load_weights_,
    optimize,
    to_dict,
)
from senet.initialization import stream
from senet.models.describe import describe


@contextmanager
def meta_context() -> Iterator[None]:
    with torch.device("meta"):
        yield


@contextmanager
def meta_default() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def float64_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=stream(0, "image"), device="cpu", dtype=torch.float32)


def backbone() -> nn.Module:
    """Somebody's network, made and drawn without regard to the defaults."""
    fields: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
    layers = [nn.Conv2d(3, 8, 3, **fields), nn.ReLU(), nn.Conv2d(8, 8, 3, **fields)]
    for i, layer in enumerate(layers[::2]):
        layer.weight.data = image(*layer.weight.shape) / (i + 4)
        layer.bias.data.zero_()
    return nn.Sequential(*layers)


def inserted(_: Path) -> Any:
    model = backbone()
    insert_(model, SEConfig(reduction=2), example=image(1, 3, 8, 8), where=["2"])
    return model.state_dict()


def reset(_: Path) -> Any:
    model = create_model("se_resnet20")
    model.reset_classifier(7, seed=3)
    return model.state_dict()


def loaded(folder: Path) -> Any:
    model = create_model("se_resnet20", seed=1)
    torch.save(model.state_dict(), folder / "weights.pth")
    other = create_model("se_resnet20", weights=folder / "weights.pth")
    features = create_model("se_resnet20", weights=folder / "weights.pth", features_only=True)
    mine = create_model("se_resnet20")
    load_weights_(mine, folder / "weights.pth")
    return [m.state_dict() for m in (other, features, mine)]


def optimized(_: Path) -> Any:
    model = create_model("se_resnet20").eval()
    x = image(2, 3, 32, 32)
    return optimize(model, x)(x)


def doctored(_: Path) -> Any:
    return str(doctor(create_model("se_resnet20"), image(4, 3, 32, 32)))


def gates(_: Path) -> Any:
    model = create_model("se_resnet20").eval()
    found = []
    for name, module in model.named_modules():
        if name.endswith(".se"):
            module.register_forward_hook(lambda unit, args, _out: found.append(unit.gate(args[0])))
    return [model(image(2, 3, 32, 32)), *found]


CALLS: dict[str, Callable[[Path], Any]] = {
    "create_model": lambda _: [
        create_model("se_resnet20", se=unit).state_dict() for unit in (SEConfig(), ECAConfig(), SharedConfig())
    ],
    "features": lambda _: create_model("se_preresnet110", features_only=True).eval()(image(1, 3, 32, 32)),
    "reset_classifier": reset,
    "weights": loaded,
    "insert_": inserted,
    "doctor": doctored,
    "optimize": optimized,
    "gates": gates,
    "describe": lambda _: [describe(get_net("se_resnet50")), describe(get_net("fasterrcnn_se_resnet50_fpn"))],
    "to_dict": lambda _: from_dict(Net, to_dict(get_net("se_vgg16_bn"))),
}


def assert_same(got: Any, want: Any) -> None:
    if isinstance(want, Tensor):
        assert (got.device, got.dtype) == (want.device, want.dtype)
        assert torch.equal(got, want)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for name in want:
            assert_same(got[name], want[name])
    elif isinstance(want, list):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other)
    else:
        assert got == want


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("context", [meta_context, meta_default, float64_default])
def test_same_bits_under_other_defaults(context: Callable[[], Any], call: str, tmp_path: Path) -> None:
    want = CALLS[call](tmp_path)
    with context():
        got = CALLS[call](tmp_path)
    assert_same(got, want)


def test_what_is_compared_is_not_empty() -> None:
    assert all(t.device.type == "cpu" and t.numel() for t in create_model("se_resnet20").state_dict().values())
