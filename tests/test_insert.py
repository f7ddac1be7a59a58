"""Insertion finds the places, keeps the function, the names and the checkpoints, and every gate learns."""

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
from torch import Tensor, nn

from senet import ECAConfig, NoSqueezeConfig, SEConfig, SharedConfig, create_model, describe, doctor
from senet.config import UnitConfig
from senet.errors import ConfigError
from senet.insert import insert_, remove_
from senet.units.unit import Unit
from tests.models.small import FAMILIES, pixels, small

CONFIGS = [
    SEConfig(),
    SEConfig(gate="tanh", bias=False),
    SEConfig(gate="hard_sigmoid", squeeze="max"),
    NoSqueezeConfig(),
    ECAConfig(),
    SharedConfig(),
]


def fc(channels: int) -> int:
    """Weights of both layers of an SE unit, r = 16."""
    return 2 * channels * (channels // 16)


def draw_gates_(model: nn.Module) -> None:
    """Gates that are not one."""
    for name, p in model.named_parameters():
        if "unit.fc2.weight" in name:
            nn.init.normal_(p)


def light_vgg() -> nn.Module:
    """Without the hidden layers of its head, which are most of its parameters and of a test's time."""
    model = tv.vgg16_bn(init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(25088, 10))
    return model


# Blocks and widths by the papers' tables. Branches that begin at zero would pass no gradient to their gates.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, list[str], list[int]]] = {
    "resnet50": (
        tv.resnet50,
        "residual",
        [f"layer{i}.{j}.bn3" for i, depth in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(depth)],
        [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3,
    ),
    "resnext50": (
        tv.resnext50_32x4d,
        "residual",
        [f"layer{i}.{j}.bn3" for i, depth in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(depth)],
        [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3,
    ),
    "vgg16_bn": (
        light_vgg,
        "conv",
        [f"features.{i}" for i in (2, 5, 9, 12, 16, 19, 22, 26, 29, 32, 36, 39, 42)],
        [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6,
    ),
    "mobilenet_v2": (
        tv.mobilenet_v2,
        "residual",
        [f"features.{i}.conv.3" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)],
        [24] + [32] * 2 + [64] * 3 + [96] * 2 + [160] * 2,
    ),
    "googlenet": (
        lambda: tv.googlenet(init_weights=False, aux_logits=False),
        "concat",
        [f"inception{i}" for i in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")],
        [256, 480, 512, 512, 512, 528, 832, 832, 1024],
    ),
    "densenet121": (
        tv.densenet121,
        "concat",
        [f"features.denseblock{i}" for i in (1, 2, 3, 4)],
        [256, 512, 1024, 1024],
    ),
    "convnext_tiny": (
        lambda: timm.create_model("convnext_tiny", ls_init_value=1.0),
        "residual",
        [f"stages.{i}.blocks.{j}.drop_path" for i, depth in enumerate((3, 3, 9, 3)) for j in range(depth)],
        [96] * 3 + [192] * 3 + [384] * 9 + [768] * 3,
    ),
    "regnetx_002": (
        lambda: timm.create_model("regnetx_002", zero_init_last=False),
        "residual",
        [f"s{i}.b{j + 1}.conv3.bn" for i, depth in ((1, 1), (2, 1), (3, 4), (4, 7)) for j in range(depth)],
        [24, 56] + [152] * 4 + [368] * 7,
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_of_others(network: str) -> None:
    make, where, names, channels = NETWORKS[network]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 3, 64, 64)
    base = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        before = model(x)

    planned = insert_(model, SEConfig(bias=False), where, example=x, dry_run=True)
    assert model.state_dict().keys() == base.keys()
    sites = insert_(model, SEConfig(bias=False), where, example=x)
    with torch.device("meta"):
        auto = insert_(make(), SEConfig(bias=False), "auto", example=x.to("meta"), dry_run=True)
    assert sites == planned == auto
    assert not any(module.training for module in model.modules())
    assert [site.name for site in sites] == names
    assert [site.channels for site in sites] == channels
    assert [site.params for site in sites] == [site.macs for site in sites] == [fc(c) for c in channels]
    own = model.state_dict().keys() - base.keys()
    assert len(own) == 2 * len(names)
    assert all(".unit.fc" in name for name in own)
    assert base.keys() <= model.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(model(x), before)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), torch.tensor([1, 2])).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        if name in own:
            assert p.grad is not None, name
            assert p.grad.count_nonzero() > 0, name

    draw_gates_(model.eval())
    trained = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        after = model(x)
        assert not torch.equal(after, before)
        model.load_state_dict(base)
        assert torch.equal(model(x), before)
        model.load_state_dict(trained)
        assert torch.equal(model(x), after)
        exported = torch.export.export(model, (x,), strict=False).module()
        torch.testing.assert_close(exported(x), after)
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), after)

        assert {site.name for site in remove_(model)} == set(names)
        model.load_state_dict(base)
        assert torch.equal(model(x), before)
    assert not any(module._forward_hooks for module in model.modules())


