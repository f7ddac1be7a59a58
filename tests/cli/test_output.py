"""Tables and styles, on a terminal and elsewhere."""

from __future__ import annotations

import os
import sys

import pytest

from senet.cli import output

ROWS = [
    ("row", "validation error, %", "parameters"),
    ("resnet20", "0.56", "269,434"),
    ("a_very_long_name_of_a_network", "0.28", "271,807"),
]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return monkeypatch


@pytest.mark.parametrize("width", [120, 58, 50, 40])
def test_a_table_fits_the_terminal(terminal: pytest.MonkeyPatch, width: int) -> None:
    terminal.setattr(output, "get_terminal_size", lambda: os.terminal_size((width, 24)))
    terminal.setenv("NO_COLOR", "1")
    lines = output.table(ROWS).splitlines()
    assert max(map(len, lines)) <= width
    # All figures are there; a name that is too long is cut.
    assert [line.split()[-1] for line in lines[-2:]] == ["269,434", "271,807"]
    assert ("…" in lines[-1]) == (width < 58)


@pytest.mark.parametrize(("width", "tall"), [(40, 1), (30, 2), (24, 3)])
def test_the_head_is_stacked_no_higher_than_it_must(terminal: pytest.MonkeyPatch, width: int, tall: int) -> None:
    terminal.setattr(output, "get_terminal_size", lambda: os.terminal_size((width, 24)))
    terminal.setenv("NO_COLOR", "1")
    # 39 columns wide with a head of one line, 27 with two, and 20 with three.
    lines = output.table([("unit", "share below 0.05", "mean of gates"), ("SE_2_1", "0.0", "0.5")]).splitlines()
    assert [line.startswith("-") for line in lines].index(True) == tall
    assert max(map(len, lines)) <= width


def test_elsewhere_a_table_is_as_wide_as_it_is() -> None:
    lines = output.table(ROWS).splitlines()
    assert lines[0].split() == ["row", "validation", "error,", "%", "parameters"]
    assert lines[3].startswith("a_very_long_name_of_a_network")
    assert "\033" not in "".join(lines)


def test_styles_are_for_terminals(terminal: pytest.MonkeyPatch) -> None:
    assert output.styled("wrong", "red") == "\033[31mwrong\033[0m"
    terminal.setenv("NO_COLOR", "1")
    assert output.styled("wrong", "red") == "wrong"
    terminal.delenv("NO_COLOR")
    terminal.setenv("TERM", "dumb")
    assert output.styled("wrong", "red") == "wrong"
