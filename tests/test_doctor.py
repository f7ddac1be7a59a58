"""Every kind of fault is found and named, and nothing healthy is: not in our networks, nor in anyone's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import log

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from senet import SEConfig, create_model, doctor, get_net, insert_, list_models
from senet.diagnosis.report import Report
from senet.errors import ConfigError
from tests.models.small import pixels


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Gated(nn.Module):
    """Another's unit, of a name that says nothing: `u * sigmoid(fc(mean(u)))`, or the gates alone."""

    def __init__(self, channels: int, out: int = 0, hidden: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, out or channels), nn.Sigmoid()
        )

    def gate(self, u: Tensor) -> Tensor:
        return self.fc(u.mean((2, 3)))[:, :, None, None]

    def forward(self, u: Tensor) -> Tensor:
        return u * self.gate(u)


class Detached(Gated):
    def forward(self, u: Tensor) -> Tensor:
        return u * self.gate(u).detach()


class Expanded(Gated):
    def forward(self, u: Tensor) -> Tensor:
        return u.mul_(self.gate(u).expand_as(u))


def images(size: int = 32, n: int = 4, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def kinds(report: Report) -> list[tuple[str, str]]:
    return [(f.kind, f.unit) for f in report.findings]


def resnet(place: str = "layer2.0.bn2", unit: nn.Module | None = None) -> nn.Module:
    """A small ResNet of torchvision, plain or with a module behind one of its modules."""
    block = torchvision.models.resnet.BasicBlock
    model = torchvision.models.ResNet(block, [1, 2, 1, 2], num_classes=10)
    if unit is not None:
        parent, _, name = place.rpartition(".")
        site = model.get_submodule(parent)
        setattr(site, name, nn.Sequential(getattr(site, name), unit))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if get_net(name).se])
def test_every_network_of_ours_is_healthy_as_drawn(name: str) -> None:
    # At full depth: 25 s for all of them.
    net = get_net(name)
    report = doctor(create_model(net, num_classes=5), images(pixels(net)))
    assert kinds(report) == []
    assert all(u.runs == 1 and u.mean_gate is not None for u in report.units)
    with torch.device("meta"):
        assert len(report.units) == sum(hasattr(m, "config") for m in net.build().modules())
    assert not any("of its table exist" in note or "were not checked" in note for note in report.notes)


@pytest.mark.parametrize(
    ("library", "name", "count"),
    [
        ("timm", "seresnet50", 16),
        ("timm", "legacy_seresnet18", 8),
        ("timm", "mobilenetv3_small_050", 9),
        ("timm", "efficientnet_b0", 16),
        ("timm", "regnety_002", 13),
        ("timm", "ecaresnet26t", 8),
        ("timm", "cspnext_tiny", 4),
        ("timm", "ese_vovnet19b_slim_dw", 4),
        ("timm", "repvit_m1", 10),
        ("torchvision", "efficientnet_b0", 16),
        ("torchvision", "mobilenet_v3_small", 9),
    ],
)
def test_others_networks_are_healthy_as_drawn(library: str, name: str, count: int) -> None:
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    report = doctor(make(name, num_classes=10), images(64))
    assert kinds(report) == []
    assert len(report.units) == count


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "convnext_atto", "deit_tiny_patch16_224"])
def test_a_plain_network_has_no_units(name: str) -> None:
    report = doctor(timm.create_model(name), images(224 if "224" in name else 64, n=2))
    assert (report.units, report.healthy) == ((), True)
    assert report.notes == ("no attention units found: a plain network, or units of an unknown kind",)


@pytest.mark.parametrize("unit", [Gated, Expanded])
def test_a_unit_is_known_by_its_structure(unit: type[Gated]) -> None:
    report = doctor(resnet(unit=unit(128)), images())
    (row,) = report.units
    assert report.healthy
    assert (row.name, row.kind, row.channels, row.hidden, row.runs) == ("layer2.0.bn2.1", unit.__name__, 128, 4, 1)


def test_a_network_may_be_a_unit_alone() -> None:
    for unit in (Gated(3, hidden=2), SEConfig(reduction=1).build(3)):
        assert [u.name for u in doctor(unit, images()).units] == [type(unit).__name__]


