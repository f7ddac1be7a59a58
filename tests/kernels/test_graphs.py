"""CUDA graphs: what is refused anywhere; that replays are right needs a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet import create_model
from senet.errors import ConfigError
from senet.kernels.graphs import CudaGraphed

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")


def test_refused_without_a_gpu() -> None:
    with pytest.raises(ConfigError, match="x: on cpu; CUDA graphs need a tensor on a CUDA device"):
        CudaGraphed(nn.Identity(), torch.zeros(1))
    with pytest.raises(ConfigError, match="limit: 0 graphs; at least 1"):
        CudaGraphed(nn.Identity(), torch.zeros(1), limit=0)


class Double(nn.Module):
    """Keeps what it was last called with and gave."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = x, 2 * x
        return self.last[1]


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The captures on a CPU that says it is a GPU; a replay of `Double` takes its time and doubles what lies there."""
    seen: list[Any] = []

    class Graph:
        def replay(self) -> None:
            x, y = double.last
            time.sleep(0.02)
            y.copy_(2 * x)

        def pool(self) -> str:
            return "memory"

    @contextmanager
    def capture(graph: Graph, pool: Any, stream: Any, *, capture_error_mode: str) -> Iterator[None]:
        seen.append((pool, stream, capture_error_mode))
        yield

    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: SimpleNamespace(wait_stream=lambda other: None))
    for name in ("stream", "device_of"):
        monkeypatch.setattr(torch.cuda, name, lambda of: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    double.eval()
    return seen


double = Double()


def test_threads_take_turns(captures: list[Any]) -> None:
    graphed, found = CudaGraphed(double, torch.zeros(3)), {}
    threads = [Thread(target=lambda i=i: found.update({i: graphed(torch.full((3,), float(i)))})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: y.tolist() for i, y in found.items()} == {i: [2 * i] * 3 for i in range(4)}


def test_recorded_in_inference_mode_and_replayed_outside(captures: list[Any]) -> None:
    with torch.inference_mode():
        graphed = CudaGraphed(double, torch.zeros(3))
        assert graphed(torch.ones(3)).tolist() == [2, 2, 2]
    with torch.no_grad():
        assert graphed(torch.ones(3)).tolist() == [2, 2, 2]


def test_captures_share_memory_and_stream_and_let_other_threads_be(captures: list[Any]) -> None:
    graphed = CudaGraphed(double, torch.zeros(3))
    assert graphed(torch.ones(2)).tolist() == [2, 2]
    (first, stream, mode), (second, other, _) = captures
    assert (first, second, mode) == (None, "memory", "thread_local")
    assert stream is other


def images(n: int, seed: int = 0) -> Tensor:
    g = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(n, 3, 32, 32, generator=g, device="cuda")
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@on_gpu
def test_replays_equal_runs_and_outputs_are_copies() -> None:
    model = create_model("se_resnet20", seed=0).cuda().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    graphed = CudaGraphed(model, images(2), limit=2)
    with torch.no_grad():
        for n in (2, 5, 2, 7, 5):  # 7 is beyond the limit
            first, second = graphed(images(n, 1)), graphed(images(n, 2))
            torch.testing.assert_close(first, model(images(n, 1)))
            torch.testing.assert_close(second, model(images(n, 2)))
        assert len(graphed.graphs) == 2
        model.get_parameter("classifier.bias").add_(1)
        torch.testing.assert_close(graphed(images(2)), model(images(2)))


@pytest.mark.gpu
@on_gpu
def test_what_a_graph_cannot_replay_is_refused() -> None:
    graphed = CudaGraphed(nn.Conv2d(3, 4, 1).cuda().eval(), images(2))
    with pytest.raises(ConfigError, match="x: requires a gradient"):
        graphed(images(2).requires_grad_())
    with pytest.raises(ConfigError, match="x: on cpu"):
        graphed(images(2).cpu())
    with torch.autocast("cuda"), pytest.raises(ConfigError, match="autocast: its casts"):
        graphed(images(2))
    with pytest.raises(ConfigError, match="module: in training"):
        graphed.train()(images(2))
