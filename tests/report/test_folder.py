"""From the folders that the commands write to pages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
from PIL import Image

from senet.errors import RunError
from senet.experiments.result import Result, RowResult, write_results
from senet.models.registry import get_net
from senet.recipes.registry import recipe_for
from senet.report.folder import page_of, write_page
from senet.report.page import Page
from senet.runs.environment import write_environment
from senet.runs.evaluation import write_evaluation
from senet.runs.gates import write_gates
from senet.runs.metrics import write_metrics
from senet.runs.recipe_file import write_recipe
from senet.runs.summary import RunSummary, write_summary
from tests.report.pages import comparison, difference, environment, evaluation, gates, history, result, row, table


def write_run(
    folder: Path, model: str = "se_resnet20", *, seed: int = 0, start: float = 90.0, done: bool = True
) -> Path:
    """A run of three epochs; the last has an error of start / 3 on 400 images."""
    folder.mkdir(parents=True)
    recipe = recipe_for("digits", model=model)
    train = replace(recipe.train, seed=seed, epochs=3)
    write_recipe(folder / "recipe.yaml", replace(recipe, train=train, model=replace(get_net(model), num_classes=10)))
    epochs = history(start, epochs=3 if done else 2)
    write_metrics(folder, epochs)
    write_environment(folder, environment())
    if done:
        summary = RunSummary(
            model=model,
            data="digits",
            seed=seed,
            epochs=3,
            train_images=1400,
            class_images={"cat": 1000, "dog": 400},
            part="val",
            epoch=3,
            eval_images=400,
            skipped_images=("a.png: cannot be read",),
            params=271_807,
            macs=41_000_000,
            measured={**epochs[-1].measured, "loss": 0.8},
            best=epochs[-1].measured["top1_error"],
            best_epoch=3,
            train_seconds=1800.0,
            step_ms=3.0,
            wall_seconds=1900.0,
        )
        write_summary(folder, summary)
    return folder


def write_experiment(folder: Path, results: Sequence[Result], models: Sequence[str] = ("resnet20",)) -> Path:
    """An experiment's folder whose finished runs are of these networks, in turn."""
    rows: dict[str, RowResult] = {row.name: row for result in results for row in result.rows}
    for i, planted in enumerate(rows.values()):
        for seed, name in enumerate(planted.runs[: planted.finished]):
            write_run(folder / "runs" / name, models[i % len(models)], seed=seed, start=90.0 - 30 * i + seed)
    write_results(folder, results)
    return folder


def facts(page: Page) -> dict[str, object]:
    return dict(page.facts)


def test_a_run(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    assert page.title == "se_resnet20"
    assert page.headline
    assert page.headline.value == 30.0
    # Wilson, 120 of 400, by hand: (0.3 + z^2/800 +- z sqrt(0.3*0.7/400 + z^2/640000)) / (1 + z^2/400), z = 1.96.
    assert page.headline.low == pytest.approx(25.72, abs=0.01)
    assert page.headline.high == pytest.approx(34.66, abs=0.01)
    assert page.subtitle == "3 epochs on digits, batch 32, seed 0, se units."
    assert page.sentence == "120 of 400 validation images are wrong after the last epoch."
    assert page.best
    assert (page.best.label, page.best.value) == ("validation error of the best epoch, 3", 30.0)
    assert facts(page)["parameters"] == 271_807
    assert facts(page)["unreadable images"] == 1
    assert len(page.curves["se_resnet20"][0]) == 3
    assert page.recipe
    assert page.recipe.optim.momentum == 0.9
    assert page.cost
    assert [row.part for row in page.cost.rows] == ["stem", "stage2", "stage3", "stage4", "head"]
    assert page.gates is None
    assert page.evaluation is None


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", done=False))
    assert page.subtitle.startswith("2 of 3 epochs so far")
    assert page.headline
    assert page.headline.label == "validation error after epoch 2"
    assert page.headline.value == 45.0


def test_a_run_with_its_evaluation_and_gates(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    cat, *others = evaluation().per_class
    write_evaluation(folder, replace(evaluation(), per_class=(replace(cat, name="n01440764"), *others)))
    (folder / "analysis").mkdir()
    write_gates(folder / "analysis", gates())
    page = page_of(folder)
    assert page.evaluation
    # ImageNet's classes in words; other names stay.
    assert page.evaluation == replace(evaluation(), per_class=(replace(cat, name="tench"), *others))
    assert page.gates == gates()
    assert facts(page)["classes and calibration"] == "of the weights that were kept (epoch 2)"


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (-3.0, 1.0, "no difference is shown"),
        (-3.0, -0.5, "fewer errors"),
        (0.5, 3.0, "more errors"),
        (None, None, "there is no interval"),
    ],
)
def test_a_pair(tmp_path: Path, low: float | None, high: float | None, says: str) -> None:
    rows = (row("resnet20", (30.0, 31.0)), row("se_resnet20", (20.0, 21.0)))
    pair = result("pair", rows, (difference("se_resnet20", "resnet20", -1.0, low, high),))
    page = page_of(write_experiment(tmp_path / "pair", [pair], ["resnet20", "se_resnet20"]))
    assert (page.kind, page.title, page.subtitle) == ("Comparison", "Planted pair", pair.where)
    assert page.headline
    assert (page.headline.value, page.headline.low, page.headline.high) == (-1.0, low, high)
    assert says in page.headline.note
    starts = {name: [run[0].measured["top1_error"] for run in runs] for name, runs in page.curves.items()}
    assert starts == {"resnet20": [90.0, 91.0], "se_resnet20": [60.0, 61.0]}
    assert page.seeds == [0, 1]
    assert page.recipe
    assert page.recipe.name == "se_resnet20"
    assert facts(page) == {"runs finished": "4 of 4", "training, hours": 2.0}


