"""Kernels that compute several layers at once, one package per operation. `dispatch.py` picks who computes what.

from senet.kernels import fuse_, unfuse_
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from senet.kernels.fuse import Fusion as Fusion
    from senet.kernels.fuse import fuse_ as fuse_
    from senet.kernels.fuse import unfuse_ as unfuse_

__all__ = ["Fusion", "fuse_", "unfuse_"]


def __getattr__(name: str) -> object:
    # Lazily: other modules here should not wait for the blocks to be imported.
    if name not in __all__:
        raise AttributeError(f"module 'senet.kernels' has no attribute {name!r}")
    from senet.kernels import fuse

    return getattr(fuse, name)
