"""Fused networks against the same networks unfused, and what runs unfused."""

from __future__ import annotations

import copy
import pickle
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from senet import (
    ConfigError,
    ECAConfig,
    Net,
    NoSqueezeConfig,
    SEConfig,
    SharedConfig,
    Unit,
    create_model,
    doctor,
    get_net,
    insert_,
    load_weights_,
)
from senet.blocks.residual import Bottleneck
from senet.data import open_data
from senet.initialization import draw_
from senet.kernels import fuse, fuse_, unfuse_
from senet.kernels.block_epilogue import operation
from senet.recipes.recipe import DataRecipe
from tests.models.small import FAMILIES, pixels, small

TINY: Any = replace(cast(Any, get_net("se_resnet20")).depths(1, 1, 1), num_classes=4)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of the operation."""
    seen: list[Any] = []
    epilogue = operation.block_epilogue
    monkeypatch.setattr(operation, "block_epilogue", lambda *args: seen.append(args) or epilogue(*args))
    return seen


def images(n: int = 2, side: int = 16) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Logits, gradients and buffers of one step; what is random in it is the same each time."""
    torch.manual_seed(0)
    model.zero_grad()
    y = model(x)
    F.cross_entropy(y, torch.arange(len(x))).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"": y.detach(), **grads, **dict(model.named_buffers())}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    largest = max(t.abs().max().item() for t in wanted.values())
    for name, t in wanted.items():
        gap = (found[name].double() - t.double()).norm() / t.double().norm().clamp_min(1e-6 * largest)
        assert gap < tolerance, (name, gap.item())


def grad_of(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def twins(net: Net, *, double: bool = True, **fields: Any) -> tuple[Any, Any]:
    plain, fused = (create_model(net, fused=on, **fields) for on in (False, True))
    return (plain.double(), fused.double()) if double else (plain, fused)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, calls: list[Any]) -> None:
    net = replace(small(FAMILIES[name]), se=SEConfig())
    plain, fused = twins(net)
    x = images(2, pixels(net)).double()
    assert_equal(step(fused, x), step(plain, x), 1e-8)
    units = sum(isinstance(m, Unit) for m in fused.modules())
    assert sum(bool(args[10]) for args in calls) == units > 0
    assert fuse_(fused).skipped == []


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity", "identity_before", "conv3x3"])
@pytest.mark.parametrize("config", [SEConfig, ECAConfig, SharedConfig, NoSqueezeConfig])
def test_every_place_and_unit(config: Any, placement: Any, calls: list[Any]) -> None:
    block = Bottleneck(8, mid=8, out=16, stride=2, se=config(placement=placement))
    draw_(block, 0)
    block.double()
    fused = copy.deepcopy(block)
    report = fuse_(fused)
    x = torch.randn(3, 8, 5, 7, dtype=torch.float64)
    for mode in (True, False):
        for module in (block.train(mode), fused.train(mode)):
            module.zero_grad()
            module(x).square().sum().backward()
        for (key, p), q in zip(block.named_parameters(), fused.parameters(), strict=True):
            assert torch.allclose(grad_of(p), grad_of(q), rtol=1e-9, atol=1e-10), key
    gated = sum(bool(args[10]) for args in calls)
    if config is NoSqueezeConfig:
        assert gated == 0
        assert {why for _, why in report.skipped} == {
            "NoSqueeze is not a unit with one gate per channel that the kernels know"
        }
        assert [name for name, _ in report.skipped] == ["" if placement == "standard" else "se"]
    else:
        assert gated == 2
        assert report.skipped == []
        epilogue = "batch norm, unit, sum and ReLU" if placement == "standard" else "batch norm, sum and ReLU"
        assert [what for _, what in report.fused] == [
            "batch norm and ReLU",
            epilogue,
            *["unit"] * (placement != "standard"),
        ]


def test_not_fused_by_default(calls: list[Any]) -> None:
    create_model(TINY)(images())
    assert calls == []


def test_report() -> None:
    report = fuse_(create_model(replace(TINY, se=replace(TINY.se, stages=(2,))), fused=False))
    assert str(report) == (
        "fused: batch norm and ReLU, 4 times: features.stem, features.stage2.block1, ...\n"
        "fused: batch norm, unit, sum and ReLU, 1 times: features.stage2.block1\n"
        "fused: batch norm, sum and ReLU, 2 times: features.stage3.block1, features.stage4.block1"
    )


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="has nothing to fuse"):
        fuse_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    with pytest.raises(ConfigError, match="is not fused"):
        unfuse_(create_model(TINY, fused=False))
    with pytest.raises(ConfigError, match="fused: 'on' is not known; expected: True, False"):
        create_model(TINY, fused="on")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="fused: 1 is not known"):
        create_model(TINY, fused=1)  # type: ignore[call-overload]


