"""Networks with several inputs, or with other outputs than one tensor, are optimized and exported."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from senet import export_onnx, optimize
from senet.deploy.program import export_program
from senet.errors import ConfigError
from senet.outputs import named_tensors, tensors


@dataclass
class Answer:
    """An output as Hugging Face's networks have it: no class that `torch.export` knows."""

    loss: Tensor | None
    logits: Tensor
    maps: list[Tensor]


class Objects(nn.Module):
    """Returns logits and a feature map in one way or another."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Any:
        u = self.features(image)
        z = self.fc(u.mean((2, 3)))
        if self.kind == "dict":
            return {"image": u, "logits": z, "name": "net"}
        return Answer(None, z, [u]) if self.kind == "dataclass" else SimpleNamespace(logits=z, u=u)


class Siamese(nn.Module):
    """Takes two images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(16, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(torch.cat([self.features(left).mean((2, 3)), self.features(right).mean((2, 3))], 1))


@pytest.mark.parametrize(
    ("kind", "names"),
    [("dict", ["image_out", "logits"]), ("dataclass", ["logits", "maps.0"]), ("object", ["logits", "u"])],
)
def test_objects_as_outputs(kind: str, names: list[str], tmp_path: Path) -> None:
    model, x = Objects(kind).eval(), torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        want = model(x)
    fast = optimize(model, x[:1])
    assert fast.rewrites.folded == ["features.1"]
    have = fast(x)
    assert type(have) is type(want)
    assert [name for name, _ in named_tensors(have)] == [name for name, _ in named_tensors(want)]
    torch.testing.assert_close(tensors(have), tensors(want))
    export_onnx(model, tmp_path / "n.onnx", x[:1], verify=False)
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    assert [o.name for o in session.get_outputs()] == names
    found = [torch.as_tensor(t) for t in session.run(None, {"image": x.numpy()})]
    torch.testing.assert_close(found, tensors(want), atol=1e-4, rtol=1e-4)


def test_objects_in_a_program_are_dictionaries(tmp_path: Path) -> None:
    model, x = Objects("dataclass").eval(), torch.randn(3, 3, 8, 8)
    export_program(model, tmp_path / "n.pt2", x[:1], verify=False)
    out = torch.export.load(tmp_path / "n.pt2").module()(x)
    assert list(out) == ["loss", "logits", "maps"]
    with torch.no_grad():
        torch.testing.assert_close(out["logits"], model(x).logits)


def test_several_inputs(tmp_path: Path) -> None:
    model, a, b = Siamese().eval(), torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        want = model(a, b)
    fast = optimize(model, (a[:1], b[:1]))
    assert fast.any_batch
    torch.testing.assert_close(fast(a, b), want)
    export_onnx(model, tmp_path / "n.onnx", (a[:1], b[:1]))
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    assert [i.name for i in session.get_inputs()] == ["left", "right"]
    (found,) = session.run(["logits"], {"left": a.numpy(), "right": b.numpy()})
    torch.testing.assert_close(torch.as_tensor(found), want, atol=1e-4, rtol=1e-4)
    assert export_program(model, tmp_path / "n.pt2", (a[:1], b[:1])).any_batch
    with pytest.raises(ConfigError, match="x: 1 tensors; expected: 2"):
        fast(a)


X = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (X, "missing 1 required positional argument: 'right'"),
        ((X, 3), r"example: a tuple \(0: \(2, 3, 8, 8\) float32, 1: 3\); expected: images"),
        ({"left": X, "right": X}, r"example: a dict \(left: \(2, 3, 8, 8\) float32, .*; expected: images"),
        ((X, X.long()), r"1: \(2, 3, 8, 8\) int64\); expected"),
        ((), r"example: \(\); expected"),
    ],
)
def test_wrong_inputs_are_one_short_line(example: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        optimize(Siamese(), example)
    assert len(str(error.value).splitlines()) == 1


class Branching(nn.Module):
    """Chooses by its input, which no graph can."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(3, 8, 3), kind

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "numpy":
            return torch.as_tensor(y.numpy())
        return y * 2 if (y.sum() > 0 if self.kind == "if" else float(y.mean()) > 0) else y


@pytest.mark.parametrize("kind", ["if", "float", "numpy"])
def test_a_network_that_cannot_be_captured_is_one_line(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"model: torch\.export cannot capture this network") as error:
        optimize(Branching(kind).eval(), X)
    sys.stderr.flush()
    assert capfd.readouterr() == ("", "")
    assert len(str(error.value).splitlines()) == 1
