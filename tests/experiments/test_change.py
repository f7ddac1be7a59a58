"""An experiment changed: twins stay twins, runs are shared, and what differs from the paper is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from senet.errors import ConfigError, RunError
from senet.experiments.change import changed, on_data, shortened, with_network, with_rows
from senet.experiments.differs import differs
from senet.experiments.experiment import TOP1, Experiment, Row, comparison, run_name
from senet.experiments.plan import merged
from senet.paper.registry import GROUPS, get_targets, targets
from senet.recipes.recipe import Recipe


@pytest.mark.parametrize("name", list(targets()))
def test_rows_are_twins_of_what_they_are_compared_with(name: str) -> None:
    target = targets()[name]
    assert target.name == name
    by_name = {row.name: row for row in target.rows}
    assert len(by_name) == len(target.rows)
    for row in target.rows:
        assert row.printed or row.recipe
        if row.minus:
            base = by_name[row.minus]
            assert row.recipe is not None
            assert base.recipe is not None
            # One field of the recipe differs, and in that one the unit.
            assert replace(row.recipe, name=base.recipe.name, model=base.recipe.model) == base.recipe
            assert replace(row.recipe.model, se=base.recipe.model.se) == base.recipe.model
            assert row.recipe.model.se != base.recipe.model.se


def test_rows_that_stand_in_several_tables_are_run_once() -> None:
    ablations = get_targets(("ablations",))
    assert [e.name for e in ablations] == list(GROUPS["ablations"])
    # r = 2, 4, 8, 16, 32 and none; max; ReLU, tanh; stages 2, 3, 4; PRE, POST, Identity; 3x3; NoSqueeze.
    assert len({name for e in ablations for name in e.runs}) == 17 * 3
    # Seed by seed: what is finished first is a fair comparison of all rows.
    assert [name[-1] for name in ablations[0].runs] == ["0"] * 6 + ["1"] * 6 + ["2"] * 6


def recipe_of(name: str, row: str) -> Recipe:
    found = targets()[name].row(row).recipe
    assert found is not None
    return found


def test_a_folder_is_the_same_however_it_is_written() -> None:
    recipe = recipe_of("student", "ResNet-20")

    def key(name: str) -> str:
        return run_name(replace(recipe, data=replace(recipe.data, name=name)), 0)

    assert len({key(name) for name in ("cifar10/", "./cifar10", "cifar10/../cifar10")}) == 1
    assert len({key(name) for name in ("cifar10", "cifar10/", "/cifar10", "other/cifar10")}) == 4


def test_how_images_are_kept_is_said_where_it_is_not_what_their_size_decides() -> None:
    """In memory they are scaled before they are cropped, so the network sees others."""
    recipe = recipe_of("table12", "tanh")
    large = replace(recipe, data=replace(recipe.data, name="photos"))
    small = replace(large, data=replace(large.data, image_size=48))

    def keys(recipe: Recipe) -> list[str]:
        return [run_name(replace(recipe, data=replace(recipe.data, in_memory=m)), 0) for m in ("auto", "yes", "no")]

    auto, yes, no = keys(large)
    assert auto == no != yes
    auto, yes, no = keys(small)
    assert auto == yes != no
    kept = changed(targets()["table12"], lambda r: replace(r, data=replace(r.data, in_memory="yes")))
    assert differs(targets()["table12"], kept) == ("data.in_memory: yes, not auto",)


def test_shorter_runs_keep_the_parts_of_the_schedule() -> None:
    mobile = recipe_of("table3", "SE-MobileNet")
    assert (mobile.schedule.kind, mobile.schedule.patience, mobile.train.epochs) == ("plateau", 10, 400)
    assert [shortened(mobile, n).schedule.patience for n in (800, 400, 200, 20, 1)] == [10, 10, 5, 1, 1]
    frozen = recipe_of("table8", "SENet-154")
    assert (frozen.train.freeze_bn_epochs, frozen.train.epochs) == (5, 100)
    assert [shortened(frozen, n).train.freeze_bn_epochs for n in (200, 100, 40, 4, 1)] == [5, 5, 2, 1, 0]
    warm = recipe_of("table4", "SE-ResNet-110")
    assert shortened(warm, 82).schedule.warmup_epochs == pytest.approx(warm.schedule.warmup_epochs / 2)
    assert shortened(warm, 82).schedule.patience == warm.schedule.patience


def student(rows: list[str], seeds: tuple[int, ...], epochs: int, command: str) -> Experiment:
    paper = targets()["student"]
    here = changed(with_rows(paper, rows), lambda r: shortened(r, epochs))
    return replace(here, seeds=seeds, differs=differs(paper, here), commands=(command,))


def test_a_plan_is_added_to_and_never_mixed() -> None:
    paper = targets()["student"]
    before = student(["SE-ResNet-56"], (0, 1, 2), 5, "first")
    now = student(["SE-ResNet-20"], (2, 3), 5, "second")
    both = merged(replace(before, budget="2h"), now, paper)
    assert both.budget == "2h"
    assert [row.name for row in both.rows] == ["ResNet-20", "SE-ResNet-20", "ResNet-56", "SE-ResNet-56"]
    assert both.seeds == (0, 1, 2, 3)
    assert both.commands == ("first", "second")
    assert both.differs == ("train.epochs: 5, not 300",)
    assert merged(both, now, paper) == replace(both, commands=("first", "second"))
    other = student(["SE-ResNet-20"], (0,), 4, "third")
    with pytest.raises(RunError, match=r"^student, ResNet-20: train\.epochs: 4, not 5$"):
        merged(both, other, paper)


def test_a_run_is_named_by_what_its_result_depends_on() -> None:
    recipe = recipe_of("table10", "r = 8")
    name = run_name(recipe, 3)
    assert name.startswith("se_resnet50-")
    assert name.endswith("-seed3")
    for same in (
        replace(recipe, data=replace(recipe.data, workers=7, root="elsewhere")),
        replace(recipe, train=replace(recipe.train, threads=2, seed=9, fused=True)),
    ):
        assert run_name(same, 3) == name
    for other in (
        replace(recipe, data=replace(recipe.data, batch_size=128)),
        replace(recipe, optim=replace(recipe.optim, lr=0.2)),
        recipe_of("table10", "r = 4"),
    ):
        assert run_name(other, 3).rpartition("-")[0] != name.rpartition("-")[0]


def test_other_images_and_networks() -> None:
    table10 = targets()["table10"]
    here = with_network(on_data(table10, "cifar10"), "")
    for row in here.rows:
        assert row.recipe is not None
        assert (row.recipe.data.name, row.recipe.data.crop, row.recipe.data.batch_size) == ("cifar10", "pad", 256)
        assert replace(row.recipe.model, se=None) == table10.small
    assert [row.recipe.model.se for row in here.rows] == [row.recipe.model.se for row in table10.rows]  # type: ignore
    named = with_network(on_data(table10, "cifar10"), "se_resnet56")
    assert {row.recipe.name for row in named.rows if row.recipe} == {"se_resnet56", "resnet56"}
    large = with_network(on_data(table10, "/my/images"), "")
    assert all(
        row.recipe and row.recipe.data.image_size == 224 and row.recipe.data.crop == "resized" for row in large.rows
    )
    little = on_data(table10, "/my/cifar", 32)
    assert all(
        row.recipe and (row.recipe.data.name, row.recipe.data.crop) == ("/my/cifar", "pad") for row in little.rows
    )

    with pytest.raises(ConfigError, match=r"--network: with resnet20 for all, the rows 'ResNet-110' and 'ResNet-164'"):
        with_network(targets()["table4"], "resnet20")
    pair = with_network(with_rows(targets()["table4"], ["SE-ResNet-110"]), "resnet20")
    assert [row.recipe.name for row in pair.rows if row.recipe] == ["resnet20", "se_resnet20"]
    with pytest.raises(ConfigError, match=r"se.placement: 'conv3x3' needs bottlenecks"):
        with_network(on_data(targets()["table15"], "cifar10"), "resnet20")


def test_rows_are_chosen_with_what_they_are_compared_with() -> None:
    assert [row.name for row in with_rows(targets()["table12"], ["tanh"]).rows] == ["tanh", "sigmoid"]
    with pytest.raises(ConfigError, match=r"--rows: 'elu' is not known; rows of table12: ReLU, tanh, sigmoid"):
        with_rows(targets()["table12"], ["elu"])


def test_in_fewer_epochs_warm_up_and_frozen_epochs_keep_their_part() -> None:
    recipe = recipe_of("table4", "ResNet-110")
    short = shortened(recipe, 41)
    assert short.schedule.warmup_epochs == pytest.approx(recipe.schedule.warmup_epochs / 4)
    assert (short.train.epochs, short.schedule.milestones) == (41, (0.5, 0.75))
    frozen = replace(recipe, train=replace(recipe.train, freeze_bn_epochs=8))
    assert shortened(frozen, 41).train.freeze_bn_epochs == 2


def test_what_differs_is_said_once_and_with_its_rows() -> None:
    paper = targets()["table12"]
    assert differs(paper, paper) == ()
    here = with_network(on_data(with_rows(paper, ["tanh"]), "cifar10"), "resnet20")
    here = changed(here, lambda r: shortened(r, 5))
    lines = differs(paper, here)
    assert lines[0] == "network: resnet20 instead of resnet50"
    assert "train.epochs: 5, not 270" in lines
    assert "data.name: cifar10, not imagenet" in lines
    assert lines[-1] == "rows left out: ReLU"
    folder = on_data(paper, "/home/me/pictures")
    assert differs(paper, folder) == ("data.name: pictures, a folder of images, not imagenet",)
    assert not any("root" in line or "workers" in line for line in lines)
    rows = tuple(
        replace(row, recipe=replace(row.recipe, optim=replace(row.recipe.optim, lr=1.0))) if row.name == "tanh" else row
        for row in paper.rows
        if row.recipe is not None
    )
    assert differs(paper, replace(paper, rows=rows)) == ("optim.lr: 1.0, not 0.1 (tanh)",)


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"TARGET: 'table1' is not known .*; targets: table2, table3"):
        get_targets(("table1",))


def test_a_row_of_others_results_is_not_run() -> None:
    rows = (Row(name="cited", printed={TOP1: 1.0}), Row(name="ours", recipe=recipe_of("student", "ResNet-20")))
    experiment = Experiment(name="t", title="t", rows=rows, seeds=(0,))
    assert len(experiment.runs) == 1
    assert changed(experiment, lambda r: r) == experiment


def test_a_comparison_is_of_networks_trained_alike() -> None:
    plain, se = recipe_of("student", "ResNet-20"), recipe_of("student", "SE-ResNet-20")
    experiment = comparison([plain, se], 2)
    assert list(experiment.runs) == ["resnet20-seed0", "se_resnet20-seed0", "resnet20-seed1", "se_resnet20-seed1"]
    assert [r.train.seed for r in experiment.runs.values()] == [0, 0, 1, 1]
    assert [row.minus for row in experiment.rows] == ["", "resnet20"]
    other = replace(se, optim=replace(se.optim, lr=0.3))
    with pytest.raises(ConfigError, match=r"se_resnet20 and resnet20 would be trained by different recipes"):
        comparison([plain, other], 1)
    with pytest.raises(ConfigError, match=r"must be two or more networks of different names"):
        comparison([plain, plain], 1)
    with pytest.raises(ConfigError, match=r"seeds: 0 is out of range"):
        comparison([plain, se], 0)


def test_a_network_is_added_to_a_comparison_that_trains_it_alike() -> None:
    plain, se, deep = (recipe_of("student", row) for row in ("ResNet-20", "SE-ResNet-20", "ResNet-56"))
    pair = comparison([plain, se], 2)
    both = merged(pair, comparison([plain, deep], 3))
    assert [row.name for row in both.rows] == ["resnet20", "se_resnet20", "resnet56"]
    assert both.seeds == (0, 1, 2)
    others = [replace(r, optim=replace(r.optim, lr=0.5), name=f"{r.name}x") for r in (plain, deep)]
    with pytest.raises(RunError, match=r"comparison, resnet20x: optim\.lr: 0\.5, not 0\.1"):
        merged(pair, comparison(others, 1))
