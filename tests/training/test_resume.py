"""An interrupted and resumed run equals the uninterrupted one bit for bit, wherever it was interrupted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.errors import CheckpointError, RunError
from senet.recipes.recipe import Recipe, ScheduleRecipe
from senet.runs.folder import LAST, SUMMARY
from senet.runs.metrics import read_metrics
from senet.runs.recipe_file import read_recipe, write_recipe
from senet.training.callbacks import Interrupted
from senet.training.run import train

CLOCKS = {"seconds", "step_ms", "data_seconds", "waited", "senet", "digest"}
"""What may differ: times, and the header and the digest, which hold them."""


class Crash(Exception):
    pass


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths at which two checkpoints differ, times apart."""
    if isinstance(a, torch.Tensor):
        return [] if isinstance(b, torch.Tensor) and torch.equal(a, b) else [path]
    if isinstance(a, dict):
        keys = (a.keys() | b.keys()) - CLOCKS
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{path}.{k}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [path]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}[{i}]")]
    return [] if a == b else [path]


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / LAST, weights_only=True)


def interrupt(data: Any, at: int, how: str) -> None:
    """Make the `at`-th batch that is prepared, of training or evaluation, end the run: by a signal or by a crash."""
    count = 0
    for split in (data.train, data.measured):
        prepare = split.prepare

        def stop(batch: Any, device: Any, prepare: Any = prepare) -> Any:
            nonlocal count
            count += 1
            if count == at and how == "crash":
                raise Crash
            if count == at:
                os.kill(os.getpid(), signal.Signals[how])
            return prepare(batch, device)

        split.prepare = stop


