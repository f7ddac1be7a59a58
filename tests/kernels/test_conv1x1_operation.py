"""The 1x1 convolution with its epilogue for GPUs against float64: Triton (on a GPU or interpreted), and separate."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from senet.errors import ConfigError
from senet.kernels import dispatch
from senet.kernels.conv1x1.operation import conv1x1, separate

HAS_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Way = Callable[..., Tensor]


@pytest.fixture
def fused(device: torch.device, monkeypatch: pytest.MonkeyPatch, nan_buffers: None) -> Way:
    """The kernel, with its buffers full of NaN before it runs."""
    if device.type == "cpu":
        repair_dot(monkeypatch)
    from senet.kernels.conv1x1 import triton

    return triton.conv1x1


def repair_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter holds bfloat16 as integers and multiplies them as such; widen them before."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    dot = InterpreterBuilder.create_dot

    def wide(builder: InterpreterBuilder, v):  # type: ignore[no-untyped-def]
        return builder.create_fp_ext(v, tl.float32) if v.dtype.scalar == tl.bfloat16 else v

    monkeypatch.setattr(
        InterpreterBuilder, "create_dot", lambda self, a, b, *rest: dot(self, wide(self, a), wide(self, b), *rest)
    )


@pytest.fixture(params=["fused", "separate"])
def way(request: pytest.FixtureRequest) -> Way:
    return separate if request.param == "separate" else request.getfixturevalue("fused")


def tiles(side: int):  # type: ignore[no-untyped-def]
    from senet.kernels.conv1x1.triton import Tiles

    return Tiles(side, side, side, 4, 2)


def draw(n: int, k: int, c: int, height: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """h, weight, bias, s, e."""
    torch.manual_seed(n * k + c)
    shapes = (n, k, height, width), (c, k), (c,), (n, c), (n, c, height, width)
    drawn = [torch.randn(shape, dtype=dtype, device=DEVICE) for shape in shapes]
    return [v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v for v in drawn]


def judge(
    y: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None, s: Tensor | None, e: Tensor | None, relu: bool
) -> None:
    """The definition in float64; the tolerance is two roundings of the sum of all terms without their signs."""

    def right(sign: Callable[[Tensor], Tensor]) -> Tensor:
        def wide(v: Tensor | None, default: float) -> Tensor:
            return torch.full((1, 1), default, device=DEVICE).double() if v is None else sign(v.double())

        gates = wide(s, 1.0)[:, :, None, None]
        u = torch.einsum("ck,nkhw->nchw", wide(weight, 0), wide(h, 0))
        u = (u + wide(bias, 0.0).reshape(1, -1, 1, 1)) * gates
        return u if e is None else u + wide(e, 0.0)

    expected = right(lambda v: v)
    assert y.dtype == h.dtype
    assert y.shape == expected.shape
    error = (y.double() - (expected.relu() if relu else expected)).abs()
    assert (error <= 2 * torch.finfo(h.dtype).eps * right(torch.abs)).all(), error.max()


FLAGS = tuple(itertools.product((False, True), repeat=4))


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "".join("01"[f] for f in flags))
def test_every_combination_of_arguments(way: Way, flags: tuple[bool, ...]) -> None:
    *present, relu = flags
    h, weight, *rest = draw(3, 19, 21, 2, 5, torch.float32)
    optional = [v if given else None for v, given in zip(rest, present, strict=True)]
    more = {} if way is separate else {"tiles": tiles(16)}
    judge(way(h, weight, *optional, relu, **more), h, weight, *optional, relu)


SIZES = (
    (1, 1, 1, 1, 1),
    (2, 3, 5, 1, 1),
    (17, 4, 3, 1, 2),  # eight images to a tile of sixteen positions
    (2, 16, 32, 4, 4),  # one to a tile
    (2, 33, 18, 5, 7),  # tiles that straddle the border, and an end in the middle of a tile
    (5, 7, 17, 6, 5),  # ten rows of tiles: more than a group, less than two
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_odd_sizes_and_dtypes(way: Way, size: tuple[int, ...], dtype: torch.dtype) -> None:
    drawn = draw(*size, dtype)
    more = {} if way is separate else {"tiles": tiles(16)}
    judge(way(*drawn, True, **more), *drawn, True)


def test_tiles_of_its_own_choice(fused: Way) -> None:
    drawn = draw(2, 70, 130, 9, 8, torch.float32)
    judge(fused(*drawn, True), *drawn, True)


def test_nan_and_infinity_stay_where_they_are(way: Way) -> None:
    h, weight, bias, s, e = draw(2, 17, 5, 3, 3, torch.float32)
    h[0, 3, 1, 1] = torch.nan
    e[1, 2, 0, 0] = torch.inf
    y = way(h, weight, bias, s, e, True)
    assert y[0, :, 1, 1].isnan().all()
    assert y.isnan().sum() == 5
    assert y.isinf().sum() == y[1, 2, 0, 0].isinf().sum() == 1


def test_a_sum_beyond_float16_is_gated_before_it_is_rounded(fused: Way) -> None:
    h, weight, _, s, _ = draw(1, 4, 3, 2, 2, torch.float16)
    y = fused(h.fill_(200), weight.fill_(200), None, s.fill_(0.125), None, False)
    # 4 * 200 * 200 / 8, where 160,000 is more than float16 holds.
    assert (y == 20_000).all()


def test_other_layouts_and_dtypes_of_the_small_arguments(way: Way) -> None:
    h, weight, bias, s, e = draw(3, 6, 7, 4, 5, torch.bfloat16)
    arguments = (
        weight[:, :, None, None],
        bias.float().repeat_interleave(2)[::2],
        s.float().t().contiguous().t(),
        e.contiguous(),
    )
    y = way(h, *arguments, True)
    judge(y, h, weight, bias, s, e, True)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_tiles_fill_the_processors() -> None:
    pytest.importorskip("triton")
    from senet.kernels.conv1x1.triton import tiles_of

    # SE-ResNet-50's first and last expansions at batch 256, and the last at batch 1 on 132 multiprocessors.
    assert tiles_of(256 * 56 * 56, 64, 256, torch.bfloat16, 132)[:3] == (128, 64, 64)
    assert tiles_of(256 * 7 * 7, 512, 2048, torch.bfloat16, 132)[:3] == (128, 128, 64)
    assert tiles_of(256 * 7 * 7, 512, 2048, torch.float32, 132)[:3] == (128, 64, 32)
    m, c, *_ = tiles_of(7 * 7, 512, 2048, torch.bfloat16, 132)
    assert m == c == 32
    # Nothing below what tl.dot takes.
    assert tiles_of(1, 1, 1, torch.float16, 132)[:3] == (16, 16, 16)


# A process of its own: here the interpreter may have taken the place of the compiler.
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from senet.kernels.conv1x1.triton import program

for dtype in ("bf16", "fp32"):
    constants = {"RELU": True, "TILE_M": 128, "TILE_C": 64, "TILE_K": 32, "GROUP": 8}
    kinds = dict.fromkeys(("h", "weight", "bias", "s", "e", "y"), "*" + dtype) | dict.fromkeys("MKCP", "i32")
    signature = {name: kinds.get(name, "constexpr") for name in program.arg_names}
    source = ASTSource(program, signature, {(program.arg_names.index(name),): v for name, v in constants.items()})
    options = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": True}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    print(dtype, "wgmma" if "wgmma" in built.asm["ptx"] else "fma", built.metadata.shared <= 232448)
"""


