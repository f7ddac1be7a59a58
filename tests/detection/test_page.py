"""The page of a detector's run: examples, curves and AP by class, in HTML that needs no scripts."""

from __future__ import annotations

from dataclasses import replace

from senet.report.render import render
from senet.runs.detection import ClassAP, DetectionEvaluation, Example, Labelled
from tests.report.pages import full

FOUND = DetectionEvaluation(
    images=2,
    objects=3,
    measured={"ap": 31.25, "ap50": 50.0, "ap75": 12.5, "ap_small": None, "ap_medium": 20.0, "ap_large": 60.0},
    recall=(10.0, 20.0, 30.0),
    per_class=(
        ClassAP(name="rare <b>", objects=1, ap=12.5, ap50=20.0),
        ClassAP(name="cat", objects=2, ap=50.0, ap50=80.0),
        ClassAP(name="absent", objects=0, ap=None, ap50=None),
    ),
    curves={"0.50": (1.0, 0.5, 0.0), "0.75": (0.5, 0.25, 0.0)},
    examples=(
        Example(
            file="a.png",
            picture="data:image/png;base64,AA==",
            width=200,
            height=100,
            truth=(Labelled(box=(0.25, 0.5, 0.5, 0.25), name="cat"),),
            found=(Labelled(box=(0.0, 0.0, 1.0, 1.0), name="cat", score=0.875),),
        ),
    ),
    epoch=7,
)


def test_what_the_page_shows() -> None:
    source = render(replace(full(), detection=FOUND))
    section = source[source.index('<section id="detection"') :]
    section = section[: section.index("</section>")]
    # The box in pixels of the picture, and the score of what was found.
    assert 'x="50.0" y="50.0" width="100.0" height="25.0"' in section
    assert "cat 88" in section or "cat 87" in section
    # The better class first; a class without objects has no row; names are never markup.
    assert section.index(">cat<") < section.index("rare &lt;b&gt;")
    assert "absent" not in section
    # Recall to the right and precision upwards: 1, 0.5 and 0.
    assert 'points="0,0.0 1,50.0 2,100.0"' in section
    assert "epoch 7" in section
    assert 'id="detection"' not in render(full())