def test_two_layers_by_themselves_in_a_block_are_a_unit() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 4, 1), nn.Conv2d(4, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            u = self.conv(x)
            return u * torch.sigmoid(self.fc2(torch.relu(self.fc1(u.mean((2, 3), keepdim=True)))))

    report = doctor(nn.Sequential(Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), images())
    assert report.healthy
    assert [(u.name, u.channels, u.hidden) for u in report.units] == [("0.fc1+fc2", 32, 4)]


def test_what_only_looks_like_a_unit_is_not_listed() -> None:
    class Narrow(nn.Module):
        """Two 1x1 convolutions, a scale for each channel, a dropped path: all but the squeeze."""

        def __init__(self) -> None:
            super().__init__()
            self.reduce, self.expand = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            u = self.expand(torch.relu(self.reduce(x)))
            return x + u * torch.ones(1, 32, 1, 1) * torch.ones(len(x), 1, 1, 1)

    # At 3 pixels the maps have one place, as gates have.
    for size in (8, 3):
        pair = nn.Sequential(nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1))
        parts = (nn.Conv2d(3, 32, 3), Narrow(), Gated(32), pair, nn.Conv2d(32, 32, 1), Gated(32))
        report = doctor(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)), images(size))
        assert [u.name for u in report.units] == ["2", "5"]
        # Which is right: the first one follows the sum of a block.
        assert kinds(report) == [("wrong-branch", "2")]


def test_images_that_are_all_alike_say_nothing_of_the_gates() -> None:
    report = doctor(create_model("se_resnet20"), images(16, n=1).expand(4, -1, -1, -1))
    assert kinds(report) == []
    assert any("the squeezed values hardly differ between these images" in note for note in report.notes)


def test_the_row_of_a_unit_is_hand_arithmetic() -> None:
    model = create_model("se_resnet20")
    unit = model.features.stage3.block2.se
    nn.init.zeros_(unit.fc2.weight)
    unit.fc2.bias.data = torch.tensor([log(3), -log(3)]).repeat(16)
    nn.init.constant_(unit.fc1.bias, 9.0)
    report = doctor(model, images(16))
    row = next(u for u in report.units if u.name == "features.stage3.block2.se")
    # Gates of 3/4 and 1/4.
    assert (row.mean_gate, row.over_channels) == pytest.approx((0.5, 0.25))
    assert (row.channels, row.hidden, row.over_images, row.saturated, row.alive) == (32, 2, 0, 0, 1)
    assert kinds(report) == [("constant", row.name)]


def test_registered_and_never_called() -> None:
    model = resnet()
    model.layer1[0].add_module("se", Gated(64))
    assert kinds(doctor(model, images())) == [("never-run", "layer1.0.se")]
    ours = resnet()
    ours.layer1[0].add_module("se", SEConfig().build(64))
    assert kinds(doctor(ours, images())) == [("never-run", "layer1.0.se")]


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (Gated(128, out=1), r"1 gates for a feature map of 128 channels"),
        (Gated(128, out=64), r"fails in it, built for 128 channels.*\(4, 128, 4, 4\).*gates are \(4, 64, 1, 1\)"),
        (Gated(64), r"fails in it, built for 64 channels, given a feature map of shape \(4, 128, 4, 4\)"),
        (SEConfig().build(64), r"fails in it, built for 64 channels, given a feature map of shape \(4, 128, 4, 4\)"),
    ],
    ids=["one", "half", "other", "ours"],
)
def test_wrong_width(unit: nn.Module, message: str) -> None:
    import re

    report = doctor(resnet(unit=unit), images())
    assert kinds(report) == [("wrong-width", "layer2.0.bn2.1")]
    assert re.search(message, report.findings[0].message)


def test_a_pass_that_stops_says_nothing_of_gradients() -> None:
    # Forward ends in the fifth unit of nine and backward never runs.
    model = create_model("se_resnet20")
    model.features.stage3.block2.se = SEConfig().build(64)
    report = doctor(model, images(16))
    assert kinds(report) == [("wrong-width", "features.stage3.block2.se")]
    assert [u.runs for u in report.units] == [1] * 4 + [0] * 5


class SqueezeExcite(Gated):
    """A known name, and the map comes out as it went in."""

    def forward(self, u: Tensor) -> Tensor:
        return u


class Idle(Gated):
    forward = SqueezeExcite.forward


class Unused(SqueezeExcite):
    def forward(self, u: Tensor) -> Tensor:
        self.gate(u)
        return u