def test_the_kernel_compiles_for_hopper_without_one(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    env = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"} | {
        "TRITON_CACHE_DIR": str(tmp_path)
    }
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, env=env)
    assert done.stdout.splitlines() == ["bf16 wgmma True", "fp32 fma True"], done.stderr


@pytest.fixture(params=["triton", "torch"])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who computes the operation."""
    if request.param == "triton":
        request.getfixturevalue("fused")
    monkeypatch.setattr(dispatch, "conv1x1_call", lambda h: request.param)
    return request.param


@pytest.mark.parametrize("size", [(2, 3, 5, 4, 3), (2, 3, 5, 1, 1), (1, 1, 2, 3, 3)])
def test_operations(chosen: str, size: tuple[int, ...]) -> None:
    drawn = draw(*size, torch.float32)
    judge(conv1x1(*drawn, True), *drawn, True)
    torch.library.opcheck(conv1x1, (*drawn, True))
    torch.library.opcheck(conv1x1, (*drawn[:2],))


def test_operations_compile_in_one_graph(chosen: str) -> None:
    def block(h: Tensor, weight: Tensor, s: Tensor) -> Tensor:
        return conv1x1(conv1x1(h, weight, None, s, None, True), weight, s=s, e=h) + 1

    h, weight, _, s, _ = draw(2, 5, 5, 3, 4, torch.float32)
    torch.testing.assert_close(
        torch.compile(block, fullgraph=True, backend="aot_eager")(h, weight, s), block(h, weight, s)
    )


def test_maps_in_torch_s_first_format_keep_it() -> None:
    drawn = [v.contiguous() for v in draw(2, 6, 4, 3, 5, torch.float32)]
    y = conv1x1(*drawn, True)
    judge(y, *drawn, True)
    assert y.is_contiguous()
    assert dispatch.conv1x1_call(drawn[0]) == "torch"
    torch.library.opcheck(conv1x1, (*drawn, True))


def test_what_does_not_fit_is_refused() -> None:
    h, weight, bias, s, e = draw(2, 3, 5, 4, 4, torch.float32)
    for arguments, says in (
        ((h[0], weight), r"h: shape \(3, 4, 4\); expected: \(N, K, H, W\)"),
        ((h, weight.t()), r"weight: shape \(3, 5\) with h"),
        ((h, weight[:, :, None]), r"expected: \(5, 3\) or \(5, 3, 1, 1\)"),
        ((h, weight, bias[:4]), r"bias: shape \(4,\) with h"),
        ((h, weight, bias, s[:, :4]), r"s: shape"),
        ((h, weight, bias, s, e[:1]), r"e: shape \(1, 5, 4, 4\) with h"),
        ((h, weight.half()), "weight: torch.float16; expected: torch.float32, like h"),
        ((h, weight, bias.to("meta")), "bias: on meta; expected: "),
    ):
        with pytest.raises(ConfigError, match=says):
            conv1x1(*arguments)


@pytest.mark.parametrize("place", range(5))
def test_a_gradient_is_refused(place: int) -> None:
    drawn = draw(1, 2, 3, 2, 2, torch.float32)
    drawn[place].requires_grad_()
    with pytest.raises(ConfigError, match="conv1x1: has no gradient"):
        conv1x1(*drawn)
    with torch.no_grad():
        assert not conv1x1(*drawn).requires_grad


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    drawn = draw(8, 64, 256, 14, 14, torch.float16)
    assert dispatch.conv1x1_call(drawn[0]) == "triton"
    judge(conv1x1(*drawn, True), *drawn, True)