def light_densenet() -> nn.Module:
    return tv.DenseNet(8, (1, 1, 2, 2), 16)


@pytest.mark.parametrize("make", [tv.mobilenet_v2, light_densenet])
def test_compiled_and_traced_networks_run_their_units(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        insert_(model, SEConfig(), "auto", example=x)
        draw_gates_(model)
        after = model(x)
        assert not torch.equal(after, before)
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), after)
        assert torch.equal(torch.fx.symbolic_trace(model)(x), after)
        last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), after)


def test_what_was_compiled_before_does_not_miss_units_nor_keep_them() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval(), torch.randn(1, 3, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        before = compiled(x)
        insert_(model, SEConfig(), "conv", example=x)
        draw_gates_(model)
        assert torch.equal(compiled(x), model(x))
        assert not torch.equal(model(x), before)
        remove_(model)
        assert torch.equal(compiled(x), before)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_unit_begins_as_the_identity_and_learns(config: UnitConfig) -> None:
    torch.manual_seed(0)
    model, x = tv.resnet18(num_classes=10), torch.randn(2, 3, 64, 64)
    base = copy.deepcopy(model.state_dict())
    before = copy.deepcopy(model).eval()(x)
    sites = insert_(model, config, example=x)
    assert [s.name for s in sites] == [f"layer{i}.{j}.bn2" for i in (1, 2, 3, 4) for j in (0, 1)]
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


@pytest.mark.parametrize(("make", "where"), [(tv.resnet18, "residual"), (light_vgg, "conv")])
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


@pytest.mark.parametrize("name", ["resnet50", "resnet20"])
def test_the_residual_place_of_our_own_networks_is_their_twins(name: str) -> None:
    plain, twin = create_model(name, device="meta"), create_model(f"se_{name}", device="meta")
    units = {n: m for n, m in twin.named_modules() if isinstance(m, Unit)}
    sites = insert_(plain, SEConfig())
    assert [s.name for s in sites] == [f"{n.rpartition('.')[0]}.norm" for n in units]
    assert [s.params for s in sites] == [sum(p.numel() for p in u.parameters()) for u in units.values()]
    cost = describe(twin)
    assert sum(s.macs for s in sites) == cost.macs - cost.macs_without_se


@pytest.mark.parametrize("family", FAMILIES)
def test_every_plain_network_of_ours_takes_units(family: str) -> None:
    """Those whose blocks have a `se` that is None too."""
    net = small(FAMILIES[family])
    model, x = create_model(net, device="meta"), torch.empty(1, 3, pixels(net), pixels(net), device="meta")
    where = ["features.stage*.branch?.norm?"] if "shake" in family else "auto"
    if "shake" in family:
        with pytest.raises(ConfigError, match=r"nearest before the end: '\S+branch1.norm(\d)', '\S+branch2.norm\1'"):
            insert_(model, SEConfig(), example=x)
    names = model.state_dict().keys()
    sites = insert_(model, SEConfig(), where, example=x)
    plain = {name for name in model.state_dict() if "unit.fc1.weight" not in name}
    assert len(model.state_dict().keys() - plain) == len(sites) >= 3
    inside = "inserted_se" if family in ("vgg", "mobile", "inception", "inception_resnet") else "se"
    assert f"{sites[-1 if family != 'inception_resnet' else 0].name}.{inside}.unit.fc1.weight" in model.state_dict()
    remove_(model)
    assert model.state_dict().keys() == names


def test_a_unit_of_our_own_networks_runs_once() -> None:
    torch.manual_seed(0)
    net = small(FAMILIES["vgg"])
    model, x = create_model(net).eval(), torch.randn(1, 3, 32, 32)
    insert_(model, SEConfig(), "features.stage1.block1", example=x)
    block: Any = model.get_submodule("features.stage1.block1")
    unit = block.inserted_se
    nn.init.normal_(unit.unit.fc2.weight)
    with torch.no_grad():
        u = block(x)
        plain = F.relu(block.norm(block.conv(x)))
        assert torch.equal(u, unit(plain))
        assert not torch.equal(u, plain)


def test_costs_without_the_squeeze_grow_with_the_map() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU())
    (site,) = insert_(net, NoSqueezeConfig(bias=False), "conv", example=torch.zeros(4, 3, 7, 9), dry_run=True)
    assert (site.name, site.params, site.macs) == ("1", 2 * 32 * 2, 2 * 32 * 2 * 5 * 7)


