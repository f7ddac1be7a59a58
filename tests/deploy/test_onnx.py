"""ONNX files: the network's function in another runtime, in one file that says what it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

from senet import ConfigError
from senet.deploy import onnx as deploy
from senet.deploy.onnx import Exported, export_onnx
from senet.errors import MissingExtraError, RunError
from senet.units.config import ECAConfig, SEConfig
from tests.deploy.networks import BOTTLENECKS, images, small

Files = tuple[nn.Module, dict[str, Exported]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """One network, exported for every runtime, and for this machine in batches of two."""
    folder, model = tmp_path_factory.mktemp("onnx"), small()
    about: dict[str, Any] = {"classes": list("abcde"), "about": {"model": "small"}}
    return model, {
        form: export_onnx(model, folder / f"{form}.onnx", images(2), optimize=form, **about)  # type: ignore[arg-type]
        for form in ("any", "machine")
    }


def answers(path: Path, x: Tensor) -> np.ndarray:
    (logits,) = InferenceSession(path, providers=["CPUExecutionProvider"]).run(["logits"], {"image": x.numpy()})
    return logits


def operations(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@torch.no_grad()
def error(model: nn.Module, path: Path, x: Tensor) -> float:
    want = model(x).numpy()
    return float(np.abs(answers(path, x) - want).max() / np.abs(want).max())


@pytest.mark.parametrize(("form", "batches"), [("any", (1, 3)), ("machine", (2,))])
def test_the_file_is_the_network(files: Files, form: str, batches: Sequence[int]) -> None:
    model, exported = files
    done = exported[form]
    for n in batches:
        assert error(model, done.path, images(n, seed=7)) < 1e-5
    assert done.any_batch == (len(batches) > 1)
    assert done.smallest == ()
    assert done.deviation is not None
    assert 0 < done.deviation < 1e-5
    assert done.bytes == done.path.stat().st_size
    onnx.checker.check_model(onnx.load(exported["any"].path), full_check=True)


def test_nothing_is_left_to_fold_and_squeezes_read_the_narrow_map(files: Files) -> None:
    _, exported = files
    assert operations(exported["any"].path) == {
        **{"Conv": 1 + 2 * 3 + 1, "Relu": 1 + 2 * 3 + 2, "ReduceMean": 2 + 1, "Gemm": 2 * 2 + 1},
        **{"Sigmoid": 2, "Reshape": 2, "Mul": 2, "Add": 2},
    }
    graph = onnx.load(exported["any"].path).graph
    shapes = {v.name: v.type.tensor_type.shape.dim for v in graph.value_info}
    assert [shapes[n.input[0]][1].dim_value for n in graph.node if n.op_type == "ReduceMean"] == [16, 32, 128]
    assert len(exported["any"].rewrites.folded) == 8  # type: ignore[union-attr]


def test_on_this_machine_a_gated_sum_is_one_operation(files: Files) -> None:
    _, exported = files
    model = onnx.load(exported["machine"].path)
    # 8 convolutions, one per gated sum; squeezes and the last feature map before the head leave the blocks.
    found = Counter(n.op_type for n in model.graph.node if n.domain == "com.microsoft.nchwc")
    assert found == {"Conv": 8 + 2, "GlobalAveragePool": 2, "ReorderOutput": 2 + 1}
    assert not operations(exported["machine"].path).keys() & {"Mul", "Add", "Relu"}
    sums = [n for n in model.graph.node if n.op_type == "Conv" and len(n.input) == 4]
    groups = [next(a.i for a in n.attribute if a.name == "group") for n in sums]
    assert groups == [2 * 64, 2 * 128]
    with pytest.raises(Exception, match="Got: 3 Expected: 2"):
        answers(exported["machine"].path, images(3))


@pytest.mark.parametrize(
    ("net", "batch"),
    [
        (replace(BOTTLENECKS, se=SEConfig(bias=False, placement="pre")), 3),
        (replace(BOTTLENECKS, se=ECAConfig(gate="hard_sigmoid")), 1),
        # 24 channels are no whole blocks.
        (replace(BOTTLENECKS, stages=(replace(BOTTLENECKS.stages[0], out=24),)), 2),
    ],
)
def test_units_of_every_kind_on_this_machine(net: Any, batch: int, tmp_path: Path) -> None:
    model, path = small(net), tmp_path / "n.onnx"
    export_onnx(model, path, images(batch), optimize="machine")
    assert error(model, path, images(batch, seed=3)) < 1e-5
    nodes = onnx.load(path).graph.node
    weights = {i.name for i in onnx.load(path).graph.initializer}
    made = [n for n in nodes if n.op_type in ("Conv", "FusedConv") and n.input[1] not in weights]
    assert len(made) == sum(row.depth for row in net.stages)


def test_a_product_that_becomes_part_of_something_else_has_no_form_here(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), SEConfig().build(16), nn.BatchNorm2d(16)).eval()
    with pytest.raises(ConfigError, match="'machine' cannot express 1 units; expected: 'any' or None"):
        export_onnx(model, tmp_path / "n.onnx", images(1), optimize="machine", verify=False)
    assert list(tmp_path.iterdir()) == []


def test_the_file_says_what_it_is(files: Files) -> None:
    _, exported = files
    for form, done in exported.items():
        told = {p.key: p.value for p in onnx.load(done.path).metadata_props}
        assert told["senet.model"] == "small"
        assert told["senet.optimize"] == form
        assert json.loads(told["senet.classes"]) == ["a", "b", "c", "d", "e"]
        assert json.loads(told["senet.net"])["se"]["unit"] == "se"
        wanted = json.loads(told["senet.preprocessing"])
        assert (wanted["mean"], wanted["image_size"], wanted["resize"]) == ([0.485, 0.456, 0.406], 16, 20)
        # torch would leave the paths of source files there.
        assert not any(node.metadata_props for node in onnx.load(done.path).graph.node)
        assert [p.name for p in done.path.parent.iterdir() if p.suffix != ".onnx"] == []


@pytest.mark.slow
def test_as_it_is_of_any_size_in_an_older_opset_with_several_outputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            maps = self.network.forward_features(x)
            return {"maps": maps, "logits": self.network.forward_head(maps)}

    done = export_onnx(Two(), tmp_path / "n.onnx", images(1), optimize=None, any_size=True, opset=18)
    assert (done.smallest, done.rewrites) == ((1, 1), None)
    assert {p.key: p.value for p in onnx.load(done.path).metadata_props}["senet.smallest"] == "[1, 1]"
    run = InferenceSession(done.path).run
    with torch.no_grad():
        want = Two()(images(2, 24))
    for have, name in zip(run(list(want), {"image": images(2, 24).numpy()}), want, strict=True):
        np.testing.assert_allclose(have, want[name].numpy(), rtol=1e-4, atol=1e-4)
    assert onnx.load(done.path).opset_import[0].version == 18


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"optimize": "cpu"}, "optimize: 'cpu' is not known; expected: any, machine, None"),
        ({"opset": 17}, "opset: 17 is not known; expected: 18,"),
        ({"optimize": "machine", "any_size": True}, "any_size: True with optimize='machine'"),
        ({"example": images(1).half()}, "example: torch.float16 on cpu; expected: torch.float32"),
        ({"example": None}, "example: None; expected"),
    ],
)
def test_what_cannot_be_exported_is_refused(wrong: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        export_onnx(small(), tmp_path / "n.onnx", **{"example": images(1), **wrong})
    with pytest.raises(ConfigError, match=r"path: a Tensor; expected: a file's path \(the order is model"):
        export_onnx(small(), images(1), tmp_path / "n.onnx")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_another_function_is_not_written(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, exported = files
    whole = exported["any"].path.read_bytes()
    monkeypatch.setattr(deploy, "to_onnx", lambda *_, **__: whole)
    wrong = deepcopy(model)
    next(wrong.parameters()).data.mul_(1.01)
    (tmp_path / "n.onnx").write_text("old")
    with pytest.raises(RunError, match=r"outputs are .* from the network's; expected: 1e-04 or less"):
        export_onnx(wrong, tmp_path / "n.onnx", images(1))
    assert (tmp_path / "n.onnx").read_text() == "old"
    export_onnx(wrong, tmp_path / "n.onnx", images(1), verify=False)
    assert (tmp_path / "n.onnx").read_bytes() == whole


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_libraries(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(MissingExtraError, match=r"senet\[export\]"):
        export_onnx(small(), tmp_path / "n.onnx", images(1), optimize="machine")
