"""Who computes an operation on this machine: Triton, C or torch. Other files ask here.

    operation                              GPU, if asked for         CPU, float32, C compiler     anywhere else
    block epilogue of `fuse_`              triton                    c                            reference, layers
    1x1 convolution and block epilogue     triton                    c                            torch
    3x3 convolution of stride 1            torch                     c, where it is faster        torch
    depthwise convolution                  torch                     c                            torch
    grouped or strided 1x1, first layer    torch                     c                            torch
    pooling over windows                   torch                     c                            torch

"reference" is the fused algebra in plain torch, "layers" one layer after the other, as if not fused: on a GPU without
Triton the layers are faster. `table()` prints what holds here for the first three.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from threading import Lock
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from senet.kernels.block_epilogue import c as c_passes
from senet.kernels.block_epilogue import reference
from senet.kernels.cc import THREADS, are_there

Kernel = Literal["triton", "c", "reference", "layers", "torch"]

HAS_TRITON = find_spec("triton") is not None

SMALL = 2**25
"""Products of a convolution up to which the one in C is taken: oneDNN is 1.04 times as fast, but its call is slower."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Dtypes of feature maps that the fused block epilogue takes."""

WIDEST = 2048
"""Input channels up to which the 1x1 convolution in C is faster than oneDNN: rows of a tile stay in the first cache."""


def block_epilogue(device: torch.device, dtype: torch.dtype) -> Kernel:
    """Who computes the block epilogues of a fused network: "triton", "c", "reference" or "layers"."""
    if device.type == "cuda":
        return "triton" if triton_works(device, dtype) else "layers"
    if device.type == "cpu" and dtype == torch.float32 and c_passes.available():
        return "c"
    return "reference" if dtype in DTYPES else "layers"


def is_fused(x: Tensor) -> bool:
    """Whether the fused operation takes a feature map: everywhere but on a GPU where Triton does not work."""
    # No more than this: `torch.compile` traces it.
    return x.dtype in DTYPES and (not x.is_cuda or triton_works(x.device, x.dtype))


def passes(x: Tensor) -> ModuleType:
    """The module with the passes of the block epilogue for a feature map: `triton`, `c` or `reference`."""
    kernel = block_epilogue(x.device, x.dtype)
    if kernel == "triton":
        from senet.kernels.block_epilogue import triton

        return triton
    return c_passes if kernel == "c" and c_passes.is_dense(x) else reference


def conv1x1(device: torch.device, dtype: torch.dtype, channels: int, *, gpu_kernels: bool = False) -> Kernel:
    """Who computes a 1x1 convolution with its epilogue in `senet.optimize`: "triton", "c" or "torch".

    Args:
        device: of the network.
        dtype: of its weights.
        channels: input channels of the convolution.
        gpu_kernels: use our kernels on a GPU.
    """
    if device.type == "cuda" and gpu_kernels:
        return "triton"
    return "c" if channels <= WIDEST and c_convolutions(device, dtype) else "torch"


def is_fast(weight: Tensor, positions: int) -> bool:
    """Whether a 1x1 convolution in C takes Strassen's algorithm, with an eighth fewer products.

    Measured on feature maps of 7 to 56 pixels. Its weights are 1.75 times as large, which does not pay where registers
    are narrower than 512 bits.

    Args:
        weight: (C, K, 1, 1).
        positions: of the output, of one image.
    """
    from senet.kernels.conv1x1.c import panel, takes_fast

    channels, inputs = weight.shape[:2]
    is_large = min(channels, inputs) >= 256 and positions >= 32
    return is_large and panel() >= 32 and takes_fast(weight)


def conv3x3(weight: Tensor, positions: int, tiles: int, groups: int = 1) -> Kernel:
    """Who computes a 3x3 convolution of stride 1 in `senet.optimize`: "c", by Winograd's algorithm, where it is faster.

    Measured against oneDNN on feature maps of 2 to 56 pixels. Winograd's algorithm costs 36 products per tile, its
    transforms, and the time to read weights four times as large if no cache holds them; direct convolution costs 9
    products per position.

    Args:
        weight: (C, K / groups, 3, 3).
        positions: of the output, over all images of a batch.
        tiles: of 4x4 outputs, over all images of a batch.
        groups: of the convolution.
    """
    if not c_convolutions(weight.device, weight.dtype):
        return "torch"
    channels, inputs = len(weight) // groups, weight.shape[1]
    if groups > 1:
        # Against `direct`; few tiles do not pay for reading the weights.
        return "c" if min(channels, inputs) >= 8 and tiles >= max(16, weight.numel() >> 14) else "torch"
    from senet.kernels.conv3x3.c import lanes

    if channels % lanes() or inputs % lanes() or min(channels, inputs) < 16:
        return "torch"
    reading = 432 if channels * inputs > 32768 else 0
    return "c" if 47 * tiles + reading < 9 * positions else "torch"


