"""Who computes what: each choice, by device, dtype and shape."""

from __future__ import annotations

import pytest
import torch

from senet.kernels import cc, dispatch
from tests.compiler import no_compiler

CPU = torch.device("cpu")
HAS_C = cc.compiler() is not None


def test_block_epilogues_on_a_cpu() -> None:
    x = torch.zeros(2, 4, 6, 6)
    assert dispatch.block_epilogue(CPU, torch.float32) == ("c" if HAS_C else "reference")
    assert dispatch.block_epilogue(CPU, torch.bfloat16) == "reference"
    assert dispatch.block_epilogue(CPU, torch.int32) == "layers"
    in_c = "senet.kernels.block_epilogue." + ("c" if HAS_C else "reference")
    assert dispatch.passes(x).__name__ == dispatch.passes(x.to(memory_format=torch.channels_last)).__name__ == in_c
    for other in (x.double(), x.bfloat16(), x[..., ::2], x[:0], x.to("meta")):
        assert dispatch.passes(other).__name__.endswith("reference")
        assert dispatch.is_fused(other)
    assert not dispatch.is_fused(x.int())


def test_1x1_convolutions_on_a_cpu() -> None:
    in_c = "c" if HAS_C else "torch"
    assert dispatch.conv1x1(CPU, torch.float32, 2048) == dispatch.conv1x1(CPU, torch.float32, 1) == in_c
    for dtype, channels in ((torch.float32, 2049), (torch.bfloat16, 64), (torch.float64, 64)):
        assert dispatch.conv1x1(CPU, dtype, channels) == "torch"


# Channels, positions across a square feature map, images.
FASTER = [(16, 32, 128), (64, 56, 1), (128, 28, 1), (256, 14, 1), (512, 7, 8), (64, 8, 1), (512, 3, 128)]
SLOWER = [(512, 7, 1), (256, 4, 1), (512, 3, 1), (64, 2, 128), (36, 56, 1)]


@pytest.mark.parametrize(("c", "size", "n"), FASTER + SLOWER)
def test_3x3_convolutions_where_c_was_measured_to_be_faster(c: int, size: int, n: int) -> None:
    w, positions, tiles = torch.zeros(c, c, 3, 3), n * size**2, n * (-(-size // 4)) ** 2
    faster = HAS_C and (c, size, n) in FASTER
    assert dispatch.conv3x3(w, positions, tiles) == ("c" if faster else "torch")
    assert dispatch.conv3x3(w.double(), positions, tiles) == "torch"


def test_without_a_compiler() -> None:
    with no_compiler():
        with pytest.warns(RuntimeWarning, match=r"passes.c is not compiled \(no C compiler"):
            assert dispatch.block_epilogue(CPU, torch.float32) == "reference"
        with pytest.warns(RuntimeWarning, match=r"gates.c is not compiled \(no C compiler"):
            assert dispatch.conv1x1(CPU, torch.float32, 64) == "torch"
        # Once is enough: warnings are errors here.
        assert dispatch.conv3x3(torch.zeros(64, 64, 3, 3), 3136, 196) == "torch"
        assert dispatch.passes(torch.zeros(2, 4, 6, 6)).__name__.endswith("reference")


@pytest.mark.skipif(not HAS_C, reason="no C compiler")
def test_table() -> None:
    lines = [line.split() for line in dispatch.table().splitlines()[1:]]
    assert lines[:2] == [["cpu", "float32", "c", "c", "c"], ["cpu", "bfloat16", "reference", "torch", "torch"]]
    assert len(lines) == 4 * (1 + torch.cuda.device_count())


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    gpu = torch.device("cuda", 0)
    # Before any trial, and where nothing can be tried, the answer is yes.
    with FakeTensorMode():
        assert dispatch.triton_works(gpu, torch.float16)
    assert not dispatch.triton_works(gpu, torch.int32)
    for dtype in dispatch.DTYPES:
        assert dispatch.triton_works(gpu, dtype)
        assert dispatch.block_epilogue(gpu, dtype) == "triton"
        assert dispatch.passes(torch.zeros(1, 2, 3, 3, device=gpu, dtype=dtype)).__name__.endswith(".triton")
    assert dispatch.conv1x1(gpu, torch.float32, 64) == "torch"
    assert dispatch.conv1x1(gpu, torch.float32, 64, gpu_kernels=True) == "triton"
