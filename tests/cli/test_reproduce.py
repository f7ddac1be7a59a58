"""`senet reproduce` on the digits, tiny: the plan, the result, going on, adding to it, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senet.files import held
from senet.paper.registry import targets
from senet.runs.folder import RUNS

Call = Callable[..., tuple[int, str, str]]
TINY = ["--data", "digits", "--image-size", "8", "--limit-batches", "2", "--batch-size", "16", "--threads", "1"]
PAIR = ["student", "--rows", "se_resnet20"]


def test_ours_beside_the_papers_and_again(senet: Call) -> None:
    words = ["table12", "--rows", "tanh", "--network", "resnet20", *TINY, "--epochs", "2", "--seeds", "2", "--out", "r"]
    status, out, err = senet("reproduce", *words)
    assert status == 0, err
    plan, _, rest = out.partition("runs in r\n")
    assert plan.rstrip().endswith("4")
    assert "sigmoid  se_resnet20 (se) on digits, 2 epochs, batch 16, lr 0.00625   the paper: 22.28, 6.03 %" in plan
    assert "optim.lr: 0.00625, not 0.1" in plan
    assert "network: resnet20 instead of resnet50" in plan
    assert rest.count(": done") == 4
    assert "tanh minus sigmoid" in rest
    (found,) = json.loads(Path("r/result.json").read_text())["experiments"]
    assert found["finished"] == 4
    assert [(row["name"], row["epochs"]) for row in found["rows"]] == [("tanh", 2), ("sigmoid", 2)]
    assert "digits, 32 training and 359 validation images, 2 epochs, 2 seeds" in Path("r/table12.md").read_text()
    assert found["differences"][0]["printed"] == 0.72
    runs = sorted(p.name for p in Path("r", RUNS).iterdir())
    stamps = [(Path("r") / RUNS / name / "summary.json").stat().st_mtime_ns for name in runs]

    # A third seed and a second table; what is finished stays, and the sigmoid's run is shared.
    words = [w if w != "2" or words[i - 1] != "--seeds" else "3" for i, w in enumerate(words)]
    status, out, err = senet("reproduce", *words)
    assert status == 0, err
    assert out.count(": done") == 2
    assert [(Path("r") / RUNS / name / "summary.json").stat().st_mtime_ns for name in runs] == stamps
    words = ["table11" if w == "table12" else "max" if w == "tanh" else w for w in words]
    assert senet("reproduce", *words)[1].count(": done") == 3
    status, out, _ = senet("reproduce", "--resume", "r", "--json")
    found = json.loads(out)["experiments"]
    assert [t["name"] for t in found] == ["table12", "table11"]
    assert all(t["finished"] == t["planned"] == 6 for t in found)
    # Each target's call keeps the other's result; `senet train`, which an interruption names, resumes it too.
    assert senet("reproduce", *words)[0] == 0
    kept = json.loads(Path("r/result.json").read_text())["experiments"]
    assert [t["name"] for t in kept] == ["table12", "table11"]
    assert json.loads(senet("train", "--resume", "r", "--json")[1])["experiments"][0]["finished"] == 6


def test_a_plan_alone_trains_nothing(senet: Call) -> None:
    status, out, err = senet("reproduce", *PAIR, *TINY, "--epochs", "3", "--seeds", "1", "--plan")
    assert status == 0, err
    assert "2 runs in runs/reproduce-student-digits\n" in out
    assert "learning rate 0.1 for batches of 64 becomes 0.025 for batches of 16" in out
    assert "rows left out: ResNet-56, SE-ResNet-56" in out
    assert not Path("runs").exists()
    out = senet("reproduce", *PAIR, *TINY, "--epochs", "3", "--seeds", "2", "--seed", "5", "--plan", "--json")[1]
    (target,) = json.loads(out)["experiments"]
    assert target["seeds"] == [5, 6]
    assert [row["recipe"]["train"]["epochs"] for row in target["rows"]] == [3, 3]
    # Without images there is a plan, and no estimate.
    status, out, _ = senet("reproduce", "table3", "--data", "nowhere", "--plan")
    assert status == 0
    assert "12 runs in runs/reproduce-table3-nowhere\nno estimate: data.name: 'nowhere' is" in out
    assert senet("reproduce", "table3", "--data", "nowhere")[0] == 2


@pytest.mark.slow
def test_the_budget_chooses_the_epochs_and_keeps_them(senet: Call) -> None:
    words = ["reproduce", *PAIR, *TINY[:-4], "--limit-batches", "1", "--threads", "1", "--jobs", "2", "--out", "r"]
    words += ["--batch-size", "16", "--warmup-epochs", "1", "--budget"]
    status, _, err = senet(*words, "9s", "--plan")
    assert status == 2
    assert "--budget: one epoch of all rows and seeds takes about" in err
    status, out, err = senet(*words, "1d", "--seeds", "1", "--plan", "--json")
    assert status == 0, err
    (experiment,) = json.loads(out)["experiments"]
    assert experiment["budget"] == "1d"
    for row in experiment["rows"]:
        # All of the paper's fit, and what the command line names stays.
        assert (row["recipe"]["train"]["epochs"], row["recipe"]["schedule"]["warmup_epochs"]) == (300, 1)
    status, out, err = senet(*words, "14s", "--seeds", "1", "--subset", "0.1")
    assert status == 0, err
    chosen = [line for line in out.splitlines() if line.startswith("in 14s: ")]
    assert len(chosen) == 1
    # Another seed has the same epochs, whatever a new measurement would choose.
    status, out, err = senet(*words, "14s", "--seeds", "2", "--subset", "0.1", "--plan")
    assert status == 0, err
    assert "with the epochs that the budget chose before" in out
    assert chosen == [line for line in out.splitlines() if line.startswith("in 14s: ")]
    assert "2 of them finished" in out
    assert ", 2 at a time" in out


def test_the_rows_of_a_plan_are_printed_without_torch(tmp_path: Path) -> None:
    """What follows the rows, the timing of the networks, may import it."""
    code = """
