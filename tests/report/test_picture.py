"""Pictures inside the page, read back by another library."""

from __future__ import annotations

import base64
from io import BytesIO

import pytest
from PIL import Image

from senet.report.picture import data_uri, within


@pytest.mark.parametrize(("mode", "colours"), [("L", 1), ("RGB", 3)])
def test_a_picture_is_read_back(mode: str, colours: int) -> None:
    pixels = bytes((7 * i) % 256 for i in range(5 * 3 * colours))
    kind, _, text = data_uri(5, 3, pixels).partition(",")
    image = Image.open(BytesIO(base64.b64decode(text)))
    assert kind == "data:image/png;base64"
    assert (image.size, image.mode, image.tobytes()) == ((5, 3), mode, pixels)


def test_pictures_end_where_the_room_does() -> None:
    picture = within(lambda i: "x" * 40 if i else None, most=100)
    assert [picture(i) is not None for i in (0, 1, 2, 3, 4)] == [False, True, True, True, False]
