"""`senet evaluate` and `senet ensemble`: views, details, cost, and the mistakes that users make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from senet.cli import ensemble as command
from senet.errors import ConfigError, DataError
from senet.runs.checkpoint import load, save

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def other(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with noise on its weights."""
    checkpoint = load(trained)
    g = torch.Generator().manual_seed(0)
    for p in checkpoint.model.parameters():
        p.data.add_(0.3 * p.data.abs().mean() * torch.randn(p.shape, generator=g))
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save(path, checkpoint.model, recipe=checkpoint.recipe, classes=checkpoint.classes)
    return path


def test_details_and_cost(senet: Call, trained: Path) -> None:
    status, out, _ = senet("evaluate", trained, "--details", "--json")
    found = json.loads(out)
    assert status == 0
    assert sum(map(sum, found["confusion"])) == sum(c["images"] for c in found["per_class"]) == 359
    assert [c["name"] for c in found["per_class"]] == list("0123456789")
    assert found["views"] is None
    assert found["cost"]["params"] == sum(p.numel() for p in load(trained).model.parameters())
    assert found["cost"]["images_per_second"] > 0
    status, out, _ = senet("evaluate", "--details", trained)
    assert status == 0
    for words in ("calibration error", "a temperature of", "worst classes:", "taken for another:", "images/s on cpu"):
        assert words in out
    assert f"top-1 error {found['top1_error']:.2f} %" in out


def test_views(senet: Call, trained: Path) -> None:
    def error(*words: str) -> tuple[float, dict]:
        found = json.loads(senet("evaluate", trained, *words, "--json")[1])
        return found["loss"], found["views"]

    plain, views = error()
    assert views is None
    flipped, views = error("--flip")
    assert (views["flip"], views["crops"], views["scales"]) == (True, 1, [])
    twelve, views = error("--crops", "12", "--scales", "9,10")
    assert (views["crops"], views["scales"], views["average"]) == (12, [9, 10], "probabilities")
    whole, views = error("--crops", "whole", "--scales", "9")
    assert (views["whole"], views["crops"]) == (True, 1)
    logits, _ = error("--flip", "--average", "logits")
    assert len({plain, flipped, twelve, whole, logits}) == 5
    status, out, _ = senet("evaluate", trained, "--crops", "10", "--scales", "9")
    assert status == 0
    assert "se_resnet20 (10 crops, scale 9): top-1 error" in out
    assert "10 views each" in out


