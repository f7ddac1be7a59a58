"""CUDA graphs: wrong calls are refused anywhere; that replays are right needs a GPU."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from torch import Tensor, nn

from senet import create_model
from senet.errors import ConfigError
from senet.kernels.cuda_graph import CudaGraphed

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")


def test_refused_without_a_gpu() -> None:
    with pytest.raises(ConfigError, match="x: on cpu; expected: a tensor on a CUDA device"):
        CudaGraphed(nn.Identity(), torch.zeros(1))
    with pytest.raises(ConfigError, match="limit: 0 is too small; expected: 1 or above"):
        CudaGraphed(nn.Identity(), torch.zeros(1), limit=0)


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
def test_threads_take_turns_and_inference_mode_is_no_matter() -> None:
    model = nn.Conv2d(3, 4, 1).cuda().eval()
    with torch.inference_mode():
        graphed = CudaGraphed(model, images(2))
    found: dict[int, Tensor] = {}
    threads = [Thread(target=lambda i=i: found.update({i: graphed(images(2, i))})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for i, y in found.items():
            torch.testing.assert_close(y, model(images(2, i)))


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
