"""What is measured is what was asked for: part, classes, all images; and what is said of it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senet import load
from senet.cli import main
from senet.runs.checkpoint import save

Call = Callable[..., tuple[int, str, str]]
GREY = ["--mean", "0.5", "--std", "0.5"]


def images(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """`folder/NAME/0.png`, ...: noise of 12 x 12 pixels."""
    g = np.random.default_rng(seed)
    for name, n in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(g.integers(0, 256, (12, 12), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def evaluate(senet: Call, *words: object) -> dict:
    status, out, err = senet("evaluate", *words, "--json")
    assert status == 0, err
    return json.loads(out)


SHORT = ["--image-size", "8", "--epochs", "1", "--batch-size", "4", "--threads", "1", "--warmup-epochs", "0", *GREY]


@pytest.fixture
def run(senet: Call, tmp_path: Path) -> Path:
    """A run on a folder that is not split: 20 images of each of two classes, of which 4 are held out."""
    folder = images(tmp_path / "photos", {"cat": 20, "dog": 20})
    assert senet("train", "se_resnet20", "--data", folder, *SHORT, "--out", "run")[0] == 0
    return Path("run")


def test_all_images_of_a_folder_or_the_part_that_is_asked_for(senet: Call, run: Path, tmp_path: Path) -> None:
    other = images(tmp_path / "other", {"cat": 30, "dog": 70})
    split = tmp_path / "split"
    for part, n in (("train", 5), ("valid", 6), ("test", 7)):
        images(split / part, {"cat": n, "dog": n})
    for words, part, n in (
        ([], "val", 8),
        (["--part", "train"], "train", 32),
        (["--data", tmp_path / "photos"], "val", 8),
        (["--data", "photos"], "val", 8),
        (["--data", other], "all", 100),
        (["--data", split], "test", 14),
        (["--data", split, "--part", "val"], "val", 12),
        (["--data", split, "--part", "train"], "train", 10),
    ):
        found = evaluate(senet, run, *words)
        assert (found["part"], found["images"]) == (part, n), words
    status, out, _ = senet("evaluate", run, "--data", other)
    assert (status, out.startswith(f"100 images in {other}\n")) == (0, True)
    out = senet("ensemble", run, "--data", split, "--part", "val")[1]
    assert out.startswith(f"12 images in {split / 'valid'}\n")
    out = senet("doctor", run, "--data", split, "--part", "test")[1]
    assert f"14 of 14 images in {split / 'test'}" in out
    for words, message in (
        (["evaluate", run, "--data", split, "--part", "dev"], "--part: 'dev' is not known"),
        (["evaluate", run, "--part", "test"], "has no part 'test'"),
        (["doctor", run, "--part", "test"], "has no part 'test'"),
    ):
        status, _, err = senet(*words)
        assert (status, message in err) == (2, True), err


def test_classes_by_name(senet: Call, trained: Path, tmp_path: Path) -> None:
    """Ten digits in another order, three of them, and others; the errors by class do not depend on the order."""
    checkpoint = load(trained)
    names = [str(k) for k in range(12)]
    folder = images(tmp_path / "some", {"7": 3, "1": 4, "3": 5})
    found = evaluate(senet, trained, "--data", folder, *GREY)
    assert found["images"] == 12
    assert {row["name"]: row["images"] for row in found["per_class"] if row["images"]} == {"1": 4, "3": 5, "7": 3}
    assert found["notes"][0].startswith("images of 3 of the network's 10 classes; its answers are among all of them")
    few = evaluate(senet, trained, "--data", folder, *GREY, "--among", "present")
    assert [row["name"] for row in few["per_class"]] == ["1", "3", "7"]
    assert few["top1_error"] <= found["top1_error"]
    assert few["loss"] < found["loss"]
    # The same network with its outputs named backwards: the images are other classes' then.
    save("back.safetensors", checkpoint.model, recipe=checkpoint.recipe, classes=tuple("9876543210"))
    shutil.copytree(folder, tmp_path / "back")
    for name in "137":
        (tmp_path / "back" / name).rename(tmp_path / "back" / f"was{name}")
    for name in "137":
        (tmp_path / "back" / f"was{name}").rename(tmp_path / "back" / str(9 - int(name)))
    back = evaluate(senet, "back.safetensors", "--data", tmp_path / "back", *GREY)
    assert back["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert "classes are matched by name: the network has them in another order" in back["notes"]
    # Names from a file.
    Path("names.txt").write_text("\n".join(["no", *names[1:10]]))
    assert evaluate(senet, trained, "--data", folder, *GREY, "--classes", "names.txt")["loss"] == found["loss"]
    for text, message in (("a\nb", "--classes: 2 names for the 10 outputs"), ("a\na", "'a' is there twice")):
        Path("names.txt").write_text(text)
        status, _, err = senet("evaluate", trained, "--data", folder, *GREY, "--classes", "names.txt")
        assert (status, message in err) == (2, True), err


@pytest.mark.slow
def test_analyze_says_how_many_classes_there_are(senet: Call, trained: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "deep/some", {"7": 3, "1": 4, "3": 5})
    few = evaluate(senet, trained, "--data", folder, *GREY, "--among", "present")["top1_error"]
    status, out, err = senet("analyze", trained, "--data", tmp_path / "deep", *GREY, "--out", tmp_path / "gates")
    among = f"{few:.2f} % ({round(few * 0.12)} of 12) among their 3 of the network's 10 classes"
    assert (status, among in out) == (0, True), err
    for said in (out, senet("doctor", trained, "--data", tmp_path / "deep", *GREY)[1]):
        assert "holds one folder, some/, which is read in its place" in said


def test_a_cached_answer_is_of_its_part_and_classes(senet: Call, trained: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "some", {"7": 3, "1": 4})
    words = ("ensemble", trained, "--data", folder, *GREY, "--cache", "kept", "--json")
    every, few = (json.loads(senet(*words, "--among", among)[1])["result"]["loss"] for among in ("all", "present"))
    assert every > few
    assert len(list(Path("kept").iterdir())) == 2
    assert json.loads(senet(*words, "--among", "present")[1])["result"]["loss"] == few
    assert len(list(Path("kept").iterdir())) == 2


def test_test_images_choose_nothing(senet: Call, tmp_path: Path) -> None:
    """With test/ alone the last epoch is kept; with val/ too the best one is, and the test images are for the end."""
    folder = tmp_path / "split"
    for part, n in (("train", 6), ("test", 5)):
        images(folder / part, {"cat": n, "dog": n})
    words = ["train", "se_resnet20", "--data", folder, *SHORT, "--epochs", "3"]
    status, out, err = senet(*words, "--out", "a")
    assert status == 0, err
    summary = json.loads(Path("a/summary.json").read_text())
    assert (summary["part"], summary["epoch"], summary["best_epoch"]) == ("test", 3, None)
    assert not Path("a/best.safetensors").exists()
    kept, last = (load(Path("a") / name).model.state_dict() for name in ("last.safetensors", "last.ckpt"))
    assert all((kept[name] == last[name]).all() for name in kept)
    assert "test error" in out
    assert "best" not in out
    assert "a/last.safetensors" in out
    assert evaluate(senet, "a")["top1_error"] == summary["measured"]["top1_error"]

    images(folder / "val", {"cat": 4, "dog": 4})
    status, out, err = senet(*words, "--out", "b")
    assert status == 0, err
    summary = json.loads(Path("b/summary.json").read_text())
    assert (summary["part"], summary["eval_images"]) == ("test", 10)
    assert summary["epoch"] == summary["best_epoch"]
    assert "validation loss" in out
    measured = evaluate(senet, "b")
    assert (measured["part"], measured["top1_error"]) == ("test", summary["measured"]["top1_error"])
    assert evaluate(senet, "b", "--part", "val")["top1_error"] == pytest.approx(summary["best"])
    assert f"{summary['measured']['top1_error']:.2f}" in Path("b/report.html").read_text()
    shutil.rmtree(folder / "val")
    assert senet(*words, "--val-fraction", "0.3", "--out", "c")[0] == 0
    summary = json.loads(Path("c/summary.json").read_text())
    assert (summary["part"], summary["train_images"], summary["best_epoch"] is None) == ("test", 8, False)


def test_what_is_said_of_a_rare_class(senet: Call, tmp_path: Path) -> None:
    folder = images(tmp_path / "imbalanced", {"common": 40, "rare": 3})
    status, out, err = senet("train", "se_resnet20", "--data", folder, *SHORT, "--out", "run")
    assert status == 0, err
    assert "classes     common 32, rare 2\n" in out
    notes = json.loads(Path("run/summary.json").read_text())["notes"]
    assert notes[0] == "unbalanced classes: 32 training images of 'common', 2 of 'rare'"
    assert notes[1].startswith("few validation images, 9: the 95 % interval of the error is ")
    page = Path("run/report.html").read_text()
    assert "unbalanced classes: 32 training images" in page
    assert all(f"note        {note}" in out for note in notes)
    assert "note: few validation images, 9" in senet("evaluate", "run")[1]


def test_a_trial_takes_images_of_all_classes_and_counts_them(senet: Call, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for part in ("train", "val"):
        images(folder / part, {f"c{k}": 6 for k in range(5)})
    words = ["train", "se_resnet20", "--data", folder, *SHORT, "--batch-size", "5", "--eval-batch-size", "5"]
    assert senet(*words, "--limit-batches", "2", "--out", "run")[0] == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["train_images"], summary["eval_images"]) == (10, 10)
    assert summary["class_images"] == {f"c{k}": 6 for k in range(5)}
    assert "10 of 30 training and 10 of 30 validation images in an epoch" in summary["notes"][0]


def test_predict_a_folder_to_csv(senet: Call, trained: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "in", {"deep/er": 3, ".": 2})
    (folder / "bad.png").write_bytes(b"no image")
    (folder / 'a "b", c.png').write_bytes((folder / "0.png").read_bytes())
    (folder / "notes.txt").write_text("x")
    status, out, err = senet("predict", trained, folder, "--csv", "out.csv", "--top", "2")
    assert (status, out) == (2, "out.csv: 6 images, 1 that cannot be read\n")
    assert "bad.png: cannot be read" in err
    assert "not read: .txt (1)" in err
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "class1", "probability1", "class2", "probability2", "error"]
    assert {Path(row["file"]).relative_to(folder).as_posix() for row in rows} == {
        *("0.png", "1.png", 'a "b", c.png', "bad.png", "deep/er/0.png", "deep/er/1.png", "deep/er/2.png")
    }
    by_name = {Path(row["file"]).relative_to(folder).as_posix(): row for row in rows}
    bad, good = by_name.pop("bad.png"), by_name["0.png"]
    assert (bad["class1"], bool(bad["error"])) == ("", True)
    assert all(0.1 <= float(row["probability1"]) <= 1 and not row["error"] for row in by_name.values())
    assert by_name['a "b", c.png']["probability1"] == good["probability1"]
    alone = json.loads(senet("predict", trained, folder / "0.png", "--json", "--top", "2")[1])[0]["classes"]
    assert [c["class"] for c in alone] == [good["class1"], good["class2"]]
    assert float(good["probability1"]) == pytest.approx(alone[0]["p"], abs=2e-6)
    for words, message in (
        ([folder, "--csv", "out.csv"], "out.csv: exists already"),
        ([folder, "--csv", "absent/out.csv"], "cannot write absent/out.csv: No such file"),
        ([images(tmp_path / "none", {"empty": 0})], "has no images"),
        ([folder / "absent.png"], "absent.png: no such file"),
    ):
        status, _, err = senet("predict", trained, *words)
        assert (status, message in err, "Traceback" in err) == (2, True, False), err
    assert senet("predict", trained, folder / "deep", "--csv", "out.csv", "--force")[0] == 0
    assert len(Path("out.csv").read_text().splitlines()) == 4


def test_a_class_with_a_comma_is_drawn(senet: Call, tmp_path: Path) -> None:
    names = ("tench, Tinca tinca", "5$_$10", '6" nails', "plain")
    folder = images(tmp_path / "names", dict.fromkeys(names, 5))
    assert senet("train", "se_resnet20", "--data", folder, *SHORT, "--out", "run")[0] == 0
    status, out, err = senet("analyze", "run", "--draw", '"tench, Tinca tinca",5$_$10', "--out", "gates", "--json")
    assert status == 0, err
    assert json.loads(out)["classes"] == [names[0], names[1]]
    # A name alone needs no quotes; none of these is drawn, since each is refused.
    for draw, message in (
        ('"tench, Tinca tinca",tench', "--draw: 'tench' is not known"),
        ('"tench, Tinca tinca","Tench, Tinca Tinca"', "--draw: 'Tench, Tinca Tinca' is there twice"),
        ("5$_$10,plain,5$_$10", "--draw: '5$_$10' is there twice"),
    ):
        status, _, err = senet("analyze", "run", "--draw", draw, "--out", "gates")
        assert (status, message in err) == (2, True), err


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, trained on `photos`, which are `elsewhere` now, and other folders."""
    place = tmp_path_factory.mktemp("moved")
    names = {"a": 10, "b": 10}
    photos = images(place / "photos", names)
    for kind in ("train", "val"):
        images(place / "parts" / kind, names if kind == "train" else {"a": 2, "b": 2})
    for data, out in (("photos", "run"), ("parts", "run-parts")):
        assert main(["train", "se_resnet20", "--data", str(place / data), *SHORT, "--out", str(place / out)]) == 0
    shutil.copytree(photos, place / "changed")
    (place / "changed" / "a" / "new.png").write_bytes((photos / "a" / "0.png").read_bytes())
    # The same names, other images.
    images(place / "others", names, seed=1)
    photos.rename(place / "elsewhere")
    return place


