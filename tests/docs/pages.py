"""The code blocks of a page, in order, and how a test runs them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in [*DOCS.rglob("*.md"), ROOT / "README.md"] if DOCS / "evidence" not in p.parents)

SMALLER = {"--epochs": "1", "--limit-batches": "2", "--image-size": "32"}
"""Put into commands that train, so that a guide runs in seconds."""

SEEDS = {"3": "1", "5": "1", "6": "2"}
"""How many seeds are run instead."""

NOT_RUN = {
    "pip": "installs",
    "python3": "makes an environment and installs",
    "pytest": "is the tests themselves",
    "app": "serves a page until Ctrl-C; tests/app has it",
    "imagenet": "needs ImageNet",
    "places365": "needs Places365",
}
"""Why a command of a guide is not run here, by a word in it."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a bash block, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        found = [shlex.split(line, comments=True) for line in lines]
        return [words for words in found if words]

    @property
    def file(self) -> str | None:
        """`net.py` for a Python block that begins with `# net.py`: a file, not something to run."""
        first = self.text.split("\n", 1)[0]
        match = re.fullmatch(r"# (\w+\.py)", first)
        return match[1] if match else None


def blocks(page: Path) -> Iterator[Block]:
    """The bash and Python blocks of a page, also those inside directives and list items."""
    for match in re.finditer(r"^( *)```(bash|python)\n(.*?)^\1```$", page.read_text(), re.M | re.S):
        indent, language, text = match.groups()
        yield Block(language, re.sub(rf"(?m)^{indent}", "", text))


def senet_commands() -> Iterator[tuple[Path, list[str]]]:
    """Each `senet` command of the documentation with its page."""
    for page in PAGES:
        for block in blocks(page):
            for words in block.commands if block.language == "bash" else ():
                if words[0] == "senet" and len(words) > 1:
                    yield page, words[1:]


def as_run(words: list[str]) -> list[str] | None:
    """The words of a `senet` command as the test runs them; None where it does not."""
    if any(word in NOT_RUN for word in words):
        return None
    command, rest = words[0], words[1:]
    if command not in ("train", "compare", "reproduce") or "--plan" in rest or words == ["reproduce"]:
        return words
    if {"cifar10", "table4", "--budget"} & set(rest):
        # Would download, or train for hours; the plan reads the whole line. A budget fits on no busy machine.
        return [
            *("30d" if before == "--budget" else word for before, word in zip(["", *words[:-1]], words, strict=True)),
            "--plan",
        ]
    smaller = {} if "--resume" in rest else dict(SMALLER)
    if "--seeds" in rest:
        smaller["--seeds"] = SEEDS[rest[rest.index("--seeds") + 1]]
    for option, value in smaller.items():
        at = words.index(option) if option in words else len(words)
        words = [*words[:at], option, value, *words[at + 2 :]]
    return words
