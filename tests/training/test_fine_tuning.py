"""The fields for fine-tuning: each resumes bit for bit, gives twins equal images, and does what its formula says."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor, nn

from senet import create_model
from senet.config import override
from senet.data import TensorSplit
from senet.errors import CheckpointError, ConfigError
from senet.experiments.experiment import comparison
from senet.foreign_models import classifier_name
from senet.models.registry import get_net
from senet.recipes.effects import check_effects
from senet.recipes.recipe import OptimRecipe, Recipe, TrainRecipe
from senet.recipes.registry import recipe_for
from senet.runs.checkpoint import save
from senet.runs.folder import LAST
from senet.runs.metrics import Epoch
from senet.runs.recipe_file import write_recipe
from senet.training import callbacks, run
from senet.training.callbacks import Interrupted
from senet.training.drop_path import drop_paths_
from senet.training.module import TrainingModule
from senet.training.run import fitted, train
from senet.training.schedule import make_optimizer
from senet.training.trunk import depths, trunk_parameters
from senet.training.weights import with_weights
from tests.training.test_resume import differences, state
from tests.training.test_run import weights

FIELDS = {
    "adamw": ("optim.kind=adamw", "optim.lr=0.01", "optim.betas=0.8,0.9"),
    "frozen at first": ("train.freeze_epochs=1", "train.freeze_bn_epochs=1", "train.ema=0.9"),
    "frozen for good": ("train.freeze_epochs=2", "train.accumulate=2", "train.save_batches=2"),
    "layer decay": ("optim.layer_decay=0.5", "optim.trunk_lr=0.5", "schedule.warmup_epochs=0"),
    "randaugment": ("data.auto_augment=randaugment", "data.randaugment_ops=3", "data.flip=true"),
    "trivialaugment": ("data.auto_augment=trivialaugment", "data.crop=resized", "data.random_erasing=0.5"),
    "color jitter": ("data.color_jitter=0.4", "data.mean=0.5,0.5,0.5", "data.std=0.5,0.5,0.5"),
    "mixup": ("data.mixup=0.4", "train.label_smoothing=0.1", "train.class_weights=balanced"),
    "cutmix": ("data.cutmix=1", "optim.kind=adamw", "optim.lr=0.01"),
    "both": ("data.cutmix=1", "data.mixup=0.2", "data.batch_size=15", "data.random_erasing=0.5"),
    "balanced": ("data.balanced=true", "data.mixup=1", "train.ema=0.9"),
    "drop path": ("train.drop_path=0.5", "train.freeze_epochs=1"),
    "class weights": ("train.class_weights=balanced",),
}


class Watch(Callback):
    """Keeps the weights of the start, and every batch as the network gets it."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = {name: t.clone() for name, t in pl_module.network.state_dict().items()}
        self.batches: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches += [t.clone() for t in batch]


def few(data: Any) -> Any:
    """45 images in 3 batches; the class of half of them is 0."""
    split = data.train
    targets = torch.where(torch.arange(45) % 2 == 0, 0, split.targets[:45])
    return replace(data, train=TensorSplit(split.images[:45], targets, split.recipe, split.seed))


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_resumes_bit_for_bit_and_is_fair_to_twins(
    field: str, recipe: Recipe, plain: Recipe, open_small: Any, tmp_path: Path
) -> None:
    workers = "data.workers=2" if field == "randaugment" else "data.workers=0"
    recipe, plain = (override(r, workers, *FIELDS[field]) for r in (recipe, plain))

    def opened() -> Any:
        return few(open_small(recipe))

    ours, theirs = Watch(), Watch()
    train(recipe, opened(), tmp_path / "unbroken", quiet=True, callbacks=[ours])
    train(plain, opened(), tmp_path / "plain", quiet=True, callbacks=[theirs])
    shared = ours.start.keys() & theirs.start.keys()
    assert len(shared) == len(theirs.start)
    assert all(torch.equal(ours.start[name], theirs.start[name]) for name in shared)
    assert len(ours.batches) == len(theirs.batches) == 2 * 2 * 3
    assert all(torch.equal(a, b) for a, b in zip(ours.batches, theirs.batches, strict=True))
    # Stopped in the middle of the first epoch; where epochs differ, also in the middle of the second.
    for at in (2, 4) if "frozen" in field else (2,):
        data = opened()
        prepare, calls = data.train.prepare, []

        def stop(batch: Any, device: Any, prepare: Any = prepare, calls: list[int] = calls, at: int = at) -> Any:
            calls.append(1)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return prepare(batch, device)

        data.train.prepare = stop
        with pytest.raises(Interrupted):
            train(recipe, data, tmp_path / "broken", quiet=True, resume=at > 2)
    train(recipe, opened(), tmp_path / "broken", quiet=True, resume=True)
    assert differences(state(tmp_path / "broken"), state(tmp_path / "unbroken")) == []