@pytest.mark.parametrize(
    ("command", "run", "data", "count", "said"),
    [
        *((c, "run", "elsewhere", 4, "these are the files of") for c in ("evaluate", "ensemble", "analyze", "doctor")),
        ("doctor", "run", "changed", 21, "which is no longer there; if these are some of the same images"),
        ("evaluate", "run", "others", 20, "which is no longer there; if these are some of the same images"),
        ("evaluate", "run-parts", "parts/train", 20, "the network was trained on these images"),
        ("evaluate", "run-parts", "parts", 4, ""),
        ("evaluate", "run-parts", "others", 20, ""),
    ],
)
def test_the_training_folder_is_recognised_where_it_is_now(
    senet: Call, moved: Path, command: str, run: str, data: str, count: int, said: str
) -> None:
    few = ["--channels", "2", "--out", "g"] if command == "analyze" else []
    status, out, err = senet(command, moved / run, "--data", moved / data, *few)
    assert status in (0, command == "doctor"), err
    assert f"{count} " in out
    assert " images" in out
    notes = [line for line in out.splitlines() if line.startswith("note: ") and "trained on" in line]
    assert [said in line for line in notes] == [True] * bool(said), out


def test_files_that_were_added_to_the_training_folder_are_noted(senet: Call, tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", {"a": 6, "b": 6})
    assert senet("train", "resnet20", "--data", photos, *SHORT, "--out", "run")[0] == 0
    assert "have changed since" not in senet("evaluate", "run")[1]
    (photos / "a" / "new.png").write_bytes((photos / "a" / "0.png").read_bytes())
    assert "have changed since the network was trained on them, so images" in senet("evaluate", "run")[1]


def test_names_that_are_not_utf8_are_written_as_utf8(senet: Call, trained: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "photos", {"a": 1}) / "a"
    names = {b"\xb9.png": "\\xb9.png", b"two\nlines.png": "two\\nlines.png", "caf\u00e9.png".encode(): "caf\u00e9.png"}
    for name in names:
        os.link(folder / "0.png", os.path.join(os.fsencode(folder), name))
    want = {f"{folder}/{name}" for name in (*names.values(), "0.png")}
    assert senet("predict", trained, folder, "--csv", "out.csv")[0] == 0
    with open("out.csv", newline="", encoding="utf-8") as file:
        assert {row["file"] for row in csv.DictReader(file)} == want
    found = json.loads(senet("predict", trained, folder, "--json")[1])
    assert {row["image"] for row in found} == want
