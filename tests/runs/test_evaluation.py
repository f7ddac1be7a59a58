"""What is said of errors before they are believed, by hand."""

from __future__ import annotations

import pytest

from senet.runs.evaluation import (
    ClassErrors,
    Evaluation,
    class_counts,
    class_errors,
    interval,
    remarks,
    unbalanced,
)


@pytest.mark.parametrize(
    ("counts", "want"),
    [
        # 98 of 99 and 1 of 3 right: better than "common" for all, whose error is 3/102.
        ([(99, 99, 99), (3, 1, 3)], ["worst class: 'b', error 66.7 % of 3 images"]),
        # As good as "common" for all: no better than chance.
        (
            [(99, 99, 99), (1, 0, 1)],
            ["no better than chance: the answer 'a' for every image has an error of 1.00 %", "worst class: 'b'"],
        ),
        ([(50, 50, 50), (50, 50, 50)], []),
        ([(50, 25, 50), (50, 25, 50)], ["no better than chance: the answer 'a' for every image has an error of 50.00"]),
        # Wilson for 5 of 20, z = 1.96: (5 + z^2/2 +- z sqrt(5 * 15 / 20 + z^2/4)) / (20 + z^2) = 11.2 and 46.9 %.
        (
            [(10, 10, 10), (10, 5, 10)],
            ["few test images, 20: the 95 % interval of the error is 11.2 to 46.9 %", "worst class: 'b', error 50.0 %"],
        ),
        # A class without images is not the worst; one class alone has no chance.
        ([(100, 90, 100), (0, 0, 0)], []),
        ([(0, 0, 0), (0, 0, 0)], []),
    ],
)
def test_remarks(counts: list[tuple[int, int, int]], want: list[str]) -> None:
    found = remarks(class_errors("ab", counts), "test")
    assert len(found) == len(want)
    for line, start in zip(found, want, strict=True):
        assert line.startswith(start)


def test_names_of_ilsvrc_are_in_words_and_parts_in_theirs() -> None:
    rows = class_errors(["n01440764", "pug"], [(1, 0, 1), (2, 2, 2)])
    few, chance, worst = remarks(rows, "val")
    assert few.startswith("few validation images, 3")
    assert "'pug'" in chance
    assert worst == "worst class: 'tench', error 100.0 % of 1 image"
    assert remarks(rows, "all")[0].startswith("few images, 3")


@pytest.mark.parametrize(("a", "b", "said"), [(99, 3, True), (31, 3, True), (30, 3, False), (5, 5, False)])
def test_unbalanced_classes(a: int, b: int, said: bool) -> None:
    want = (f"unbalanced classes: {a} training images of 'a', {b} of 'b'",) if said else ()
    assert unbalanced({"a": a, "b": b}) == want


def test_counts_of_classes_and_an_interval() -> None:
    assert class_counts({"n01440764": 2, "b": 1}) == "tench 2, b 1"
    assert class_counts({str(k): 10 + k for k in range(11)}) == "11 classes of 10 to 20 images"
    assert interval(0, 10) == (0, pytest.approx(100 * 3.8416 / 13.8416, abs=0.01))


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_the_top_5_error_of_five_classes_is_left_out(classes: int) -> None:
    rows = tuple(ClassErrors(name=f"{k}", images=1, top1_error=0.0, top5_error=0.0) for k in range(classes))
    line = str(Evaluation(top1_error=12.5, top5_error=0.0, loss=0.5, images=8, per_class=rows))
    assert line == f"top-1 error 12.50 %{', top-5 error 0.00 %' * (classes > 5)}, loss 0.5000, 8 images"
