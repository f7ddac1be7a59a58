"""Whether the passes in Triton work here: tried once for each device and type, against those in plain torch.

Triton compiles on the machine it runs on, and there may be no C compiler, no Python headers, or a GPU that it does not
know. Then the network runs layer by layer, and one RuntimeWarning says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from senet.kernels import passes

HAS_TRITON = find_spec("triton") is not None

# Of the largest element: some roundings of sums, one of a map.
SUMS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
MAPS = SUMS | {torch.bfloat16: 2**-7, torch.float16: 2**-10}

_answers: dict[tuple[torch.device, torch.dtype], bool] = {}
_lock = Lock()


def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton's passes run for maps of this type on this device, and give what they should.

    While a CUDA graph is captured or a compiler looks on nothing can be tried; without an earlier answer it is True.
    """
    if not HAS_TRITON or dtype not in MAPS:
        return False
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return _earlier(device, dtype)
    is_captured = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if is_captured or (device, dtype) in _answers:
        return _earlier(device, dtype)
    with _lock:
        if (device, dtype) not in _answers:
            why = _fault(device, dtype)
            _answers[device, dtype] = not why
            if why:
                warnings.warn(
                    f"Triton's kernels are not used on {device} for {dtype} ({why}); networks run layer by layer there",
                    RuntimeWarning,
                    stacklevel=2,
                )
    return _answers[device, dtype]


def _earlier(device: torch.device, dtype: torch.dtype) -> bool:
    return _answers.get((device, dtype), True)


# What `torch.compiler.assume_constant_result` sets, but for the import of the compiler: what is compiled stays compiled
# when an answer comes.
_earlier._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _fault(device: torch.device, dtype: torch.dtype) -> str:
    """What is wrong with Triton's passes, "" for nothing."""
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
        return "they need a GPU from Volta on"
    try:
        from senet.kernels import triton_passes

        with torch.inference_mode(False), torch.no_grad():
            for last in (False, True):
                found = _results(triton_passes, device, dtype, last)
                wanted = _results(passes, torch.device("cpu"), torch.float64, last)
                for (name, mine), (_, right) in zip(found, wanted, strict=True):
                    tolerance = (MAPS if mine.dim() > 2 else SUMS)[dtype]
                    if not (mine.cpu().double() - right).abs().max() <= tolerance * right.abs().max():
                        return f"{name} is wrong"
    # Whatever a compiler, a driver or a library has to say.
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[-1]}"
    return ""


def _results(p: Any, device: torch.device, dtype: torch.dtype, last: bool) -> Iterator[tuple[str, Tensor]]:
    """What each pass gives for numbers that are quarters, so exact in every type, with where it is from.

    No pass is given what another one found, so that it is judged by itself.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    order = torch.channels_last if last else torch.contiguous_format

    def drawn(*shape: int) -> Tensor:
        return (torch.randint(-8, 9, shape, generator=generator, device="cpu") / 4).to(device, wide)

    n, c, positions = 2, 24, 35
    x, e, g, y = (drawn(n, c, 5, 7).to(dtype, memory_format=order) for _ in range(4))
    mu, a, beta, r, b0, b1 = (drawn(c) for _ in range(6))
    T0, T1, s, dz, z0, most = (drawn(n, c) for _ in range(6))
    m2, var = z0.square(), mu.square() + 1
    calls = {
        "moments": (x, a),
        "combine": (z0, m2, positions),
        "normalise": (z0, mu, var, a, beta, 1e-5),
        "apply": (x, e, mu, a, beta, s, True),
        "gate_gradient": (T0, T1, a, beta),
        "sums": (T0, T1, s, dz, z0, mu),
    }
    for name, arguments in calls.items():
        out = getattr(p, name)(*arguments)
        yield from ((name, t) for t in ([out] if isinstance(out, Tensor) else out))
    yield from (("reduce", t) for t in p.reduce(g, x, y, mu, a, beta, s, most, relu=True, keep=True))
    yield "input_gradient", p.input_gradient(g, x, mu, a, beta, r, s, dz, None, None, b0, b1, n * positions, relu=True)