class SEModule(SqueezeExcite):
    def forward(self, u: Tensor) -> Tensor:
        return u + self.gate(u)


class SELayer(SqueezeExcite):
    def forward(self, u: Tensor) -> Tensor:
        return self.gate(u).expand_as(u).clone()


def idle() -> nn.Module:
    unit = SEConfig().build(128)
    unit.forward = lambda u: u * 1.0  # type: ignore[method-assign]
    return unit


@pytest.mark.parametrize(
    ("make", "place", "words"),
    [
        (idle, "layer2.0.bn2", "the loss reaches none"),
        (lambda: SqueezeExcite(128), "layer2.0.bn2", "the loss reaches none"),
        (lambda: Idle(128), "layer2.0.bn2", "the loss reaches none"),
        (lambda: Unused(128), "layer2.0.bn2", "the loss reaches none"),
        (lambda: SEModule(128), "layer2.0.bn2", "they are added to a feature map"),
        (lambda: SELayer(128), "layer2.0.bn1", "they go into another layer"),
        (lambda: SELayer(128), "layer2.0.bn2", "they are added to a feature map"),
    ],
    ids=["ours", "named", "structure", "unused", "adds", "replaces", "replaces_last"],
)
def test_a_unit_that_multiplies_nothing(make: Callable, place: str, words: str) -> None:
    report = doctor(resnet(place, make()), images())
    assert kinds(report) == [("not-applied", f"{place}.1")]
    assert words in report.findings[0].message


class Normed(Gated):
    """Batch norm and dropout in a unit: in training mode its gates depend on the batch and on chance."""

    def __init__(self) -> None:
        super().__init__(128)
        self.fc = nn.Sequential(
            nn.Linear(128, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 128), nn.Sigmoid()
        )


@pytest.mark.parametrize(
    ("mix", "faults"),
    [
        (lambda s: s, []),
        (lambda s: s.softmax(0), ["mixes-images"]),
        (lambda s: s.roll(1, 0), ["mixes-images"]),
        (lambda s: s.reshape(128, 4, 1, 1).transpose(0, 1), ["mixes-images"]),
    ],
    ids=["none", "softmax", "roll", "view"],
)
def test_gates_that_depend_on_other_images(mix: Callable, faults: list[str]) -> None:
    other, ours = Gated(128), SEConfig().build(128)
    gate, gates = other.gate, ours.gate
    other.gate = lambda u: mix(gate(u))  # type: ignore[method-assign]
    ours.gate = lambda u: mix(gates(u)[:, :, None, None])  # type: ignore[method-assign]
    for unit in (other, ours):
        report = doctor(resnet(unit=unit), images())
        assert kinds(report) == [(fault, "layer2.0.bn2.1") for fault in faults]


def test_a_batch_norm_in_a_unit_mixes_by_right() -> None:
    model = resnet(unit=Normed())
    assert kinds(doctor(model, images())) == []
    assert all(m.training for m in model.modules())


def test_a_unit_that_blocks_share_is_noted() -> None:
    model = create_model("se_resnet20")
    model.features.stage3.block3.se = model.features.stage3.block2.se
    report = doctor(model, images(16))
    assert report.healthy
    assert len(report.units) == 8
    assert report.notes[0].startswith("SE_3_2: called 2 times")


def test_a_missing_unit_of_the_table_is_noted() -> None:
    model = create_model("se_resnet20")
    model.features.stage3.block2.se = nn.Identity()
    report = doctor(nn.Sequential(model), images(16))
    assert report.notes == ("0: 8 of the 9 units of its table exist; missing: features.stage3.block2.se",)