@pytest.mark.parametrize(
    "assigned",
    [
        ("optim.kind=adamw", "optim.betas=0.8,0.95", "optim.decay=all"),
        ("optim.kind=adamw", "data.mixup=0.5", "train.label_smoothing=0.1"),
        ("optim.nesterov=false", "train.class_weights=balanced", "data.balanced=false"),
    ],
)
def test_a_run_equals_a_loop_of_torchs_own(
    assigned: tuple[str, ...], recipe: Recipe, open_small: Any, tmp_path: Path
) -> None:
    recipe = replace(recipe, model=replace(recipe.model, dropout=0.0))
    recipe = override(recipe, "optim.lr=0.02", "schedule.kind=constant", "schedule.warmup_epochs=0", "train.epochs=1")
    recipe = override(recipe, "optim.decay=all", "optim.weight_decay=0.05", *assigned)
    data = few(open_small(recipe))
    train(recipe, data, tmp_path / "run", quiet=True)

    model = create_model(fitted(recipe, 10).model, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    o, counts = recipe.optim, torch.bincount(data.train.targets, minlength=10)
    optimizer = (
        torch.optim.AdamW(model.parameters(), lr=0.02, betas=o.betas, weight_decay=0.05)
        if o.kind == "adamw"
        else torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.05)
    )
    for key in data.train.order(16):
        images, targets = data.train.prepare(data.train[key], torch.device("cpu"))
        losses = F.cross_entropy(model(images), targets, reduction="none", label_smoothing=recipe.train.label_smoothing)
        if recipe.train.class_weights == "balanced":
            # As scikit-learn: n / (classes * count).
            losses = losses * (45 / (len(counts.nonzero()) * counts[targets]))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    have, want = weights(tmp_path / "run"), model.state_dict()
    for name in want:
        torch.testing.assert_close(have[name], want[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_frozen_trunk_does_not_move_and_is_released(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    watch = Watch()
    frozen = override(recipe, "train.freeze_epochs=2")
    train(frozen, open_small(frozen), tmp_path / "frozen", quiet=True, callbacks=[watch])
    after = weights(tmp_path / "frozen")
    moved = {name for name in after if not torch.equal(after[name], watch.start[name])}
    # All buffers too: running statistics, and how many batches they have seen.
    assert moved == {name for name in after if ".se." in name or name.startswith("classifier.")}
    released = override(recipe, "train.freeze_epochs=1")
    train(released, open_small(released), tmp_path / "released", quiet=True)
    assert int(weights(tmp_path / "released")["features.stem.norm.num_batches_tracked"]) == 7


def test_layer_decay_by_hand() -> None:
    """SE-ResNet-20: the stem has three stages between it and the classifier, so 4 factors of 0.5."""
    model = create_model("se_resnet20")
    optimizer = make_optimizer(
        model, OptimRecipe(lr=1.0, trunk_lr=0.1, layer_decay=0.5, weight_decay=0.2, decay="weights")
    )
    found = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == len(list(model.parameters()))
    parameters = dict(model.named_parameters())
    for name, rate, decay in (
        ("classifier.weight", 1.0, 0.2),
        ("classifier.bias", 1.0, 0.0),
        ("features.stage2.block1.se.fc1.weight", 1.0, 0.2),
        ("features.stage4.block3.conv2.weight", 0.1 * 0.5, 0.2),
        ("features.stage3.block1.norm1.weight", 0.1 * 0.25, 0.0),
        ("features.stage2.block1.conv1.weight", 0.1 * 0.125, 0.2),
        ("features.stem.conv.weight", 0.1 * 0.0625, 0.2),
    ):
        group = found[id(parameters[name])]
        assert (group["lr"], group["weight_decay"]) == (pytest.approx(rate), decay), name
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_stages_of_other_networks() -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    with torch.device("meta"):
        resnet = timm.create_model("resnet18", num_classes=5)
        densenet = torchvision.models.densenet121(num_classes=5)
        own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    assert [classifier_name(m) for m in (resnet, densenet, own)] == ["fc", "classifier", "4"]
    for model, want in (
        (resnet, {"fc.bias": 0, "layer4.1.bn2.bias": 1, "layer1.0.conv1.weight": 4, "conv1.weight": 5, "bn1.bias": 5}),
        (densenet, {"classifier.bias": 0, "features.norm5.bias": 1, "features.transition3.norm.bias": 2}),
        (own, {"4.bias": 0, "2.weight": 1, "1.weight": 2, "0.weight": 2}),
    ):
        found = depths(model)
        assert {name: found[name] for name in want} == want
        assert {name for name, depth in found.items() if depth} == set(trunk_parameters(model))


def test_of_a_mixed_image_the_train_error_is_the_share_that_the_answer_misses(recipe: Recipe, open_small: Any) -> None:
    module = TrainingModule(fitted(recipe, 10), open_small(recipe), 1)
    module.network = nn.Flatten()
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    module.training_step((logits, torch.tensor([[0.7, 0.3], [1.0, 0.0]])), 0)
    assert module.read_train()[0]["error"] == pytest.approx(100 * (0.3 + 1.0) / 2)
    module.training_step((logits, torch.tensor([0, 0])), 0)
    assert module.read_train()[0]["error"] == 50


@pytest.mark.parametrize(
    ("assigned", "message"),
    [
        (("optim.trunk_lr=0",), r"optim.trunk_lr: 0.0 is too small; expected: above 0"),
        (("optim.layer_decay=1.5",), r"optim.layer_decay: 1.5 is not above 0 and at most 1"),
        (("optim.betas=0.9,1",), r"optim.betas: \(0.9, 1.0\) must be two numbers from 0 to below 1"),
        (("train.freeze_epochs=99",), r"train.freeze_epochs: 99 is more than train.epochs=12"),
        (("data.balanced=true", "train.class_weights=balanced"), r"train.class_weights: 'balanced' has no effect with"),
        (("data.randaugment_magnitude=31",), r"data.randaugment_magnitude: 31 is too large; expected: 0 to 30"),
        (("data.random_erasing=1.5",), r"data.random_erasing: 1.5 is too large; expected: 0 to 1"),
        (("train.drop_path=1",), r"train.drop_path: 1.0 is not below 1"),
        (("train.drop_path=0.1", "train.fused=true"), r"train.drop_path: 0.1 needs train.fused=false"),
        (("data.mixup=-1",), r"data.mixup: -1.0 is too small"),
    ],
)
def test_wrong_values_are_named(assigned: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(recipe_for("digits"), *assigned)


@pytest.mark.parametrize("name", ["se_preresnet110", "se_mobilenet", "se_vgg16_bn", "fasterrcnn_se_resnet50_fpn"])
def test_networks_without_drop_path_are_refused(name: str) -> None:
    recipe = replace(recipe_for("digits"), name=name, model=get_net(name))
    if "resnet50" in name:
        assert override(recipe, "train.drop_path=0.1").train.drop_path == 0.1
        return
    with pytest.raises(
        ConfigError, match=rf"drop_path: 0.1 has no effect on {name}; expected: 0, or a ResNet, ResNeXt or"
    ):
        override(recipe, "train.drop_path=0.1")


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("train.early_stopping", "train.early_stopping=12"),
        ("optim.momentum", "optim.kind=adamw"),
        ("optim.nesterov", "optim.kind=adamw"),
        ("optim.betas", "optim.kind=sgd"),
        ("data.randaugment_ops", "data.auto_augment=trivialaugment"),
        ("data.workers", "data.color_jitter=0"),
    ],
)
def test_a_field_without_effect_is_refused(field: str, other: str) -> None:
    recipe = override(recipe_for("digits"), other)
    with pytest.raises(ConfigError, match=rf"--{field}: has no effect with"):
        check_effects(recipe, [field])


def test_stochastic_depth_by_hand() -> None:
    """One SE block: a left out branch leaves the shortcut, a kept one counts as much more as it is rarer."""
    net = replace(get_net("se_resnet20"), dropout=0.0)
    model = create_model(net, seed=0).train()
    places = drop_paths_(model, 0.5)
    assert (len(places), places[0], places[-1]) == (9, "features.stage2.block1", "features.stage4.block3")
    block = model.get_submodule(places[-1])
    x = torch.randn(64, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        found = block(x)
        u = block.se(block.norm(block.branch(x)))
        assert torch.equal(block.eval()(x), F.relu(block.se(block.norm(block.branch(x))) + x))
    left_out = (found == F.relu(x)).flatten(1).all(1)
    torch.testing.assert_close(found[~left_out], F.relu(2 * u + x)[~left_out])
    # 64 tosses of a coin: three deviations.
    assert 20 < left_out.sum() < 44
    # The first branch always stays.
    assert model.get_submodule(places[0]).epilogue.p == 0


def test_stochastic_depth_of_other_networks() -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    with torch.device("meta"):
        for model, count in ((timm.create_model("resnet18"), 8), (torchvision.models.convnext_tiny(), 18)):
            names = list(model.state_dict())
            assert len(drop_paths_(model, 0.3)) == count
            assert list(model.state_dict()) == names
            rates = [
                getattr(m, "drop_prob", getattr(m, "p", None))
                for m in model.modules()
                if type(m).__name__ in ("DropPath", "StochasticDepth")
            ]
            assert rates == pytest.approx([0.3 * i / (count - 1) for i in range(count)])
        with pytest.raises(
            ConfigError, match=r"train.drop_path: 0.3 has no effect on this ResNet, which has no drop path"
        ):
            drop_paths_(torchvision.models.resnet18(), 0.3)


def test_early_stopping(
    recipe: Recipe, open_small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing can improve: batch norm is frozen and the rate is next to nothing."""
    still = ("optim.lr=1e-12", "train.epochs=9", "train.freeze_bn_epochs=9", "train.early_stopping=2")
    recipe = override(recipe, *still)
    # The first epoch is the best; the second and the third are no better.
    done = train(recipe, few(open_small(recipe)), tmp_path / "run")
    assert (len(done.history), done.summary.epochs, done.summary.best_epoch) == (3, 3, 1)
    assert "stopped early: the validation error has not fallen for 2 epochs" in capsys.readouterr().out

    def crash(*_: Any) -> None:
        raise RuntimeError("killed")

    # Killed after the last checkpoint: the resumed run trains no more.
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_summary", crash)
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe, few(open_small(recipe)), tmp_path / "killed", quiet=True)
    resumed = train(recipe, few(open_small(recipe)), tmp_path / "killed", quiet=True, resume=True)
    assert len(resumed.history) == 3
    assert differences(state(tmp_path / "killed"), state(tmp_path / "run")) == []
    # Test images choose nothing, and the sides of a comparison train equally long.
    data = few(open_small(recipe))
    with pytest.raises(ConfigError, match=r"train.early_stopping: 2 needs validation images, and digits has none"):
        train(recipe, replace(data, val=None, test=data.val), tmp_path / "test")
    with pytest.raises(ConfigError, match=r"train.early_stopping: 2 would end the rows of comparison after different"):
        comparison([recipe, replace(recipe, name="other")], 1)


@pytest.mark.parametrize(
    ("errors", "patience", "is_stale"),
    [
        ([], 1, False),
        ([5.0], 1, False),
        ([5.0, 4.0], 1, False),
        ([5.0, 5.0], 1, True),
        ([5.0, 6.0, 5.5], 2, True),
        ([5.0, 6.0, 4.5], 2, False),
        ([5.0, 6.0, 7.0], 0, False),
    ],
)
def test_when_an_error_is_stale(errors: list[float], patience: int, is_stale: bool, tmp_path: Path) -> None:
    keeper = callbacks.Keeper(tmp_path, lambda _: None, tmp_path)
    zeros = {f.name: 0 for f in fields(Epoch)}
    keeper.history = [Epoch(**zeros | {"measured": {"top1_error": e}}) for e in errors]  # type: ignore[arg-type]
    assert keeper.is_stale(patience) == is_stale


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen",
    [
        ("optim.kind=adamw", "optim.layer_decay=0.7", "data.mixup=0.2", "data.cutmix=1", "train.freeze_epochs=2"),
        ("data.auto_augment=randaugment", "data.random_erasing=0.3", "data.balanced=true", "train.early_stopping=3"),
    ],
)
def test_killed_processes_resume_with_all_of_them(chosen: tuple[str, ...], recipe: Recipe, tmp_path: Path) -> None:
    """Real processes on the real digits, killed at a random moment of an epoch."""
    recipe = override(recipe, "data.batch_size=64", "train.epochs=4", "train.ema=0.9", "train.save_batches=3", *chosen)
    file = tmp_path / "recipe.yaml"
    write_recipe(file, recipe)

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "senet", "train", *words]

    start = command("--config", str(file), "--out")
    subprocess.run([*start, str(tmp_path / "unbroken")], check=True, stdout=subprocess.DEVNULL)
    folder = tmp_path / "killed"
    process = subprocess.Popen([*start, str(folder)], stdout=subprocess.DEVNULL)
    saved, saves = 0, random.randint(1, 8)  # of about 28
    while saves:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.005)
        written = (folder / LAST).stat().st_mtime_ns if (folder / LAST).is_file() else 0
        saved, saves = written, saves - (written != saved)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    assert process.wait() == -9, "the run ended before it was killed"
    subprocess.run(command("--resume", str(folder)), check=True, stdout=subprocess.DEVNULL)
    assert differences(state(folder), state(tmp_path / "unbroken")) == []


def test_neutral_fields_change_nothing() -> None:
    """What is written into recipes today is what was trained before there were these fields."""
    assert (TrainRecipe().freeze_epochs, TrainRecipe().class_weights, OptimRecipe().kind) == (0, "none", "sgd")
    model = create_model(get_net("resnet20"))
    groups = make_optimizer(model, OptimRecipe()).param_groups
    assert [len(g["params"]) for g in groups] == [len(list(model.parameters()))]


@pytest.mark.parametrize(
    ("held", "form", "name", "message"),
    [
        ("se_resnet20", "tensors", "resnet20", "se_resnet20, and the network is resnet20; expected: weights of"),
        ("resnet32", "checkpoint", "se_resnet20", "resnet32, .*; expected: weights of this network, or resnet32 in"),
        ("resnet20", "tensors", "timm:resnet10t", "resnet20, .* is timm:resnet10t; .*, under its own names"),
        ("timm:resnet10t", "checkpoint", "resnet20", "timm:resnet10t, and the network is resnet20"),
    ],
)
def test_weights_of_another_network_are_named(held: str, form: str, name: str, message: str, tmp_path: Path) -> None:
    net = replace(get_net(held), num_classes=10, in_channels=1)
    file, model = tmp_path / "w.safetensors", create_model(net)
    if form == "tensors":
        save_file(model.state_dict(), file)
    else:
        save(file, model, recipe=replace(recipe_for("digits"), name=held, model=net), classes=tuple("0123456789"))
    recipe = replace(recipe_for("digits"), name=name, model=get_net(name))
    with pytest.raises(CheckpointError, match=f"has the weights of {message}"):
        with_weights(override(recipe, f"train.weights={file}"))


def test_other_faults_of_the_very_network_are_said_as_they_are(tmp_path: Path) -> None:
    recipe = recipe_for("digits")
    tensors = create_model(recipe.model).state_dict()
    tensors.pop("features.stem.conv.weight")
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors missing \(features.stem.conv.weight\)"):
        with_weights(override(recipe, f"train.weights={tmp_path / 'w.safetensors'}"))
