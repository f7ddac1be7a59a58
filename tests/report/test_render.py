"""The report as text: all that is in it, nothing that is not, and nothing that a browser would run or fetch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pytest

from senet.experiments.result import Errors
from senet.recipes.recipe import Recipe
from senet.recipes.registry import recipe_for
from senet.report.page import Page
from senet.report.render import POLICY, SECTIONS, render
from senet.runs.evaluation import ClassErrors
from tests.report.pages import comparison, cost, difference, evaluation, full, history, table

VOID = {"meta", "input", "br", "img", "link"}

OF_CLASSES = [name for name in SECTIONS if name != "detection"]
"""The sections of a classifier's page; a detector's is in tests/detection."""


class Reader(HTMLParser):
    """Sections, texts and attributes; fails on an element that is not closed where it was opened."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts = 0
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def data_of(source: str) -> Any:
    """What the page hands to its scripts."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_every_section_is_there_and_linked_to() -> None:
    page = Reader(render(full()))
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == ["#main", "#overview", *(f"#{name}" for name in OF_CLASSES), "#overview"]
    assert set(OF_CLASSES) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    for words in (
        "\N{MINUS SIGN}0.75",
        "\N{MINUS SIGN}1.25 to \N{MINUS SIGN}0.25",
        "8.25",
        "± 1.39",
        "+10.0 %",
        "Failed: eca_resnet8-seed2: DataError: no images",
        "0.0312",
        "1,100",
        "2.11.0",
        "momentum: 0.9",
    ):
        assert words in page.text, words


def test_a_table_is_beside_the_papers() -> None:
    page = Reader(render(replace(full(), results=[table()])))
    for words in (
        "Ours beside the paper's",
        "SE-ResNet-110 minus ResNet-110",
        "paper \N{MINUS SIGN}1.16",
        "train.epochs: 10, not 200",
        "The paper's run: 200 epochs",
    ):
        assert words in page.text, words
    rows = [line.split() for line in page.text.split("\n") if "SE-ResNet-1" in line and "minus" not in line]
    assert rows == [
        ["SE-ResNet-110", "6.10", "5.21", "1", "1,000"],
        ["SE-ResNet-164", "\N{EN DASH}", "4.39", "0", "\N{EN DASH}"],
    ]
    several = Reader(render(replace(full(), results=[table(), comparison()])))
    assert "Planted table4" in several.texts
    assert "Planted comparison" in several.texts
    assert several.texts.count("the paper's") == 1, "the comparison has no such column"


@pytest.mark.parametrize(
    ("without", "absent"),
    [
        ({"results": []}, {"results"}),
        ({"curves": {}}, {"curves"}),
        ({"gates": None}, {"gates"}),
        ({"evaluation": None}, {"mistakes", "classes"}),
        ({"cost": None}, {"complexity"}),
        (
            {"commands": [], "recipe": None, "cost": None, "seeds": [], "environment": None},
            {"complexity", "provenance"},
        ),
    ],
)
def test_a_section_without_data_is_absent(without: dict[str, Any], absent: set[str]) -> None:
    page = Reader(render(replace(full(), **without)))
    links = {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert set(SECTIONS) & set(page.ids) == set(SECTIONS) & links == set(OF_CLASSES) - absent


def test_an_empty_page_is_a_page() -> None:
    page = Reader(render(Page(kind="Run", title="Empty")))
    assert [i for i in page.ids if i in SECTIONS] == ["overview"]


NASTY = "</script><img src=x onerror=alert(1)> & \" ' \u2028 <!--"


def spoiled(value: Any) -> Any:
    """The value with a hostile text for every text in it, but for names that the page looks up."""
    if is_dataclass(value) and not isinstance(value, Recipe):
        kept = ("shown", "cost")
        return replace(value, **{f.name: spoiled(getattr(value, f.name)) for f in fields(value) if f.name not in kept})
    if isinstance(value, Mapping):
        return {k: spoiled(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(spoiled(v) for v in value)
    return NASTY if isinstance(value, str) else value


def test_names_are_never_markup() -> None:
    clean = full()
    page = spoiled(clean)
    page = replace(
        page,
        curves={NASTY: [history(90.0)]},
        gates=replace(page.gates, thumbnails={"0": NASTY}),
        results=[*page.results, spoiled(table())],
        cost=replace(cost(), rows=spoiled(cost().rows)),
        recipe=replace(recipe_for("digits", model="se_resnet20"), name=NASTY),
    )
    source = render(page)
    read = Reader(source)
    assert read.scripts == Reader(render(clean)).scripts == 2
    assert not [name for tag, name, _ in read.attributes if tag == "img" or name.startswith("on")]
    assert source.count("<img") == 0
    assert sum(NASTY in text for text in read.texts) > 40
    assert list(data_of(source)["curves"]) == [NASTY]


def test_what_is_not_finite_is_a_dash() -> None:
    page = full()
    runs = list(history(90.0))
    runs[3] = replace(runs[3], measured={**runs[3].measured, "loss": math.inf})
    first, *others = comparison().rows
    nothing = Errors(by_seed=(math.nan,), mean=None, deviation=math.nan)
    planted = evaluation()
    cat, *rest = planted.per_class
    assert page.headline
    assert planted.calibration
    source = render(
        replace(
            page,
            headline=replace(page.headline, value=math.nan),
            curves={"resnet8": [runs]},
            results=[
                replace(
                    comparison(),
                    rows=(replace(first, errors={**first.errors, "top1_error": nothing}), *others),
                    differences=(difference("b", "a", math.nan, None, None), *comparison().differences),
                )
            ],
            evaluation=replace(
                planted,
                per_class=(replace(cat, top1_error=math.nan), *rest),
                calibration=replace(planted.calibration, ece=math.nan),
            ),
        )
    )
    assert data_of(source)["curves"]["resnet8"][0][3]["eval_loss"] is None
    assert data_of(source)["calibration"]["ece"] is None
    text = Reader(source).text
    assert "nan" not in text.lower().split()
    assert "inf" not in text.lower().split()
    assert "\N{EN DASH}" in text


def test_a_run_shows_its_best_channel_and_its_mistakes() -> None:
    page = Reader(render(full()))
    text = " ".join("".join(page.texts).split())
    assert "no. 12 of SE_3_1 is opened most by pug (mean gate 0.91) and closed most by goldfish (0.08)" in text
    assert "cat taken for dogconfidence 87 %" in text
    assert "No errors in one other class." in text
    shown = [value for tag, name, value in page.attributes if (tag, name) == ("img", "width")]
    assert shown == ["96"] * 4


@pytest.mark.parametrize(("noise", "said"), [(0.2, "+10.0 %, within noise"), (0.05, "+10.0 %")])
def test_times_within_noise_say_so(noise: float, said: str) -> None:
    d = difference("se_resnet8", "resnet8", -0.75, -1.25, -0.25, step_noise=noise)
    rows = (comparison().rows[0], replace(comparison().rows[1], step_ms=3.3))
    page = Reader(render(replace(full(), results=[replace(comparison(), rows=rows, differences=(d,))])))
    assert said in page.texts
    assert ("+10.0 %, within noise" in page.texts) == (noise > 0.1)


def test_a_pair_links_its_runs_and_has_a_card() -> None:
    links = {"resnet8": [(0, "runs/resnet8-seed0/report.html")]}
    page = Reader(render(replace(full(), links=links), card="report.png"))
    assert ("a", "href", "runs/resnet8-seed0/report.html") in page.attributes
    assert ("meta", "content", "report.png") in page.attributes


def test_an_uncertain_figure_is_small() -> None:
    headline = full().headline
    assert headline
    shown = [
        (tag, name, value)
        for sure in (True, False)
        for tag, name, value in Reader(render(replace(full(), headline=replace(headline, is_sure=sure)))).attributes
        if tag == "div" and value.startswith("result")
    ]
    assert [value for *_, value in shown] == ["result", "result unsure"]


def test_the_page_fetches_nothing() -> None:
    source = render(full())
    page = Reader(source)
    assert ("meta", "content", POLICY) in page.attributes
    assert "default-src 'none'" in POLICY
    assert not [
        (tag, name, value)
        for tag, name, value in page.attributes
        if name in ("src", "srcset", "action", "href") and value[0] != "#" and not value.startswith("data:image/")
    ]
    addresses = set(re.findall(r"https?://[\w./-]+", source))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)", source)


def test_scripts_never_make_markup_from_text() -> None:
    source = render(full())
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", source)


def test_curves_are_thin() -> None:
    found = data_of(render(replace(full(), curves={"a": [history(100 / 3, epochs=200)]})))["curves"]["a"][0]
    assert set(found[0]) == {"epoch", "lr", "train_loss", "train_error", "eval_loss", "eval_top1_error"}
    assert found[0]["eval_top1_error"] == 33.333
    assert len(json.dumps(found)) < 40_000


def test_many_classes_share_cells() -> None:
    n = 100
    matrix = [[0] * n for _ in range(n)]
    matrix[3][97], matrix[3][3], matrix[50][51] = 7, 1, 2
    classes = tuple(ClassErrors(name=f"c{i}", images=1, top1_error=None, top5_error=None) for i in range(n))
    many = replace(evaluation(), per_class=classes, confusion=tuple(map(tuple, matrix)))
    source = render(replace(full(), evaluation=many))
    cells = data_of(source)["confusion"]
    # The least number of neighbours that gives at most 40 rows: 3, so 34 rows, the last of one class.
    assert len(cells["matrix"]) == 34 == len(cells["classes"])
    assert cells["matrix"][1][32] == 7
    assert sum(map(sum, cells["matrix"])) == 10
    assert cells["classes"][0] == "c0 to c2"
    assert cells["classes"][-1] == "c99 to c99"
    assert "the sum over 3 by 3 neighbouring classes" in Reader(source).text
    assert "All 100 classes" in Reader(source).text


def test_the_most_frequent_confusions_come_first() -> None:
    planted = replace(evaluation(), confusion=((6, 4, 0), (30, 70, 0), (0, 0, 0)))
    text = " ".join(Reader(render(replace(full(), evaluation=planted))).text.split())
    assert "cat taken for dog 4 of 10 dog taken for cat 30 of 100" in text