@pytest.mark.parametrize("first", [0, 1])
def test_a_unit_in_front_of_both_branch_and_shortcut(first: int) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
            self.se = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            z = self.se(x)
            return torch.relu(z + self.f(z))

    for unit in (Gated(32), SEConfig().build(32)):
        blocks = [Block(), Block()]
        blocks[first].se = unit  # type: ignore[assignment]
        report = doctor(nn.Sequential(nn.Conv2d(3, 32, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), images())
        assert kinds(report) == [("wrong-branch", f"{first + 1}.se")]
        assert "the input of both branch and shortcut of a residual block" in report.findings[0].message


@pytest.mark.parametrize(
    ("place", "what"),
    [("layer2.0.downsample.1", "shortcut"), ("layer2.0", "sum"), ("layer4.1", "sum"), ("layer2.0.bn2", "")],
)
def test_wrong_branch_in_another_network(place: str, what: str) -> None:
    channels = 512 if place.startswith("layer4") else 128
    for unit in (Gated(channels), SEConfig().build(channels)):
        report = doctor(resnet(place, unit), images())
        assert kinds(report) == ([("wrong-branch", f"{place}.1")] if what else [])
        assert all(f"it gates the {what} of a residual block" in f.message for f in report.findings)


@pytest.mark.parametrize("name", ["se_resnet20", "se_preresnet110"])
@pytest.mark.parametrize("place", ["post", "identity"])
def test_a_place_is_meant_if_the_table_says_so(name: str, place: str) -> None:
    net = get_net(name).depths(2, 2, 2)  # type: ignore[attr-defined]
    declared = create_model(net, se=SEConfig(placement=place))  # type: ignore[arg-type]
    assert kinds(doctor(declared, images(16))) == []
    model = create_model(net)
    for block in (model.features.stage3.block1, model.features.stage3.block2):
        block.placement = place
    found = kinds(doctor(model, images(16)))
    assert found == [("wrong-branch", f"features.stage3.block{i}.se") for i in (1, 2)]


def bias_of_50(unit: nn.Module, block: nn.Module) -> None:
    nn.init.constant_(unit.fc2.bias, 50.0)


def no_weights(unit: nn.Module, block: nn.Module) -> None:
    nn.init.zeros_(unit.fc2.weight)
    nn.init.constant_(unit.fc2.bias, 2.0)


def dead_for_good(unit: nn.Module, block: nn.Module) -> None:
    nn.init.constant_(unit.fc1.bias, -50.0)


def frozen(unit: nn.Module, block: nn.Module) -> None:
    unit.fc1.requires_grad_(False)


def detached(unit: nn.Module, block: nn.Module) -> None:
    gate = unit.gate
    unit.gate = lambda u: gate(u).detach()


def large_map(unit: nn.Module, block: nn.Module) -> None:
    block.norm.weight.data *= 1e5


def large_sum(unit: nn.Module, block: nn.Module) -> None:
    # 16 x 16 pixels at stride 2: 64 places of 1,100.
    nn.init.zeros_(block.norm.weight)
    nn.init.constant_(block.norm.bias, 1100.0)


def not_a_number(unit: nn.Module, block: nn.Module) -> None:
    unit.fc2.weight.data[0, 0] = torch.nan


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (bias_of_50, "saturated", "100 % of its gates"),
        (no_weights, "constant", "weights are zero"),
        (dead_for_good, "constant", "hidden layer is zero"),
        (frozen, "no-gradient", "fc1.weight, fc1.bias cannot learn"),
        (detached, "no-gradient", "fc1.weight, fc1.bias, fc2.weight, fc2.bias no gradient"),
        (large_map, "half-overflow", "its feature map reaches"),
        (large_sum, "half-overflow", "sum over space reaches 7.04e+04"),
        (not_a_number, "half-overflow", "4 of 128 gates"),
    ],
)
def test_damage_to_one_unit_is_found_there_and_nowhere_else(damage: Callable, kind: str, words: str) -> None:
    model = create_model("se_resnet20")
    block = model.features.stage3.block2
    damage(block.se, block)
    report = doctor(model, images(16))
    assert kinds(report) == [(kind, "features.stage3.block2.se")]
    assert words in report.findings[0].message


def test_a_detached_gate_of_another() -> None:
    assert kinds(doctor(resnet(unit=Detached(128)), images())) == [("no-gradient", "layer2.0.bn2.1")]


