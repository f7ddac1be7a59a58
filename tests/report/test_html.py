"""The report as text: all that is in it, nothing that is not, and nothing that a browser would run or fetch."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from senet.report.html import POLICY, build
from senet.report.sections import SECTIONS, group_size, grouped, worst_pairs
from tests.report.pages import full, history

VOID = {"meta", "input", "br", "img"}


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
    page = Reader(build(full()))
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert set(SECTIONS) <= set(page.ids)
    assert [f"#{name}" for name in SECTIONS] == [link for link in links if link[1:] in SECTIONS and link != "#main"][1:]
    assert len(page.ids) == len(set(page.ids))
    for words in (
        "\N{MINUS SIGN}0.75",
        "\N{MINUS SIGN}1.25 to \N{MINUS SIGN}0.25",
        "SE-ResNet-110",
        "5.21",
        "0.0312",
        "1,100",
        "2.11.0",
    ):
        assert words in page.text, words


@pytest.mark.parametrize("absent", [name for name in SECTIONS if name != "overview"])
def test_a_section_without_data_is_absent(absent: str) -> None:
    key = {"classes": "per_class"}.get(absent, absent)
    page = Reader(build({name: value for name, value in full().items() if name != key}))  # type: ignore[typeddict-item]
    assert absent not in page.ids
    assert f"#{absent}" not in [value for _, name, value in page.attributes if name == "href"]
    assert set(SECTIONS) - {absent} <= set(page.ids)


def test_an_empty_page_is_a_page() -> None:
    page = Reader(build({}))
    assert [i for i in page.ids if i in SECTIONS] == ["overview"]


NASTY = "</script><img src=x onerror=alert(1)> & \" ' \u2028 <!--"


def test_names_are_never_markup() -> None:
    """Each text of a page, and each key of a recipe, replaced by a hostile one."""

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            keys = {NASTY: value["lr"]} if "lr" in value and key == "optim" else {}
            return {k: spoil(v, k) for k, v in value.items()} | keys
        if isinstance(value, (list, tuple)):
            return [spoil(v, key) for v in value]
        return NASTY if isinstance(value, str) and key not in ("kind", "thumbnails") else value

    page = spoil(full())
    page["kind"] = "comparison"
    page["curves"] = {NASTY: [history(90.0)]}
    page["gates"]["thumbnails"] = {"0": NASTY}
    source = build(page)
    clean = Reader(build(full()))
    read = Reader(source)
    assert read.scripts == clean.scripts == 2
    assert not [name for tag, name, _ in read.attributes if tag == "img" or name.startswith("on")]
    assert source.count("<img") == 0
    assert NASTY in read.text
    assert list(data_of(source)["curves"]) == [NASTY]


def test_what_is_not_finite_is_a_dash() -> None:
    page: Any = full()
    page["result"]["value"] = math.nan
    page["networks"][0].update(mean=None, deviation=math.nan, errors=[math.nan])
    page["curves"]["resnet8"][0][3]["test_loss"] = math.inf
    page["results"][0]["differences"][0].update(mean=math.nan, low=None, high=None, printed=None)
    page["per_class"][0]["top1_error"] = math.nan
    page["calibration"]["ece"] = math.nan
    source = build(page)
    assert data_of(source)["curves"]["resnet8"][0][3]["test_loss"] is None
    text = Reader(source).text
    assert "nan" not in text.lower().split()
    assert "inf" not in text.lower().split()
    assert "\N{EN DASH}" in text


def test_the_page_fetches_nothing() -> None:
    source = build(full())
    page = Reader(source)
    assert ("meta", "content", POLICY) in page.attributes
    assert "default-src 'none'" in POLICY
    assert not [
        a for a in page.attributes if a[1] in ("src", "srcset", "action") or (a[1] == "href" and a[2][0] != "#")
    ]
    addresses = set(re.findall(r"https?://[\w./-]+", source))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)", source)


def test_scripts_never_make_markup_from_text() -> None:
    source = build(full())
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", source)


def test_curves_are_thin() -> None:
    page: Any = full()
    page["curves"] = {"a": [[row | {"step_ms": 1 / 3, "seconds": 1 / 7} for row in history(100 / 3, epochs=200)]]}
    found = data_of(build(page))["curves"]["a"][0]
    assert set(found[0]) == {"epoch", "lr", "train_loss", "train_error", "test_loss", "test_top1_error"}
    assert found[0]["test_top1_error"] == 33.333
    assert len(json.dumps(found)) < 40_000


def test_many_classes_share_cells() -> None:
    n = 100
    matrix = [[0] * n for _ in range(n)]
    matrix[3][97], matrix[3][3], matrix[50][51] = 7, 1, 2
    page: Any = {"confusion": {"classes": [f"c{i}" for i in range(n)], "matrix": matrix}}
    cells = grouped(page)
    assert cells is not None
    step = group_size(n)
    assert step == 3
    assert len(cells["matrix"]) == 34 == len(cells["classes"])
    assert cells["matrix"][3 // step][97 // step] == 7
    assert sum(map(sum, cells["matrix"])) == 10
    assert cells["classes"][0] == "c0 to c2"
    assert cells["classes"][-1] == "c99 to c99"
    assert group_size(20) == 1


def test_the_worst_pairs_come_first() -> None:
    found = worst_pairs(["cat", "dog", "ship"], [[6, 4, 0], [30, 70, 0], [0, 0, 0]])
    assert found == [("cat", "dog", 4, 10), ("dog", "cat", 30, 100)]


def test_build_needs_no_torch() -> None:
    code = "import sys; from senet.report.html import build; build({'title': 'x'}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
