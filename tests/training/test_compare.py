"""A comparison is fair by construction, and its statistics are those of a table of Student's t."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from senet.errors import ConfigError, RunError
from senet.recipes.recipe import Recipe
from senet.runs import folder as run
from senet.training import compare as c
from senet.training.plots import plot_curves
from senet.training.queue import Done, run_all


def test_paired_difference_by_hand() -> None:
    errors, base = [7.0, 8.0, 6.5], [8.0, 8.5, 8.0]
    d = c.paired_difference("b", "a", errors, base, [1.1, 1.3, 1.2])
    # Gaps -1, -0.5, -1.5; mean -1; deviation 0.5; t(0.975, 2) = 4.3027 from the tables.
    assert (d.mean, d.deviation, d.step_ratio) == (-1.0, 0.5, 1.2)
    half = 4.3027 * 0.5 / 3**0.5
    assert (d.low, d.high) == (pytest.approx(-1 - half, abs=1e-4), pytest.approx(-1 + half, abs=1e-4))


@pytest.mark.parametrize("last", [0.25, 0.002])
def test_losses_on_a_logarithmic_axis_are_plain_numbers(
    last: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def read(figure: Figure, *_: Any, **__: Any) -> None:
        figure.draw_without_rendering()
        axis = figure.axes[1].yaxis
        said.extend(t.get_text() for t in (*axis.get_majorticklabels(), *axis.get_minorticklabels()) if t.get_text())

    monkeypatch.setattr(Figure, "savefig", read)
    keys = ("test_top1_error", "train_error", "test_loss", "train_loss")
    plot_curves(
        tmp_path / "curves.png", {"a": [[{"epoch": e} | dict.fromkeys(keys, v) for e, v in ((1, 6.5), (2, last))]]}
    )
    numbers = [float(text) for text in said]
    assert {0.5, 1.0, 2.0, 5.0} <= set(numbers)


def test_plan(recipe: Recipe, plain: Recipe) -> None:
    runs = c.plan([plain, recipe], 2)
    assert list(runs) == ["plain-seed0", "tiny-seed0", "plain-seed1", "tiny-seed1"]
    assert [r.train.seed for r in runs.values()] == [0, 0, 1, 1]
    other = replace(recipe, optim=replace(recipe.optim, lr=0.3))
    with pytest.raises(ConfigError, match=r"tiny and plain would be trained by different recipes"):
        c.plan([plain, other], 1)
    with pytest.raises(ConfigError, match=r"must be two or more networks of different names"):
        c.plan([plain, plain], 1)
    with pytest.raises(ConfigError, match=r"seeds: 0 is too small"):
        c.plan([plain, recipe], 0)


def test_twins_see_equal_batches_and_start_from_equal_weights(
    recipe: Recipe, plain: Recipe, open_small: Any, tmp_path: Path
) -> None:
    """Dropout and the units apart, everything before the first step is the same; so is every batch of the run."""
    seen: list[torch.Tensor] = []

    def spying(_: Any, seed: int) -> Any:
        data = open_small(replace(recipe, train=replace(recipe.train, seed=seed)))
        prepare = data.train.prepare

        def spy(batch: Any, device: Any) -> Any:
            images, targets = prepare(batch, device)
            seen.append(images.clone())
            return images, targets

        data.train.prepare = spy
        return data

    report = c.compare([plain, recipe], 1, spying, tmp_path / "c")
    # Two epochs of 7 batches for each network.
    assert len(seen) == 28
    assert all(torch.equal(a, b) for a, b in zip(seen[:14], seen[14:], strict=True))
    # Stem 36 + 8; blocks 304 and 896; head 90; units 16 + 6 and 64 + 12.
    assert [m["params"] for m in report["models"]] == [1334, 1334 + 22 + 76]
    (difference,) = report["differences"]
    assert difference["mean"] == pytest.approx(report["models"][1]["errors"][0] - report["models"][0]["errors"][0])
    assert difference["low"] is None


def test_a_network_against_itself_differs_by_nothing(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    """The A/A test: equal networks under two names have equal histories, so what a pair shows is its one field."""
    twin = replace(recipe, name="again")
    report = c.compare(
        [recipe, twin],
        2,
        lambda _, seed: open_small(replace(recipe, train=replace(recipe.train, seed=seed))),
        tmp_path / "c",
    )
    assert report["models"][0]["errors"] == report["models"][1]["errors"]
    assert report["differences"][0]["mean"] == 0
    histories = [run.read_metrics(tmp_path / "c" / f"{name}-seed1") for name in ("tiny", "again")]
    clocks = {"seconds", "step_ms"}
    rows = [[{k: v for k, v in row.items() if k not in clocks} for row in h] for h in histories]
    assert rows[0] == rows[1]


def test_runs_are_in_order_whichever_ended_first(
    recipe: Recipe, plain: Recipe, open_small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backwards(*of: Any, **more: Any) -> Done:
        done = run_all(*of, **more)
        return Done(dict(reversed(done.summaries.items())))

    monkeypatch.setattr(c, "run_all", backwards)
    short = [replace(r, train=replace(r.train, epochs=1, limit_batches=1)) for r in (plain, recipe)]
    report = c.compare(short, 2, lambda data, seed: open_small(short[0]), tmp_path / "c")
    assert [m["runs"] for m in report["models"]] == [["plain-seed0", "plain-seed1"], ["tiny-seed0", "tiny-seed1"]]


def test_a_folder_that_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not the folder of a comparison"):
        c.read_plan(tmp_path)