import builtins, sys
printed, show = [], builtins.print
def spy(*words, **options):
    show(*words, **options)
    if " runs in " in str(words):
        show("torch" in sys.modules)
        sys.exit()
builtins.print = spy
from senet.cli import main
main(["reproduce", "table4", "--plan"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[-1] == "False", done.stderr
    assert sum(" on cifar10, " in line for line in lines) == 8


def test_no_target_lists_them(senet: Call) -> None:
    status, out, _ = senet("reproduce")
    assert status == 0
    for name in ("table2", "table4", "table16", "figure6", "student", "ablations"):
        assert name in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["table9"], "TARGET: 'table9' is not known"),
        (["table12", "--rows", "elu"], "--rows: 'elu' is not known; rows of table12: ReLU, tanh, sigmoid"),
        (["table4", "--seeds", "0"], "seeds: 0 is out of range"),
        (["table4", "--jobs", "-1"], "--jobs: -1 is too small"),
        (["table4", "--budget", "soon"], "--budget: 'soon' is not a time; expected: for example 90s"),
        (["table4", "--budget", "2h", "--epochs", "3"], "--budget: chooses the epochs"),
        (["table4", "--subset", "0"], "train_fraction"),
        (["table4", "--subset", "0.2", "--train-fraction", "0.5"], "--subset: is --data.train_fraction by another"),
        (["table2", "--data", "digits"], "--network: table2's networks are for images of 224 pixels and these have 32"),
        (["table4", "--model.se.reduction", "8"], "--model.se.reduction"),
        (["table4", "--resume", "x"], "--resume: takes no other options"),
        (["--resume", "x"], "x: no such folder"),
        (["--resume", ".", "--seeds", "3"], "not the folder of an experiment"),
        (["--resume", "x", "--seeds", "many"], "--seeds: 'many' is not a whole number"),
        (
            ["--resume", "x", "--rows", "a"],
            "--resume: takes no other options but --data, --lr, --skip-batches, --seeds, --jobs and --devices",
        ),
    ],
)
def test_mistakes(words: list[str], says: str, senet: Call) -> None:
    status, _, err = senet("reproduce", *words)
    assert status == 2
    assert err.startswith("senet reproduce: error: ")
    assert says in err


