"""Names of classes: from files, and matched between a network and images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from senet.errors import ConfigError, DataError
from senet.evaluation.classes import match_classes, read_class_names

NUMBERS = [str(k) for k in range(12)]


@pytest.mark.parametrize(
    ("outputs", "classes", "want"),
    [
        (["a", "b", "c"], ["a", "b", "c"], [0, 1, 2]),
        (NUMBERS, sorted(NUMBERS), [0, 1, 10, 11, *range(2, 10)]),
        (NUMBERS, ["7", "2"], [7, 2]),
        (["caf\u00e9", "tea"], ["tea", "cafe\u0301"], [1, 0]),
        (["\u1e9b\u0323", "x"], ["x", "\u017f\u0323\u0307"], [1, 0]),
        (["goldfish", "tench"], ["n01440764"], [1]),
        (["n01440764", "n01443537"], ["goldfish", "tench"], [1, 0]),
        (["5$_$10", "tench, Tinca tinca", "猫"], ["猫", "tench, Tinca tinca"], [2, 1]),
    ],
)
def test_classes_are_matched_by_name(outputs: list[str], classes: list[str], want: list[int]) -> None:
    assert match_classes(outputs, classes, "photos") == want


@pytest.mark.parametrize(
    ("outputs", "classes", "message"),
    [
        (["a", "b"], ["a", "c"], r"photos: class 'c' is not among the network's 2 classes \(a, b\); other names"),
        (NUMBERS, ["cat"], r"class 'cat' is not among the network's 12 classes \(0, 1, 2, 3, 4, ...\)"),
        (["crane", "crane"], ["crane"], r"photos: 2 of the network's outputs are called 'crane'"),
        (["Cat"], ["cat"], r"class 'cat' is not among the network's 1 classes \(Cat\)"),
    ],
)
def test_a_class_that_the_network_lacks(outputs: list[str], classes: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        match_classes(outputs, classes, "photos")


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog, wild\n5$\n",
        "\ufeffcat\r\ndog, wild\r\n5$",
        json.dumps(["cat", "dog, wild", "5$"]),
        json.dumps({"1": "dog, wild", "0": "cat", "2": "5$"}),
        json.dumps({"5$": 2, "cat": 0, "dog, wild": 1}),
        json.dumps({"id2label": {"0": "cat", "1": "dog, wild", "2": "5$"}, "other": 1}),
    ],
)
def test_a_file_of_names(text: str, tmp_path: Path) -> None:
    (tmp_path / "names").write_text(text, encoding="utf-8", newline="")
    assert read_class_names(tmp_path / "names") == ("cat", "dog, wild", "5$")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("cat\n\ndog\n", "has an empty line"),
        ("cat\ndog\ncat\n", "'cat' is there twice"),
        ("[1, 2]", "1 is not a name; expected: a JSON list of names"),
        ('{"0": "cat", "2": "dog"}', "has no name for 1"),
        ('{"a": "cat"}', "expected: a JSON list"),
        ("[", "expected: a JSON list"),
        ('{"id2label": 3}', "expected: a JSON list"),
    ],
)
def test_a_file_that_has_no_names(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "names").write_text(text)
    with pytest.raises(ConfigError, match=rf"--classes: .*names: .*{message}"):
        read_class_names(tmp_path / "names")
    with pytest.raises(ConfigError, match=r"absent: cannot be read: No such file"):
        read_class_names(tmp_path / "absent")
