"""Whether Triton's passes work: said once for each device and type, and what it means for a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from senet.kernels import probe
from tests.kernels.buffers import Buffers

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PASSES = ("moments", "combine", "normalise", "apply", "reduce", "gate_gradient", "sums", "input_gradient")


@pytest.fixture(autouse=True)
def unasked() -> Iterator[None]:
    before = dict(probe._answers)
    probe._answers.clear()
    yield
    probe._answers.clear()
    probe._answers.update(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_works_here(dtype: torch.dtype, device: torch.device) -> None:
    state = torch.get_rng_state()
    with torch.inference_mode():
        assert probe.works(device, dtype)
    assert torch.equal(torch.get_rng_state(), state)
    assert probe._answers == {(device, dtype): True}


def test_other_types_have_no_kernels(device: torch.device) -> None:
    assert not probe.works(device, torch.int32)


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_that_is_wrong_is_seen(name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    from senet.kernels import triton_passes

    right: Any = getattr(triton_passes, name)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        found = right(*args, **kwargs)
        last = found if isinstance(found, torch.Tensor) else found[-1]
        last.view(-1)[-1] = torch.nan if name == "reduce" else last.max() + 1
        return found

    monkeypatch.setattr(triton_passes, name, wrong)
    with pytest.warns(
        RuntimeWarning, match=rf"not used on {device} for torch.bfloat16 \({name} is wrong\); networks run"
    ):
        assert not probe.works(device, torch.bfloat16)
    # Said once: warnings are errors here.
    assert not probe.works(device, torch.bfloat16)


def test_a_pass_that_cannot_run_says_why(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    from senet.kernels import triton_passes

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a long story\nFailed to find C compiler")

    monkeypatch.setattr(triton_passes, "sums", fails)
    with pytest.warns(RuntimeWarning, match=r"\(RuntimeError: Failed to find C compiler\)"):
        assert not probe.works(device, torch.float32)


def test_nothing_is_tried_where_nothing_can_be(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_fault", lambda *of: pytest.fail("tried"))

    def asked(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if probe.works(x.device, x.dtype) else x - 1

    compiled, x = torch.compile(asked, fullgraph=True, backend="eager"), torch.zeros(1, device=device)
    for answer in (True, False):
        assert compiled(x) == (1 if answer else -1)
        with FakeTensorMode():
            assert probe.works(x.device, torch.float32) is answer
        probe._answers[x.device, torch.float32] = False
        torch.compiler.reset()
    with FakeTensorMode():
        assert probe.works(x.device, torch.float16)


def test_an_answer_that_comes_later_compiles_nothing_anew(device: torch.device) -> None:
    seen: list[Any] = []

    def asked(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if probe.works(x.device, x.dtype) else x - 1

    compiled = torch.compile(asked, fullgraph=True, backend=lambda graph, _: seen.append(graph) or graph)
    for answers in ({}, {(device, torch.float32): True}):
        probe._answers.update(answers)
        assert compiled(torch.zeros(1, device=device)) == 1
    assert len(seen) == 1


def test_on_a_gpu_where_they_fail_networks_run_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    from senet.kernels import fuse
    from senet.training.run import kernels

    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    x = torch.zeros(1, 2, 3, 3)
    for works in (True, False):
        monkeypatch.setattr(probe, "works", lambda *of, works=works: works)
        for everywhere in (True, False):
            assert fuse._is_meant(x, everywhere) is works
    with Buffers(lambda *of, **options: x):
        assert [kernels(torch.device("cuda"), fused, "bf16") for fused in ("auto", "yes", "no")] == ["none"] * 3
