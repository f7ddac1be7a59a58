"""Ours beside the paper's: by hand, for a network against itself, and over many resamples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from senet.errors import RunError
from senet.paper.plan import Plan, key
from senet.paper.target import TOP1, TOP5, Row, Target
from senet.recipes.recipe import Recipe
from senet.training import reproduction as r
from senet.training.compare import paired_difference


def summary(error: float) -> dict[str, Any]:
    costs = {"params": 10, "macs": 2_000_000, "step_ms": 1.0, "train_seconds": 3.0}
    return {TOP1: error, TOP5: error / 2, "data": "d", "train_images": 5, "test_images": 4, "epochs": 2, **costs}


def plan_of(recipe: Recipe, plain: Recipe, *seeds: int) -> Plan:
    rows = (
        Row(name="plain", recipe=plain, printed={TOP1: 24.80}),
        Row(name="SE", recipe=recipe, minus="plain", printed={TOP1: 23.29}),
        Row(name="cited", printed={TOP1: 21.0}),
    )
    return Plan(target=Target(name="mine", title="t", rows=rows), seeds=seeds, differs=("epochs: 2, not 100",))


def test_the_result_by_hand(recipe: Recipe, plain: Recipe, tmp_path: Path) -> None:
    plan = plan_of(recipe, plain, 0, 1, 2)
    errors = {key(plain, 0): 30.0, key(plain, 1): 32.0, key(plain, 2): 31.0, key(recipe, 0): 29.0, key(recipe, 1): 29.5}
    found = r.result(plan, {name: summary(e) for name, e in errors.items()}, {key(recipe, 2): "loss is nan"})
    assert (found["finished"], found["runs"], found["train_seconds"]) == (5, 6, 15.0)
    plain_row, se_row, cited = found["rows"]
    assert (plain_row[TOP1]["mean"], plain_row[TOP1]["deviation"], plain_row[TOP1]["printed"]) == (31.0, 1.0, 24.8)
    assert se_row[TOP1]["errors"] == [29.0, 29.5, None]
    assert (cited["runs"], cited[TOP1]["mean"], cited[TOP1]["printed"]) == ([], None, 21.0)
    top1, top5 = found["differences"]
    # Gaps -1 and -2.5 of the two seeds that both have; t(0.975, 1) = 12.706 from the tables.
    half = 12.706 * (1.5 / 2**0.5) / 2**0.5
    assert (top1["seeds"], top1["mean"], top1["printed"], top1["verdict"]) == (2, -1.75, -1.51, "open")
    assert (top1["low"], top1["high"]) == (pytest.approx(-1.75 - half, abs=1e-3), pytest.approx(-1.75 + half, abs=1e-3))
    assert (top5["mean"], top5["printed"]) == (-0.875, None)
    text = r.markdown(found)
    for line in (
        "| plain | 31.00 ± 1.00 | 24.80 | 3 | 10 | 2.00 M |",
        "| SE | 29.25 ± 0.35 | 23.29 | 2 | 10 | 2.00 M |",
        "| cited |  | 21.00 |  |  |  |",
        "| SE minus plain | top-1 error | -1.75 | -11.28 to +7.78 | 2 | -1.51 | open |",
        "- epochs: 2, not 100",
    ):
        assert line in text.splitlines()
    assert f"- {key(recipe, 2)}: loss is nan" in text


def test_a_network_against_itself_differs_by_exactly_nothing(recipe: Recipe) -> None:
    """Of one seed it is one run; of two names and equal errors the difference is 0 and its interval too."""
    rows = (Row(name="a", recipe=recipe), Row(name="b", recipe=replace(recipe, name="other"), minus="a"))
    plan = Plan(target=Target(name="x", title="t", rows=rows), seeds=(0, 1), differs=())
    assert len(plan.runs) == 4
    same = replace(plan, target=replace(plan.target, rows=(rows[0], replace(rows[0], name="b", minus="a"))))
    assert len(same.runs) == 2
    for each in (plan, same):
        found = r.result(each, {name: summary(30.0 + float(name[-1])) for name in each.runs}, {})
        for d in found["differences"]:
            assert (d["mean"], d["low"], d["high"], d["verdict"]) == (0, 0, 0, "equal")


def test_the_interval_of_equal_networks_covers_zero_in_95_percent_of_resamples() -> None:
    """Seeds move the error by a normal 0.4 points, in part alike for both networks; 3 and 5 seeds."""
    random = np.random.default_rng(0)
    for n in (3, 5):
        trials, covered = 2000, 0
        for _ in range(trials):
            common = random.normal(9, 0.3, n)
            a, b = (list(common + random.normal(0, 0.3, n)) for _ in range(2))
            d = paired_difference("b", "a", b, a, [1.0] * n)
            covered += d.low <= 0 <= d.high
        # Four deviations of a binomial share.
        assert abs(covered / trials - 0.95) < 4 * (0.95 * 0.05 / trials) ** 0.5


def test_plans_are_read_back_and_added_to(recipe: Recipe, plain: Recipe, tmp_path: Path) -> None:
    first = plan_of(recipe, plain, 0)
    other = replace(first, target=replace(first.target, name="table3"))
    r.write_plans(tmp_path, [first, other])
    assert r.read_plans(tmp_path) == [first, other]
    more = plan_of(recipe, plain, 0, 1)
    r.write_plans(tmp_path, [more])
    assert r.read_plans(tmp_path) == [more, other]
    (tmp_path / r.PLAN).write_text(json.dumps({"targets": [{}]}))
    with pytest.raises(RunError, match="not the folder of a reproduction"):
        r.read_plans(tmp_path)


def test_pictures_of_differences_and_of_errors_alone(recipe: Recipe, plain: Recipe, tmp_path: Path) -> None:
    plan = plan_of(recipe, plain, 0, 1)
    summaries = {name: summary(30.0 + i) for i, name in enumerate(plan.runs)}
    alone = replace(plan, target=replace(plan.target, name="alone", rows=plan.target.rows[:1]))
    for name in plan.runs:
        (tmp_path / r.RUNS / name).mkdir(parents=True)
        row = dict.fromkeys(("epoch", "train_loss", "train_error", "test_loss", "test_top1_error"), 1.0)
        from senet.runs.folder import write_metrics

        write_metrics(tmp_path / r.RUNS / name, [row])
    results = r.write(tmp_path, [plan, alone], summaries, {})
    assert [f["target"] for f in results] == ["mine", "alone"]
    written = {p.name for p in tmp_path.iterdir() if p.is_file()}
    assert written >= {"mine.json", "mine.md", "mine.png", "alone.png", "mine-curves.png", "reproduction.json"}
    assert json.loads((tmp_path / "mine.json").read_text()) == json.loads(json.dumps(results[0]))
