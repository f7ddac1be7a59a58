"""A 1x1 convolution whose epilogue holds gates, bias, sum and ReLU: the end of a block in inference, in one pass.

    y = relu(s (W h + b) + e)   a bottleneck's expansion with its batch norm folded, its unit, and the shortcut

    from senet.kernels.conv1x1 import conv1x1           or, once it is imported, torch.ops.senet.conv1x1

It is an operation of torch.library, so compilers and CUDA graphs see it whole. `h` (N, K, H, W), `weight` (C, K) or
(C, K, 1, 1), `bias` (C), `s` (N, C), `e` (N, C, H, W); all but h and weight may be None. The result (N, C, H, W) has
h's dtype, and is channels-last where h is. weight has h's dtype, the others any.

On a channels-last CUDA tensor of float32, bfloat16 or float16 the first call of a shape times two ways, and the process
keeps the faster: one Triton kernel, or cuDNN and one pass after it. So the first call must not be one that a CUDA graph
captures, or the kernel is taken untimed, as under torch.use_deterministic_algorithms. In float32 the kernel computes in
float32; cuDNN may in TF32, as torch.backends.cudnn says. All other tensors, those of a CPU among them, take the second.

Raises ConfigError for shapes, dtypes or devices that do not fit, and, since there is no gradient, where one is asked
for.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.errors import ConfigError
from senet.kernels import passes
from senet.kernels.ops import passes_for

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
    """`relu(s (W h + b) + e)`, `(N, K, H, W) -> (N, C, H, W)`; shapes, errors and choices as this file says.

    >>> h, s = torch.ones(1, 2, 1, 1), torch.tensor([[0.5]])
    >>> conv1x1(h, torch.tensor([[1.0, 2.0]]), torch.tensor([1.0]), s, relu=True).item()
    2.0
    """
    _check(h, weight, bias, s, e)
    return choose(h, weight, bias, s, e, relu)(h, weight, bias, s, e, relu)


def choose(
    h: Tensor, weight: Tensor, bias: Tensor | None, s: Tensor | None, e: Tensor | None, relu: bool
) -> Callable[..., Tensor]:
    """The faster function for arguments like these, timed once per process: the Triton kernel or `separate`.

    Where the kernel cannot run here a RuntimeWarning says why, and it is `separate`.
    """
    if not suits_kernel(h):
        return separate
    from senet.kernels.triton_conv1x1 import conv1x1 as fused

    present = (bias is not None, s is not None, e is not None)
    key = (h.device, h.dtype, h.shape, weight.shape[0], present, relu)
    if key not in _chosen:
        if torch.cuda.is_current_stream_capturing() or torch.are_deterministic_algorithms_enabled():
            return fused
        arguments = h, weight, bias, s, e, relu
        with torch.cuda.device_of(h):
            apart = _time_ms(lambda: separate(*arguments))
            try:
                together = _time_ms(lambda: fused(*arguments))
            # Whatever Triton's compiler or the driver has to say.
            except Exception as error:
                together = math.inf
                why = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[-1]}"
                text = f"senet::conv1x1 runs without its Triton kernel, which failed on {h.device} ({why})"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            _chosen[key] = fused if together < apart else separate
    return _chosen[key]


_chosen: dict[tuple, Callable[..., Tensor]] = {}


def suits_kernel(h: Tensor) -> bool:
    """Whether the Triton kernel takes this map: its matrix products need an Nvidia GPU from Ampere on, or AMD's."""
    return (
        h.is_cuda
        and passes_for(h) is not passes
        and h.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and _format(h) == torch.channels_last
        and torch.cuda.get_device_capability(h.device) >= (8, 0)
    )


def separate(h: Tensor, weight: Tensor, bias: Tensor | None, s: Tensor | None, e: Tensor | None, relu: bool) -> Tensor:
    """torch's convolution, and all that follows it in one pass, `apply`."""
    u = F.conv2d(h, weight.reshape(*weight.shape[:2], 1, 1))
    return passes_for(h).apply(u, e, None, None, bias, s, relu).contiguous(memory_format=_format(h))


def _time_ms(run: Callable[[], Tensor], repeats: int = 9, calls: int = 5) -> float:
    """Median time of a call in milliseconds, after as many to warm up."""
    times = []
    for _ in range(2 * repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / calls)
    return median(times[repeats:])


def _format(h: Tensor) -> torch.memory_format:
    return torch.channels_last if h.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def _check(h: Tensor, weight: Tensor, bias: Tensor | None, s: Tensor | None, e: Tensor | None) -> None:
    if h.dim() != 4:
        raise ConfigError(f"h: a map (N, K, H, W) is asked for; this one is {tuple(h.shape)}")
    n, k, height, width = h.shape
    c = weight.shape[0]
    for name, tensor, legal in (
        ("weight", weight, ((c, k), (c, k, 1, 1))),
        ("bias", bias, ((c,),)),
        ("s", s, ((n, c),)),
        ("e", e, ((n, c, height, width),)),
    ):
        if tensor is None:
            continue
        if tuple(tensor.shape) not in legal:
            says = " or ".join(str(tuple(map(int, shape))) for shape in legal)
            raise ConfigError(f"{name}: shape {tuple(tensor.shape)} does not fit h {tuple(h.shape)}; expected: {says}")
        if tensor.device != h.device:
            raise ConfigError(f"{name}: on {tensor.device}, but h is on {h.device}")
    if weight.dtype != h.dtype:
        raise ConfigError(f"weight: {weight.dtype} does not fit h; expected: {h.dtype}")


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
        "conv1x1: for inference, it has no gradient; call it under torch.no_grad() or torch.inference_mode(), "
        "or train with the network that was not optimized"
    )


conv1x1.register_autograd(_refuse, setup_context=_refuse)
