"""The tree of errors, and the one sentence that every unknown value gets."""

from __future__ import annotations

import pytest

from senet import ConfigError, SenetError, errors
from senet.errors import CheckpointError, DataError, MissingExtraError, RunError, unknown


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (ConfigError, (SenetError, ValueError)),
        (DataError, (SenetError,)),
        (CheckpointError, (SenetError,)),
        (RunError, (SenetError,)),
        (MissingExtraError, (SenetError, ImportError)),
    ],
)
def test_tree(error: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    assert error.__bases__ == bases
    # The drawing at the top of the file shows each.
    assert f"-- {error.__name__} " in errors.__doc__


def test_no_error_is_missing_from_the_tests() -> None:
    found = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)}
    assert found == {SenetError, ConfigError, DataError, CheckpointError, RunError, MissingExtraError}


@pytest.mark.parametrize(
    ("value", "legal", "text"),
    [
        ("ab", ("abc", "xyz"), "f: 'ab' is not known (did you mean 'abc'?); expected: abc, xyz"),
        ("q", ("abc", "xyz"), "f: 'q' is not known; expected: abc, xyz"),
        (3, (1, 2), "f: 3 is not known; expected: 1, 2"),
        (None, ("a",), "f: None is not known; expected: a"),
    ],
)
def test_unknown(value: object, legal: tuple[object, ...], text: str) -> None:
    error = unknown("f", value, legal)
    assert type(error) is ConfigError
    assert str(error) == text
    assert str(unknown("f", value, iter(legal), kind="words")) == text.replace("expected", "words")
    assert str(unknown("f", value, legal, says="no {!r} here")) == text.replace(
        f"{value!r} is not known", f"no {value!r} here"
    )


def test_a_missing_extra_says_how_to_get_it() -> None:
    assert str(MissingExtraError("Plots", "plots")) == "Plots need an extra: pip install 'senet[plots]'"
