"""Small pictures inside the page: PNG by the standard library alone."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable

MOST_BYTES = 2_500_000
"""Of all pictures of a page together, so that it stays well under 5 MB."""


def data_uri(width: int, height: int, pixels: bytes) -> str:
    """A PNG as a data URI, from grey pixels (height * width bytes) or RGB ones (three times as many), row by row.

    >>> data_uri(1, 1, b"\\x00")[:30]
    'data:image/png;base64,iVBORw0K'
    """
    colours = len(pixels) // (width * height)
    row = width * colours
    lines = b"".join(b"\0" + pixels[y * row : (y + 1) * row] for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[colours], 0, 0, 0)
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def within(thumbnail: Callable[[int], str | None], most: int = MOST_BYTES) -> Callable[[int], str | None]:
    """The same pictures until they are so many bytes together, then none."""
    used = 0

    def picture(index: int) -> str | None:
        nonlocal used
        if used >= most:
            return None
        found = thumbnail(index)
        used += len(found or "")
        return found

    return picture
