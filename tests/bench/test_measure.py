"""The harness, judged by sides whose times and answers are planted: a clock that they move themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
import torch

from senet.bench.machine import Limits, describe_machine, measure_limits
from senet.bench.measure import Subject, measure
from senet.bench.result import Case
from senet.errors import ConfigError, RunError

ONE = torch.ones(3)


class Clock:
    """Time that passes only where a planted side says so; `log` is the order of the calls."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def subject(self, name: str, *costs: float, answer: torch.Tensor = ONE, like: str | None = None) -> Subject:
        """A side that takes these milliseconds, in turn."""
        count = 0

        def run() -> torch.Tensor:
            nonlocal count
            self.now += costs[count % len(costs)] / 1000
            count += 1
            self.log.append(name)
            return answer

        return Subject(name=name, make=lambda: run, like=like)

    def measure(self, subjects: Sequence[Subject], **options: Any) -> Case:
        """Measure with this clock."""
        return measure(subjects, clock=lambda: self.now, **options)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def raising(error: BaseException, after: int = 0) -> Callable[[], Callable[[], torch.Tensor]]:
    """A side that fails at its call of that number."""

    def make() -> Callable[[], torch.Tensor]:
        calls = iter(range(1000))

        def run() -> torch.Tensor:
            if next(calls) >= after:
                raise error
            return ONE

        return run

    return make


def test_medians_quartiles_and_ratios_are_those_that_were_planted(clock: Clock) -> None:
    # The first answer and the calibration take 1 ms each and are in no sample.
    sides = [clock.subject("slow", 1, 1, 4, 8, 6, 100, 2), clock.subject("fast", 1, 1, 2, 4, 3, 50, 1, like="slow")]
    case = clock.measure(sides, ratios=[("slow", "fast")], repeats=5, warmup=0)
    slow, fast = case.rows
    assert sorted(slow.samples_ms) == pytest.approx([2, 4, 6, 8, 100])
    assert (slow.median_ms, slow.low_ms, slow.high_ms, slow.mad_ms) == pytest.approx((6, 4, 8, 2))
    assert fast.median_ms == pytest.approx(3)
    # In every round one takes twice as long, so no resampling of rounds can move the ratio.
    ratio = case.ratio("slow", "fast")
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert case.ratio("fast", "slow").value == pytest.approx(0.5)
    assert (slow.like, fast.like, fast.deviation) == (None, "slow", (0.0,))


def test_an_interval_holds_the_ratio_and_narrows_with_rounds(clock: Clock) -> None:
    def width(repeats: int) -> float:
        noisy = clock.subject("a", *(8 + 4 * ((i * 7919) % 11) / 10 for i in range(97)))
        case = clock.measure([clock.subject("b", 5), noisy], repeats=repeats)
        ratio = case.ratio("a", "b")
        assert ratio.low is not None
        assert ratio.high is not None
        assert ratio.low < 2.0 < ratio.high
        assert ratio.low <= median(case.row("a").samples_ms) / 5 <= ratio.high
        return ratio.high - ratio.low

    assert width(200) < 0.6 * width(15)


def test_rounds_are_interleaved_and_shuffled(clock: Clock) -> None:
    clock.measure([clock.subject(name, 1) for name in "abc"], repeats=20, warmup=2)
    # A first answer, two to warm up, one to calibrate; then rounds.
    start = 3 * (1 + 2 + 1)
    assert "".join(clock.log[:start]) == "aaaabbbbcccc"
    rounds = ["".join(clock.log[i : i + 3]) for i in range(start, len(clock.log), 3)]
    assert len(rounds) == 20
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 3
    first = clock.log.copy()
    clock.measure([clock.subject(name, 1) for name in "abc"], repeats=20, warmup=2)
    assert clock.log == first * 2


def test_short_calls_are_timed_several_at_a_time(clock: Clock) -> None:
    case = clock.measure([clock.subject("short", 2), clock.subject("long", 30)], repeats=3, warmup=0, min_seconds=0.01)
    assert [row.calls for row in case.rows] == [5, 1]
    assert clock.log.count("short") == 2 + 3 * 5
    assert [row.median_ms for row in case.rows] == pytest.approx([2, 30])


@pytest.mark.parametrize("wrong", [ONE * 1.001, ONE * float("nan")])
def test_a_wrong_answer_stops_it_before_any_round(clock: Clock, wrong: torch.Tensor) -> None:
    sides = [clock.subject("right", 1), clock.subject("wrong", 1, answer=wrong, like="right")]
    with pytest.raises(RunError, match=r"'wrong' does not compute what 'right' does: relative distance"):
        clock.measure(sides, repeats=3, warmup=0)
    assert clock.log == ["right", "right", "wrong"]
    # The same answer as its own is nobody's mistake.
    own = [clock.subject("right", 1), clock.subject("other", 1, answer=wrong)]
    assert clock.measure(own, repeats=1).row("other").deviation is None


