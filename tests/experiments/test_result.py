"""Results: by hand, for a network against itself, and over many resamples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from senet.errors import RunError
from senet.experiments.experiment import TOP1, TOP5, Experiment, Row, run_name
from senet.experiments.markdown import markdown
from senet.experiments.plan import Plan, added_to, read_plan, write_plan
from senet.experiments.plots import plot_result
from senet.experiments.result import build_result, paired_difference, read_results, write_results
from senet.recipes.recipe import Recipe
from senet.runs.summary import RunSummary
from tests.report.pages import difference, result, row


def summary(error: float, step_ms: float = 1.0) -> RunSummary:
    errors = {"measured": {"top1_error": error, "top5_error": error / 2, "loss": 1.0}, "best": error - 1}
    counts = {"seed": 0, "epochs": 2, "train_images": 5, "eval_images": 4, "params": 10, "macs": 2_000_000}
    times = {"train_seconds": 3.0, "step_ms": step_ms, "wall_seconds": 4.0}
    images = {"class_images": {"a": 3, "b": 2}, "part": "val", "epoch": 2, "skipped_images": ()}
    return RunSummary(model="m", data="d", best_epoch=1, **images, **errors, **counts, **times)


def experiment_of(recipe: Recipe, plain: Recipe, *seeds: int) -> Experiment:
    rows = (
        Row(name="plain", recipe=plain, printed={TOP1: 24.80}),
        Row(name="SE", recipe=recipe, minus="plain", printed={TOP1: 23.29}),
        Row(name="cited", printed={TOP1: 21.0}),
    )
    return Experiment(name="mine", title="t", rows=rows, seeds=seeds, differs=("epochs: 2, not 100",))


def test_paired_difference_by_hand() -> None:
    d = paired_difference("b", "a", [7.0, 8.0, 6.5], [8.0, 8.5, 8.0], [1.1, 1.3, 1.2])
    # Gaps -1, -0.5, -1.5; mean -1; deviation 0.5; t(0.975, 2) = 4.3027 from the tables.
    assert (d.mean, d.deviation, d.step_ratio, d.seeds) == (-1.0, 0.5, 1.2, 3)
    half = 4.3027 * 0.5 / 3**0.5
    assert (d.low, d.high) == (pytest.approx(-1 - half, abs=1e-4), pytest.approx(-1 + half, abs=1e-4))


def test_the_result_by_hand(recipe: Recipe, plain: Recipe) -> None:
    experiment = experiment_of(recipe, plain, 0, 1, 2)
    summaries = {
        run_name(plain, 0): summary(30.0),
        run_name(plain, 1): summary(32.0),
        run_name(plain, 2): summary(31.0),
        run_name(recipe, 0): summary(29.0, 1.5),
        run_name(recipe, 1): summary(29.5, 1.3),
    }
    found = build_result(experiment, summaries, {run_name(recipe, 2): "loss is nan"}, {})
    assert (found.finished, found.planned, found.train_seconds) == (5, 6, 15.0)
    assert found.where.startswith(
        "d, 5 training and 4 validation images, 2 epochs, 3 seeds; errors after the last epoch. 5 of 6"
    )
    plain_row, se_row, cited = found.rows
    top1 = plain_row.errors[TOP1]
    assert (top1.mean, top1.deviation, top1.printed, top1.text) == (31.0, 1.0, 24.8, "31.00 ± 1.00")
    assert se_row.errors[TOP1].by_seed == (29.0, 29.5, None)
    assert (se_row.best_errors, se_row.step_ms) == ((28.0, 28.5, None), 1.4)
    assert (cited.runs, cited.errors[TOP1].mean, cited.errors[TOP1].printed) == ((), None, 21.0)
    d, top5 = found.differences
    # Gaps -1 and -2.5 of the two seeds that both have; t(0.975, 1) = 12.706 from the tables.
    half = 12.706 * (1.5 / 2**0.5) / 2**0.5
    assert (d.seeds, d.mean, d.printed, d.verdict, d.step_ratio) == (2, -1.75, -1.51, "open", 1.4)
    assert (d.low, d.high) == (pytest.approx(-1.75 - half, abs=1e-3), pytest.approx(-1.75 + half, abs=1e-3))
    assert (top5.measure, top5.mean, top5.printed) == (TOP5, -0.875, None)
    text = markdown(found)
    for line in (
        "| plain | 31.00 ± 1.00 | 24.80 | 3 | 10 | 2.00 M |",
        "| SE | 29.25 ± 0.35 | 23.29 | 2 | 10 | 2.00 M |",
        "| cited |  | 21.00 |  |  |  |",
        "| SE minus plain | top-1 error | -1.75 | -11.28 to +7.78 | 2 | -1.51 | open |",
        "- epochs: 2, not 100",
        f"- {run_name(recipe, 2)}: loss is nan",
    ):
        assert line in text.splitlines()


def test_a_result_without_the_paper_has_no_column_for_it(recipe: Recipe, plain: Recipe) -> None:
    rows = (Row(name="plain", recipe=plain), Row(name="SE", recipe=recipe, minus="plain"))
    experiment = Experiment(name="pair", title="t", rows=rows, seeds=(0,))
    found = build_result(experiment, {name: summary(30.0) for name in experiment.runs}, {}, {})
    assert not found.has_printed
    assert "| row | top-1 error, % | n | parameters | multiply-adds |" in markdown(found)
    (d, _) = found.differences
    assert (d.low, d.deviation, d.interval) == (None, None, "")


def test_further_crops_are_measures_of_their_own(recipe: Recipe, plain: Recipe) -> None:
    experiment = replace(experiment_of(recipe, plain, 0), crops=(320,))
    at_320 = {run_name(plain, 0): {"top1_error_320": 20.0}, run_name(recipe, 0): {"top1_error_320": 18.0}}
    found = build_result(experiment, {name: summary(30.0) for name in experiment.runs}, {}, at_320)
    assert found.measures["top1_error_320"] == "top-1 error at 320 pixels"
    assert found.rows[1].errors["top1_error_320"].mean == 18.0
    assert [d.mean for d in found.differences if d.measure == "top1_error_320"] == [-2.0]


def test_a_network_against_itself_differs_by_exactly_nothing(recipe: Recipe) -> None:
    """With one recipe it is one run; with two names and equal errors the difference is 0 and its interval too."""
    rows = (Row(name="a", recipe=recipe), Row(name="b", recipe=replace(recipe, name="other"), minus="a"))
    two = Experiment(name="x", title="t", rows=rows, seeds=(0, 1))
    one = replace(two, rows=(rows[0], replace(rows[0], name="b", minus="a")))
    assert (len(two.runs), len(one.runs)) == (4, 2)
    for each in (two, one):
        found = build_result(each, {name: summary(30.0 + float(name[-1])) for name in each.runs}, {}, {})
        assert len(found.differences) == 2
        for d in found.differences:
            assert (d.mean, d.low, d.high, d.verdict) == (0, 0, 0, "equal")


def test_the_interval_of_equal_networks_covers_zero_in_95_percent_of_resamples() -> None:
    """Seeds move the error by a normal 0.4 points, in part alike for both networks; 3 and 5 seeds."""
    random = np.random.default_rng(0)
    for n in (3, 5):
        trials, covered = 2000, 0
        for _ in range(trials):
            common = random.normal(9, 0.3, n)
            a, b = (list(common + random.normal(0, 0.3, n)) for _ in range(2))
            d = paired_difference("b", "a", b, a, [1.0] * n)
            assert d.low is not None
            assert d.high is not None
            covered += d.low <= 0 <= d.high
        # Four deviations of a binomial share.
        assert abs(covered / trials - 0.95) < 4 * (0.95 * 0.05 / trials) ** 0.5


def test_plans_and_results_are_read_back_and_plans_added_to(recipe: Recipe, plain: Recipe, tmp_path: Path) -> None:
    first = experiment_of(recipe, plain, 0)
    other = replace(first, name="table3")
    write_plan(tmp_path, Plan(experiments=(first, other), jobs=2))
    assert read_plan(tmp_path) == Plan(experiments=(first, other), jobs=2)
    more = replace(first, seeds=(0, 1))
    assert added_to(tmp_path, [more], jobs=3, devices=2) == Plan(experiments=(more, other), jobs=3, devices=2)
    longer = replace(recipe, train=replace(recipe.train, epochs=7))
    mixed = replace(first, rows=(first.rows[0], replace(first.rows[1], recipe=longer)))
    with pytest.raises(RunError, match=rf"{tmp_path} holds another experiment. mine, SE: train.epochs: 7, not 2. Name"):
        added_to(tmp_path, [mixed])
    result = build_result(more, {run_name(plain, 0): summary(30.0)}, {run_name(recipe, 0): "no"}, {})
    write_results(tmp_path, [result])
    assert read_results(tmp_path) == (result,)


def test_what_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not the folder of an experiment: it has no plan.json"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text('{"jobs": 1, "targets": []}')
    with pytest.raises(RunError, match=r"plan.json: written by senet 0.1; this is senet .*, which cannot read it"):
        read_plan(tmp_path)
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(RunError, match=r"written by senet 0.1"):
        read_plan(tmp_path)


def test_pictures_of_differences_and_of_errors_alone(recipe: Recipe, plain: Recipe, tmp_path: Path) -> None:
    experiment = experiment_of(recipe, plain, 0, 1)
    summaries = {name: summary(30.0 + i) for i, name in enumerate(experiment.runs)}
    for name, rows in (("pair", experiment.rows), ("alone", experiment.rows[:1])):
        plot_result(tmp_path / f"{name}.png", build_result(replace(experiment, rows=rows), summaries, {}, {}))
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("errors", "interval", "images", "says"),
    [
        (
            ((0.5,), (0.25,)),
            (None, None),
            400,
            "No measurable difference: 2 and 1 of 400 validation images wrong with a",
        ),
        (((10.0,), (2.5,)), (None, None), 400, "In one run each, b makes fewer errors: 40 and 10 of 400"),
        (
            ((9.0, 10.0), (8.0, 10.0)),
            (-2.0, 1.0),
            400,
            "No measurable difference over 2 seeds: on average 38.0 and 36.0",
        ),
        (((9.0, 10.0), (8.0, 9.0)), (-1.1, -0.9), 10_000, "b makes fewer errors than a over 2 seeds: 9.50 and 8.50 %"),
        (((8.0, 9.0), (9.0, 10.0)), (0.9, 1.1), 10_000, "b makes more errors than a over 2 seeds: 8.50 and 9.50 %"),
    ],
)
def test_the_result_in_a_sentence(
    errors: tuple[tuple[float, ...], tuple[float, ...]],
    interval: tuple[float | None, float | None],
    images: int,
    says: str,
) -> None:
    mean = sum(errors[1]) / len(errors[1]) - sum(errors[0]) / len(errors[0])
    d = difference("b", "a", mean, *interval, seeds=len(errors[0]))
    pair = result("pair", (row("a", errors[0]), row("b", errors[1])), (d,), eval_images=images)
    assert pair.sentence.startswith(says)