def test_a_saturated_loss_hides_no_gradient() -> None:
    head = nn.Linear(32, 1)
    nn.init.constant_(head.bias, -1e4)
    report = doctor(
        nn.Sequential(nn.Conv2d(3, 32, 3), Gated(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), images()
    )
    assert (report.healthy, report.notes) == (True, ())


def test_an_output_that_no_loss_reaches() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.se = SEConfig().build(128)

        def forward(self, u: Tensor) -> Tensor:
            return u + 0 * self.se(u).detach()

    report = doctor(resnet(unit=Dropped()), images())
    assert kinds(report) == [("no-gradient", "layer2.0.bn2.1.se")]
    assert "does not reach its output" in report.findings[0].message


def test_a_unit_that_was_inserted_is_at_its_start_until_it_is_damaged() -> None:
    model = resnet()
    names = [site.name for site in insert_(model, SEConfig(), ["layer*.bn2"], example=images())]
    report = doctor(model, images())
    assert kinds(report) == []
    assert [(u.name, u.kind, u.mean_gate) for u in report.units] == [(f"{n}.se", "se inserted", 1.0) for n in names]
    nn.init.constant_(model.get_submodule(f"{names[2]}.se.unit.fc2").bias, 50.0)
    assert kinds(doctor(model, images())) == [("saturated", f"{names[2]}.se")]
    elsewhere = resnet()
    insert_(elsewhere, SEConfig(), ["layer2.0.downsample.1"], example=images())
    assert kinds(doctor(elsewhere, images())) == [("wrong-branch", "layer2.0.downsample.1.se")]


def test_a_last_layer_of_zeros_is_a_start_too() -> None:
    model = create_model("se_resnet20")
    model.features.stage3.block2.se.zero_()
    report = doctor(model, images(16))
    assert (kinds(report), report.notes) == (
        [],
        ("SE_3_2: its last layer is zero: the initial state, in which all gates are equal",),
    )
    model(images(16))
    assert kinds(doctor(model, images(16))) == [("constant", "features.stage3.block2.se")]


def dead_at_its_draw() -> nn.Module:
    """The hidden layer of the first unit is the ReLU of what is negative for every image."""
    model = create_model(get_net("se_preresnet110").depths(1, 1, 1))  # type: ignore[attr-defined]
    unit = model.features.stage2.block1.se
    hidden: list[Tensor] = []
    handle = unit.fc1.register_forward_hook(lambda _m, _i, out: hidden.append(out))
    model(images(16))
    handle.remove()
    if hidden[0].max() > 0:
        unit.fc1.weight.data.neg_()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_running_stats()
    return model


def test_a_unit_dead_at_its_draw_is_a_note_and_after_training_a_fault() -> None:
    model = dead_at_its_draw()
    name = "features.stage2.block1.se"
    report = doctor(model, images(16))
    assert kinds(report) == []
    assert report.units[0].alive == 0
    assert report.notes[0].startswith("SE_2_1: its hidden layer is zero for all images, by chance")
    model(images(16))
    assert kinds(doctor(model, images(16))) == [("constant", name)]
    # A trained network may be dead to noise alone.
    report = doctor(model)
    assert kinds(report) == []
    assert "only real images show" in report.notes[0]


def test_everything_is_as_it_was() -> None:
    model = create_model("se_resnet20", dropout=0.5).train()
    model.features.stage3.eval()
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    before = copy.deepcopy(model)
    buffers = [id(b) for b in model.buffers()]
    state = torch.get_rng_state()
    assert doctor(model, images(16)).healthy
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert [id(b) for b in model.buffers()] == buffers
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert torch.equal(model.classifier.weight.grad, torch.ones_like(model.classifier.weight))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "classifier.weight")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    # Nor where the pass stops.
    model.features.stage3.block2.se = SEConfig().build(64)
    assert not doctor(model, images(16)).healthy
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_report_depends_on_the_network_and_the_images_alone(mode: Callable) -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Dropout(), Gated(32), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    report = doctor(model, images(8))
    assert report.healthy
    torch.manual_seed(7)
    with mode():
        assert doctor(model, images(8)) == report


def test_the_network_is_judged_in_its_own_mode() -> None:
    fresh = create_model("se_resnet20").eval()
    assert any("model.train()" in note for note in doctor(fresh, images(16)).notes)
    frozen = create_model("se_resnet20").requires_grad_(False)
    report = doctor(frozen, images(16))
    assert report.healthy
    assert report.notes == ("gradients were not checked: every parameter is frozen",)


@pytest.mark.parametrize("statistic", ["running_mean", "running_var", "num_batches_tracked"])
def test_a_network_with_any_statistics_is_trained(statistic: str) -> None:
    """Weights of Caffe, or converted from ONNX, have no counters; a dead unit is a fault there and not a chance."""
    torch.manual_seed(0)
    model = create_model("se_resnet20")
    with torch.no_grad():
        block = model.features.stage4.block1
        block.norm.bias.fill_(5.0)
        block.se.fc1.weight.copy_(-block.se.fc1.weight.abs())
    new = doctor(model, images(16))
    getattr(model.features.stem.norm, statistic).add_(1)
    trained = doctor(model, images(16))
    assert not new.findings
    assert [f.unit for f in trained.findings] == ["features.stage4.block1.se"]