class Depthwise(nn.Module):
    """A depthwise pair, its norms before functional activations, then ECA and a ReLU that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.dw, self.norm1 = nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
        self.pw, self.norm2 = nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)
        self.last, self.relu, self.eca = nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm2(self.pw(F.relu6(self.norm1(self.dw(x))))))
        x = self.relu(self.relu(self.last(x)))
        return x * self.eca(x.mean((2, 3))[:, None]).sigmoid().mT[..., None]


class Mixed(nn.Module):
    """A residual branch of two convolutions whose maps are joined, as in Inception-ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.join, self.conv = Join(), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.join(x))


class Join(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.other(x)], dim=1)


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("residual", ["1.conv"]),
        ("concat", ["1.join", "2"]),
        ("auto", ["1.conv", "2"]),
        ("conv", ["0", "1.join.one", "2.one"]),
    ],
)
def test_words(where: str, names: list[str]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Mixed(), Join())
    assert [site.name for site in insert_(net, SEConfig(), where, dry_run=True)] == names


def test_where_a_convolution_ends() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Identity(), nn.Softplus(), nn.Sigmoid())
    assert [site.name for site in insert_(net, SEConfig(), "conv", dry_run=True)] == ["2"]
    sites = insert_(Depthwise(), SEConfig(), "conv", example=torch.zeros(1, 8, 9, 9), dry_run=True)
    # The paper's SE-MobileNet has its units behind the 1x1.
    assert [site.name for site in sites] == ["norm2", "last"]


