"""`senet reproduce` on the digits, tiny: the plan, the result, going on, adding to it, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senet.cli import reproduce
from senet.evaluation import accuracy
from senet.files import held
from senet.paper.registry import targets
from senet.training.reproduction import RUNS

Call = Callable[..., tuple[int, str, str]]
TINY = ["--data", "digits", "--image-size", "8", "--limit-batches", "2", "--batch-size", "16", "--threads", "1"]
PAIR = ["student", "--rows", "se_resnet20"]


def test_ours_beside_the_papers_and_again(senet: Call) -> None:
    words = ["table12", "--rows", "tanh", "--network", "resnet20", *TINY, "--epochs", "2", "--seeds", "2", "--out", "r"]
    status, out, err = senet("reproduce", *words)
    assert status == 0, err
    plan, _, rest = out.partition("runs in r:")
    assert plan.rstrip().endswith("4")
    assert "sigmoid  se_resnet20 (se) on digits, 2 epochs, batch 16, lr 0.00625   the paper: 22.28, 6.03 %" in plan
    assert "optim.lr: 0.00625, not 0.1" in plan
    assert "network: resnet20 instead of resnet50" in plan
    assert rest.count(": done") == 4
    assert "tanh minus sigmoid" in rest
    found = json.loads(Path("r/table12.json").read_text())
    assert (found["finished"], [(row["name"], row["epochs"]) for row in found["rows"]]) == (
        *(4, [("tanh", 2), ("sigmoid", 2)]),
    )
    assert found["where"].startswith("digits, 1,438 training and 359 test images, 2 epochs, 2 seeds")
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
    assert [t["target"] for t in json.loads(out)["targets"]] == ["table12", "table11"]
    assert all(t["finished"] == t["runs"] == 6 for t in json.loads(out)["targets"])
    # Each target's call keeps the other's result; `senet train`, which an interruption names, goes on with it too.
    assert senet("reproduce", *words)[0] == 0
    assert [t["target"] for t in json.loads(Path("r/reproduction.json").read_text())["targets"]] == [
        *("table12", "table11")
    ]
    assert json.loads(senet("train", "--resume", "r", "--json")[1])["targets"][0]["finished"] == 6


def test_a_plan_alone_trains_nothing(senet: Call) -> None:
    status, out, err = senet("reproduce", *PAIR, *TINY, "--epochs", "3", "--seeds", "1", "--plan")
    assert status == 0, err
    assert (
        "2 runs in runs/reproduce-student-digits: learning rate 0.1 for batches of 64 becomes 0.025 for batches of 16"
        in out
    )
    assert "rows left out: ResNet-56, SE-ResNet-56" in out
    assert not Path("runs").exists()
    out = senet("reproduce", *PAIR, *TINY, "--epochs", "3", "--seeds", "2", "--seed", "5", "--plan", "--json")[1]
    (target,) = json.loads(out)["targets"]
    assert target["seeds"] == [5, 6]
    assert [row["recipe"]["train"]["epochs"] for row in target["rows"]] == [3, 3]
    # Without images there is a plan, and no estimate.
    status, out, _ = senet("reproduce", "table3", "--data", "nowhere", "--plan")
    assert status == 0
    assert "12 runs in runs/reproduce-table3-nowhere: no estimate: data.name: 'nowhere' is not known" in out
    assert senet("reproduce", "table3", "--data", "nowhere")[0] == 2


def test_the_budget_chooses_the_epochs(senet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from senet.training import estimate

    monkeypatch.setattr(estimate, "seconds_per_image", lambda *of: (0.01, 0.0))
    words = ["reproduce", *PAIR, "--data", "digits", "--image-size", "8", "--seeds", "1", "--plan"]
    # 1,438 digits: 14.38 s an epoch, two runs, and 8 s for each to begin.
    status, out, err = senet(*words, "--budget", "5m")
    assert status == 0, err
    assert "SE-ResNet-20  se_resnet20 (se) on digits, 9 epochs" in out
    status, _, err = senet(*words, "--budget", "40s")
    assert status == 2
    assert "--budget: one epoch of all rows and seeds takes about 45 s; allow more, or less to do" in err


def test_the_same_budget_keeps_its_epochs(senet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another measurement of the time, other seeds or no option at all: what is finished counts."""
    from senet.training import estimate, queue

    monkeypatch.setattr(estimate, "seconds_per_image", lambda *of: (0.1, 0.0))
    words = [*("reproduce", *PAIR, *TINY, "--budget", "30s", "--jobs", "2", "--out", "r"), "--seeds"]
    # 32 images, 3.2 s an epoch; two runs, two at a time.
    status, out, err = senet(*words, "1")
    assert status == 0, err
    assert "6 epochs" in out
    monkeypatch.setattr(estimate, "seconds_per_image", lambda *of: (0.01, 0.0))
    status, out, err = senet(*words, "2", "--plan")
    assert status == 0, err
    assert "SE-ResNet-20  se_resnet20 (se) on digits, 6 epochs" in out
    assert "4 runs in r: " in out
    assert "2 of them finished; about 9.9 s on this CPU, 2 at a time" in out
    assert "with the epochs that the budget chose before" in out
    assert "29 epochs" in senet(*[w if w != "30s" else "35s" for w in words], "2", "--plan")[1]
    seen: list[int] = []
    run_all = queue.run_all
    monkeypatch.setattr(queue, "run_all", lambda *of, jobs, **more: seen.append(jobs) or run_all(*of, **more))
    assert senet("reproduce", "--resume", "r")[0] == 0
    assert seen == [2]


