"""`senet export`: what it writes, says and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from PIL import Image

from senet import load
from senet.deploy import onnx as deploy
from senet.deploy import program

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_8_bits_as_json(senet: Call, trained: Path) -> None:
    status, out, err = senet("export", trained, "n.onnx", "--int8", "--images", 40, "--json")
    assert status == 0, err
    told = json.loads(out)
    assert (told["model"], told["input"], told["gates"]) == ("se_resnet20", ["N", 1, 8, 8], "dynamic")
    assert told["rewrites"][0] == "  19 batch norms folded"
    assert told["deviation"] < 1e-5
    assert told["agreement"]["images"] == 40
    assert len(told["agreement"]["wrong"]) == 2
    assert told["quantized"]["layers"] == 20
    assert told["calibrated_on"] == "40 of 1,438 training images"
    assert told["compared_on"] == "40 of 359 held-out digits"
    assert told["agreement"]["cosine"] > 0.9
    assert told["bytes"] == Path("n.onnx").stat().st_size < told["float_bytes"]
    about = {p.key: p.value for p in onnx.load("n.onnx").metadata_props}
    assert (about["senet.model"], about["senet.data"]) == ("se_resnet20", "digits")
    assert json.loads(about["senet.classes"]) == list("0123456789")
    assert json.loads(about["senet.preprocessing"])["image_size"] == 8
    assert set(json.loads(about["senet.measurements"])) == set(load(trained).measurements)


@pytest.mark.parametrize(
    ("words", "given", "shape"),
    [
        ((), {"optimize": "any", "any_size": False}, (1, 1, 8, 8)),
        (("--optimize", "machine", "--batch", 4), {"optimize": "machine"}, (4, 1, 8, 8)),
        (
            ("--optimize=no", "--any-size", "--opset", 19),
            {"optimize": None, "any_size": True, "opset": 19},
            (1, 1, 8, 8),
        ),
        (("--size", 12), {"optimize": "any", "size": 12}, (1, 1, 12, 12)),
    ],
)
def test_options_reach_the_exporter(
    words: tuple, given: dict[str, Any], shape: tuple, senet: Call, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def export(model: Any, path: Path, example: torch.Tensor, **fields: Any) -> deploy.Exported:
        seen.update(fields, shape=tuple(example.shape), size=model.preprocessing.image_size)
        path.write_text("")
        return deploy.Exported(path, 0, None, 1.5e-7, True, (1, 4) if fields["any_size"] else ())

    monkeypatch.setattr(deploy, "export_onnx", export)
    monkeypatch.setattr(program, "export_program", export)
    for file in ("n.onnx", "n.pt2")[: 1 if "opset" in given or "machine" in words else 2]:
        Path(file).write_text("old")
        status, out, err = senet("export", "--force", trained, file, *words)
        assert status == 0, err
        assert seen["shape"] == shape
        wanted = given | {"optimize": given["optimize"] is not None} if file == "n.pt2" else given
        assert {name: seen[name] for name in given} == wanted
        sizes = ("H", "W >= 4") if given.get("any_size") else shape[2:]
        assert out.splitlines() == [
            "   0 rewrites, as asked",
            f"{file}: se_resnet20, 0.0 MB, takes (N, 1, {sizes[0]}, {sizes[1]})",
            "checked: outputs 1.5e-07 from the network's, relative",
        ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["n.tflite"], "OUT: the ending of 'n.tflite' is not known; endings: .onnx, .pt2"),
        (["no/n.onnx"], "no: no such folder"),
        (["old.onnx"], "old.onnx: exists already; overwrite it with --force"),
        (["n.onnx", "--optimize", "gpu"], "--optimize: 'gpu' is not known; expected: any, machine, no"),
        (["n.onnx", "--size", "-1"], "--size: -1 is too small"),
        (["n.onnx", "--batch", "2"], "--batch: has no effect without --optimize machine"),
        (["n.pt2", "--opset", "18"], "--opset: has no effect without an .onnx"),
        (["n.onnx", "--gates", "static"], "--gates: has no effect without --int8"),
        (["n.onnx", "--zero-points", "zero"], "--zero-points: has no effect without --int8"),
        (["n.onnx", "--most-changed", "1"], "--most-changed: has no effect without --int8"),
        (["n.onnx", "--int8", "--most-changed", "101"], "--most-changed: 101 is too large; expected: at most 100"),
        (["n.onnx", "--int8", "--gates", "float"], "--gates: 'float' is not known; expected: dynamic, static"),
        (["n.onnx", "--image-size", "16"], "--data.image_size: has no effect without --int8"),
        (["n.onnx", "--int8", "--size", "9", "--image-size", "16"], "--data.image_size: is the same as --size"),
        (["n.pt2", "--int8"], "--int8: needs an ONNX file"),
        (["n.pt2", "--optimize", "machine"], "--optimize: needs an ONNX file"),
        (["n.onnx", "--optimize", "machine", "--int8"], "--optimize: 'machine' excludes --int8 and --any-size"),
        *(
            (["n.onnx", "--opset", n], f"opset: {n} is not known; expected: 18, 19, 20, 21, 22, 23")
            for n in ("5", "13")
        ),
    ],
)
def test_refused(words: list[str], says: str, senet: Call, trained: Path) -> None:
    Path("old.onnx").write_text("old")
    status, _, err = senet("export", trained, *words)
    assert status == 2
    assert err.startswith(f"senet export: error: {says}")
    assert [p.name for p in Path().iterdir()] == ["old.onnx"]


def test_the_help_says_which_runtimes_take_8_bits_and_which_opsets_there_are(
    senet: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        senet("export", "--help")
    text = " ".join(capsys.readouterr().out.split())
    for words in ("ONNX in 8 bits", "TensorRT takes --zero-points zero alone", "torch exports no lower one"):
        assert words in text


def test_training_images_calibrate(senet: Call, tmp_path: Path) -> None:
    """Folders with the value of a grey level for each part: the ranges in the file are of the training images."""
    for part, level in (("train", 10), ("test", 250)):
        for k, name in enumerate("ab"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("L", (8, 8), level + k).save(tmp_path / "photos" / part / name / f"{i}.png")
    words = ["--data", "photos", "--mean", 0, "--std", 1, "--image-size", 8, "--batch-size", 4, "--epochs", 1]
    assert senet("train", "resnet20", *words, "--threads", 1, "--crop", "none", "--out", "run")[0] == 0
    status, out, err = senet("export", "run", "n.onnx", "--int8", "--images", 4)
    assert status == 0, err
    assert "calibrated on 4 of 6 images in photos/train; compared on 4 of 6 images in photos/test" in out.replace(
        f"{tmp_path}/", ""
    )
    graph = onnx.load("n.onnx").graph
    first = next(
        node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == graph.input[0].name
    )
    scale = onnx.numpy_helper.to_array(next(t for t in graph.initializer if t.name == first.input[1]))
    assert float(scale) * 255 < 0.1
