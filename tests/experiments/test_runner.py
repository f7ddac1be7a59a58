"""The runner: an experiment is fair by construction, and is resumed and added to."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.errors import RunError
from senet.experiments.experiment import TOP1, comparison
from senet.experiments.plan import read_plan
from senet.experiments.result import read_results
from senet.experiments.runner import resume, run
from senet.recipes.recipe import Recipe
from senet.runs.folder import SUMMARY
from senet.runs.metrics import read_metrics
from senet.training.callbacks import Interrupted
from tests.training.test_resume import interrupt


def opener(recipe: Recipe, open_small: Any) -> Any:
    return lambda _, seed: open_small(replace(recipe, train=replace(recipe.train, seed=seed)))


def test_twins_get_equal_batches_and_start_from_equal_weights(
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

    (result,) = run([comparison([plain, recipe], 1)], tmp_path / "c", open_data=spying)
    # Two epochs of 7 batches for each network.
    assert len(seen) == 28
    assert all(torch.equal(a, b) for a, b in zip(seen[:14], seen[14:], strict=True))
    # Stem 36 + 8; blocks 304 and 896; head 90; units 16 + 6 and 64 + 12.
    assert [row.params for row in result.rows] == [1334, 1334 + 22 + 76]
    difference = result.differences[0]
    (a,), (b,) = (row.errors[TOP1].by_seed for row in result.rows)
    assert difference.mean == pytest.approx(b - a)  # type: ignore[operator]
    assert difference.low is None


def test_a_network_against_itself_differs_by_nothing(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    """The A/A test: equal networks under two names have equal histories, so what a pair shows is its one field."""
    experiment = comparison([recipe, replace(recipe, name="again")], 2)
    (result,) = run([experiment], tmp_path / "c", open_data=opener(recipe, open_small))
    assert result.rows[0].errors == result.rows[1].errors
    assert result.differences[0].mean == 0
    histories = [read_metrics(tmp_path / "c" / "runs" / f"{name}-seed1") for name in ("tiny", "again")]
    clocks = {"seconds", "step_ms", "data_seconds"}
    rows = [[{k: v for k, v in asdict(epoch).items() if k not in clocks} for epoch in h] for h in histories]
    assert rows[0] == rows[1]


def test_an_experiment_is_resumed_and_added_to(recipe: Recipe, plain: Recipe, open_small: Any, tmp_path: Path) -> None:
    short = [replace(r, train=replace(r.train, epochs=1, limit_batches=1)) for r in (plain, recipe)]
    open_data, folder = opener(short[0], open_small), tmp_path / "c"
    (first,) = run([comparison(short, 1)], folder, open_data=open_data, jobs=1)
    stamp = (folder / "runs" / "tiny-seed0" / SUMMARY).stat().st_mtime_ns
    assert {p.name for p in folder.iterdir()} == {
        *("plan.json", "result.json", "runs", "comparison.md", "comparison.png", "comparison-curves.png")
    }
    told: list[str] = []
    (more,) = resume(folder, seeds=2, open_data=open_data, say=lambda name, outcome: told.append(name))
    assert told == ["plain-seed1", "tiny-seed1"]
    assert more.rows[1].runs == ("tiny-seed0", "tiny-seed1")
    assert more.rows[1].errors[TOP1].by_seed[0] == first.rows[1].errors[TOP1].by_seed[0]
    assert (folder / "runs" / "tiny-seed0" / SUMMARY).stat().st_mtime_ns == stamp
    # A third network; fewer seeds than there are take none away.
    third = comparison([short[0], replace(short[1], name="third")], 1)
    (three,) = run([third], folder, open_data=open_data)
    assert [row.name for row in three.rows] == ["plain", "tiny", "third"]
    assert (three.seeds, three.finished, three.planned) == ((0, 1), 5, 6)
    assert read_results(folder) == (three,)
    assert read_plan(folder).experiments[0].seeds == (0, 1)


def test_an_interrupted_experiment_names_its_own_folder(
    recipe: Recipe, plain: Recipe, open_small: Any, tmp_path: Path
) -> None:
    def stopping(_: Any, seed: int) -> Any:
        data = open_small(replace(recipe, train=replace(recipe.train, seed=seed)))
        # Batch 20 is in the second network: 9 batches an epoch, 2 epochs.
        interrupt(data, 20, "SIGTERM")
        return data

    folder, experiment = tmp_path / "pair", comparison([plain, recipe], 1)
    with pytest.raises(Interrupted, match=rf"saved in {folder}$"):
        run([experiment], folder, open_data=stopping)
    assert (folder / "runs" / "plain-seed0" / SUMMARY).exists()
    (result,) = resume(folder, open_data=opener(recipe, open_small))
    (unbroken,) = run([experiment], tmp_path / "unbroken", open_data=opener(recipe, open_small))
    assert [row.errors for row in result.rows] == [row.errors for row in unbroken.rows]


def test_a_failed_run_is_in_the_result_and_tried_again(
    recipe: Recipe, plain: Recipe, open_small: Any, tmp_path: Path
) -> None:
    wild = [replace(r, optim=replace(r.optim, lr=1e30)) for r in (plain, recipe)]
    (result,) = run([comparison(wild, 1)], tmp_path / "c", open_data=opener(recipe, open_small))
    assert result.finished == 0
    assert result.where == "No run has finished yet."
    assert all("loss is" in why for why in result.failed.values())
    assert list(result.failed) == ["plain-seed0", "tiny-seed0"]


def test_a_folder_with_other_things_is_refused(recipe: Recipe, plain: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="not empty, and not the folder of an experiment; name another with --out"):
        run([comparison([plain, recipe], 1)], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
