"""Pictures inside the page, read back."""

from __future__ import annotations

import base64
from io import BytesIO

import pytest
from PIL import Image

from senet.analysis.pictures import data_uri, thumbnails
from senet.data import open_data
from senet.recipes.recipe import DataRecipe


def decoded(uri: str) -> Image.Image:
    kind, _, text = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize(("mode", "colours"), [("L", 1), ("RGB", 3)])
def test_a_small_picture_keeps_its_pixels(mode: str, colours: int) -> None:
    pixels = bytes((7 * i) % 256 for i in range(5 * 3 * colours))
    image = decoded(data_uri(Image.frombytes(mode, (5, 3), pixels)))
    # WebP knows no grey.
    assert (image.size, image.convert(mode).tobytes()) == ((5, 3), pixels)


def test_a_large_picture_is_reduced() -> None:
    assert decoded(data_uri(Image.new("RGB", (300, 150), "red"))).size == (96, 48)


def test_thumbnails_stop_at_the_limit() -> None:
    recipe = DataRecipe(name="digits")
    images = open_data(recipe, 0).val
    first = thumbnails(images, recipe)(0)
    assert first is not None
    assert decoded(first).size == (recipe.image_size, recipe.image_size)
    limited = thumbnails(images, recipe, most_bytes=len(first) + 1)
    assert [limited(0) is None for _ in range(4)] == [False, False, True, True]