def test_back_again(calls: list[Any]) -> None:
    model = create_model(TINY, fused=True)
    assert unfuse_(model) == 7
    model(images())
    assert calls == []
    assert not any(hook in vars(m) for m in model.modules() for hook in fuse.FUSED)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "checkpoint", "channels_last", "autocast"])
def test_ways_of_use(how: str, calls: list[Any]) -> None:
    plain, fused = twins(TINY, double=False)
    x, tolerance = images(), 1e-4
    if how == "deepcopy":
        fused = copy.deepcopy(fused)
    elif how == "pickle":
        fused = pickle.loads(pickle.dumps(fused))
    elif how == "channels_last":
        fused, x = fused.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    run: Any = partial(checkpoint, fused, use_reentrant=False) if how == "checkpoint" else fused
    before = step(plain, x)
    if how == "autocast":
        tolerance = 0.2
        with torch.autocast("cpu", torch.bfloat16):
            y = run(x)
        assert y.dtype == torch.bfloat16
        y = y.float()
    else:
        y = run(x)
    F.cross_entropy(y, torch.arange(len(x))).backward()
    after = {"": y.detach(), **{name: p.grad for name, p in fused.named_parameters()}}
    assert_equal(after, {name: before[name] for name in after}, tolerance)
    assert len(calls) >= 7


# Inductor's settings of the precision are read anew with each version.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_and_export() -> None:
    plain, fused = twins(TINY, double=False)
    x = images()
    wanted = step(plain, x)
    torch.compiler.reset()
    fused.compile(fullgraph=True, backend="aot_eager")
    assert_equal(step(fused, x), wanted, 1e-4)
    exported = torch.export.export(create_model(TINY, fused=True).eval(), (x,), strict=False)
    assert not [node for node in exported.graph.nodes if "senet" in str(node.target)]


def test_transforms_of_torch_func_run_unfused(calls: list[Any]) -> None:
    plain, fused = twins(TINY)
    x = images().double()

    def gradients(model: nn.Module) -> dict[str, Tensor]:
        params = {name: p.detach() for name, p in model.named_parameters()}
        return torch.func.grad(lambda p: torch.func.functional_call(model.eval(), p, (x,)).square().sum())(params)

    assert_equal(gradients(fused), gradients(plain), 1e-12)
    assert calls == []


@pytest.mark.parametrize("site", ["norm", "norm1", "se", "se.fc2"])
def test_who_watches_sees_every_call(site: str, calls: list[Any]) -> None:
    plain, fused = twins(TINY)
    whole = step(fused, images().double())
    count = len(calls)
    seen = []
    block: Any = fused.features.stage3.block1
    block.get_submodule(site).register_forward_hook(lambda *_: seen.append(site))
    fused.load_state_dict(plain.state_dict())
    assert_equal(step(fused, images().double()), whole, 1e-9)
    assert seen == [site]
    # Behind a watched norm the unit is a call of its own.
    assert len(calls) == 2 * count - (site != "norm")
    if site == "norm":
        assert [name for name, _ in fuse_(fused).skipped] == ["features.stage3.block1"]


def test_other_layers_and_types_run_unfused_and_say_so(calls: list[Any]) -> None:
    block: Any = create_model(TINY, fused=True).get_submodule("features.stage3.block1")
    x = torch.randn(2, 16, 8, 8)
    nn.utils.parametrizations.weight_norm(block.se.fc1)
    with pytest.warns(UserWarning, match="ParametrizedLinear is not, or not only, a Linear; this part"):
        block(x)
    block.norm1.double()
    # Torch refuses the mixture, or does not; that is its own affair.
    with pytest.warns(UserWarning, match=r"BatchNorm2d: torch.float64 with a feature map"), suppress(RuntimeError):
        block(x)
    assert len(calls) == 1


def test_one_value_per_channel_is_torchs_own_error() -> None:
    block: Any = create_model(TINY, fused=True).get_submodule("features.stage4.block1")
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        block(torch.randn(1, 32, 2, 2))
    assert block.eval()(torch.randn(1, 32, 2, 2)).shape == (1, 64, 1, 1)


def test_frozen_norms_follow_nothing_and_units_still_learn(calls: list[Any]) -> None:
    plain, fused = twins(TINY)
    for model in (plain, fused):
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval().requires_grad_(False)
    wanted = step(plain, images().double())
    assert_equal(step(fused, images().double()), wanted, 1e-9)
    assert {args[11] for args in calls} == {"constant"}
    assert wanted["features.stage2.block1.se.fc2.bias"].any()


