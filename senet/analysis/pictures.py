"""Small pictures inside the page."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO

from PIL import Image

from senet.analysis.images import pixels
from senet.data import Split
from senet.recipes.recipe import DataRecipe

SIDE = 96
"""Largest width and height of a picture, in pixels."""

MOST_BYTES = 2_500_000
"""Of all pictures of a page together, so that it stays below 5 MB."""


def thumbnails(split: Split, recipe: DataRecipe, most_bytes: int = MOST_BYTES) -> Callable[[int], str | None]:
    """Return a function from an image's number to a data URI of it, cropped and resized as for the network.

    Args:
        split: The images.
        recipe: How they are prepared.
        most_bytes: Once the pictures take this many bytes together, the function returns None.
    """
    used = 0

    def thumbnail(index: int) -> str | None:
        nonlocal used
        if used >= most_bytes:
            return None
        found = data_uri(Image.fromarray(pixels(split, recipe, index).permute(1, 2, 0).squeeze(2).numpy()))
        used += len(found)
        return found

    return thumbnail


def data_uri(image: Image.Image, side: int = SIDE) -> str:
    """An image, at most `side` pixels wide and high, as a data URI; a small one without loss."""
    image.thumbnail((side, side))
    file = BytesIO()
    image.save(file, "WEBP", lossless=max(image.size) <= SIDE // 2, quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