def direct(weight: Tensor, groups: int, positions: int) -> Kernel:
    """Who computes another convolution in `senet.optimize`: "torch", or "c".

    That is for groups, a network's first layer, 1x1 convolutions, and small ones; and with several threads all, for
    kernels of torch wait for each of them. With one thread oneDNN is 2 to 10 % faster in the others.

    Args:
        weight: (C, K / groups, A, B).
        groups: of the convolution.
        positions: of the output, over all images of a batch.
    """
    is_few = groups > 1 or weight.shape[1] <= 4 or weight.shape[2:] == (1, 1)
    is_small = weight.numel() * positions <= SMALL
    is_c = is_few or is_small or torch.get_num_threads() > 1
    return "c" if is_c and c_convolutions(weight.device, weight.dtype) else "torch"


def is_joined(inputs: int, channels: int, positions: int) -> bool:
    """Whether a 1x1 convolution in C is computed row by row inside of the depthwise one that reads it.

    It is faster if the feature map between them, of one image, does not fit the second cache, and the weights fit the
    first ones: they are read again for each row.
    """
    return channels * positions >= 2**17 and inputs * channels <= 2**14


def c_convolutions(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the convolutions in C run: in float32 on a CPU with a C compiler."""
    if device.type != "cpu" or dtype != torch.float32:
        return False
    from senet.kernels.conv1x1 import c as conv1x1_c
    from senet.kernels.conv3x3 import c as conv3x3_c
    from senet.kernels.depthwise import c as depthwise_c
    from senet.kernels.direct import c as direct_c
    from senet.kernels.gates import c as gates_c
    from senet.kernels.pool import c as pool_c

    kernels = gates_c, conv1x1_c, conv3x3_c, depthwise_c, direct_c, pool_c
    return are_there((*(c.SOURCE for c in kernels), THREADS))


def table() -> str:
    """A table of who computes what on the devices of this machine, as text to print."""
    lines = [("device", "dtype", "fused block epilogue", "1x1 convolution", "3x3 convolution")]
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for device in map(torch.device, devices):
        for dtype in DTYPES:
            w = torch.empty(64, 64, 3, 3, dtype=dtype, device=device)
            kernels = block_epilogue(device, dtype), conv1x1(device, dtype, 64, gpu_kernels=True), conv3x3(w, 3136, 196)
            lines.append((str(device), str(dtype).removeprefix("torch."), *kernels))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


# Triton on a GPU.

_works: dict[tuple[torch.device, torch.dtype], bool] = {}
_lock = Lock()


def triton_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the Triton passes run on a GPU and are right, by one trial for each device and dtype.

    If they are not, a RuntimeWarning says why. While a CUDA graph is captured or a compiler traces nothing can be
    tried: without an earlier answer it is then True.
    """
    if not HAS_TRITON or dtype not in DTYPES:
        return False
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return _earlier(device, dtype)
    if (device, dtype) in _works or torch.cuda.is_current_stream_capturing():
        return _earlier(device, dtype)
    with _lock:
        if (device, dtype) not in _works:
            from senet.kernels.block_epilogue.triton_trial import fault

            why = fault(device, dtype)
            _works[device, dtype] = not why
            if why:
                warnings.warn(
                    f"Triton kernels are not used on {device} for {dtype} ({why}); networks run layer by layer there",
                    RuntimeWarning,
                    stacklevel=2,
                )
    return _works[device, dtype]


def _earlier(device: torch.device, dtype: torch.dtype) -> bool:
    return _works.get((device, dtype), True)


# What `torch.compiler.assume_constant_result` sets, without importing the compiler: a later answer recompiles nothing.
_earlier._dynamo_marked_constant = True  # type: ignore[attr-defined]


def conv1x1_call(h: Tensor) -> Kernel:
    """Who computes one call of `torch.ops.senet.conv1x1` on a feature map: "triton" or "torch".

    Triton's matrix products need channels-last in 32 or 16 bits, and an Nvidia GPU of compute capability 8.0 or above,
    or one of AMD's.
    """
    takes = h.is_cuda and h.dtype in DTYPES[:3] and h.is_contiguous(memory_format=torch.channels_last)
    if not takes or torch.cuda.get_device_capability(h.device) < (8, 0) or not triton_works(h.device, h.dtype):
        return "torch"
    return "triton"