def test_no_result_is_replaced_by_another_experiments(senet: Call) -> None:
    words = [*PAIR, *TINY, "--epochs", "1", "--out", "r"]
    assert senet("reproduce", *words, "--seeds", "2")[0] == 0
    before = Path("r/result.json").read_text()
    longer = ["2" if w == "1" and words[i - 1] == "--epochs" else w for i, w in enumerate(words)]
    for other in (longer, [*words, "--plan", "--lr", "0.5"]):
        status, _, err = senet("reproduce", *other)
        assert status == 2
        assert "r holds another experiment. student, ResNet-20: " in err
        assert "Name another folder with --out" in err
    assert "train.epochs: 2, not 1" in senet("reproduce", *longer)[2]
    assert Path("r/result.json").read_text() == before
    # Fewer seeds are no other experiment: those that there are stay.
    status, out, _ = senet("reproduce", *words, "--seeds", "1")
    assert status == 0
    assert "2 runs in r\n" in out
    assert "all finished" in out
    (found,) = json.loads(Path("r/result.json").read_text())["experiments"]
    assert (found["seeds"], found["finished"]) == ([0, 1], 4)
    assert [c.split()[-1] for c in found["commands"]] == ["2", "1"]
    # More of them need nothing but the folder.
    status, out, err = senet("reproduce", "--resume", "r", "--seeds", "3", "--jobs", "1")
    assert status == 0, err
    assert "[5 of 6] resnet20-" in out
    assert "[6 of 6] se_resnet20-" in out
    assert json.loads(Path("r/result.json").read_text())["experiments"][0]["seeds"] == [0, 1, 2]


def test_one_process_has_the_folder(senet: Call) -> None:
    words = [*PAIR, *TINY, "--epochs", "1", "--seeds", "1", "--out", "r"]
    Path("r").mkdir()
    with held(Path("r")):
        status, _, err = senet("reproduce", *words)
        assert status == 2
        assert "r is in use: another process writes into it" in err
        assert not Path("r/plan.json").exists()
    assert senet("reproduce", *words)[0] == 0
    with held(Path("r")):
        assert senet("reproduce", "--resume", "r")[0] == 2


def test_a_plan_downloads_nothing(senet: Call) -> None:
    status, out, err = senet("reproduce", *PAIR, "--epochs", "1", "--subset", "0.1", "--seeds", "1", "--plan")
    assert status == 0, err
    assert "; an epoch of " in out
    assert not Path("data").exists()


def test_a_failed_run_is_said(senet: Call) -> None:
    words: list[Any] = [*PAIR, *TINY, "--epochs", "1", "--seeds", "1", "--lr", "1e30", "--out", "r"]
    status, out, err = senet("reproduce", *words)
    assert status == 1, err
    assert "failed: resnet20-" in out
    # It is not finished.
    assert out.count("[0 of 2] ") == 2
    assert "loss is" in out


def test_other_crops_are_measured_once(senet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 8's second crop, of the weights after the last epoch, as `senet evaluate` measures them."""
    target = replace(targets()["student"], name="crops", crops=(12,))
    monkeypatch.setitem(targets(), "crops", target)
    words = ["crops", "--rows", "resnet20", *TINY, "--epochs", "1", "--seeds", "1", "--out", "r"]
    status, _, err = senet("reproduce", *words)
    assert status == 0, err
    (found,) = json.loads(Path("r/result.json").read_text())["experiments"]
    (row,) = found["rows"]
    assert found["measures"]["top1_error_12"] == "top-1 error at 12 pixels"
    last = Path("r") / RUNS / row["runs"][0] / "last.ckpt"
    there = json.loads(senet("evaluate", last, "--image-size", "12", "--json")[1])
    assert row["errors"]["top1_error_12"]["mean"] == pytest.approx(there["top1_error"])
    before = (last.parent / "crops.json").stat().st_mtime_ns
    assert senet("reproduce", "--resume", "r")[0] == 0
    assert (last.parent / "crops.json").stat().st_mtime_ns == before
    (last.parent / "crops.json").write_text("{")
    status, _, err = senet("reproduce", "--resume", "r")
    assert status == 2
    assert "crops.json: cannot be read" in err


@pytest.mark.slow
def test_a_figure_of_gates_is_drawn(senet: Call) -> None:
    words = ["figure6", "--network", "resnet20", *TINY, "--epochs", "1", "--seeds", "1", "--out", "r"]
    status, out, err = senet("reproduce", *words)
    assert status == 0, err
    assert "report    r/report.html" in out
    assert {"report.html", "result.json", "figure6.md", "figure6-gates", "runs"} <= {
        p.name for p in Path("r").iterdir()
    }
    drawn = {p.name for p in Path("r/figure6-gates").iterdir()}
    assert drawn >= {"gates.npz", "figure6.png", "figure6.svg", "figure7.png", "report.html"}
    # Of the last epoch's weights, like the errors.
    (best,) = Path("r", RUNS).glob("*/best.safetensors")
    best.write_bytes(b"damaged")
    assert senet("reproduce", "--resume", "r")[0] == 0
