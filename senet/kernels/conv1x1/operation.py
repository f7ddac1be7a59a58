"""A 1x1 convolution with the end of a block as its epilogue, for GPUs in inference: `torch.ops.senet.conv1x1`.

    y = relu(s (W h + b) + e)

An operation of torch.library, so compilers and CUDA graphs treat it as one. By `dispatch.conv1x1_call` it is the Triton
kernel, or cuDNN and one pass after it. In float32 the kernel computes in float32, cuDNN perhaps in TF32, by
`torch.backends.cudnn`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.errors import ConfigError
from senet.kernels import dispatch
from senet.kernels.block_epilogue import reference
from senet.kernels.block_epilogue.reference import Affine

SCHEMA = "(Tensor h, Tensor weight, Tensor? bias=None, Tensor? s=None, Tensor? e=None, bool relu=False) -> Tensor"


@torch.library.custom_op("senet::conv1x1", mutates_args=(), schema=SCHEMA)
def conv1x1(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    s: Tensor | None = None,
    e: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """`relu(s (W h + b) + e)`: (N, K, H, W) -> (N, C, H, W), in h's dtype and memory format.

    Args:
        h: (N, K, H, W).
        weight: (C, K) or (C, K, 1, 1), of h's dtype.
        bias: (C), of any dtype.
        s: (N, C), of any dtype.
        e: (N, C, H, W), of any dtype.
        relu: apply a ReLU.

    Raises:
        ConfigError: shapes, dtypes or devices do not match, or a gradient is required: there is none.

    >>> h, s = torch.ones(1, 2, 1, 1), torch.tensor([[0.5]])
    >>> conv1x1(h, torch.tensor([[1.0, 2.0]]), torch.tensor([1.0]), s, relu=True).item()
    2.0
    """
    _check(h, weight, bias, s, e)
    if dispatch.conv1x1_call(h) == "triton":
        from senet.kernels.conv1x1 import triton

        return triton.conv1x1(h, weight, bias, s, e, relu)
    return separate(h, weight, bias, s, e, relu)


def separate(h: Tensor, weight: Tensor, bias: Tensor | None, s: Tensor | None, e: Tensor | None, relu: bool) -> Tensor:
    """torch's convolution, then bias, gates, sum and ReLU in one pass."""
    u = F.conv2d(h, weight.reshape(*weight.shape[:2], 1, 1))
    # The passes in C take float32 alone.
    passes = dispatch.passes(u) if u.is_cuda else reference
    return passes.apply(u, e, Affine(beta=bias, s=s), relu).contiguous(memory_format=_format(h))


def _format(h: Tensor) -> torch.memory_format:
    return torch.channels_last if h.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def _check(h: Tensor, weight: Tensor, bias: Tensor | None, s: Tensor | None, e: Tensor | None) -> None:
    if h.dim() != 4:
        raise ConfigError(f"h: shape {tuple(h.shape)}; expected: (N, K, H, W)")
    n, k, height, width = h.shape
    c = weight.shape[0]
    for name, tensor, expected in (
        ("weight", weight, ((c, k), (c, k, 1, 1))),
        ("bias", bias, ((c,),)),
        ("s", s, ((n, c),)),
        ("e", e, ((n, c, height, width),)),
    ):
        if tensor is None:
            continue
        if tuple(tensor.shape) not in expected:
            shapes = " or ".join(str(tuple(map(int, shape))) for shape in expected)
            raise ConfigError(f"{name}: shape {tuple(tensor.shape)} with h {tuple(h.shape)}; expected: {shapes}")
        if tensor.device != h.device:
            raise ConfigError(f"{name}: on {tensor.device}; expected: {h.device}, like h")
    if weight.dtype != h.dtype:
        raise ConfigError(f"weight: {weight.dtype}; expected: {h.dtype}, like h")


@conv1x1.register_fake
def _fake(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    s: Tensor | None = None,
    e: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    _check(h, weight, bias, s, e)
    shape = (h.shape[0], weight.shape[0], *h.shape[2:])
    return torch.empty(shape, dtype=h.dtype, device=h.device, memory_format=_format(h))


def _refuse(*args: object, **kwargs: object) -> None:
    raise ConfigError(
        "conv1x1: has no gradient; call it under torch.no_grad() or torch.inference_mode(), or train the network that "
        "was not optimized"
    )


conv1x1.register_autograd(_refuse, setup_context=_refuse)
