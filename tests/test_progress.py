"""Progress: lines now and then where there is no terminal, and nothing in a short time."""

from __future__ import annotations

import time

import pytest

from senet.progress import Bar


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [
        ([0.5, 1.0, 1.9], []),
        # Due at 2 s, then after twice the time.
        ([1.0, 2.0, 3.0, 4.5, 5.0, 9.5], [2, 4, 6]),
        # At most a minute apart.
        ([100.0, 130.0, 160.5, 221.0], [1, 3, 4]),
    ],
)
def test_lines_where_there_is_no_terminal(
    seconds: list[float], lines: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    bar = Bar(total=8, desc="evaluating", unit="batch")
    # As the clock of tqdm.
    bar._time, bar.start_t, bar.last_print_t = time.time, now, now
    for second in seconds:
        now = 1000.0 + second
        bar.update()
        bar.display()
    bar.close()
    shown = capsys.readouterr().err.splitlines()
    assert [int(line.split(": ")[1].split(" ")[0]) for line in shown] == lines
    assert all("of 8 batches" in line for line in shown)
    assert "\r" not in "".join(shown)


def test_nothing_where_nothing_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(Bar(range(3), show=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
