"""Each part of a recipe does what it says, seen from what a run leaves behind."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from senet import create_model, load
from senet.errors import ConfigError, MissingExtraError, RunError
from senet.kernels import dispatch
from senet.recipes.recipe import OptimRecipe, Recipe, ScheduleRecipe
from senet.runs.folder import BEST, ENVIRONMENT, LAST, SUMMARY
from senet.runs.metrics import Epoch, read_metrics
from senet.runs.recipe_file import read_recipe, write_recipe
from senet.training.module import TrainingModule, freeze_batch_norm_
from senet.training.plots import plot_curves
from senet.training.run import fitted, train

Fields = dict[str, Any]


def changed(recipe: Recipe, **train_fields: Any) -> Recipe:
    return replace(recipe, train=replace(recipe.train, **train_fields))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / LAST, weights_only=True)["state_dict"]
    return {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}


def test_a_run_equals_a_loop_written_by_hand(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    """The whole machine against twenty lines of plain torch: same batches, same formula, same weights."""
    recipe = replace(
        recipe,
        model=replace(recipe.model, dropout=0.0),
        optim=OptimRecipe(lr=0.05, momentum=0.9, weight_decay=1e-3, clip_norm=0.5),
        schedule=ScheduleRecipe(kind="step", milestones=(0.5,)),
    )
    recipe = changed(recipe, label_smoothing=0.1)
    data = open_small(recipe)
    train(recipe, data, tmp_path / "run", quiet=True)

    model = create_model(fitted(recipe, len(data.classes)).model, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    order = data.train.order(16)
    for epoch in range(2):
        order.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (0.1 if epoch == 1 else 1.0)
        for key in order:
            images, targets = data.train.prepare(data.train[key], torch.device("cpu"))
            optimizer.zero_grad()
            F.cross_entropy(model(images), targets, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    have, want = weights(tmp_path / "run"), model.state_dict()
    assert have.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(have[name], want[name], rtol=1e-5, atol=1e-6, msg=name)
    # The run's own measurement, from its checkpoint, by hand.
    images, targets = data.val.prepare(data.val[0, list(range(40))], torch.device("cpu"))
    model.load_state_dict(have)
    with torch.no_grad():
        wrong = (model.eval()(images).argmax(1) != targets).double().mean()
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert summary["measured"]["top1_error"] == pytest.approx(100 * wrong.item())


def test_fused_as_the_recipe_says(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    fast = dispatch.block_epilogue(torch.device("cpu"), torch.float32)
    for fused, said in ((True, fast), (False, "layers")):
        train(changed(recipe, fused=fused), open_small(recipe), tmp_path / str(fused), quiet=True)
        environment = json.loads((tmp_path / str(fused) / ENVIRONMENT).read_text())
        assert environment["kernels"] == said
    have, want = weights(tmp_path / "True"), weights(tmp_path / "False")
    torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4)
    # Equal to the last digit they would not be fused.
    assert any(not torch.equal(have[name], want[name]) for name in want)


def test_equal_runs_are_equal_bit_for_bit_and_other_seeds_are_not(
    recipe: Recipe, open_small: Any, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(hash(name))
        r = changed(recipe, seed=seed)
        train(r, open_small(r), tmp_path / name, quiet=True)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not any(torch.equal(a[k], c[k]) for k in a if k.endswith("conv1.weight"))


def test_moving_average_is_what_is_evaluated_and_kept(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    recipe = changed(recipe, ema=0.5, epochs=1)
    train(recipe, open_small(recipe), tmp_path / "run", quiet=True)
    state = torch.load(tmp_path / "run" / LAST, weights_only=True)["state_dict"]
    kept = load(tmp_path / "run" / BEST).model.state_dict()
    name = "features.stem.conv.weight"
    assert torch.equal(kept[name], state[f"average.module.{name}"])
    assert not torch.equal(kept[name], state[f"network.{name}"])
    assert torch.equal(load(tmp_path / "run" / LAST).model.state_dict()[name], kept[name])


def test_moving_average_follows_the_formula(recipe: Recipe, open_small: Any) -> None:
    module = TrainingModule(changed(recipe, ema=0.75), open_small(recipe), 7)
    assert module.average is not None
    weight = module.network.features.stem.conv.weight  # type: ignore[union-attr]
    start = weight.detach().clone()
    mean = start
    for step in range(3):
        with torch.no_grad():
            weight += 1.0
        module.average.update_parameters(module.network)
        # Torch's average starts as a copy at its first update.
        mean = weight.detach().clone() if step == 0 else 0.75 * mean + 0.25 * weight.detach()
    torch.testing.assert_close(module.average.module.features.stem.conv.weight.detach(), mean)


def test_batch_norm_is_frozen_in_the_last_epochs(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    for name, frozen in (("free", 0), ("frozen", 1)):
        r = changed(recipe, freeze_bn_epochs=frozen, save_batches=7)
        first = changed(r, epochs=2)
        train(first, open_small(r), tmp_path / name, quiet=True)
    norms = [k for k in weights(tmp_path / "free") if "norm" in k]
    frozen = weights(tmp_path / "frozen")
    assert int(frozen["features.stem.norm.num_batches_tracked"]) == 7
    assert int(weights(tmp_path / "free")["features.stem.norm.num_batches_tracked"]) == 14
    assert len(norms) > 10
    model = create_model("se_resnet20")
    layers = freeze_batch_norm_(model)
    assert len(layers) == 19
    assert not any(layer.training or layer.weight.requires_grad for layer in layers)
    assert model.training


def test_accumulated_steps_are_larger_batches(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    """Without batch norm's statistics in the way, 4 batches of 4 make the step that one of 16 makes."""
    recipe = replace(recipe, model=replace(recipe.model, dropout=0.0), data=replace(recipe.data, crop="none", cutout=0))
    recipe = changed(recipe, freeze_bn_epochs=1, epochs=1)
    counts = {}
    for name, batch, times in (("large", 16, 1), ("small", 4, 4)):
        r = replace(recipe, data=replace(recipe.data, batch_size=batch), train=replace(recipe.train, accumulate=times))
        data = open_small(r)
        for split in (data.train,):
            split.images, split.targets = split.images[:96], split.targets[:96]
        train(r, data, tmp_path / name, quiet=True)
        counts[name] = torch.load(tmp_path / name / LAST, weights_only=True)["global_step"]
    assert counts == {"large": 6, "small": 6}
    large, small = weights(tmp_path / "large"), weights(tmp_path / "small")
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("fields", [{"precision": "bf16"}, {"channels_last": False}, {"limit_batches": 3}])
def test_switches(fields: Fields, recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    recipe = changed(recipe, **fields)
    result = train(recipe, open_small(recipe), tmp_path / "run", quiet=True)
    assert result.history[-1].step == (6 if "limit_batches" in fields else 14)
    assert 0 <= result.summary.measured["top1_error"] <= 100
    stem = weights(tmp_path / "run")["features.stem.conv.weight"]
    assert stem.dtype == torch.float32


def test_compiled(recipe: Recipe, open_small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch compiles the network, and names and results stay; the eager backend keeps the test short."""
    compiled = []
    original = nn.Module.compile

    def spy(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        compiled.append(type(self).__name__)
        original(self, *args, backend="eager", **kwargs)

    monkeypatch.setattr(nn.Module, "compile", spy)
    recipe = replace(recipe, model=replace(recipe.model, dropout=0.0))
    for name, on in (("plain", False), ("compiled", True)):
        r = changed(recipe, compile=on, epochs=1, limit_batches=2)
        train(r, open_small(r), tmp_path / name, quiet=True)
    assert compiled == ["Network"]
    plain, fast = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert plain.keys() == fast.keys()
    assert all(torch.equal(plain[k], fast[k]) for k in plain)


@pytest.mark.parametrize("logger", ["tensorboard", "csv"])
def test_logs(recipe: Recipe, open_small: Any, tmp_path: Path, logger: str) -> None:
    recipe = changed(recipe, logger=logger, epochs=1)
    train(recipe, open_small(recipe), tmp_path / "run", quiet=True)
    files = sorted(p.name for p in (tmp_path / "run" / logger).iterdir())
    # Lightning's own names; the second holds the recipe.
    expected = ["events.", "hparams.yaml"] if logger == "tensorboard" else ["hparams.yaml", "metrics.csv"]
    assert [name for name, start in zip(files, expected, strict=True) if name.startswith(start)] == files


@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_logger(
    recipe: Recipe, open_small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    monkeypatch.setattr("senet.training.loggers.find_spec", lambda name: None)
    recipe = changed(recipe, logger=logger, epochs=1)
    with pytest.raises(MissingExtraError, match=rf"{logger} logs need an extra: pip install 'senet\[{logger}\]'"):
        train(recipe, open_small(recipe), tmp_path / "run", quiet=True)


def test_what_this_machine_cannot_do_is_refused(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.precision: 'fp16' needs a GPU"):
        train(changed(recipe, precision="fp16", device="cpu"), open_small(recipe), tmp_path / "a")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"train.device: 'cuda' needs a GPU, and torch finds none"):
            train(changed(recipe, device="cuda"), open_small(recipe), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_run_is_never_overwritten(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    recipe = changed(recipe, epochs=1)
    train(recipe, open_small(recipe), tmp_path / "run", quiet=True)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(RunError, match=r"is not empty and no run is overwritten"):
        train(recipe, open_small(recipe), tmp_path / "run", quiet=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_a_full_disk_leaves_the_last_good_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    """A process that may write no file as large as a checkpoint: the write fails as on a full disk, half-way."""
    recipe = replace(recipe, data=replace(recipe.data, batch_size=64))
    file = tmp_path / "recipe.yaml"
    write_recipe(file, changed(recipe, epochs=1))
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "senet", "train"]
    first = subprocess.run([*words, "--config", file, "--out", folder], capture_output=True, text=True, check=True)
    assert "checkpoint" in first.stdout
    good = (folder / LAST).read_bytes()
    # The run gets two more epochs, and a disk that is full.
    write_recipe(folder / "recipe.yaml", changed(fitted(recipe, 10), epochs=3))
    (folder / SUMMARY).unlink()
    limit = len(good) // 2

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    second = subprocess.run([*words, "--resume", folder], capture_output=True, text=True, preexec_fn=full)
    assert second.returncode == 2
    assert f"cannot write {folder / LAST}: File too large; the last.ckpt from before is intact" in second.stderr
    assert (folder / LAST).read_bytes() == good
    assert not list(folder.glob(".*.part"))
    assert load(folder / LAST).recipe.name == "tiny"


def test_bad_recipe_files(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "format: 2\nname: x\nmodel: {family: residual, stem: {width: 4, kernel: 3, stride: 1}, stages: [], dept: 3}"
    )
    with pytest.raises(ConfigError, match=r"model.dept: no field 'dept'"):
        read_recipe(file)
    file.write_text("a: [")
    with pytest.raises(RunError, match=r"not YAML"):
        read_recipe(file)
    file.write_text("name: x\nmodel: {}")
    with pytest.raises(RunError, match=r"r.yaml: written by senet 0.1; this is senet .*, which cannot read it"):
        read_recipe(file)


@pytest.mark.parametrize("last", [0.25, 0.002])
def test_losses_on_a_logarithmic_axis_are_plain_numbers(
    last: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def read(figure: Figure, *_: Any, **__: Any) -> None:
        figure.draw_without_rendering()
        axis = figure.axes[1].yaxis
        said.extend(t.get_text() for t in (*axis.get_majorticklabels(), *axis.get_minorticklabels()) if t.get_text())

    monkeypatch.setattr(Figure, "savefig", read)
    values = [
        dict.fromkeys([f.name for f in fields(Epoch)], v)
        | {"epoch": e, "part": "val", "train": {"loss": v, "error": v}, "measured": {"loss": v, "top1_error": v}}
        for e, v in ((1, 6.5), (2, last))
    ]
    plot_curves(tmp_path / "curves.png", {"a": [[Epoch(**v) for v in values]]})  # type: ignore[arg-type]
    assert {0.5, 1.0, 2.0, 5.0} <= {float(text) for text in said}


def test_a_plateau_of_test_images_chooses_no_rate(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    data = open_small(recipe)
    recipe = replace(recipe, schedule=ScheduleRecipe(kind="plateau"))
    with pytest.raises(ConfigError, match=r"schedule.kind: 'plateau' needs validation images, and digits has none"):
        train(recipe, replace(data, val=None, test=data.val), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_waiting_for_images_is_measured_and_said(
    recipe: Recipe, open_small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = replace(recipe, train=replace(recipe.train, epochs=1), data=replace(recipe.data, workers=0))
    data = open_small(one)
    fetch = type(data.train).__getitem__

    def slowly(self: Any, i: Any) -> Any:
        time.sleep(0.1)
        return fetch(self, i)

    train(one, data, tmp_path / "quick")
    (quick,) = read_metrics(tmp_path / "quick")
    monkeypatch.setattr(type(data.train), "__getitem__", slowly)
    train(one, data, tmp_path / "slow")
    (slow,) = read_metrics(tmp_path / "slow")
    assert quick.data_seconds[0] < slow.data_seconds[0] <= slow.seconds
    assert re.search(r" s, [\d,]+ images/s, \d+ % waiting for data", capsys.readouterr().out)
