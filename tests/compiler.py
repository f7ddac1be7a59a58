"""A machine without a C compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from senet.kernels import cc


@contextmanager
def no_compiler() -> Iterator[None]:
    """Nothing is compiled or loaded in here, and a warning says so."""
    cc.library.cache_clear()
    cc.are_there.cache_clear()
    try:
        with patch.dict("os.environ", {"PATH": "", "CC": ""}):
            yield
    finally:
        cc.library.cache_clear()
        cc.are_there.cache_clear()
