"""Every error that senet raises on purpose.

SenetError
|-- ConfigError (ValueError)      a field, a value or a combination that cannot be built
|-- DataError                     images, folders or labels that cannot be used
|-- CheckpointError               a file that is not, or no longer, a checkpoint of this network
|-- RunError                      a run that cannot start, continue or be written
`-- MissingExtraError (ImportError)   an optional library that is not installed
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class SenetError(Exception):
    r"""Base of every error that senet raises on purpose; its message is one line of characters that can be printed.

    Names of files and tensors, and the messages of libraries, may contain others.

    >>> print(SenetError("a\n.pth: damaged:\n\x1b[2J"))
    a .pth: damaged: \x1b[2J
    """

    def __init__(self, message: object = "") -> None:
        line = " ".join(str(message).splitlines())
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


class ConfigError(SenetError, ValueError):
    """A field, a value or a combination of values that cannot be built; raised at construction."""


class DataError(SenetError):
    """Images, folders or labels that cannot be used."""


class CheckpointError(SenetError):
    """A file that is not a checkpoint, is damaged, or belongs to another network."""


class RunError(SenetError):
    """A training run that cannot start, continue or be written to disk."""


TRAIN_LIBRARIES = ("lightning", "matplotlib", "PIL", "scipy", "torchvision")
"""What the extra `train` installs, by the name of the import: for training, data, evaluation, analysis and pages."""


class MissingExtraError(SenetError, ImportError):
    """An optional library is missing; the message is the command that installs it.

    >>> print(MissingExtraError("TensorBoard logs", "tensorboard"))
    TensorBoard logs need an extra: pip install 'senet[tensorboard]'
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} need an extra: pip install 'senet[{extra}]'")


MOST = 12
"""Expected values that an error lists; of more, it says how many there are."""


def nearest(value: object, names: Sequence[str]) -> str:
    """The name that somebody most likely meant: the first that begins with the value, else the most similar; or ""."""
    word = str(value).lower()
    longer = [name for name in names if word and name.lower().startswith(word)]
    near = longer or get_close_matches(str(value), names, n=1)
    return near[0] if near else ""


def unknown(
    field: str,
    value: object,
    expected: Iterable[object],
    *,
    kind: str = "expected",
    says: str = "{!r} is not known",
    listing: str = "",
) -> ConfigError:
    """The error for a value outside a list: names the field, the value, the nearest name and what is expected.

    Args:
        field: name of the field or option.
        value: the wrong value.
        expected: the values that it could have.
        kind: what the expected values are called.
        says: what is wrong, with a place for the value.
        listing: where the expected values are listed, in place of the list.

    >>> print(unknown("gate", "sigmoyd", ("sigmoid", "tanh")))
    gate: 'sigmoyd' is not known (did you mean 'sigmoid'?); expected: sigmoid, tanh
    """
    names = [str(v) for v in expected]
    near = nearest(value, names)
    hint = f" (did you mean {near!r}?)" if near else ""
    listed = ", ".join(names if len(names) <= MOST else [*names[:MOST], f"... ({len(names)} in all)"])
    return ConfigError(f"{field}: {says.format(value)}{hint}; {kind}: {listing or listed}")
