"""`senet analyze`: a folder of gates and pictures, a table, and mistakes answered by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from senet.analysis.statistics import Gates
from senet.runs.checkpoint import load

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have their own tests, and take longest."""
    monkeypatch.setattr("senet.analysis.plots.draw_all", lambda folder, gates, pixels: [folder / "figure6.png"])


def test_a_checkpoint_on_its_own_data(senet: Call, trained: Path, tmp_path: Path) -> None:
    status, out, err = senet("analyze", trained, "--images", 3, "--draw", "7,1", "--ablate", "--out", "here")
    assert (status, err) == (0, "")
    gates = Gates.load(tmp_path / "here" / "gates.npz")
    assert gates.per_class.tolist() == [3] * 10
    assert [gates.classes[k] for k in gates.chosen] == ["7", "1"]
    assert gates.model == "se_resnet20"
    assert gates.top1_error is not None
    assert gates.ablation.keys() == {"one", "mean", "other"}
    names = [name for name, m in load(trained).model.named_modules() if name.endswith(".se")]
    assert [u.name for u in gates.units] == names
    lines = out.splitlines()
    assert lines[0] == "359 held-out digits"
    assert f"se_resnet20: 30 images, top-1 error {gates.top1_error:.2f} %" in out
    row, off = (line.split() for line in lines if line.startswith("SE_3_2"))
    assert row[1:3] == ["32", f"{gates.units[4].overall_mean.mean():.3f}"]
    assert off[1:] == [f"{gates.units[4].ablation[by]:.2f}" for by in ("mean", "other", "one")]
    assert "figure6.png" in out
    page = (tmp_path / "here" / "report.html").read_text()
    assert "SE_3_2" in page
    assert "data:image/webp;base64," in page


@pytest.mark.slow
def test_json_says_the_same(senet: Call, trained: Path, tmp_path: Path) -> None:
    status, out, _ = senet("analyze", trained, "--images", 2, "--channels", 4, "--json", "--out", "here")
    found = json.loads(out)
    gates = Gates.load(tmp_path / "here" / "gates.npz")
    assert (status, found["images"], found["classes"]) == (0, 20, ["0", "1", "2", "3"])
    assert [u["mean"] for u in found["units"]] == [float(u.overall_mean.mean()) for u in gates.units]
    assert found["units"][0]["ablation"] == {}
    assert gates.units[8].sampled.tolist() == [0, 21, 42, 63]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "units"), [("timm:mobilenetv3_small_050", 9), ("torchvision:mobilenet_v3_small", 9)]
)
def test_a_network_of_others(senet: Call, network: str, units: int) -> None:
    options = ("--images", 1, "--data", "digits", "--image-size", 32)
    status, out, _ = senet("analyze", network, *options, "--draw", "3,4")
    assert status == 0
    assert f"{network} (random weights): 10 images\n" in out
    gates = Gates.load(Path("analysis") / network.replace(":", "-") / "gates.npz")
    assert len(gates.units) == units
    assert gates.top1_error is None
    assert all(np.isfinite(u.overall_mean).all() for u in gates.units)


def test_synsets_are_named_in_words() -> None:
    from senet.cli.analyze import _chosen

    words, names = ("goldfish", "pug", "my cat"), ("n01443537", "n02110958", "my cat")
    assert _chosen("Pug, n01443537,MY CAT", words, names) == [1, 0, 2]
    assert _chosen("", words, names) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere: no such file or folder"),
        (("{}", "--channels", 0), "--channels: 0 is too small"),
        (("{}", "--draw", "7,1,7"), "--draw: '7' is there twice"),
        (("{}", "--images", -1), "--images: -1 is too small"),
        (("{}", "--pretrained"), "--pretrained: has no effect on a checkpoint"),
        (("{}", "--draw", "1,eleven"), "--draw: 'eleven' is not known"),
        (("{}", "--flip"), "option: '--flip' is not known"),
        (("timm:seresnet50",), "--data: timm:seresnet50 has no data of its own"),
        (("tim:resnet18", "--data", "digits"), "CHECKPOINT: 'tim' is not known (did you mean 'timm'?)"),
        (("timm:seresnet5", "--data", "digits"), "timm has no 'seresnet5'; the nearest of"),
        (("torchvision:efficientnet", "--data", "digits"), "efficientnet_b7"),
        (
            ("timm:mobilenetv3_small_050", "--data", "digits", "--image-size", 32, "--ablate"),
            "--ablate: needs an error",
        ),
        (("torchvision:resnet18", "--data", "digits", "--image-size", 32), "has no units"),
    ],
)
def test_mistakes(senet: Call, trained: Path, words: tuple[object, ...], message: str) -> None:
    before = sorted(trained.iterdir())
    status, _, err = senet("analyze", *(str(w).format(trained) for w in words))
    assert sorted(trained.iterdir()) == before, "a mistake leaves no folder behind"
    assert status == 2
    assert message in err
