"""Gates are kept, and shown, without loss; what is no file of gates is refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from senet.analysis import plots
from senet.analysis.collect import collect_gates
from senet.analysis.statistics import ARRAYS, Gates
from senet.config import to_dict
from senet.diagnosis.labels import label
from senet.errors import ConfigError, DataError, RunError
from tests.analysis.planted import Planted, batches, images

CLASSES = ("ant", "bée", "cat")


@pytest.fixture(scope="module")
def gates() -> Gates:
    means = torch.linspace(-2, 2, 12)
    found = collect_gates(
        Planted(),
        batches(images(means), torch.arange(12) % 2, 5),
        CLASSES,
        chosen=(1, 2),
        sampled=3,
        top=2,
        outputs=(0, 1, 2),
        source="somewhere",
        name="planted",
    )
    units = tuple(replace(u, ablation={"one": 1.5, "mean": 2.0, "other": 3.0}) for u in found.units)
    # A second one, in a stage.
    second = replace(units[0], name="layer1.0.se", stage="layer1")
    return replace(found, units=(*units, second), similarity=np.ones((2, 2)), ablation=units[0].ablation)


def test_round_trip(gates: Gates, tmp_path: Path) -> None:
    path = tmp_path / "gates.npz"
    gates.save(path)
    again = Gates.load(path)
    for one, other in zip(gates.units, again.units, strict=True):
        for name in ARRAYS:
            a, b = getattr(one, name), getattr(other, name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, err_msg=name)
        assert all(getattr(one, f.name) == getattr(other, f.name) for f in fields(one) if f.name not in ARRAYS)
    for f in fields(gates):
        if f.name not in ("units", "per_class", "similarity"):
            assert getattr(gates, f.name) == getattr(again, f.name), f.name
    assert again.per_class.tolist() == [6, 6, 0]
    before = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == before


def test_what_is_no_file_of_gates_is_refused(gates: Gates, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Gates.load(tmp_path / "none.npz")
    (tmp_path / "text").write_text("no")
    (tmp_path / "empty").write_bytes(b"")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    np.save(tmp_path / "array.npy", np.zeros(2))
    np.savez(tmp_path / "pickle.npz", senet=np.array([{}], dtype=object))
    whole = tmp_path / "whole.npz"
    gates.save(whole)
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-200])
    for name in ("text", "empty", "other.npz", "array.npy", "pickle.npz", "cut.npz"):
        with pytest.raises(DataError, match=f"{name}: not a gates.npz"):
            Gates.load(tmp_path / name)
    np.savez(tmp_path / "newer.npz", senet=np.array(json.dumps({"format": 2})))
    with pytest.raises(DataError, match="newer senet"):
        Gates.load(tmp_path / "newer.npz")
    with pytest.raises(RunError, match="cannot write"):
        gates.save(tmp_path / "absent" / "gates.npz")


def test_page_is_plain_and_small(gates: Gates) -> None:
    asked: list[int] = []

    def thumbnail(i: int) -> str | None:
        asked.append(i)
        return None if i == 0 else f"data:{i}"

    page = json.loads(json.dumps(to_dict(gates.page(thumbnail, strip=1)), allow_nan=False))
    unit = page["units"][0]
    source = gates.units[0]
    assert [line["name"] for line in page["lines"]] == ["all", "bée", "cat"]
    assert [line["images"] for line in page["lines"]] == [12, 6, 0]
    assert unit["sampled"] == [0, 2, 4]
    np.testing.assert_allclose(unit["mean"][0], source.overall_mean[[0, 2, 4]], atol=5e-4)
    np.testing.assert_allclose(unit["deviation"][1], source.deviation[1][[0, 2, 4]], atol=5e-4)
    assert unit["mean"][2] == [None, None, None]
    # The slopes are 1, 0 and 3; images rise.
    assert [ends[0][0] for ends in unit["openers"]] == [11, 0, 11]
    assert [ends[0][0] for ends in unit["closers"]] == [0, 0, 0]
    assert unit["openers"][0][0][1] == round(float(source.opener_values[0, 0]), 3)
    assert sorted(asked) == [0, 11]
    assert page["thumbnails"] == {"11": "data:11"}
    assert page["units"][1]["label"] == "SE_2_1"
    assert page["ablation"] == {"one": 1.5, "mean": 2.0, "other": 3.0}
    # Of slope 3, whose class means are furthest apart; "cat" has no images.
    best = page["specific"]
    assert (best["unit"], best["channel"]) == ("excite", 4)
    assert [name for name, _ in best["by_class"]] == ["bée", "ant"]
    assert (best["openers"][0][0], best["closers"][0][0]) == (11, 0)
    assert gates.page(lambda i: "data:", thumbnails=1).thumbnails.keys() == {"11"}


def test_names() -> None:
    assert label("features.stage5.block3.se") == label("layer4.2.se") == label("layer4.2.se_module") == "SE_5_3"
    assert label("layer4.2.se#2") == "SE_5_3#2"
    for other in ("blocks.2.0.se", "s1.b1.se", "features.stage3.inception_3a.se", "excite"):
        assert label(other) == other


def test_figure_6_draws_the_last_of_each_stage_and_three_of_the_last(gates: Gates) -> None:
    names = [f"layer{i}.{j}.se" for i, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(n)]
    units = tuple(replace(gates.units[0], name=name, stage=name.partition(".")[0]) for name in names)
    drawn = [u.label for u in replace(gates, units=units).drawn]
    # As in the paper.
    assert drawn == ["SE_2_3", "SE_3_4", "SE_4_6", "SE_5_1", "SE_5_2", "SE_5_3"]


def test_a_unit_by_name(gates: Gates) -> None:
    assert gates.unit("SE_2_1") is gates.unit("layer1.0.se") is gates.units[1]
    with pytest.raises(ConfigError, match=r"unit: 'excited' is not known \(did you mean 'excite'\?\)"):
        gates.unit("excited")


def test_pictures_show_the_numbers(gates: Gates, tmp_path: Path) -> None:
    figure = plots.figure6(gates)
    panel = figure.axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in panel.get_lines()}
    assert drawn.keys() == {"bée", "cat", "all"}
    np.testing.assert_array_equal(drawn["all"], gates.units[0].overall_mean[[0, 2, 4]])
    np.testing.assert_array_equal(drawn["bée"], gates.units[0].mean[1][[0, 2, 4]])
    bands = plots.figure7(gates, (0, 1)).axes[0].collections
    unit = gates.units[0]
    top = (unit.mean + unit.deviation)[0, [0, 2, 4]]
    assert bands[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(top.max(), abs=1e-6)
    # No band beyond what a gate has been, so sigmoids keep the scale from 0 to 1; what leaves it has its own.
    sure = replace(
        unit, mean=unit.mean * 0 + 0.98, deviation=unit.deviation * 0 + 0.3, opener_values=unit.opener_values * 0 + 0.99
    )
    (axes,) = plots.figure7(replace(gates, units=(sure,)), (0, 1)).axes
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(0.99)
    assert axes.get_ylim() == (0, 1)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "2", "4"]
    wild = replace(sure, opener_values=sure.opener_values + 0.3)
    assert plots.figure7(replace(gates, units=(wild,)), (0, 1)).axes[0].get_ylim()[1] > 1.2
    with pytest.raises(ConfigError, match="compares two classes"):
        plots.figure7(replace(gates, chosen=(0,)))
    made = plots.draw_all(tmp_path, replace(gates, units=gates.units[:1]), lambda i: np.full((4, 4, 1), i, np.uint8))
    assert [p.stem for p in made] == ["figure6", "figure7", "depth", "ablation", "images_excite"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in made)
    svg = (tmp_path / "figure6.svg").read_bytes()
    plots.write(tmp_path / "figure6", plots.figure6(gates, gates.units[:1]))
    assert (tmp_path / "figure6.svg").read_bytes() == svg
    # Over the channels' numbers stands what they are, and nothing of it under the words beside it.
    strip = plots.strips(gates.units[0], lambda i: np.full((4, 4, 1), i, np.uint8))
    plots.write(tmp_path / "images_excite", strip)
    strip.draw_without_rendering()
    boxes = {t.get_text(): t.get_window_extent() for axes in strip.axes for t in axes.texts}
    assert boxes["channel"].x1 + 5 < boxes["closed by"].x0
    # What has no similarity is hatched, and says why.
    half = plots.similarity(replace(gates, similarity=np.array([[1, np.nan], [np.nan, np.nan]]))).axes[0]
    assert half.patch.get_hatch()
    assert "equal for all classes" in half.get_xlabel()
    assert not plots.similarity(gates).axes[0].patch.get_hatch()
    # Nothing of an analysis from before stays beside one that has none of it.
    plots.draw_all(tmp_path, replace(gates, chosen=(0,), ablation={}))
    assert {p.stem for p in tmp_path.iterdir()} == {"figure6", "depth", "images_excite"}
