"""Names of classes: read from a file, and matched between a network and a folder of images."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from senet.errors import ConfigError, DataError
from senet.weights.ilsvrc import named


def match_classes(outputs: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    """Find the network's output for each class of some images, by name, in whatever order.

    Synsets of ILSVRC match their words, and letters with accents match whether composed or not (NFC, NFD).

    Args:
        outputs: Names of the network's outputs.
        classes: Names of the classes of the images.
        where: How messages name the images.

    Raises:
        DataError: For a class that the network does not have, or a name that two outputs have.

    >>> match_classes(["tench", "cat", "dog"], ["dog", "n01440764"], "photos")
    [2, 0]
    """
    words = _plain(outputs)
    found = []
    for name, word in zip(classes, _plain(classes), strict=True):
        count = words.count(word)
        if count > 1:
            raise DataError(
                f"{where}: {count} of the network's outputs are called {name!r}; name them with --classes FILE"
            )
        if not count:
            raise DataError(
                f"{where}: class {name!r} is not among the network's {len(outputs):,} classes ({_some(outputs)}); "
                "other names for its outputs: --classes FILE"
            )
        found.append(words.index(word))
    return found


def _plain(names: Sequence[str]) -> list[str]:
    return [unicodedata.normalize("NFC", name) for name in named(names)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the names of a network's outputs, in order.

    The file is text with a name on each line; a JSON list of names; or a JSON object from name to number, from number
    to name, or with the latter as "id2label", as in a config.json of Hugging Face.

    Raises:
        ConfigError: For a file that cannot be read or has no names, has one twice, or lacks the name of a number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--classes: {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if text.lstrip()[:1] in ("[", "{"):
        try:
            names = _ordered(json.loads(text))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"--classes: {path}: {error}; expected: a JSON list of names, or an object of names and their numbers "
                "from 0 on"
            ) from error
    else:
        names = [line.strip() for line in text.strip().splitlines()]
    if not names or not all(names):
        raise ConfigError(f"--classes: {path}: {'has an empty line' if names else 'is empty'}; expected: a name a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"--classes: {path}: {twice!r} is there twice")
    return tuple(names)


def _ordered(found: Any) -> list[str]:
    """Names in order from JSON; ValueError or TypeError for anything else."""
    if isinstance(found, dict):
        found = found.get("id2label", found)
    if isinstance(found, dict):
        if all(isinstance(value, int) for value in found.values()):
            found = {value: name for name, value in found.items()}
        by_number = {int(number): name for number, name in found.items()}
        missing = next((k for k in range(len(by_number)) if k not in by_number), None)
        if missing is not None:
            raise ValueError(f"has no name for {missing}")
        found = [by_number[k] for k in range(len(by_number))]
    if not isinstance(found, list):
        raise ValueError(f"{found!r} is not a list")
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise ValueError(f"{wrong[0]!r} is not a name")
    return list(found)