def test_inserted_units_of_others_networks(calls: list[Any]) -> None:
    plain = torchvision.models.resnet18(num_classes=2)
    insert_(plain, SEConfig(), example=images(2, 32))
    # Away from their start, where the first layer has no gradient.
    for p in (p for name, p in plain.named_parameters() if ".se." in name):
        nn.init.normal_(p, 0, 0.2)
    plain.double()
    fused = copy.deepcopy(plain)
    report = fuse_(fused)
    assert len(report.fused) == 8
    assert {what for _, what in report.fused} == {"unit"}
    assert_equal(step(fused, images(2, 32).double()), step(plain, images(2, 32).double()), 1e-9)
    assert len(calls) == 8


def test_weights_of_another_table_leave_it_fused(calls: list[Any]) -> None:
    model = create_model(TINY, fused=True)
    other = create_model(replace(TINY, se=SEConfig(bias=False)), fused=False)
    load_weights_(model, other.state_dict(), quiet=True)
    assert model.net.se == SEConfig(bias=False)
    x = images()
    assert torch.allclose(model.eval()(x), other.eval()(x), atol=1e-5)
    assert len(calls) == 7


def replica_of(module: nn.Module) -> Any:
    """As `nn.DataParallel` makes it: tensors are attributes, and no parameters."""
    replica: Any = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        replica._modules[name] = child and replica_of(child)
    for name, p in module._parameters.items():
        setattr(replica, name, None if p is None else p * 1)
    return replica


@pytest.mark.parametrize("config", [SEConfig(), SEConfig(bias=False), ECAConfig(), SharedConfig()], ids=str)
def test_replicas(config: Any, calls: list[Any]) -> None:
    plain, fused = twins(replace(TINY, se=config))
    replica = replica_of(fused)
    assert not list(replica.parameters())
    x = images().double()
    wanted = step(plain, x)
    F.cross_entropy(replica(x), torch.arange(len(x))).backward()
    grads = {name: grad_of(p) for name, p in fused.named_parameters()}
    assert_equal(grads, {name: wanted[name] for name in grads}, 1e-9)
    assert sum(bool(args[10]) for args in calls) == 3


def test_mixed_dtypes_in_replicas() -> None:
    block = replica_of(create_model(TINY, fused=True)).features.stage3.block1
    block.se.fc1.weight = block.se.fc1.weight.double()
    warning = pytest.warns(UserWarning, match=r"Linear: torch.float64 with a feature map of torch.float32")
    with warning, suppress(RuntimeError):
        block(torch.randn(2, 16, 8, 8))


def test_who_watches_all_modules_sees_every_call(calls: list[Any]) -> None:
    model, seen = create_model(TINY, fused=True), set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(module))
    try:
        model(images())
    finally:
        handle.remove()
    assert calls == []
    assert {m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.Linear)} <= seen


def test_features_alone_are_fused(calls: list[Any]) -> None:
    create_model(TINY, features_only=True, fused=True)(images())
    assert len(calls) == 7


def test_the_doctor_sees_fused_units() -> None:
    report = doctor(create_model(TINY, fused=True), images(4))
    assert report.healthy, str(report)
    assert [row.runs for row in report.units] == [1, 1, 1]


@pytest.mark.slow
def test_200_steps_end_at_the_same_place() -> None:
    data = open_data(DataRecipe(image_size=8, batch_size=16), 0).train
    batches = [data.prepare(data[(0, tuple(range(16 * i, 16 * i + 16)))], torch.device("cpu")) for i in range(20)]

    net = replace(TINY, num_classes=10, in_channels=1, stages=TINY.stages[:2])

    def trained(dtype: torch.dtype, fused: bool) -> tuple[Tensor, float]:
        model = create_model(net, fused=fused).to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for i in range(200):
            x, target = batches[i % 20]
            loss = F.cross_entropy(model(x.to(dtype)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return torch.cat([p.detach().double().flatten() for p in model.parameters()]), loss.item()

    weights, loss = trained(torch.float64, False)
    assert loss < 0.5
    gaps = {}
    for dtype, fused in ((torch.float64, True), (torch.float32, True), (torch.float32, False)):
        found, end = trained(dtype, fused)
        gaps[dtype, fused] = ((found - weights).norm() / weights.norm()).item(), abs(end - loss)
    assert max(gaps[torch.float64, True]) < 1e-10
    # In float32 rounding grows along the way, fused or not, as fast as a ReLU somewhere turns over.
    for fused in (True, False):
        assert max(gaps[torch.float32, fused]) < 0.02
