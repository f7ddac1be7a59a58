"""Insertion keeps function, names and checkpoints; every gate learns; copies, replicas and traces have it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn

from senet import ECAConfig, NoSqueezeConfig, SEConfig, SharedConfig, doctor
from senet.config import UnitConfig
from senet.insert import InsertedUnit, insert_, remove_
from tests.insert.networks import draw_gates_, light_densenet, light_resnet, light_vgg

CONFIGS = [
    SEConfig(),
    SEConfig(gate="tanh", bias=False),
    SEConfig(gate="hard_sigmoid", squeeze="max"),
    NoSqueezeConfig(),
    ECAConfig(),
    SharedConfig(),
]


@pytest.mark.parametrize(
    ("make", "where"),
    [(light_resnet, "residual"), (light_densenet, "concat"), (light_vgg, "conv")],
)
def test_function_names_and_checkpoints_stay(make: Callable[[], nn.Module], where: str) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 3, 32, 32)
    base = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        before = model(x)
        sites = insert_(model, SEConfig(reduction=2, bias=False), where, example=x)
        assert torch.equal(model(x), before)
    assert not any(module.training for module in model.modules())
    own = model.state_dict().keys() - base.keys()
    assert len(own) == 2 * len(sites)
    assert all(".unit.fc" in name for name in own)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), torch.tensor([1, 2])).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        assert name not in own or (p.grad is not None and p.grad.count_nonzero() > 0), name

    draw_gates_(model.eval())
    trained = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        after = model(x)
        assert not torch.equal(after, before)
        model.load_state_dict(base)
        assert torch.equal(model(x), before)
        model.load_state_dict(trained)
        assert torch.equal(model(x), after)
        assert remove_(model) == sites
        model.load_state_dict(base)
        assert torch.equal(model(x), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("make", "where"), [(light_resnet, "residual"), (light_densenet, "concat")])
def test_compiled_and_traced_networks_run_their_units(make: Callable[[], nn.Module], where: str) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        insert_(model, SEConfig(), where, example=x)
        draw_gates_(model)
        after = model(x)
        assert not torch.equal(after, before)
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), after)
        assert torch.equal(torch.fx.symbolic_trace(model)(x), after)
        exported = torch.export.export(model, (x,), strict=False).module()
        torch.testing.assert_close(exported(x), after)
        last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), after)


def replica_of(model: nn.Module) -> nn.Module:
    """Copy a network as `torch.nn.parallel.replicate` does, which needs GPUs: hooks are shared, the rest is new."""
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = replicas[child] if child is not None else None
        for name, p in module._parameters.items():
            setattr(replica, name, None if p is None else p.detach().clone())
    return replicas[model]


def units(model: nn.Module) -> list[InsertedUnit]:
    return [m for m in model.modules() if isinstance(m, InsertedUnit)]


@pytest.mark.parametrize(("make", "where"), [(light_resnet, "residual"), (light_densenet, "concat")])
def test_the_module_that_is_called_has_the_unit(make: Callable[[], nn.Module], where: str) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        insert_(model, SEConfig(reduction=2), where, example=x)
        before = model(x)
        replica = replica_of(model)
        assert torch.equal(replica(x), before)
        for unit in units(replica):
            unit.unit.fc2.weight = torch.randn_like(unit.unit.fc2.weight)  # type: ignore[union-attr, arg-type]
        assert not torch.equal(replica(x), before)
        assert torch.equal(model(x), before)

        for unit in units(model):
            holder, _, child = next(n for n, m in model.named_modules() if m is unit).rpartition(".")
            other = copy.deepcopy(unit)
            nn.init.normal_(other.unit.fc2.weight)  # type: ignore[union-attr, arg-type]
            setattr(model.get_submodule(holder), child, other)
        after = model(x)
        assert not torch.equal(after, before)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copied(x), after)
            nn.init.ones_(units(copied)[0].unit.fc2.bias)  # type: ignore[union-attr, arg-type]
            assert not torch.equal(copied(x), after)
        assert torch.equal(model(x), after)
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), after)
        remove_(model)
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("instead", [None, nn.Identity(), nn.Sequential()], ids=str)
def test_a_unit_that_was_replaced_by_nothing(instead: nn.Module | None) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), torch.randn(1, 3, 8, 8)
    before = net(x)
    insert_(net, SEConfig(reduction=1), "conv", example=x)
    draw_gates_(net)
    assert not torch.equal(net(x), before)
    if instead is None:
        del net[1].se
    else:
        net[1].se = instead
    assert torch.equal(net(x), before)


def test_what_was_compiled_before_does_not_miss_units_nor_keep_them() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval(), torch.randn(1, 3, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        before = compiled(x)
        insert_(model, SEConfig(reduction=2), "conv", example=x)
        draw_gates_(model)
        assert torch.equal(compiled(x), model(x))
        assert not torch.equal(model(x), before)
        remove_(model)
        assert torch.equal(compiled(x), before)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_unit_begins_as_the_identity_and_learns(config: UnitConfig) -> None:
    torch.manual_seed(0)
    model, x = light_resnet(), torch.randn(2, 3, 64, 64)
    base = copy.deepcopy(model.state_dict())
    before = copy.deepcopy(model).eval()(x)
    sites = insert_(model, config, example=x)
    assert [s.name for s in sites] == [f"layer{i}.0.bn2" for i in (1, 2, 3, 4)]
    assert torch.equal(model.eval()(x), before)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(x).square().mean().backward()
        optimizer.step()
    for name, p in model.named_parameters():
        if ".se." in name:
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0 or "fc1.bias" in name, name
    y = model.eval()(x)
    assert not torch.equal(y, before)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), loaded):
        assert torch.equal(copied(x), y)
        copied.load_state_dict(base)
        assert torch.equal(copied(x), before)
    assert torch.equal(model(x), y)
    remove_(loaded)
    assert loaded.state_dict().keys() == base.keys()


def test_a_half_loaded_unit_is_an_error_as_ever() -> None:
    model = tv.resnet18()
    base = copy.deepcopy(model.state_dict())
    insert_(model, SEConfig(), "layer1.*.bn2", example=torch.zeros(1, 3, 32, 32))
    state = copy.deepcopy(model.state_dict())
    # One unit of two is there, whole: the other begins again.
    model.load_state_dict(base | {k: v for k, v in state.items() if "layer1.0" in k})
    del state["layer1.0.bn2.se.unit.fc1.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "layer1.0.bn2.se.unit.fc1.weight"\.'):
        model.load_state_dict(state)


@pytest.mark.parametrize(("make", "where"), [(light_resnet, "residual"), (light_vgg, "conv")])
def test_trained_units_stay_where_a_part_is_loaded(make: Callable[[], nn.Module], where: str) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(1, 3, 32, 32)
    base = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        before = model(x)
        sites = insert_(model, SEConfig(), where, example=x)
        draw_gates_(model)
        trained = model(x)
        head, *_ = [name for name in base if name.endswith("bias")][-1:]
        first, *_ = base
        missing, unexpected = model.load_state_dict({name: base[name] for name in (first, head)}, strict=False)
        assert torch.equal(model(x), trained)
        assert (len([name for name in missing if ".se." in name]), unexpected) == (len(sites) * 4, [])
        # Files from before PyTorch 0.4.1 do not count batches.
        model.load_state_dict({name: t for name, t in base.items() if "num_batches" not in name}, strict=False)
        assert torch.equal(model(x), before)
        remove_(model)
    assert not any(module._load_state_dict_pre_hooks for module in model.modules())


@pytest.mark.parametrize("module", [nn, timm.layers], ids=lambda m: m.__name__)
def test_units_go_with_norms_that_are_converted(module: Any) -> None:
    convert = getattr(module, "convert_sync_batchnorm", nn.SyncBatchNorm.convert_sync_batchnorm)
    torch.manual_seed(0)
    model, x = tv.resnet18(num_classes=10).eval(), torch.randn(1, 3, 32, 32)
    names = model.state_dict().keys()
    insert_(model, SEConfig(), example=x)
    draw_gates_(model)
    with torch.no_grad():
        after = model(x)
        converted: Any = convert(model)
        assert isinstance(converted.layer1[0].bn2, nn.SyncBatchNorm)
        for one in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
            assert torch.equal(one(x), after)
        assert len(remove_(converted)) == 8
    assert converted.state_dict().keys() == names
    assert not any(module._forward_hooks for module in converted.modules())


def test_norms_that_are_converted_before() -> None:
    torch.manual_seed(0)
    first, x = tv.resnet18(num_classes=10).eval(), torch.randn(1, 3, 32, 32)
    later = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(first))
    assert insert_(first, SEConfig(), example=x) == insert_(later, SEConfig(), example=x)
    for p, q in zip(first.parameters(), later.parameters(), strict=True):
        if p.dim() == 2 and p.shape[0] > p.shape[1]:
            p.data += 0.1
            q.data += 0.1
    with torch.no_grad():
        assert torch.equal(first(x), later(x))


def test_the_doctor_sees_that_a_unit_has_lost_its_place() -> None:
    model, x = tv.resnet18(num_classes=10), torch.randn(2, 3, 32, 32)
    insert_(model, SEConfig(), "layer1.*.bn2", example=x)
    block, bare = model.get_submodule("layer1.0"), nn.BatchNorm2d(64)
    bare._modules |= block.get_submodule("bn2")._modules
    block.add_module("bn2", bare)
    assert [(f.kind, f.unit) for f in doctor(model, x).findings] == [("never-run", "layer1.0.bn2.se")]


def test_on_the_meta_device_and_then_real() -> None:
    real = tv.resnet18().eval()
    with torch.device("meta"):
        model = tv.resnet18().eval()
    assert len(insert_(model, SEConfig())) == 8
    assert all(p.is_meta for p in model.parameters())
    model.load_state_dict(real.state_dict(), assign=True)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(x), real(x))


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(8, affine=False), nn.GroupNorm(2, 8), nn.GroupNorm(2, 8, affine=False), nn.InstanceNorm2d(8)],
    ids=str,
)
def test_every_norm_takes_a_unit(norm: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), copy.deepcopy(norm)).double().eval()
    u = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = net(u)
    assert [site.channels for site in insert_(net, SEConfig(), "1")] == [8]
    assert torch.equal(net(u), before)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    # The only module of a network without parameters.
    alone = nn.Sequential(copy.deepcopy(norm))
    insert_(alone, SEConfig(), "0", example=torch.zeros(1, 8, 4, 4))
    assert alone(u.float().repeat(1, 3, 1, 1)[:, :8]).shape == (2, 8, 4, 4)