VARIANTS = {
    "ema": lambda r: replace(r, train=replace(r.train, ema=0.9)),
    "plateau": lambda r: replace(
        r, schedule=ScheduleRecipe(kind="plateau", patience=1, warmup_epochs=1.5), train=replace(r.train, epochs=3)
    ),
    "accumulate": lambda r: replace(
        r,
        schedule=ScheduleRecipe(kind="step", milestones=(0.5,)),
        train=replace(r.train, accumulate=3, save_batches=2, freeze_bn_epochs=1),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_run_equals_the_unbroken_one_from_any_batch(
    variant: str, recipe: Recipe, open_small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = VARIANTS[variant](recipe)
    train(recipe, open_small(recipe), tmp_path / "unbroken", quiet=True)
    want = state(tmp_path / "unbroken")
    per_epoch = 7 + 2
    total = per_epoch * recipe.train.epochs
    # The ends of training and of evaluation in the first epoch, and four places by chance.
    places = {1, 7, 8, 9, 10, *random.sample(range(2, total + 1), 4)}
    for at in sorted(places):
        for how in ("SIGTERM", "crash"):
            folder = tmp_path / f"{at}-{how}"
            data = open_small(recipe)
            interrupt(data, at, how)
            with pytest.raises(Crash if how == "crash" else Interrupted):
                train(recipe, data, folder, quiet=True)
            assert not (folder / SUMMARY).exists()
            train(recipe, open_small(recipe), folder, quiet=True, resume=True)
            assert differences(state(folder), want) == [], f"interrupted by {how} at batch {at}"
            assert (folder / SUMMARY).is_file()
    assert "stopping when the batch, or the evaluation, is done" in capsys.readouterr().err


def test_twice_interrupted_by_ctrl_c(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    train(recipe, open_small(recipe), tmp_path / "unbroken", quiet=True)
    folder = tmp_path / "broken"
    for turn, at in enumerate((3, 2)):
        data = open_small(recipe)
        interrupt(data, at, "SIGINT")
        with pytest.raises(Interrupted, match=r"stopped by Ctrl-C; saved in .*broken$"):
            train(recipe, data, folder, quiet=True, resume=turn > 0)
    train(recipe, open_small(recipe), folder, quiet=True, resume=True)
    assert differences(state(folder), state(tmp_path / "unbroken")) == []


def test_a_second_signal_stops_at_once_and_the_last_checkpoint_stays(
    recipe: Recipe, open_small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my run"
    data = open_small(recipe)
    prepare, calls = data.train.prepare, []

    def twice(batch: Any, device: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return prepare(batch, device)

    data.train.prepare = twice
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit, match="130"):
        train(recipe, data, folder, quiet=True)
    assert f"stopped at once; --resume '{folder}' continues from the last checkpoint" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert len(calls) == 3
    train(recipe, open_small(recipe), folder, quiet=True, resume=True)
    train(recipe, open_small(recipe), tmp_path / "b", quiet=True)
    assert differences(state(folder), state(tmp_path / "b")) == []


def test_killed_processes_resume_bit_for_bit(recipe: Recipe, tmp_path: Path) -> None:
    """Real processes on the real digits, killed at a random moment after their first checkpoint."""
    recipe = replace(
        recipe,
        data=replace(recipe.data, batch_size=32),
        train=replace(recipe.train, epochs=8, ema=0.9, save_batches=5),
    )
    file = tmp_path / "recipe.yaml"
    write_recipe(file, recipe)
    assert read_recipe(file) == recipe

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "senet", "train", *words]

    subprocess.run(
        command("--config", str(file), "--out", str(tmp_path / "unbroken")), check=True, stdout=subprocess.DEVNULL
    )
    for name, status in (("SIGKILL", -9), ("SIGTERM", 143)):
        folder = tmp_path / name
        process = subprocess.Popen(
            command("--config", str(file), "--out", str(folder)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while not (folder / LAST).is_file():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.5))
        process.send_signal(signal.Signals[name])
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status
        if name == "SIGTERM":
            assert f"Resume with: senet train --resume {folder}" in errors.decode()
        assert not (folder / SUMMARY).exists()
        subprocess.run(command("--resume", str(folder)), check=True, stdout=subprocess.DEVNULL)
        assert differences(state(folder), state(tmp_path / "unbroken")) == [], name


def test_resumes_bit_for_bit_with_worker_processes(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images from files, decoded by two workers that fetch ahead: stopped in mid-epoch, and at an epoch's end.

    So also where the machine that goes on has fewer processors, or more.
    """
    from PIL import Image

    from senet.data import open_data, splits

    def processors(count: int) -> None:
        monkeypatch.setattr(splits, "cpus", lambda: count)

    processors(2)
    g = torch.Generator().manual_seed(0)
    for part, count in (("train", 20), ("val", 4)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 256, (20, 24), generator=g, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(tmp_path / "images" / part / name / f"{i}.png")
    data = replace(
        recipe.data,
        name=str(tmp_path / "images"),
        in_memory="no",
        image_size=16,
        resize=18,
        crop="resized",
        flip=True,
        batch_size=8,
        workers=2,
    )
    recipe = replace(recipe, data=data)
    train(recipe, open_data(recipe.data, 0), tmp_path / "unbroken", quiet=True)
    for at, before, after in ((3, 2, 1), (6, 1, 2), (9, 2, 2)):
        processors(before)
        images = open_data(recipe.data, 0)
        assert images.train.workers == before
        interrupt(images, at, "SIGTERM")
        with pytest.raises(Interrupted):
            train(recipe, images, tmp_path / str(at), quiet=True)
        processors(after)
        train(recipe, open_data(recipe.data, 0), tmp_path / str(at), quiet=True, resume=True)
        assert differences(state(tmp_path / str(at)), state(tmp_path / "unbroken")) == [], f"stopped at batch {at}"


@pytest.mark.parametrize("no_curves", ["drawn"])
@pytest.mark.parametrize("file", ["metrics.csv", "last.ckpt", "best.safetensors", "curves.png", "summary.json"])
def test_killed_at_any_file_of_the_last_epochs_end(
    file: str, recipe: Recipe, open_small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is the one that is not written any more; the resumed run has them all, as the unbroken one."""
    from senet import files, plotting
    from senet.runs import checkpoint

    recipe = replace(recipe, train=replace(recipe.train, epochs=1))
    train(recipe, open_small(recipe), tmp_path / "unbroken", quiet=True)
    write, writes = files.write_atomically, []

    def die(path: Path, data: Any, **options: Any) -> None:
        writes.append(path.name)
        # last.ckpt is first written before the first step.
        if path.name == file and (file != "last.ckpt" or writes.count(file) == 2):
            raise Crash
        write(path, data, **options)

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        for module in (files, plotting, checkpoint):
            patch.setattr(module, "write_atomically", die)
        with pytest.raises(Crash):
            train(recipe, open_small(recipe), folder, quiet=True)
    train(recipe, open_small(recipe), folder, quiet=True, resume=True)
    names = {p.name for p in (tmp_path / "unbroken").iterdir()}
    assert {p.name for p in folder.iterdir()} == names
    assert differences(state(folder), state(tmp_path / "unbroken")) == []
    rows = [list(map(asdict, read_metrics(f))) for f in (folder, tmp_path / "unbroken")]
    assert differences(*rows) == []


def test_what_a_run_cannot_go_on_with(recipe: Recipe, plain: Recipe, open_small: Any, tmp_path: Path) -> None:
    folders = {}
    for r in (recipe, plain):
        data = open_small(r)
        interrupt(data, 3, "SIGTERM")
        folders[r.name] = tmp_path / r.name
        with pytest.raises(Interrupted):
            train(r, data, folders[r.name], quiet=True)
    other = open_small(recipe)
    other.train.targets = other.train.targets.flip(0)
    with pytest.raises(RunError, match=r"the images are not those that the run began with"):
        train(recipe, other, folders["tiny"], quiet=True, resume=True)
    (folders["tiny"] / LAST).write_bytes((folders["plain"] / LAST).read_bytes())
    with pytest.raises(CheckpointError, match=r"is of another network, plain; the run's recipe is of tiny"):
        train(recipe, open_small(recipe), folders["tiny"], quiet=True, resume=True)
    (folders["plain"] / SUMMARY).write_text("{")
    with pytest.raises(RunError, match=r"summary.json: cannot be read"):
        train(plain, open_small(plain), folders["plain"], quiet=True, resume=True)


def test_images_left_out_before_the_interruption_are_still_named(
    recipe: Recipe, open_small: Any, tmp_path: Path
) -> None:
    data = open_small(recipe)
    data.train.skipped.append("a.png: broken")
    interrupt(data, 3, "SIGTERM")
    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path / "run", quiet=True)
    result = train(recipe, open_small(recipe), tmp_path / "run", quiet=True, resume=True)
    assert result.summary.skipped_images == ("a.png: broken",)
