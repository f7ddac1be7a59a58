"""The commands as a user types them, and the mistakes that users make."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from senet import __version__
from senet.cli import main
from senet.runs.metrics import read_metrics
from tests.cli.conftest import TINY

Call = Callable[..., tuple[int, str, str]]

CLOCKS = {"step_ms", "train_seconds"}
"""Of a run, what no other run repeats."""


def test_help_and_version(senet: Call) -> None:
    from senet.cli import COMMANDS

    status, out, _ = senet("--help")
    assert status == 0
    assert all(name in out for name in COMMANDS)
    assert senet()[0] == 2
    assert senet("--version") == (0, f"{__version__}\n", "")
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            senet(name, "--help")
        assert stop.value.code == 0


@pytest.mark.parametrize("words", ["--help", "train --help all", "models se_resnet20"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_quietly(words: str, unbuffered: str) -> None:
    command = [sys.executable, "-m", "senet", *words.split()]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (141, b"")


def test_train_evaluate_predict(senet: Call, trained: Path) -> None:
    status, out, _ = senet("evaluate", trained, "--json")
    measured = json.loads(out)
    assert (status, measured["images"]) == (0, 359)
    # The checkpoint says what the run measured, on the first 2 batches alone.
    again = json.loads(senet("evaluate", trained / "last.ckpt", "--json")[1])
    assert again["top1_error"] == measured["top1_error"]

    Image.new("L", (20, 20), 128).save("a.png")
    Image.new("RGB", (9, 30), "red").save("b.jpg")
    status, out, _ = senet("predict", trained, "a.png", "b.jpg", "--top", "3", "--json")
    answers = json.loads(out)
    assert status == 0
    assert [a["image"] for a in answers] == ["a.png", "b.jpg"]
    assert all(len(a["classes"]) == 3 and 0 <= a["classes"][0]["p"] <= 1 for a in answers)
    assert "a.png: " in senet("predict", trained, "a.png")[1]


def test_a_run_leaves_what_it_promises(senet: Call, trained: Path) -> None:
    names = {p.name for p in trained.iterdir()}
    assert names >= {
        "recipe.yaml",
        "environment.json",
        "metrics.csv",
        "curves.png",
        "best.safetensors",
        "last.ckpt",
        "summary.json",
    }
    with Image.open(trained / "curves.png") as image:
        assert image.size[0] > 600
    rows = (trained / "metrics.csv").read_text().splitlines()
    assert len(rows) == 2
    assert rows[0].startswith("epoch,step,lr,train_loss,train_error,train_images,part,eval_loss,eval_top1_error")
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["torch"] == torch.__version__

    # The recipe trains the same again.
    status, _, _ = senet("train", "--config", trained / "recipe.yaml", "--out", "again")
    assert status == 0
    assert (Path("again") / "recipe.yaml").read_text() == (trained / "recipe.yaml").read_text()
    first, second = (json.loads((f / "summary.json").read_text()) for f in (trained, Path("again")))
    assert first["measured"] == second["measured"]


def test_without_a_network_the_pair_is_trained(senet: Call) -> None:
    status, out, _ = senet("train", *TINY)
    assert status == 0
    folder = Path("runs/pair-digits")
    assert {p.name for p in folder.iterdir()} == {
        *("plan.json", "result.json", "runs", "pair.md", "pair.png", "pair-curves.png", "report.html", "report.png")
    }
    assert sorted(p.name for p in Path(folder, "runs").iterdir()) == ["resnet20-seed0", "se_resnet20-seed0"]
    assert "se_resnet20 minus resnet20" in out
    assert f"one seed, so no interval; for one: senet train --resume {folder} --seeds 3" in out
    again = senet("train", "--resume", folder)[1]
    assert again.startswith(f"{folder}: finished already; nothing to train\n")
    assert again.endswith(out[out.index("\ndigits, ") :])
    # A second run takes another folder, and the first one stays.
    before = (folder / "result.json").read_bytes()
    assert "2 runs in runs/pair-digits-2\n" in senet("train", *TINY, "--plan")[1]
    assert (folder / "result.json").read_bytes() == before


def test_compare_over_seeds(senet: Call) -> None:
    status, out, _ = senet("compare", "resnet20", "se_resnet20", "--seeds", "1", *TINY, "--out", "c", "--json")
    assert status == 0
    (one,) = json.loads(out)["experiments"]
    assert [row["network"] for row in one["rows"]] == ["resnet20", "se_resnet20"]
    # A comparison that has lost its last run trains it alone, and takes another seed.
    shutil.rmtree("c/runs/se_resnet20-seed0")
    kept = Path("c/runs/resnet20-seed0/summary.json").stat().st_mtime_ns
    status, out, err = senet("compare", "--resume", "c", "--seeds", "2", "--json")
    assert status == 0
    assert err.count(": done") == 3
    (result,) = json.loads(out)["experiments"]
    errors, before = ([row["errors"]["top1_error"]["by_seed"] for row in of["rows"]] for of in (result, one))
    assert [row[:1] for row in errors] == before
    assert (result["seeds"], result["finished"]) == ([0, 1], 4)
    difference = result["differences"][0]
    gaps = [b - a for a, b in zip(*errors, strict=True)]
    assert difference["mean"] == pytest.approx(sum(gaps) / 2)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert Path("c/runs/resnet20-seed0/summary.json").stat().st_mtime_ns == kept
    # The same folder named again is added to, unless it is another experiment.
    status, out, err = senet("compare", "resnet20", "se_resnet20", "--seeds", "1", *TINY, "--lr", "0.3", "--out", "c")
    assert status == 2
    assert "c holds another experiment. comparison, resnet20: optim.lr: 0.3, not 0.05" in err


@pytest.mark.slow
def test_compare_side_by_side_is_the_same(senet: Call) -> None:
    """Two processes; without its last run, the folder is resumed with as many as it had."""
    words = ["compare", "resnet20", "se_resnet20", "--seeds", "1", *TINY]
    alone = json.loads(senet(*words, "--out", "alone", "--json")[1])["experiments"][0]
    status, out, err = senet(*words, "--out", "side", "--json", "--jobs", "2")
    assert status == 0
    side = json.loads(out)["experiments"][0]
    for a, b in zip(alone["rows"], side["rows"], strict=True):
        assert {k: v for k, v in a.items() if k not in CLOCKS} == {k: v for k, v in b.items() if k not in CLOCKS}
    assert "[2 of 2] " in err
    assert json.loads(Path("side/plan.json").read_text())["jobs"] == 2
    shutil.rmtree("side/runs/se_resnet20-seed0")
    assert "[2 of 2] se_resnet20-seed0: done" in senet("train", "--resume", "side")[1]


@pytest.mark.slow
def test_compare_on_two_devices_goes_on_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The epochs of a run are printed, beside JSON on standard error."""
    monkeypatch.chdir(tmp_path)
    words = ["compare", "resnet20", "se_resnet20", *TINY, "--devices", "2", "--out", "c", "--json"]
    assert main([*words, "--seeds", "1"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["experiments"][0]["finished"] == 2
    assert "2 processes share each batch of 16, 8 images each" in err
    assert err.count("epoch   1/1") == 2
    assert json.loads(Path("c/plan.json").read_text())["devices"] == 2
    shutil.rmtree("c/runs/se_resnet20-seed0")
    assert main(["train", "--resume", "c", "--devices", "1"]) == 0
    assert json.loads(Path("c/plan.json").read_text())["devices"] == 1
    waits = [len(read_metrics(Path(f"c/runs/{name}-seed0"))[0].data_seconds) for name in ("resnet20", "se_resnet20")]
    assert waits == [2, 1]
    assert main(["train", "--resume", "c", "--nodes", "2"]) == 2
    assert "--nodes: is for one run, and c is the folder of an experiment" in capfd.readouterr().err


def test_a_failed_run_is_in_the_comparison(senet: Call) -> None:
    wild = ["--lr", "1e30", "--warmup-epochs", "0"]
    status, out, err = senet("compare", "resnet20", "se_resnet20", "--seeds", "1", *TINY, *wild, "--out", "c")
    assert status == 1, err
    assert "failed: resnet20-seed0: epoch 1, batch " in out
    assert "no run has finished" in out


def test_a_plan_of_any_kind_trains_nothing(senet: Call) -> None:
    for words, runs in ((["train"], 2), (["train", "resnet20"], 1), (["compare", "resnet20", "se_resnet20"], 6)):
        status, out, err = senet(*words, *TINY, "--plan", "--out", "p")
        assert status == 0, err
        assert f"{runs} run{'s' if runs > 1 else ''} in p\n" in out
        assert "about " in out
    assert not Path("p").exists()


def test_a_budget_chooses_the_epochs_of_a_pair(senet: Call) -> None:
    small = ["--image-size", "8", "--limit-batches", "1", "--batch-size", "16", "--threads", "1", "--epochs"]
    status, _, err = senet("train", *small, "3", "--budget", "1h")
    assert (status, "--budget: chooses the epochs" in err) == (2, True)
    status, out, err = senet("train", *small[:-1], "--budget", "1d", "--plan")
    assert status == 0, err
    # The recipe's own, which fit.
    assert "\nin 1d: 12 epochs a run\n" in out
    assert "takes about" in senet("train", *small[:-1], "--budget", "1s", "--plan")[2]


def test_a_folder_of_another_version_is_refused_in_one_line(senet: Call, trained: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(trained, old)
    recipe = (old / "recipe.yaml").read_text().splitlines()
    (old / "recipe.yaml").write_text("\n".join(recipe[2:]))
    want = f"error: {old}: written by senet 0.1; this is senet {__version__}, which cannot read it; train again\n"
    for words in (["train", "--resume", old], ["report", old]):
        status, _, err = senet(*words)
        assert status == 2
        assert err.endswith(want)
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "comparison.json").write_text("{}")
    assert "written by senet 0.1" in senet("train", "--resume", tmp_path / "pair")[2]


def test_the_hint_after_a_signal_is_the_command_that_was_typed(senet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from senet.cli import compare, train
    from senet.training.callbacks import Interrupted

    def stop(argv: list[str]) -> int:
        raise Interrupted(2, Path("my runs/it's"))

    for module in (train, compare):
        monkeypatch.setattr(module, "run", stop)
    for name in ("train", "compare"):
        status, _, err = senet(name)
        assert status == 130
        resume = err.rpartition("Resume with: ")[2]
        assert err.startswith("senet: stopped by Ctrl-C; saved in my runs/it's. Resume with")
        assert shlex.split(resume) == ["senet", name, "--resume", "my runs/it's"]


def test_models_and_info(senet: Call) -> None:
    status, out, _ = senet("models", "se_resnext50*", "--json")
    assert status == 0
    assert json.loads(out) == [
        {
            "model": "se_resnext50_32x4d",
            "params": 27559896,
            "macs": 4232994816,
            "num_classes": 1000,
            "image_size": 224,
            "se": "se",
            "plain_twin": "resnext50_32x4d",
        }
    ]
    info = json.loads(senet("info", "seresnet50", "--json")[1])
    assert (info["model"], info["params"], info["macs"]) == ("se_resnet50", 28088024, 3860488192)
    assert info["params_se_bias_false"] == 28071976
    # A name is a network's before it is a file's.
    Path("resnet20").mkdir()
    assert json.loads(senet("info", "resnet20", "--json")[1])["params"] == 269722
    out = senet("info", "se_resnet50", "--se.reduction", "4", "--no-bias")[1]
    assert "35,616,808" in out
    assert "1x1 64, 3x3 64, 1x1 256, fc 64-256" in out


def test_info_of_what_was_trained(senet: Call, trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    for path in (trained, trained / "last.ckpt"):
        info = json.loads(senet("info", path, "--json")[1])
        assert (info["model"], info["params"], info["macs"]) == ("se_resnet20", summary["params"], summary["macs"])
        assert info["image_size"] == [8, 8]


def test_the_documented_mistake_is_what_the_program_prints(senet: Call) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "training.md").read_text()
    block = text.split("```text\n$ senet ")[1].split("```")[0]
    command, _, said = block.partition("\n")
    assert said.split() == senet(*command.split())[2].split()


MISTAKES = {
    "unknown model in info": (
        ["info", "vgg"],
        r"model: 'vgg' is not known \(did you mean 'vgg16_bn'\?\); all models: senet",
    ),
    "two models to train": (["train", "resnet20", "resnet32"], r"one network at a time; for several: senet compare"),
    "one model to compare": (["compare", "resnet20"], r"name two or more networks"),
    "one model twice": (
        ["compare", "resnet20", "resnet20", "--seeds", "1"],
        r"two or more networks of different names",
    ),
    "no seeds": (["compare", "resnet20", "se_resnet20", "--seeds", "0"], r"seeds: 0 is out of range"),
    "unknown data": (
        ["train", "resnet20", "--data", "cifar11"],
        r"data.name: 'cifar11' is neither a known data set nor",
    ),
    "fp16 without a GPU": (["train", "resnet20", "--precision", "fp16", "--device", "cpu"], r"'fp16' needs a GPU"),
    "no checkpoint": (["evaluate", "nowhere"], r"nowhere: no such file or folder"),
    "no run": (["train", "--resume", "nowhere"], r"error: nowhere: no such folder$"),
    "no comparison": (
        ["compare", "--resume", "."],
        r"error: \.: not the folder of an experiment: it has no plan.json$",
    ),
    "resume with more": (["train", "--resume", "x", "--epochs", "3"], r"--resume: takes no other options.*--epochs"),
    "resume with a model": (["train", "--resume=x", "resnet20"], r"--resume: takes no other options.*resnet20"),
    "resume a comparison with more": (["compare", "--resume", "x", "--out", "y"], r"takes no other options.*--out"),
    "resume nothing": (["train", "--resume", ""], r"--resume: a value is missing"),
    "units of plain networks": (["compare", "resnet20", "resnet32", "--se", "eca"], r"--se: 'eca' has no effect"),
    "no units in a comparison": (["compare", "resnet20", "se_resnet20", "--se", "none"], r"--se: 'none' has no effect"),
    "patience without a plateau": (
        ["train", "--patience", "3"],
        r"--schedule.patience: has no effect with schedule.kind",
    ),
    "crop of another kind": (
        ["train", "--crop-scale", "0.5,1"],
        r"--data.crop_scale: has no effect with data.crop=pad",
    ),
    "workers for tensors": (
        ["train", "--workers", "3"],
        r"--data.workers: has no effect with images that are in memory",
    ),
    "evaluation on another split": (["evaluate", "x", "--split-seed", "1"], r"option: '--split-seed' is not known"),
    "augmented evaluation": (["evaluate", "x", "--cutout", "4"], r"option: '--cutout' is not known"),
    "a last batch of one pixel": (
        ["train", "resnet20", "--image-size", "4", "--batch-size", "1437", "--crop-padding", "1"],
        r"data.batch_size: 1437 of 1,438 training images gives a batch of one image",
    ),
    "gamma of one": (
        ["train", "--schedule.kind", "plateau", "--gamma", "1"],
        r"schedule.gamma: 1.0 is not between 0 and 1",
    ),
    "a rate that is none": (["train", "--lr", "nan"], r"optim.lr: nan is not a finite number"),
    "a rate of zero": (["train", "--lr", "0"], r"optim.lr: 0.0 is too small; expected: above 0"),
    "jobs below zero": (["compare", "resnet20", "se_resnet20", "--jobs", "-1"], r"--jobs: -1 is too small; expected"),
    "jobs to go on with": (["compare", "--resume", "x", "--jobs", "no"], r"--jobs: 'no' is not a whole number"),
    "no checkpoint to describe": (["info", "runs/none"], r"runs/none: no such file or folder"),
    "a word behind a switch": (["train", "--flip", "perhaps"], r"model: 'perhaps' is not known"),
    "no recipe file": (["train", "--config", "none.yaml"], r"none.yaml: no such file or folder$"),
    "pair without unit": (["train", "--se", "none"], r"--se: a pair needs an attention unit"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_status_2(name: str, senet: Call) -> None:
    import re

    words, message = MISTAKES[name]
    status, _, err = senet(*words)
    assert status == 2
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert not Path("runs").exists() or not list(Path("runs").glob("*/last.ckpt"))


def test_no_run_is_overwritten(senet: Call) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    status, _, err = senet("train", "resnet20", *TINY, "--out", "mine")
    assert status == 2
    assert "mine is not empty and no run is overwritten" in err
    assert [p.name for p in Path("mine").iterdir()] == ["notes.txt"]


def test_a_finished_run_is_not_resumed(senet: Call, trained: Path) -> None:
    status, _, err = senet("train", "--resume", trained)
    assert status == 2
    assert "this run is finished" in err
    status, _, err = senet("compare", "--resume", trained, "--jobs", "2")
    assert (status, f"--jobs: has no effect, {trained} is the folder of one run" in err) == (2, True)


@pytest.mark.parametrize("folder", ["/dev/null/run", "/proc/run"])
def test_a_folder_that_cannot_be_written(folder: str, senet: Call) -> None:
    status, _, err = senet("train", "resnet20", *TINY, "--out", folder)
    assert status == 2
    assert f"cannot write to the run folder {folder}" in err


def test_checkpoints_that_are_none(senet: Call, trained: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    data = (trained / "best.safetensors").read_bytes()
    half.write_bytes(data[: len(data) // 2])
    status, _, err = senet("evaluate", half)
    assert (status, "damaged" in err) == (2, True)

    cut = tmp_path / "cut.ckpt"
    data = (trained / "last.ckpt").read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    status, _, err = senet("evaluate", cut)
    assert (status, "cannot be read" in err) == (2, True)

    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    (broken / "summary.json").unlink()
    for name in ("last.ckpt", "previous.ckpt"):
        shutil.copy(cut, broken / name)
    status, _, err = senet("train", "--resume", broken)
    assert (status, "cannot be read" in err) == (2, True)


class Malice:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("harm"),))


def test_a_pickle_that_would_run_code_is_refused(senet: Call) -> None:
    Path("evil.ckpt").write_bytes(pickle.dumps(Malice()))
    torch.save({"senet": Malice(), "state_dict": {}}, "evil2.ckpt")
    for name in ("evil.ckpt", "evil2.ckpt"):
        status, _, err = senet("predict", name, "x.png")
        assert status == 2
        assert "refused: " in err
    assert not Path("harm").exists()


def folder_of_images(root: Path, classes: dict[str, int], size: int = 16) -> Path:
    g = torch.Generator().manual_seed(0)
    for part in ("train", "val"):
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 256, (size, size, 3), generator=g, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(root / part / name / f"{i}.png")
    return root


IN_FOLDER = ["--image-size", "16", "--epochs", "1", "--batch-size", "4", "--eval-batch-size", "4"]


def test_class_counts_that_do_not_match(senet: Call, trained: Path, tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images", {"cat": 4, "dog": 4})
    grey = ["--mean", "0.5", "--std", "0.5"]
    status, _, err = senet("evaluate", trained, "--data", folder, *grey)
    assert status == 2
    assert f"data.name: '{folder}': class 'cat' is not among the network's 10 classes (0, 1, 2, 3, 4, ...)" in err
    status, _, err = senet("evaluate", trained, "--data", folder, "--mean", "0.1,0.2,0.3", "--std", "0.1,0.2,0.3")
    assert status == 2
    assert "3 channels, and this network takes 1" in err


def test_own_images_with_a_truncated_one(senet: Call, tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images", {"cat": 6, "dog": 6})
    bad = folder / "train" / "dog" / "0.png"
    bad.write_bytes(bad.read_bytes()[:100])
    for streamed in ([], ["--in-memory", "no", "--resize", "16", "--workers", "0"]):
        words = ["train", "se_resnet20", "--data", folder, *IN_FOLDER, *streamed]
        status, _, err = senet(*words, "--out", f"stop{len(streamed)}")
        assert status == 2
        assert str(bad) in err
        status, out, _ = senet(*words, "--out", f"skip{len(streamed)}", "--on-bad-image", "skip")
        assert status == 0
        assert f"skipped 1 unreadable image, the first: {bad}" in out
    summary = json.loads(Path("skip0/summary.json").read_text())
    assert len(summary["skipped_images"]) == 1


def test_an_empty_folder(senet: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, _, err = senet("train", "resnet20", "--data", tmp_path / "empty")
    assert status == 2
    assert "no class folders" in err


def test_a_named_recipe_brings_its_data(senet: Call) -> None:
    for words in (["train", "resnet20"], ["compare", "resnet20", "se_resnet20"]):
        status, _, err = senet(*words, "--recipe", "cifar10", "--root", "none/at/all", "--epochs", "1")
        assert status == 2
        assert f"cifar10 is not in {Path.cwd()}/none/at/all" in err


def test_json_alone_is_on_standard_output_and_the_last_of_a_repeated_option_counts(senet: Call) -> None:
    status, out, err = senet(
        "train", "resnet20", "--data", "cifar10", "--data", "digits", *TINY, "--out", "a", "--json"
    )
    assert status == 0
    assert json.loads(out)["folder"] == "a"
    assert "epoch   1/1" in err
    recipe = Path("a/recipe.yaml").read_text()
    assert "name: digits" in recipe
    assert "crop_padding: 3" in recipe, "the other data set's recipe"


def test_a_run_that_diverges_says_so(senet: Call) -> None:
    status, _, err = senet("train", "resnet20", *TINY, "--lr", "1e30", "--out", "a", "--warmup-epochs", "0")
    assert status == 2
    assert "epoch 1, batch " in err
    assert "try a lower optim.lr" in err
    assert not Path("a/metrics.csv").exists()


def test_one_broken_image_among_several(senet: Call, trained: Path) -> None:
    Image.new("L", (20, 20), 128).save("good.png")
    Path("bad.png").write_bytes(Path("good.png").read_bytes()[:40])
    status, out, err = senet("predict", trained, "bad.png", "good.png", "--json")
    first, second = json.loads(out)
    assert status == 2
    assert "bad.png: cannot be read as an image" in first["error"]
    assert "bad.png: cannot be read as an image" in err
    assert len(second["classes"]) == 5


def test_a_unit_is_in_names_recipes_and_printed_paths(senet: Call) -> None:
    info = json.loads(senet("info", "resnet20", "--se", "eca", "--json")[1])
    assert info["model"] == "resnet20+eca"
    assert "eca units: " in senet("info", "resnet20", "--se", "eca")[1]
    # An option may stand among the words; one of the unit reaches the networks that have one.
    words = ["resnet20", "--se", "eca", "se_resnet20", "--se.kernel", "5", "--seeds", "1", "--seed", "7"]
    status, out, _ = senet("compare", *words, *TINY, "--out", "c")
    assert status == 0
    assert Path("c/runs/se_resnet20+eca-seed7/best.safetensors").exists()
    assert "kernel: 5" in Path("c/runs/se_resnet20+eca-seed7/recipe.yaml").read_text()
    assert "se: null" in Path("c/runs/resnet20-seed7/recipe.yaml").read_text()
    printed = [line.split() for line in out.splitlines() if line.startswith(("report ", "evaluate ", "predict "))]
    assert len(printed) == 3
    assert all(Path(next(word for word in line if word.startswith("c/"))).exists() for line in printed)


def test_a_batch_of_bad_images_is_left_out(senet: Call, tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images", {"cat": 3, "dog": 3})
    bad = folder / "val" / "dog" / "2.png"
    bad.write_bytes(b"no image")
    words = ["train", "se_resnet20", "--data", folder, "--image-size", "16", "--epochs", "1", "--batch-size", "1"]
    words += ["--eval-batch-size", "5", "--in-memory", "no", "--resize", "16", "--workers", "0"]
    status, out, _ = senet(*words, "--on-bad-image", "skip", "--out", "a")
    assert status == 0
    assert f"skipped 1 unreadable image, the first: {bad}" in out
    assert json.loads(Path("a/summary.json").read_text())["eval_images"] == 5
    measured = json.loads(senet("evaluate", "a", "--on-bad-image", "skip", "--json")[1])
    assert measured["images"] == 5
    for file in (folder / "val").glob("*/*.png"):
        file.write_bytes(b"no image")
    status, _, err = senet(*words, "--on-bad-image", "skip", "--out", "b")
    assert status == 2
    assert "none of the validation images can be read" in err