def test_crops_of_a_folder_are_of_its_whole_files(senet: Call, tmp_path: Path) -> None:
    """Images up to 64 pixels are kept in memory as squares; the views are not cut from those."""
    g = torch.Generator().manual_seed(0)
    for part in ("train", "val"):
        for name in ("n01440764", "pug"):
            (tmp_path / "wide" / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = torch.randint(0, 256, (20, 60, 3), generator=g, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(tmp_path / "wide" / part / name / f"{i}.png")
    sizes = ["--image-size", "16", "--batch-size", "3", "--eval-batch-size", "12"]
    short = ["--epochs", "1", "--warmup-epochs", "0", "--threads", "1", "--out", "run"]
    assert senet("train", "se_resnet20", "--data", tmp_path / "wide", *sizes, *short)[0] == 0
    one = json.loads(senet("evaluate", "run", "--json")[1])
    out = senet("evaluate", "run", "--details")[1]
    assert out.startswith(f"6 images in {tmp_path / 'wide' / 'val'}\n")
    assert "tench" in out
    assert "n01440764" not in out
    checkpoint = load(Path("run"))
    save("words.safetensors", checkpoint.model, recipe=checkpoint.recipe, classes=("tench", "dog"))
    err = senet("evaluate", "words.safetensors")[2]
    assert (
        "class 'pug' is not among the network's 2 classes (tench, dog); other names for its outputs: --classes" in err
    )
    centre = json.loads(senet("evaluate", "run", "--scales", "16", "--json")[1])
    assert centre["loss"] == pytest.approx(one["loss"], rel=1e-6)
    whole = json.loads(senet("evaluate", "run", "--scales", "16", "--crops", "whole", "--json")[1])
    assert abs(whole["loss"] - one["loss"]) > 1e-4
    # What was left out is an error where it must not be, though nothing is computed anew.
    (tmp_path / "wide" / "val" / "pug" / "2.png").write_text("no image")
    words = ("evaluate", "run", "--scales", "20", "--crops", "10")
    assert "5 images, 1 image skipped" in senet(*words, "--on-bad-image", "skip")[1]
    words = ("ensemble", "run", *words[2:])
    assert "5 images, 1 image skipped" in senet(*words, "--on-bad-image", "skip")[1]
    status, _, err = senet(*words)
    assert (status, "2.png: cannot be read" in err) == (2, True)
    status, _, err = senet("evaluate", "run", "--crops", "10", "--in-memory", "yes", "--scales", "20")
    assert (status, "--data.in_memory: 'yes' excludes" in err) == (2, True)


def test_ensemble(senet: Call, trained: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> str:
        capsys.readouterr()
        assert command.run([str(w) for w in words]) == 0
        return capsys.readouterr().out

    alone = json.loads(senet("evaluate", other, "--json")[1])
    found = json.loads(run(trained, other, "--weights", "0,1", "--json"))
    assert found["weights"] == [0, 1]
    assert found["result"]["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert found["each"][1]["top1_error"] == found["result"]["top1_error"] == alone["top1_error"]
    assert len(list(Path("runs/logits").iterdir())) == 2

    words = (trained, other, "--scales", "8,10", "--flip", "--cache", "kept", "--json")
    both = json.loads(run(*words))
    assert both["weights"] == [0.25] * 4
    assert both["members"][1] == f"{trained} (1 crop, mirrored, scale 10)"
    files = {p.name: p.stat().st_mtime_ns for p in Path("kept").iterdir()}
    assert len(files) == 4
    # The second time nothing is computed, and the answer is the same to the last digit.
    assert json.loads(run(*words)) == both
    assert {p.name: p.stat().st_mtime_ns for p in Path("kept").iterdir()} == files

    found = json.loads(run(*words, "--search", "--by", "loss", "--seed", "4"))
    assert sum(found["weights"]) == pytest.approx(1)
    assert (found["search"]["images"], found["result"]["images"]) == (180, 179)
    out = run(trained, other, "--search")
    assert "searched on the other half: top-1 error" in out
    assert "all with equal weights" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "1,2,3"], "--weights: 3 numbers for 2 checkpoints"),
        (["--weights", "1,two"], "--weights: '1,two' is not a list of numbers"),
        (["--weights=-1,1"], "weights: .* expected: 0 or more"),
        (["--weights", "1,1", "--search"], "--weights: has no effect with --search"),
        (["--seed", "1"], "--seed: has no effect without --search"),
        (["--by", "loss"], "--by: has no effect without --search"),
        (["--average", "logits"], "--average: has no effect on a single view"),
        (["--scales", "8,x"], "--scales: '8,x' is not a list of whole numbers"),
    ],
)
def test_mistakes_in_ensembles(
    words: list[str], message: str, trained: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        command.run([str(trained), str(other), *words])


def test_members_of_other_classes(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = load(trained)
    names = ("zero", *checkpoint.classes[1:])
    save("named.safetensors", checkpoint.model, recipe=checkpoint.recipe, classes=names)
    with pytest.raises(
        DataError,
        match=r"named\.safetensors: data.name: 'digits': class '0' is not among the network's 10 classes",
    ):
        command.run([str(trained), "named.safetensors"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crops", "11"], "'1'?); expected: 1, 10, 12, whole"),
        (["--crops", "10"], "are the same; expected: a larger one, such as 9"),
        (["--crops", "10", "--flip"], "flip: has no effect with crops=10"),
        (["--scales", "7"], "scales: 7 is smaller than the crop, image_size=8"),
        (["--scales", "12,"], "--scales: '12,' is not a list of whole numbers"),
    ],
)
def test_mistakes_in_views(words: list[str], message: str, senet: Call, trained: Path) -> None:
    status, out, err = senet("evaluate", trained, *words)
    assert (status, out) == (2, "")
    assert message in err
