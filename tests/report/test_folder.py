"""From what the commands leave in folders to pages; the folders are written here, by hand."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from senet.config import from_dict
from senet.errors import RunError
from senet.models.registry import get_net
from senet.recipes.registry import recipe_for
from senet.report.folder import analysis_page, page_of, read_metrics
from senet.report.html import build
from senet.runs.evaluation import Evaluation, write_evaluation
from senet.runs.gates import GatesOnPage, write_gates
from senet.runs.recipe_file import write_recipe_file
from tests.report.pages import full, history


def write_run(
    folder: Path, model: str = "se_resnet20", *, seed: int = 0, start: float = 90.0, done: bool = True
) -> Path:
    """A run of three epochs; the last has an error of start / 3 on 400 images."""
    folder.mkdir(parents=True)
    recipe = recipe_for("digits", model=model)
    recipe = replace(
        recipe, train=replace(recipe.train, seed=seed, epochs=3), model=replace(get_net(model), num_classes=10)
    )
    write_recipe_file(folder / "recipe.yaml", recipe)
    rows = [row | {"test_images": 400, "train_images": 1400} for row in history(start, epochs=3 if done else 2)]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "environment.json").write_text(json.dumps({"torch": "2.11.0", "cpu": "planted"}))
    if done:
        summary = {"best_top1_error": start / 3, "best_epoch": 3, "params": 271_807, "train_images": 1400}
        summary |= {"train_seconds": 18.0, "skipped_images": ["a.png: cannot be read"]}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def values(page: Any) -> dict[str, Any]:
    return dict(page["overview"])


def test_a_run(tmp_path: Path) -> None:
    page: Any = page_of(write_run(tmp_path / "run"))
    assert page["title"] == "se_resnet20"
    assert page["result"]["value"] == 30.0
    # Wilson, 120 of 400, by hand: (0.3 + z^2/800 +- z sqrt(0.3*0.7/400 + z^2/640000)) / (1 + z^2/400), z = 1.96.
    assert page["result"]["low"] == pytest.approx(25.72, abs=0.01)
    assert page["result"]["high"] == pytest.approx(34.66, abs=0.01)
    assert page["subtitle"] == "3 epochs on digits, batch 32, seed 0, se units."
    assert values(page)["top-1 error, lowest"] == "30.00 % (epoch 3)"
    assert values(page)["parameters"] == 271_807
    assert values(page)["images left out"] == 1
    assert len(page["curves"]["se_resnet20"][0]) == 3
    assert page["provenance"]["recipe"]["optim"]["momentum"] == 0.9
    assert [s["name"] for s in page["complexity"]["stages"]] == ["stem", "stage2", "stage3", "stage4", "head"]
    assert page["complexity"]["total"]["se_params"] == sum(s["se_params"] for s in page["complexity"]["stages"]) > 0
    assert "gates" not in page
    assert "confusion" not in page


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    page: Any = page_of(write_run(tmp_path / "run", done=False))
    assert page["subtitle"].startswith("2 of 3 epochs so far")
    assert page["result"]["label"] == "top-1 error after epoch 2"
    assert page["result"]["value"] == 45.0


def test_a_run_with_its_evaluation_and_gates(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    planted: Any = full()
    rows = [{**{k: v for k, v in row.items() if k != "class"}, "name": row["class"]} for row in planted["per_class"]]
    errors = {"top1_error": 5.0, "top5_error": 0.25, "loss": 0.1, "images": 300, "epoch": 2}
    details = errors | {"per_class": rows, "confusion": planted["confusion"]["matrix"]}
    evaluation = from_dict(Evaluation, details | {"calibration": planted["calibration"]})
    write_evaluation(folder, evaluation)
    (folder / "analysis").mkdir()
    write_gates(folder / "analysis", from_dict(GatesOnPage, planted["gates"]))
    page: Any = page_of(folder)
    assert page["confusion"] == planted["confusion"]
    assert page["calibration"]["ece"] == 0.0312
    assert page["gates"] == planted["gates"]
    assert values(page)["classes and calibration"] == "of best.safetensors (epoch 2)"
    assert 'data-draw="gates"' in build(page)
    # ImageNet's classes in words, as the gates have them; the file keeps the data set's names.
    first = replace(evaluation.per_class[0], name="n01440764")
    write_evaluation(folder, replace(evaluation, per_class=(first, *evaluation.per_class[1:])))
    named: Any = page_of(folder)
    assert named["per_class"][0]["class"] == named["confusion"]["classes"][0] == "tench"
    assert named["per_class"][1]["class"] == planted["per_class"][1]["class"]


def comparison(folder: Path, low: float | None, high: float | None) -> Path:
    for seed in (0, 1):
        write_run(folder / f"resnet20-seed{seed}", "resnet20", seed=seed, start=90.0 + seed)
        write_run(folder / f"se_resnet20-seed{seed}", seed=seed, start=60.0 + seed)
    models = [
        {
            "model": name,
            "runs": [f"{name}-seed{seed}" for seed in (0, 1)],
            "params": 1000,
            "macs": 2000,
            "errors": [1.0, 2.0],
            "error_mean": 1.5,
            "error_deviation": 0.7,
            "step_ms": 3.0,
        }
        for name in ("resnet20", "se_resnet20")
    ]
    gap = {"model": "se_resnet20", "minus": "resnet20", "seeds": 2, "mean": -1.0, "low": low, "high": high}
    report = {"data": "digits", "epochs": 3, "seeds": 2, "train_images": 1400, "test_images": 400}
    (folder / "comparison.json").write_text(json.dumps({"models": ["resnet20", "se_resnet20"], "seeds": 2}))
    (folder / "report.json").write_text(json.dumps(report | {"models": models, "differences": [gap]}))
    return folder


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (-3.0, 1.0, "no difference is shown"),
        (-3.0, -0.5, "fewer errors"),
        (0.5, 3.0, "more errors"),
        (None, None, "there is no interval"),
    ],
)
def test_a_comparison(tmp_path: Path, low: float | None, high: float | None, says: str) -> None:
    page: Any = page_of(comparison(tmp_path / "pair", low, high))
    assert page["title"] == "resnet20 and se_resnet20"
    assert (page["result"]["value"], page["result"]["low"], page["result"]["high"]) == (-1.0, low, high)
    assert says in page["result"]["note"]
    assert [n["name"] for n in page["networks"]] == ["resnet20", "se_resnet20"]
    starts = {name: [run[0]["test_top1_error"] for run in runs] for name, runs in page["curves"].items()}
    assert starts == {"resnet20": [90.0, 91.0], "se_resnet20": [60.0, 61.0]}
    assert page["provenance"]["seeds"] == [0, 1]
    assert page["complexity"]["model"] == "se_resnet20"
    build(page)


def test_commands_are_as_a_shell_takes_them(tmp_path: Path) -> None:
    folder = tmp_path / "a run; 2"
    page: Any = page_of(write_run(folder))
    assert [shlex.split(c)[-1] for c in page["provenance"]["commands"]] == [f"{folder}/recipe.yaml", f"{folder}"]


def test_a_reproduction(tmp_path: Path) -> None:
    folder = tmp_path / "reproduction"
    write_run(folder / "runs" / "a-seed0", "resnet20")
    write_run(folder / "runs" / "b-seed0", start=60.0)

    def measured(mean: float | None, printed: float | None) -> dict[str, Any]:
        text = "" if mean is None else f"{mean:.2f}"
        return {"errors": [mean], "mean": mean, "deviation": None, "text": text, "printed": printed}

    def row(name: str, run: str, error: float | None, printed: float) -> dict[str, Any]:
        none = measured(None, None)
        return {
            "name": name,
            "runs": [run],
            "n": 1,
            "params": 1,
            "note": "",
            "top1_error": measured(error, printed),
            "top5_error": none,
            "top1_error_320": measured(error, 9.0),
        }

    difference = {"row": "SE", "minus": "plain", "measure": "top1_error", "seeds": 1, "mean": -10.0, "low": None}
    target = {
        "target": "table4",
        "title": "CIFAR-10",
        "where": "digits, 3 epochs.",
        "measures": {"top1_error": "top-1 error", "top5_error": "top-5 error", "top1_error_320": "top-1 error at 320"},
        "shown": ["top1_error", "top1_error_320"],
        "commands": ["senet reproduce table4 --data digits"],
        "seeds": [0],
        "finished": 2,
        "runs": 2,
        "rows": [row("plain", "a-seed0", 30.0, 6.37), row("SE", "b-seed0", 20.0, 5.21)],
        "differences": [difference | {"high": None, "printed": -1.16, "verdict": "open"}],
        "differs": ["train.epochs: 3, not 200"],
        "failed": {},
        "paper_needed": "a day",
        "train_seconds": 36.0,
    }
    (folder / "plan.json").write_text("{}")
    with pytest.raises(RunError, match=r"no result yet; go on with: senet reproduce --resume"):
        page_of(folder)
    (folder / "reproduction.json").write_text(json.dumps({"targets": [target]}))
    page: Any = page_of(folder)
    (results,) = page["results"]
    assert page["title"] == "Table 4: CIFAR-10"
    assert page["subtitle"] == results["subtitle"] == "digits, 3 epochs."
    assert results["table"]["columns"] == [
        *("row", "top-1 error, %", "the paper's", "top-1 error at 320, %", "the paper's", "n", "parameters")
    ]
    assert results["table"]["rows"][1] == ["SE", "20.00", 5.21, "20.00", 9.0, 1, 1]
    assert page["provenance"]["commands"][0] == "senet reproduce table4 --data digits"
    assert results["table"]["differs"] == ["train.epochs: 3, not 200"]
    assert results["differences"][0]["printed"] == -1.16
    assert list(page["curves"]) == ["plain", "SE"]
    assert values(page)["differences: open"] == 1
    build(page)
    # What is in two tables was run once.
    (folder / "reproduction.json").write_text(json.dumps({"targets": [target, target | {"target": "table5"}]}))
    twice: Any = page_of(folder)
    assert values(twice)["runs finished"] == values(page)["runs finished"] == "2 of 2"
    assert values(twice)["training, hours"] == values(page)["training, hours"] == 0.01


def test_an_analysis(tmp_path: Path) -> None:
    gates: Any = full()["gates"]  # type: ignore[typeddict-item]
    page: Any = analysis_page(gates)
    assert page["subtitle"] == "3 units over 200 images. planted images"
    assert page["result"]["value"] == 12.5
    write_gates(tmp_path, from_dict(GatesOnPage, gates))
    assert page_of(tmp_path) == page


def test_folders_that_cannot_be_reported(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no folder of senet train"):
        page_of(tmp_path)
    pair = comparison(tmp_path / "pair", None, None)
    (pair / "report.json").unlink()
    with pytest.raises(RunError, match=r"not finished; go on with: senet compare --resume"):
        page_of(pair)
    pair = comparison(tmp_path / "other", None, None)
    rmtree(pair / "resnet20-seed1")
    with pytest.raises(RunError, match=r"resnet20-seed1: no such file or folder"):
        page_of(pair)
    run = write_run(tmp_path / "run")
    (run / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json: cannot be read"):
        page_of(run)
    (run / "metrics.csv").write_text("epoch,test_top1_error\n1,many\n")
    with pytest.raises(RunError, match=r"metrics\.csv: cannot be read"):
        page_of(run)
    (run / "metrics.csv").unlink()
    assert read_metrics(run) == []
    with pytest.raises(RunError, match="has finished no epoch yet"):
        page_of(run)
