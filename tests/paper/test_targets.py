"""The paper's tables and figures as experiments: every printed error, and that only twins are compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senet import get_net, list_models
from senet.experiments.experiment import TOP1, TOP5, Experiment, Row, run_name
from senet.models.detector import split_name
from senet.models.registry import canonical_name
from senet.paper import ablations, cifar, coco, figures, imagenet, mobile, places, student
from senet.recipes.registry import get_recipe

# Read from the paper once, by other hands: errors in percent, null where it gives none.
TABLES: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "paper_tables.json").read_text())
FILES = (ablations, cifar, coco, figures, imagenet, mobile, places, student)
TARGETS = {name: value for file in FILES for name, value in vars(file).items() if isinstance(value, Experiment)}
COMPARED = [(t.name, row.name) for t in TARGETS.values() for row in t.rows if row.minus]


def row_of(target: str, name: str) -> Row:
    (row,) = [row for row in TARGETS[target].rows if row.name == name]
    return row


def test_every_table_and_figure_that_trains() -> None:
    """Table 1 is drawn, 9 others' results; figures 1 to 3 and 5 are drawings."""
    tables = {f"table{n}" for n in (2, 3, 4, 5, 6, 7, 8, *range(10, 17))}
    assert set(TARGETS) == tables | {"figure4", "figure6", "figure7", "student"}
    assert all(name == target.name for name, target in TARGETS.items())
    assert all(target.title and target.paper_run for target in TARGETS.values())


def printed(table: str) -> Iterator[dict[str, float]]:
    """The errors of each row of a table that has a line of ours, in the paper's order, by our keys."""
    columns = {
        "2": (("original_top1", "original_top5"), ("reimpl_top1", "reimpl_top5"), ("se_top1", "se_top5")),
        "4": (("original",), ("senet",)),
        "8": (("crop224_top1", "crop224_top5", "crop320_or_299_top1", "crop320_or_299_top5"),),
        "10": (("top1", "top5"),),
    }
    of = columns[{"3": "2", "5": "4"}.get(table, table if table in columns else "10")]
    for row in TABLES[table]:
        for names in of:
            keys = (TOP1, TOP5, "top1_error_320", "top5_error_320")
            errors = {k: row[name] for k, name in zip(keys, names, strict=False) if row[name] is not None}
            if errors:
                yield errors


@pytest.mark.parametrize("table", TABLES)
def test_every_printed_error(table: str) -> None:
    assert [dict(row.printed) for row in TARGETS[f"table{table}"].rows] == list(printed(table))


@pytest.mark.parametrize(("table", "names"), [("2", "model"), ("3", "model"), ("8", "model"), ("6", "model")])
def test_rows_are_called_as_in_the_paper(table: str, names: str) -> None:
    """In the order of the JSON, so that no errors stand beside another network's name."""
    ours = [row.name.removeprefix("SE-").removesuffix(", original") for row in TARGETS[f"table{table}"].rows]
    theirs = [row[names].partition(" [")[0].removesuffix(" (ours)").removeprefix("SE-") for row in TABLES[table]]
    short = {"MobileNet 1.0-224": "MobileNet", "ShuffleNet 1x (g=3)": "ShuffleNet"}
    assert list(dict.fromkeys(ours)) == list(dict.fromkeys(short.get(name, name) for name in theirs))


@pytest.mark.parametrize(("target", "name"), COMPARED)
def test_only_twins_are_compared(target: str, name: str) -> None:
    row = row_of(target, name)
    base = row_of(target, row.minus)
    assert row.recipe is not None
    assert base.recipe is not None
    assert row.recipe != base.recipe
    assert not base.minus, "a row that others are compared with is compared with none"
    # One recipe, and one network but for its unit.
    assert replace(row.recipe, name="", model=base.recipe.model) == replace(base.recipe, name="")
    assert replace(row.recipe.model, se=None) == replace(base.recipe.model, se=None)


