"""The paper's tables and figures by name, from the files that `FILES` lists."""

from __future__ import annotations

from functools import cache

from senet.config import named_values
from senet.errors import unknown
from senet.experiments.experiment import Experiment

FILES = ("imagenet", "mobile", "cifar", "places", "coco", "ablations", "figures", "student")
"""The files of targets."""

GROUPS = {"ablations": tuple(f"table{n}" for n in range(10, 17))}
"""Several targets by one word; their common runs are made once."""


@cache
def targets() -> dict[str, Experiment]:
    """Every target: an `Experiment` in one of the files is one of that variable's name; tables first, by number."""
    found = named_values("senet.paper", FILES, Experiment)

    def order(name: str) -> tuple[str, int]:
        word = name.rstrip("0123456789")
        return {"table": "a", "figure": "b"}.get(word, "c"), int(name[len(word) :] or 0)

    return {name: found[name] for name in sorted(found, key=order)}


def get_targets(words: tuple[str, ...]) -> list[Experiment]:
    """The targets that words name, each once; ConfigError for an unknown one."""
    names = dict.fromkeys(name for word in words for name in GROUPS.get(word, (word,)))
    for name in names:
        if name not in targets():
            raise unknown("TARGET", name, [*targets(), *GROUPS], kind="targets")
    return [targets()[name] for name in names]
