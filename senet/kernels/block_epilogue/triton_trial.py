"""A trial of the Triton passes on a device: do they run there, and agree with `reference.py`?

Triton compiles on the machine it runs on. There may be no C compiler, no Python headers, or an unsupported GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from senet.kernels.block_epilogue import reference
from senet.kernels.block_epilogue.reference import Affine

SUMS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
"""Tolerance of sums, relative to the largest element: a few roundings."""

MAPS = SUMS | {torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Tolerance of feature maps: one rounding of their dtype."""


def fault(device: torch.device, dtype: torch.dtype, passes: Any = None) -> str:
    """Run every pass once on small inputs and say what is wrong: "" if nothing, else one line.

    Args:
        device: where to run.
        dtype: of the feature maps.
        passes: module with the passes; None for `triton.py`.
    """
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
        return "they need a GPU of compute capability 7.0 or above"
    try:
        if passes is None:
            from senet.kernels.block_epilogue import triton as passes
        with torch.inference_mode(False), torch.no_grad():
            for last in (False, True):
                found = _results(passes, device, dtype, last)
                wanted = _results(reference, torch.device("cpu"), torch.float64, last)
                for (name, value), (_, right) in zip(found, wanted, strict=True):
                    tolerance = (MAPS if value.dim() > 2 else SUMS)[dtype]
                    if not (value.cpu().double() - right).abs().max() <= tolerance * right.abs().max():
                        return f"{name} is wrong"
    # A compiler, a driver or a library may raise anything.
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[-1]}"
    return ""


def _results(passes: Any, device: torch.device, dtype: torch.dtype, last: bool) -> Iterator[tuple[str, Tensor]]:
    """Results of each pass, with its name. Inputs are quarters, so exact in every dtype.

    No pass takes the result of another, so each is judged by itself.
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
    f = Affine(mu, a, beta, s)
    calls = {
        "moments": (x, a),
        "combine": (z0, z0.square(), positions),
        "normalise": (z0, mu, mu.square() + 1, a, beta, 1e-5),
        "apply": (x, e, f, True),
        "gate_gradient": (T0, T1, f),
        "sums": (T0, T1, f, dz, z0),
    }
    for name, arguments in calls.items():
        out = getattr(passes, name)(*arguments)
        yield from ((name, t) for t in ([out] if isinstance(out, Tensor) else out))
    yield from (("reduce", t) for t in passes.reduce(g, x, y, f, most, relu=True, keep=True))
    dx = passes.input_gradient(g, x, f, r, dz, None, None, b0, b1, n * positions, relu=True)
    yield "input_gradient", dx