def test_the_budget_holds_where_rows_have_other_epochs(senet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of a short schedule is a larger part than of a long one; what it takes more, the long one gives."""
    from senet.training import estimate

    monkeypatch.setattr(estimate, "seconds_per_image", lambda *of: (0.01, 0.0))
    words = ["reproduce", "table4", "--data", "digits", "--image-size", "8", "--limit-batches", "1", "--seeds", "1"]
    # Eight runs of 8 s and 1.28 s an epoch; 164, 164, 200 and 1800 epochs by two.
    status, out, err = senet(*words, "--budget", "80s", "--plan")
    assert status == 0, err
    wanted = [int(line.split(" epoch")[0].split()[-1]) for line in out.splitlines() if " on digits, " in line]
    assert wanted[:6] == [1] * 6
    # 3 of 1800, for 4 would need 82 s.
    assert wanted[6:] == [3, 3]


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
        (["table4", "--seeds", "0"], "--seeds: 0 is too small"),
        (["table4", "--jobs", "-1"], "--jobs: -1 is too small"),
        (["table4", "--budget", "soon"], "--budget: 'soon' is not a span of time; expected: such as 90s"),
        (["table4", "--budget", "2h", "--epochs", "3"], "--budget: chooses the epochs"),
        (["table4", "--subset", "0"], "train_fraction"),
        (["table4", "--subset", "0.2", "--train-fraction", "0.5"], "--subset: is --data.train_fraction by another"),
        (["table2", "--data", "digits"], "--network: table2's networks are for images of 224 pixels and these have 32"),
        (["table4", "--model.se.reduction", "8"], "--model.se.reduction"),
        (["table4", "--resume", "x"], "--resume: takes no other options"),
        (["--resume", "x"], "x: no such folder"),
        (["--resume", ".", "--seeds", "3"], "not the folder of a reproduction"),
        (["--resume", "x", "--seeds", "many"], "--seeds: 'many' is not a whole number; expected: 1 or more"),
        (["--resume", "x", "--rows", "a"], "--resume: takes no other options but --seeds and --jobs"),
    ],
)
def test_mistakes(words: list[str], says: str, senet: Call) -> None:
    status, _, err = senet("reproduce", *words)
    assert status == 2
    assert err.startswith("senet reproduce: error: ")
    assert says in err


def test_a_folder_with_other_things_is_refused(senet: Call) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("")
    status, _, err = senet("reproduce", *PAIR, *TINY, "--epochs", "1", "--out", "mine")
    assert status == 2
    assert "mine: not empty, and not the folder of a reproduction" in err
    assert [p.name for p in Path("mine").iterdir()] == ["thesis.tex"]


def test_no_result_is_replaced_by_another_experiments(senet: Call) -> None:
    words = [*PAIR, *TINY, "--epochs", "1", "--out", "r"]
    assert senet("reproduce", *words, "--seeds", "2")[0] == 0
    before = Path("r/student.json").read_text()
    longer = ["2" if w == "1" and words[i - 1] == "--epochs" else w for i, w in enumerate(words)]
    for other in (longer, [*words, "--plan", "--lr", "0.5"]):
        status, _, err = senet("reproduce", *other)
        assert status == 2
        assert "r holds another experiment. student, ResNet-20: " in err
        assert "Name another folder with --out" in err
    assert "train.epochs: 2, not 1" in senet("reproduce", *longer)[2]
    assert Path("r/student.json").read_text() == before
    # Fewer seeds are no other experiment: those that there are stay.
    status, out, _ = senet("reproduce", *words, "--seeds", "1")
    assert status == 0
    assert "2 runs in r: " in out
    assert "all finished" in out
    found = json.loads(Path("r/student.json").read_text())
    assert (found["seeds"], found["finished"]) == ([0, 1], 4)
    assert [c.split()[-1] for c in found["commands"]] == ["2", "1"]
    # More of them need nothing but the folder.
    status, out, err = senet("reproduce", "--resume", "r", "--seeds", "3", "--jobs", "1")
    assert status == 0, err
    assert "[5 of 6] resnet20-" in out
    assert "[6 of 6] se_resnet20-" in out
    assert json.loads(Path("r/student.json").read_text())["seeds"] == [0, 1, 2]


def test_what_the_line_names_stays_in_a_budget(senet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from senet.training import estimate

    monkeypatch.setattr(estimate, "seconds_per_image", lambda *of: (0.01, 0.0))
    words = [*PAIR, "--data", "digits", "--image-size", "8", "--seeds", "1", "--plan", "--json", "--budget", "5m"]
    words += ["--warmup-epochs", "1", "--freeze-bn-epochs", "2", "--batch-size", "16", "--accumulate", "8"]
    status, out, err = senet("reproduce", *words)
    assert status == 0, err
    for row in json.loads(out)["targets"][0]["rows"]:
        recipe = row["recipe"]
        assert (recipe["train"]["epochs"], recipe["train"]["freeze_bn_epochs"]) == (9, 2)
        assert recipe["schedule"]["warmup_epochs"] == 1
        # The report's 0.1 for 64 images, for steps of 128.
        assert recipe["optim"]["lr"] == pytest.approx(0.2)


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


def test_a_plan_downloads_nothing(senet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from senet.training import estimate

    monkeypatch.setattr(estimate, "seconds_per_image", lambda *of: (0.01, 0.001))
    status, out, err = senet("reproduce", *PAIR, "--epochs", "1", "--subset", "0.5", "--seeds", "1", "--plan")
    assert status == 0, err
    # 25,000 images to train with and 10,000 to test.
    assert "an epoch of resnet20 4.3 min" in out
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("value", "text"), [(4.25, "4.2 s"), (45.0, "45 s"), (600.0, "10 min"), (9000.0, "2.5 h"), (864000.0, "10 days")]
)
def test_spans_of_time(value: float, text: str) -> None:
    assert reproduce.span(value) == text


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
    found = json.loads(Path("r/crops.json").read_text())
    (row,) = found["rows"]
    assert found["measures"]["top1_error_12"] == "top-1 error at 12 pixels"
    last = Path("r") / RUNS / row["runs"][0] / "last.ckpt"
    there = json.loads(senet("evaluate", last, "--image-size", "12", "--json")[1])
    assert row["top1_error_12"]["mean"] == pytest.approx(there["top1_error"])
    monkeypatch.setattr(accuracy, "evaluate", lambda *of, **more: pytest.fail("measured twice"))
    assert senet("reproduce", "--resume", "r")[0] == 0
    (last.parent / "crops.json").write_text("{")
    status, _, err = senet("reproduce", "--resume", "r")
    assert status == 2
    assert "crops.json: cannot be read" in err


def test_a_figure_of_gates_is_drawn(senet: Call) -> None:
    words = ["figure6", "--network", "resnet20", *TINY, "--epochs", "1", "--seeds", "1", "--out", "r"]
    status, out, err = senet("reproduce", *words)
    assert status == 0, err
    assert "report   r/report.html" in out
    assert {"report.html", "figure6.json", "figure6.md", "figure6-gates", "runs"} <= {
        p.name for p in Path("r").iterdir()
    }
    drawn = {p.name for p in Path("r/figure6-gates").iterdir()}
    assert drawn >= {"gates.npz", "figure6.png", "figure6.svg", "figure7.png", "report.html"}
    # Of the last epoch's weights, like the errors.
    (best,) = Path("r", RUNS).glob("*/best.safetensors")
    best.write_bytes(b"damaged")
    assert senet("reproduce", "--resume", "r")[0] == 0
