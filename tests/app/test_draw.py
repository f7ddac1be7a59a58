"""The drawings, judged by numbers placed by hand."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from senet.analysis.switchboard import Averages, Result
from senet.app import draw
from senet.app.draw import View

CLASSES = ("cat", "<dog>", "fish", "owl", "ant", "{bee}")
LABELS = {"a.se": "SE_2_1", "b.se": "SE_3_1"}


def result(*p: float, first: tuple[float, ...] = (0.25, 0.75, 0.5, 1.0)) -> Result:
    return Result(torch.tensor(p).log(), {"a.se": torch.tensor(first), "b.se": torch.tensor([0.5, 0.5])})


BEFORE = result(0.5, 0.25, 0.15, 0.05, 0.04, 0.01)
AFTER = result(0.1, 0.25, 0.15, 0.05, 0.04, 0.41, first=(0.25, 0.75, 0.5, 0.0))


def words(html: str) -> str:
    return " ".join(re.sub("<[^>]*>|&nbsp;", " ", html).split())


def test_the_answer_names_the_five_most_likely() -> None:
    html = draw.answer(View(BEFORE, BEFORE), CLASSES)
    assert words(html) == (
        "cat 50.0 % With all units on. class probability cat 50.0 % &lt;dog&gt; 25.0 % fish 15.0 % owl 5.0 % ant 4.0 %"
    )


def test_the_answer_before_and_after() -> None:
    html = draw.answer(View(BEFORE, AFTER, ("a.se",)), CLASSES)
    assert words(html).startswith("cat 50.0 % → &#123;bee} 41.0 % With all units on, and with 1 of 2 units off.")
    assert "cat 50.0 % 10.0 % −40.0" in words(html)  # noqa: RUF001
    # Not among the first five until the unit is off.
    assert "&#123;bee} 1.0 % 41.0 % +40.0" in words(html)


def test_places_are_over_the_image_and_on_one_scale() -> None:
    """Two by two places; the first speaks for the answer, half as much with the unit off, and the last against it."""
    on, off = (replace(r, places=torch.tensor([[s, 0.0], [0.0, -1.0]])) for r, s in ((BEFORE, 2.0), (AFTER, 1.0)))
    image = torch.zeros(1, 1, 80, 80)
    image[..., 40:] = 1.0
    html = draw.places(View(on, off, ("a.se",)), image, CLASSES)
    assert (
        words(html)
        == "Class activation map: the places that the answer comes from. cat , all units on &#123;bee} , 1 off"
    )
    found = []
    for data in re.findall('src="data:image/webp;base64,([^"]*)"', html):
        pixels = np.array(Image.open(BytesIO(base64.b64decode(data))).convert("RGB"), np.int64)
        assert pixels.shape == (80, 80, 3)
        # Grey where nothing speaks for it: black on the left, light on the right.
        assert pixels[70, 10].max() < 12
        assert np.ptp(pixels[70, 70]) < 12
        assert pixels[70, 70].min() > 190
        found.append(pixels[5, 5])
    # 0.6 of the colour over black, and half of that.
    np.testing.assert_allclose(found, [[150, 69, 14], [75, 34, 7]], atol=8)
    assert draw.places(View(BEFORE, BEFORE), image, CLASSES) == ""


def test_one_dot_for_each_channel_in_the_order_of_the_averages() -> None:
    overall = np.array([0.1, 0.4, 0.3, 0.2], np.float32)
    of_class = np.stack([overall + 0.5 * (k == 0) for k in range(6)])
    averages = Averages({"a.se": of_class}, {"a.se": overall})
    html = draw.gates(View(BEFORE, BEFORE), "a.se", CLASSES, LABELS, averages)
    (dots,) = re.findall('se-dots se-few" d="([^"]*)"', html)
    # Channels 1, 2, 3, 0 with gates 0.75, 0.5, 1, 0.25, measured from the top of 100.
    assert dots == "M125.0 25.00h0M375.0 50.00h0M625.0 0.00h0M875.0 75.00h0"
    (line,) = re.findall('se-line-class" d="([^"]*)"', html)
    assert line == "M125.0 10.00L375.0 20.00L625.0 30.00L875.0 40.00"
    assert "average of cat" in words(html)
    # 1 - 0.7 is the most above the average of cat, 0.25 - 0.6 the most below.
    assert "3 1.000 0.700 +0.300" in words(html)
    assert "0 0.250 0.600 −0.350" in words(html)  # noqa: RUF001
    assert "4 channels, mean gate 0.62, spread 0.28; 0 % closed (below 0.05), 25 % open (above 0.95)." in words(html)


def test_a_class_without_images_has_no_line() -> None:
    averages = Averages({"a.se": np.full((6, 4), np.nan, np.float32)}, {"a.se": np.full(4, 0.5, np.float32)})
    html = draw.gates(View(BEFORE, BEFORE), "a.se", CLASSES, LABELS, averages)
    assert "se-line-all" in html
    assert "se-line-class" not in html
    assert "nan" not in html


def test_what_is_off_is_said_and_what_moved_is_drawn_twice() -> None:
    html = draw.gates(View(BEFORE, AFTER, ("a.se",)), "a.se", CLASSES, LABELS, None)
    assert "Off : its gates, drawn here, are not applied." in words(html)
    assert html.count("<path") == 2
    assert draw.gates(View(BEFORE, AFTER, ("a.se",)), "b.se", CLASSES, LABELS, None).count("<path") == 1


def test_units_by_depth() -> None:
    averages = Averages({}, {"a.se": np.full(4, 0.5, np.float32), "b.se": np.full(2, 0.25, np.float32)})
    html = draw.depth(View(BEFORE, AFTER, ("a.se",)), "b.se", LABELS, averages)
    units = re.findall('<li class="([^"]*)" data-number="(.)" title="([^:]*): mean gate ([^,]*),', html)
    assert units == [("se-unit se-off", "1", "SE_2_1, off", "0.38"), ("se-unit se-chosen", "2", "SE_3_1", "0.50")]
    assert re.findall('se-average" style="bottom:([^%]*)%', html) == ["50.0", "25.0"]


@pytest.mark.parametrize(
    ("gates", "ends"), [((0.2, 0.9), (0, 1)), ((-0.4, 0.9), (-0.5, 1)), ((0.2, 1.6), (0, 2)), ((0.0, 2.1), (0, 2.5))]
)
def test_the_axis_holds_every_gate(gates: tuple[float, float], ends: tuple[float, float]) -> None:
    assert draw._range(np.array(gates)) == ends