class Scaled(nn.Module):
    """Inception-ResNet's way: the branch is scaled outside modules."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(8, 8, 3, padding=1), last

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + 0.17 * self.last(self.conv(x)))


@pytest.mark.parametrize(
    ("last", "site"),
    [(nn.BatchNorm2d(8), "1.last"), (nn.Identity(), "1.conv"), (nn.Sequential(nn.Conv2d(8, 8, 1)), "1.last.0")],
    ids=str,
)
def test_a_branch_that_is_scaled(last: nn.Module, site: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Scaled(last))
    assert [s.name for s in insert_(net, SEConfig())] == [site]


class Steps(nn.Module):
    """Takes each of its children for a step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(8, 8, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for step in self.children():
            x = step(x)
        return x


class Odd(nn.Module):
    """A shared ReLU, an unused convolution, a container, a name that is taken, tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu, self.unused = nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)
        self.taken, self.se_taken = nn.Sequential(nn.Conv2d(8, 8, 1)), None
        self.steps, self.box = Steps(), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.tokens, self.fc = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.taken(self.box(self.steps(self.relu(self.relu(self.stem(x))))))
        x = self.tokens(x.flatten(2).mT)
        return self.fc(x.mean(1))


def test_a_container_keeps_its_unit_outside() -> None:
    model = Odd()
    # In the order in which they run.
    assert [s.name for s in insert_(model, SEConfig(), ["taken.0", "box", "box.0"])] == ["box.0", "box", "taken.0"]
    assert {name for name in model.state_dict() if "fc1.weight" in name} == {
        "box.0.se.unit.fc1.weight",
        "se_box.unit.fc1.weight",
        "taken.0.se.unit.fc1.weight",
    }
    assert len(model.box) == 2
    with pytest.raises(ConfigError, match="where: 'box', a Sequential, has a unit already"):
        insert_(model, SEConfig(), "box")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("st*m?", r"where: no module is called 'st\*m\?'; expected: a module's name, residual, concat, conv, auto"),
        (["stem", "conv"], r"where: no module is called 'conv'"),
        (lambda name, m: False, r"where: no module matches"),
        (
            "relu",
            r"where: 'relu', a ReLU, is called 2 times; expected: a module that is called once and outputs",
        ),
        (["stem", "unused"], r"where: 'unused', a Conv2d, is called 0 times"),
        (["stem", "fc"], r"where: 'fc', a Linear, outputs \(1, 2\)"),
        (["stem", "tokens"], r"where: 'tokens', a Linear, outputs \(1, 16, 8\) with channels in dimension 2"),
        (lambda name, m: not name, r"where: '', a Odd, outputs \(1, 2\)"),
        (["stem", "steps"], r"where: 'steps' runs all its children as steps; name one of them"),
        (["stem", "taken"], r"where: '', a Odd, already has an attribute 'se_taken'"),
        (
            "residual",
            r"where: 'residual' finds nothing .*: 0, concat: 0, conv: 0; give names of modules with",
        ),
        (3, r"where: 3 is not a name; expected: residual, concat, conv, auto, names of modules, or a function"),
        (["stem", None], r"where: None is not a name"),
        (nn.Conv2d, r"where: <class .*Conv2d'> is not a name"),
    ],
)
def test_no_place_for_a_unit(where: object, message: str) -> None:
    model = Odd()
    names = set(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        insert_(model, SEConfig(), where, example=torch.zeros(1, 3, 4, 4))  # type: ignore[arg-type]
    assert set(model.state_dict()) == names
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("make", "where", "message"),
    [
        (tv.vgg16_bn, "residual", "residual: 0, concat: 0, conv: 13; give 'conv'"),
        (tv.resnet18, "concat", "residual: 8, concat: 0, conv: 17; give 'residual'"),
        (
            tv.swin_t,
            "auto",
            r"residual: 0 \(and 24 channels-last, which units cannot gate\), concat: 0, conv: 1; give names",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.ReLU())),
            "1",
            "'1' is a container inside containers",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Last()),
            "residual",
            "no module that runs once and outputs .* ends the residual branch in '1'",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Twice()),
            "residual",
            "no module that runs once and outputs .* ends the residual branch in '1'",
        ),
        (
            lambda: create_model("se_resnet20", device="meta"),
            "residual",
            "'features.stage2.block1.se', a SqueezeExcite, is a unit",
        ),
    ],
)
def test_networks_without_such_a_place(make: Callable[[], nn.Module], where: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=rf"where: .*{message}"):
        insert_(make(), SEConfig(), where, dry_run=True)


class Last(nn.Module):
    """A branch whose layer has channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Twice(nn.Module):
    """A branch whose one layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.conv(x))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SEConfig(gate="relu"), r"gate: 'relu' has no gradient"),
        (SEConfig(stages=(2,)), r"placement, stages: have no effect on insertion"),
        (UnitConfig(), r"config: UnitConfig is abstract; expected: SEConfig, "),
        (SEConfig, r"config: <class .*SEConfig'>; expected: a UnitConfig, such as SEConfig\(\)"),
        (None, r"config: None; expected"),
        (SharedConfig(groups=8), r"groups: 8 does not divide the 30 channels"),
    ],
)
def test_a_unit_that_cannot_be_built_leaves_the_others_out_too(config: Any, message: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 30, 1))
    with pytest.raises(ConfigError, match=message):
        insert_(net, config, "?")
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert not any(module._forward_hooks for module in net.modules())
    assert [site.channels for site in insert_(net, SharedConfig(groups=2), "?")] == [32, 30]


@pytest.mark.parametrize("where", ["residual", "layer1.0.bn2", "conv"])
def test_a_second_unit_is_refused(where: str) -> None:
    model, x = tv.resnet18(), torch.zeros(1, 3, 32, 32)
    insert_(model, SEConfig(), "conv" if where == "conv" else "residual", example=x)
    names = set(model.state_dict())
    with pytest.raises(ConfigError, match=r"where: '(layer1.0.bn2|relu)', a \w+, has a unit already"):
        insert_(model, SEConfig(), where, example=x)
    assert set(model.state_dict()) == names


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_no_network_for_hooks() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()))
    with pytest.raises(ConfigError, match="model: '' is scripted; expected: a module without torch"):
        insert_(scripted, SEConfig(), "0")
    with pytest.raises(ConfigError, match="model: '0' is scripted"):
        insert_(nn.Sequential(scripted, nn.ReLU()), SEConfig(), "1")
    with pytest.raises(ConfigError, match=r"model: 3; expected: a torch\.nn\.Module"):
        insert_(3, SEConfig())  # type: ignore[arg-type]


def test_nothing_to_remove() -> None:
    with pytest.raises(ConfigError, match="model: has no unit from insert_"):
        remove_(create_model("se_resnet20", device="meta"))


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
