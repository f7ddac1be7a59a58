"""Memory in pages of 2 MiB: reading weights from pages of 4 KiB takes 1.6 times as long."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from math import prod

import torch
from torch import Tensor

PAGE = 2**21
"""Bytes of a large page."""


class Arena:
    """Memory for tensors that live about as long as each other, in large pages where the system offers them."""

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.float32, device="cpu")

    def take(self, size: int) -> Tensor:
        """New float32 memory, at an address that is a multiple of 64."""
        whole = -(-size // 16) * 16
        if len(self._chunk) < whole:
            self._chunk = _chunk(max(whole, PAGE // 4))
        taken, self._chunk = self._chunk[:size], self._chunk[whole:]
        return taken

    def copy(self, x: Tensor) -> Tensor:
        """A copy of a dense tensor of float32, with the same strides."""
        return self.take(x.numel()).as_strided(x.shape, x.stride()).copy_(x)


def is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether a tensor's numbers lie side by side, in any order of its axes."""
    axes = sorted((s, d) for s, d in zip(stride, shape, strict=True) if d != 1)
    return all(s == prod(d for _, d in axes[:i]) for i, (s, _) in enumerate(axes))


def _chunk(size: int) -> Tensor:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.float32, device="cpu")
    # Rounded up to whole pages, and one more, since the first may begin late.
    room = mmap.mmap(-1, (-(-4 * size // PAGE) + 1) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of a kernel without large pages
        room.madvise(mmap.MADV_HUGEPAGE)
    floats = torch.frombuffer(room, dtype=torch.float32)
    skip = -floats.data_ptr() % PAGE // 4
    return floats[skip : skip + -(-4 * size // PAGE) * PAGE // 4]
