"""The word CHECKPOINT of the commands that use a trained network, and the one place that turns it into a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli.parse import Line, Parser
from senet.errors import ConfigError, unknown
from senet.foreign_models import allow_code
from senet.models.other import LIBRARIES, is_other

if TYPE_CHECKING:
    from senet.runs.checkpoint import Checkpoint

HELP = "a run folder, a .safetensors of senet, a last.ckpt, timm:NAME or torchvision:NAME"


def add_checkpoint(parser: Parser, count: str = "1") -> None:
    """Declare the word and its options; `count` as for `Parser.word`."""
    parser.word("CHECKPOINT", help=HELP, count=count)
    parser.switch("pretrained", help="weights that the library released, for timm:NAME or torchvision:NAME")
    add_code(parser)


def add_code(parser: Parser) -> None:
    """Declare --code."""
    parser.option("code", metavar="FILE", help="your Python file that makes the network; it runs", rare=True)


def add_classes(parser: Parser) -> None:
    """Declare --classes."""
    parser.option(
        "classes",
        metavar="FILE",
        help="names of the network's outputs: one on each line, or a JSON list or object; for weights that name none",
    )


def use_code(line: Line) -> None:
    """Allow the file that --code names to run."""
    if line.values.get("code"):
        allow_code(line["code"])


def is_untrained(line: Line) -> bool:
    """Whether the word is a network that is not ours, which has no data of its own."""
    word = line["CHECKPOINT"]
    return is_other(word) and not Path(word).expanduser().exists()


def open_checkpoint(line: Line, word: str = "", *, detectors: bool = False) -> Checkpoint:
    """Load what the line names.

    Args:
        line: With the options of `add_checkpoint`, and of `add_classes` where the command has it.
        word: The word, where there are several.
        detectors: Whether the command takes detectors too.

    Raises:
        CheckpointError, ConfigError: As `senet.runs.checkpoint.load`; or it is a detector.
    """
    from senet.runs.checkpoint import load

    word = word or line["CHECKPOINT"]
    use_code(line)
    library, colon, _ = word.partition(":")
    if colon and not is_other(word) and not Path(word).expanduser().exists():
        raise unknown("CHECKPOINT", library, LIBRARIES, kind="libraries")
    if ".py:" in word:
        raise ConfigError(f"CHECKPOINT: {word!r} is not trained; train it: senet train {word} --data FOLDER")
    names: tuple[str, ...] = ()
    if file := line.values.get("classes"):
        from senet.evaluation.classes import read_class_names

        names = read_class_names(Path(file).expanduser())
    found = load(Path(word).expanduser() if not is_other(word) else word, names, pretrained=line["pretrained"])
    if found.recipe.task.name == "detection" and not detectors:
        raise ConfigError(
            f"CHECKPOINT: {found.recipe.name} is a detector, which this command does not take; expected: a classifier "
            "(detectors: analyze, doctor, evaluate, export, predict, report)"
        )
    return found