@pytest.mark.parametrize(("near", "notes"), [(0.995, 1), (0.9, 0)])
def test_inserted_units_that_hardly_moved_are_noted(tmp_path: Path, near: float, notes: int) -> None:
    model = "timm:resnet18+se"
    rows = (row("timm:resnet18", (30.0, 31.0)), row(model, (20.0, 21.0)))
    pair = result("pair", rows, (difference(model, "timm:resnet18", -1.0, -3.0, 1.0),))
    folder = write_experiment(tmp_path / "pair", [pair], ["timm:resnet18", model])
    for run in rows[0].runs[0], rows[1].runs[0]:
        moved = tuple(replace(unit, near_one=n) for unit, n in zip(gates().units, (1.0, 1.0, near), strict=True))
        write_gates(folder / "runs" / run, replace(gates(), units=moved))
    found = page_of(folder).notes
    assert len(found) == notes
    assert not notes or found[0].startswith(f"{model}, seed 0: 99 % or more of each unit's gates are within 0.05 of 1")


def test_a_comparison_with_a_failed_run(tmp_path: Path) -> None:
    page = page_of(write_experiment(tmp_path / "comparison", [comparison()]))
    assert page.headline is None, "there are two differences"
    assert list(page.curves) == ["resnet8", "se_resnet8", "eca_resnet8"]
    assert [len(runs) for runs in page.curves.values()] == [3, 3, 3]
    assert facts(page)["runs finished"] == "8 of 9"


def test_a_table_of_the_paper(tmp_path: Path) -> None:
    planted = replace(table(), commands=("senet reproduce table4 --data digits",))
    page = page_of(write_experiment(tmp_path / "reproduction", [planted]))
    assert (page.kind, page.title) == ("Reproduction", "Table 4: Planted table4")
    assert page.results == (planted,)
    assert page.commands[0] == "senet reproduce table4 --data digits"
    assert list(page.curves) == ["ResNet-110", "SE-ResNet-110"]
    assert facts(page) == {"runs finished": "2 of 3", "training, hours": 1.0, "differences: open": 1}


def test_a_run_that_two_tables_share_counts_once(tmp_path: Path) -> None:
    page = page_of(write_experiment(tmp_path / "reproduction", [table(), replace(table(), name="table5")]))
    assert page.title == "Table 4, Table 5"
    assert facts(page)["runs finished"] == "2 of 3"
    assert facts(page)["training, hours"] == 1.0
    assert "table5, SE-ResNet-110" in page.curves


def test_commands_are_quoted_for_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a run; 2"
    page = page_of(write_run(folder))
    assert [shlex.split(c)[-1] for c in page.commands] == [f"{folder}/recipe.yaml", f"{folder}"]


def test_an_analysis(tmp_path: Path) -> None:
    write_gates(tmp_path, gates())
    page = page_of(tmp_path)
    assert (page.kind, page.title) == ("Gates", "se_resnet8")
    assert page.subtitle == "3 units over 200 images. planted images"
    assert page.headline
    assert page.headline.value == 12.5
    assert page.gates == gates()
    source = write_page(tmp_path).read_text()
    assert 'data-draw="gates"' in source
    assert 'property="og:image" content="report.png"' in source
    with Image.open(tmp_path / "report.png") as card:
        assert card.size == (1200, 630)


def test_folders_that_have_no_page(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a folder of senet train"):
        page_of(tmp_path)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "plan.json").write_text("{}")
    with pytest.raises(RunError, match="no result yet; continue with: senet train --resume"):
        page_of(begun)
    run = write_run(tmp_path / "run")
    (run / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json: cannot be read"):
        page_of(run)
    (run / "metrics.csv").write_text("epoch,eval_top1_error\n1,many\n")
    with pytest.raises(RunError, match=r"metrics\.csv: cannot be read"):
        page_of(run)
    (run / "metrics.csv").unlink()
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match="no epoch of this run has finished"):
        page_of(run)


def test_a_run_folder_that_was_deleted_is_a_gap(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "comparison", [comparison()])
    rmtree(folder / "runs" / "resnet8-seed1")
    page = page_of(folder)
    assert len(page.curves["resnet8"]) == 3
    assert facts(page)["runs finished"] == "7 of 9"