def test_what_rounding_moves_has_more_room() -> None:
    """An answer that is off itself by 1e-3: its likes may be off by four times that, and no further."""

    def exact() -> torch.Tensor:
        return ONE / 1.001

    def side(scale: float) -> Subject:
        return Subject(name="b", make=lambda: lambda: scale * ONE, like="a")

    a = Subject(name="a", make=lambda: lambda: ONE, exact=exact)
    row = measure([a, side(1.0039)], repeats=1).row("b")
    assert (row.deviation, row.tolerance) == (pytest.approx((3.9e-3,), rel=1e-3), pytest.approx((4e-3,), rel=1e-3))
    with pytest.raises(RunError, match=r"relative distance 4.1e-03, allowed 4.0e-03; nothing was timed"):
        measure([a, side(1.0041)], repeats=1)
    # One that rounding does not move has the tolerance that was asked for.
    assert measure([replace(a, exact=lambda: ONE), side(1.0)], repeats=1).row("b").tolerance == (1e-5,)


def test_each_tensor_of_an_answer_has_a_tolerance() -> None:
    def side(name: str, second: float, like: str | None = None) -> Subject:
        return Subject(name=name, make=lambda: lambda: (ONE, second * ONE), like=like, tolerance=(1e-5, 0.1))

    deviation = measure([side("a", 1), side("b", 1.05, "a")], repeats=1).row("b").deviation
    assert deviation == pytest.approx((0, 0.05), rel=1e-5)
    with pytest.raises(RunError, match=r"distance 0.0e\+00, 2.0e-01, allowed 1.0e-05, 1.0e-01"):
        measure([side("a", 1), side("b", 1.2, "a")], repeats=1)


@pytest.mark.parametrize("after", [0, 3])
def test_a_side_that_fails_says_why_and_the_others_go_on(clock: Clock, after: int) -> None:
    full = RuntimeError("out of memory: 7 GiB\nand a long story")
    sides = [
        Subject(name="full", make=raising(full, after)),
        clock.subject("a", 1, like="full"),
        clock.subject("b", 2, like="a"),
    ]
    case = clock.measure(sides, repeats=2, warmup=0)
    row = case.row("full")
    assert (row.failure, row.median_ms) == ("RuntimeError: out of memory: 7 GiB", None)
    assert [len(case.row(name).samples_ms) for name in "ab"] == [2, 2]
    # Where the one to compare with gave no answer, there is no deviation; where it gave one, there is.
    assert case.row("a").deviation == (None if after == 0 else (0.0,))
    assert case.ratio("a", "full").value is None
    assert not case.is_interrupted


def test_ctrl_c_leaves_what_was_measured(clock: Clock) -> None:
    # 1 answer, 1 calibration, then 2 rounds and the signal in the third.
    stop = Subject(name="stop", make=raising(KeyboardInterrupt(), 4))
    case = clock.measure([clock.subject("a", 1), stop], repeats=9, warmup=0)
    assert case.is_interrupted
    assert len(case.row("stop").samples_ms) == 2
    assert len(case.row("a").samples_ms) in (2, 3)
    assert case.ratio("stop", "a").value is not None
    early = clock.measure([Subject(name="stop", make=raising(KeyboardInterrupt())), clock.subject("a", 1)])
    assert [row.failure for row in early.rows] == ["stopped before it was timed"] * 2


def test_limits_take_the_slower_of_copying_and_computing_layer_by_layer(clock: Clock) -> None:
    side = clock.subject("a", 10)
    layers = ((2e9, 1e9), (1e6, 5e10))
    bounded = Subject(name="a", make=side.make, layers=layers)
    row = clock.measure([bounded], repeats=1, limits=Limits(bytes_per_s=1e12, flops_per_s=1e13)).rows[0]
    # 2e9 / 1e12 = 2 ms, and 5e10 / 1e13 = 5 ms.
    assert row.limit_ms == pytest.approx(7)
    assert (row.bytes, row.flops) == (2.001e9, 5.1e10)
    assert clock.measure([side], repeats=1, limits=Limits(1e12, 1e13)).rows[0].limit_ms is None


def test_memory_is_not_guessed_on_a_cpu(clock: Clock) -> None:
    assert clock.measure([clock.subject("a", 1)], repeats=1).rows[0].memory_mib is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subjects": []}, r"subjects: none; expected"),
        ({"subjects": "aa"}, r"subjects: 'a' is there twice"),
        ({"like": "b"}, r"like of 'a': 'b' is not known; subjects before it: $"),
        ({"ratios": [("a", "c")]}, r"ratios: 'c' is not known"),
        ({"repeats": 0}, r"repeats: 0 is too small"),
    ],
)
def test_mistakes(clock: Clock, change: dict, message: str) -> None:
    like = change.pop("like", None)
    change["subjects"] = [clock.subject(name, 1, like=like) for name in change.get("subjects", "ab")]
    with pytest.raises(ConfigError, match=message):
        clock.measure(**change)


def test_the_machine() -> None:
    cpu = torch.device("cpu")
    found = describe_machine(cpu)
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    # The clock is a real one here.
    assert min(measure_limits(cpu, torch.float32, mib=16)) > 0
    assert measure([Subject(name="a", make=lambda: lambda: ONE + 1)], repeats=2).rows[0].samples_ms > (0, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_on_a_gpu_is_the_sides_own() -> None:
    device = torch.device("cuda")

    def make() -> Callable[[], torch.Tensor]:
        weights = torch.zeros(8 << 18, device=device)  # 8 MiB
        return lambda: (weights + 1).sum()  # and 8 MiB more for a moment

    sides = [Subject(name=name, make=make, like=like) for name, like in (("a", None), ("b", "a"))]
    case = measure([*sides], repeats=2, device=device)
    for row in case.rows:
        assert row.failure is None
        assert row.memory_mib == pytest.approx(16, abs=0.5)
        assert row.median_ms is not None
