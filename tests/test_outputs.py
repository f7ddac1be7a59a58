"""What networks return is taken apart and put together again, whatever it is."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from senet.errors import ConfigError
from senet.outputs import describe, fill, logits_of, named_tensors, tensors

Pair = namedtuple("Pair", ["logits", "aux"])


@dataclass
class Answer:
    """What Hugging Face's networks return, in short."""

    loss: Tensor | None
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Frozen:
    """One without `__dict__`."""

    scores: Tensor
    name: str = "x"


Z, U = torch.ones(2, 5), torch.ones(2, 8, 4, 4)
OUTPUTS: dict[str, tuple[Any, list[str]]] = {
    "tensor": (Z, [""]),
    "tuple": ((Z, U), ["0", "1"]),
    "list": ([U, [Z]], ["0", "1.0"]),
    "dict": ({"logits": Z, "map": U, "loss": None}, ["logits", "map"]),
    "ordered": (OrderedDict(out=Z), ["out"]),
    "named tuple": (Pair(Z, torch.zeros(2, 5)), ["logits", "aux"]),
    "dataclass": (Answer(None, Z, (U, U)), ["logits", "hidden.0", "hidden.1"]),
    "slots": (Frozen(Z), ["scores"]),
    "object": (SimpleNamespace(logits=Z, inner=SimpleNamespace(u=U)), ["logits", "inner.u"]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_apart_and_together(kind: str) -> None:
    out, names = OUTPUTS[kind]
    assert [name for name, _ in named_tensors(out)] == names
    assert logits_of(out) is Z
    new = fill(out, (t + 1 for t in tensors(out)))
    assert type(new) is type(out)
    assert [name for name, _ in named_tensors(new)] == names
    assert all(torch.equal(a, b + 1) for a, b in zip(tensors(new), tensors(out), strict=True))
    assert tensors(out)[0].min() == 1
    plain = fill(out, iter(tensors(out)), plain=True)
    assert [name for name, _ in named_tensors(plain)] == (names if kind != "named tuple" else ["logits", "aux"])
    assert type(plain) in (Tensor, tuple, list, dict)


def test_an_object_that_refers_to_itself() -> None:
    out = SimpleNamespace(logits=Z)
    out.me = out
    assert [name for name, _ in named_tensors(out)] == ["logits"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ((Z, Z), r"a tuple \(0: \(2, 5\) float32, 1: \(2, 5\) float32\); expected: logits"),
        ({"out": U}, r"a dict \(out: \(2, 8, 4, 4\) float32\); expected"),
        (None, "returns None; expected"),
        ({}, "returns {}; expected"),
    ],
)
def test_no_logits(out: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"model: returns {message}" if "returns" not in message else message):
        logits_of(out)


def test_a_description_is_short() -> None:
    assert describe(torch.zeros(99, 99)) == "(99, 99) float32"
    assert len(describe({str(i): torch.zeros(99, 99) for i in range(50)})) < 140
    assert len(describe("x" * 1000)) < 90
