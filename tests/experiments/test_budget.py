"""The epochs that fit into a time, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from senet.errors import ConfigError
from senet.experiments.budget import as_before, read_span, run_seconds, span, within
from senet.experiments.change import shortened
from senet.experiments.experiment import Experiment, Row
from senet.experiments.plan import Plan
from senet.recipes.recipe import Recipe


def experiment(*recipes: Recipe, seeds: int = 1, budget: str = "") -> Experiment:
    rows = tuple(Row(name=r.name, recipe=r) for r in recipes)
    return Experiment(name="e", title="t", rows=rows, seeds=tuple(range(seeds)), budget=budget)


def long(recipe: Recipe, epochs: int, name: str = "") -> Recipe:
    return replace(recipe, name=name or recipe.name, train=replace(recipe.train, epochs=epochs))


def epochs(experiments: list[Experiment]) -> list[int]:
    return [recipe.train.epochs for e in experiments for recipe in e.trained.values()]


def test_the_budget_chooses_the_epochs(recipe: Recipe, plain: Recipe) -> None:
    # Two runs of 8 s to begin and 14 s an epoch: 300 s are 10 epochs of each.
    pair = experiment(long(recipe, 300), long(plain, 300))
    assert epochs(within([pair], lambda r: 14.0, 300, 1, shortened)) == [10, 10]
    # Twice the seeds and two at a time, the same.
    two = experiment(long(recipe, 300), long(plain, 300), seeds=2)
    assert epochs(within([two], lambda r: 14.0, 300, 2, shortened)) == [10, 10]
    assert epochs(within([pair], lambda r: 14.0, 1e9, 1, shortened)) == [300, 300]
    with pytest.raises(ConfigError, match=r"--budget: one epoch of all rows and seeds takes about 44 s; allow more"):
        within([pair], lambda r: 14.0, 40, 1, shortened)
    assert run_seconds(110, 2) == 228


def test_the_budget_holds_where_rows_have_other_epochs(recipe: Recipe, plain: Recipe) -> None:
    """One epoch of a short schedule is a larger part than of a long one; the long one makes up for it."""
    rows = [long(plain, 164, f"a{i}") for i in range(6)] + [long(recipe, 1800, f"b{i}") for i in range(2)]
    # Eight runs of 8 s and 1.28 s an epoch: 3 of 1800, for 4 would need 82 s.
    found = within([experiment(*rows)], lambda r: 1.28, 80, 1, shortened)
    assert epochs(found) == [1] * 6 + [3, 3]


def test_the_same_budget_keeps_its_epochs(recipe: Recipe, plain: Recipe) -> None:
    """Another measurement of the time would choose other epochs, and nothing that is finished would count."""
    wanted = experiment(long(recipe, 300), long(plain, 300), seeds=2, budget="30s")
    before = experiment(shortened(long(recipe, 300), 6), shortened(long(plain, 300), 6), budget="30s")
    plan = Plan(experiments=(before,))
    kept = as_before([wanted], plan, shortened)
    assert kept is not None
    assert epochs(kept) == [6, 6]
    assert kept[0].seeds == (0, 1)
    assert as_before([replace(wanted, budget="35s")], plan, shortened) is None
    assert as_before([replace(wanted, name="other")], plan, shortened) is None
    more = experiment(long(recipe, 300), long(plain, 300, "third"), budget="30s")
    assert as_before([more], plan, shortened) is None


@pytest.mark.parametrize(
    ("value", "text"), [(4.25, "4.2 s"), (45.0, "45 s"), (600.0, "10 min"), (9000.0, "2.5 h"), (864000.0, "10 days")]
)
def test_spans_of_time(value: float, text: str) -> None:
    assert span(value) == text


def test_times_are_read() -> None:
    assert [read_span(t) for t in ("90s", "30m", "1.5h", "2d")] == [90, 1800, 5400, 172800]
    for text in ("soon", "", "3", "-2h", "infh"):
        with pytest.raises(ConfigError, match=r"--budget: .* is not a time; expected: for example 90s"):
            read_span(text)