def test_noise_has_the_size_of_the_network() -> None:
    assert doctor(create_model("se_resnet20", in_channels=1)).batch == "4 images of noise, 1 x 32 x 32"
    assert doctor(nn.Sequential(nn.Conv2d(2, 4, 9, 8))).batch == "4 images of noise, 2 x 224 x 224"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(1, 3, 32, 32), r"batch: \(1, 3, 32, 32\) float32; expected: .* N of 2 or more"),
        (torch.zeros(4, 3), r"batch: \(4, 3\) float32; expected"),
        (torch.zeros(4, 3, 32, 32, dtype=torch.uint8), r"uint8; expected: float"),
        (torch.full((4, 3, 32, 32), torch.nan), r"batch: has values that are infinite or NaN"),
        (torch.zeros(4, 5, 32, 32), r"batch: the network does not run on \(4, 5, 32, 32\)"),
    ],
)
def test_wrong_batches(batch: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        doctor(create_model("se_resnet20"), batch)


def test_networks_that_cannot_run() -> None:
    with pytest.raises(ConfigError, match="model: its weights are on the meta device"):
        doctor(create_model("se_resnet20", device="meta"))
    with pytest.raises(ConfigError, match="batch: cannot be made up, since the network has no convolution"):
        doctor(nn.Linear(3, 3))


def test_the_report_is_a_table() -> None:
    model = create_model("se_resnet20")
    bias_of_50(model.features.stage2.block1.se, model)
    lines = str(doctor(model, images(16))).splitlines()
    assert lines[0] == "1 of 9 units has a fault, on 4 images, 3 x 16 x 16"
    assert lines[1].startswith("saturated: SE_2_1 (features.stage2.block1.se): 100 % of its gates")
    table = lines[lines.index("") + 1 :]
    assert table[0].split()[:3] == ["unit", "kind", "channels"]
    assert table[2].split() == [
        "SE_2_1",
        "se",
        "16",
        "1",
        "1",
        "1.000",
        "0.000",
        "0.000",
        "100",
        "%",
        "100",
        "%",
    ]


@pytest.mark.parametrize(
    ("layers", "undone"),
    [
        ([nn.InstanceNorm2d(16), nn.LeakyReLU()], True),
        ([nn.InstanceNorm2d(16, affine=True), nn.ReLU()], True),
        ([nn.GroupNorm(16, 16), nn.ReLU()], True),
        ([nn.ReLU(), nn.AvgPool2d(2), nn.InstanceNorm2d(16)], True),
        ([nn.GroupNorm(4, 16), nn.ReLU()], False),
        ([nn.LayerNorm([16, 14, 14]), nn.ReLU()], False),
        ([nn.BatchNorm2d(16), nn.ReLU()], False),
        ([nn.Conv2d(16, 16, 1), nn.InstanceNorm2d(16)], False),
    ],
    ids=str,
)
def test_a_norm_that_undoes_the_gates(layers: list[nn.Module], undone: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), *layers, nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    batch = images(16)
    net(batch)
    insert_(net, SEConfig(reduction=2), ["0"], example=batch)
    assert kinds(doctor(net, batch)) == [("undone", "0.se")] * undone


def test_several_inputs() -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
            self.fc = nn.Linear(32, 5)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            both = self.features(torch.cat([left, right])).mean((2, 3)).chunk(2)
            return {"logits": self.fc(torch.cat(both, 1))}

    torch.manual_seed(0)
    net, a, b = Siamese(), images(16), images(16) + 1
    insert_(net, SEConfig(reduction=2), "conv", example=(a, b))
    for batch in ((a, b), {"left": a, "right": b}):
        report = doctor(net, batch)
        assert report.healthy
        assert len(report.units) == 1
    assert report.batch.endswith("3 x 16 x 16 and 3 x 16 x 16")
    with pytest.raises(ConfigError, match=r"batch: the network does not run on .*missing 1 required"):
        doctor(net, a)
    with pytest.raises(ConfigError, match=r"batch: a tuple .*equal N"):
        doctor(net, (a, b[:2]))