@pytest.mark.parametrize("target", TARGETS)
def test_rows_are_networks_by_their_names(target: str) -> None:
    for row in TARGETS[target].rows:
        if row.recipe is not None:
            parts = split_name(row.recipe.name)
            assert (parts[1] if parts else row.recipe.name) in list_models()
            changes = {"shortcut": "projection"} if target == "student" else {}
            assert replace(row.recipe.model, se=None) == replace(get_net(row.recipe.name), se=None, **changes)
    names = [row.name for row in TARGETS[target].rows]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("target", ["table2", "table3", "table6", "table8", "figure4", "figure6"])
def test_a_rows_network_is_the_one_that_its_name_says(target: str) -> None:
    for row in TARGETS[target].rows:
        if row.recipe is not None:
            assert row.recipe.name == canonical_name(row.name)


@pytest.mark.parametrize(
    ("target", "name", "recipe"),
    [
        ("table2", "ResNet-101", "imagenet"),
        ("table2", "SE-VGG-16", "imagenet"),
        ("table2", "SE-Inception-ResNet-v2", "imagenet299"),
        ("table3", "SE-MobileNet", "mobile"),
        ("table3", "ShuffleNet", "shufflenet"),
        ("table6", "SE-ResNet-152", "places365"),
        ("table8", "SENet-154", "senet154"),
        ("figure6", "SE-ResNet-50", "imagenet"),
    ],
)
def test_rows_follow_the_recipe_of_their_section(target: str, name: str, recipe: str) -> None:
    found, base = row_of(target, name).recipe, get_recipe(recipe)
    assert found is not None
    assert (found.data, found.optim, found.schedule, found.train) == (base.data, base.optim, base.schedule, base.train)


def test_bn_inception_has_the_authors_weight_decay() -> None:
    decays = {row.name: row.recipe.optim.weight_decay for row in imagenet.table2.rows if row.recipe is not None}
    assert {name for name, decay in decays.items() if decay == 2e-4} == {"BN-Inception", "SE-BN-Inception"}
    assert set(decays.values()) == {1e-4, 2e-4}


def test_figures_are_of_runs_that_table_2_has() -> None:
    runs = {run_name(row.recipe, 0) for row in imagenet.table2.rows if row.recipe is not None}
    for target in (figures.figure4, figures.figure6, figures.figure7):
        assert {run_name(row.recipe, 0) for row in target.rows if row.recipe is not None} < runs
    assert [row.name for row in figures.figure7.rows] == ["SE-ResNet-50"]
    shows = {name: target.shows for name, target in TARGETS.items() if target.shows}
    assert shows == {"figure4": "curves", "figure6": "gates", "figure7": "gates"}
    assert {name: target.crops for name, target in TARGETS.items() if target.crops} == {"table8": (320,)}


def test_the_students_networks_are_of_its_listing() -> None:
    """Projections with batch norm, units without biases: parameters counted by hand in the project's notes."""
    from senet.models.describe import describe

    rows = {row.name: row.recipe for row in TARGETS["student"].rows}
    assert {name: describe(r.model, 32).params for name, r in rows.items() if r is not None} == {
        **{"ResNet-20": 272_474, "SE-ResNet-20": 274_490},
        **{"ResNet-56": 855_770, "SE-ResNet-56": 861_818},
    }


def test_the_ablations_say_whose_schedule_is_whose() -> None:
    """The tables' errors are of a schedule by plateaus, what is run is footnote 2's fixed one."""
    for name in ("table10", "table16"):
        target = TARGETS[name]
        assert "about 300 epochs" in target.paper_run
        fixed = " % in the paper by the fixed schedule of 270 epochs (footnote 2)"
        said = {row.recipe.name: row.note for row in target.rows if row.recipe is not None and row.note}
        assert said == {"resnet50": f"23.21/6.53{fixed}", "se_resnet50": f"22.20/6.00{fixed}"}
