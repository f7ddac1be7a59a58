"""The table of a network that is not ours: of timm, of torchvision, or made by a function in a user's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from senet.errors import ConfigError
from senet.models.net import Net, StageOutput

LIBRARIES = ("timm", "torchvision")


@dataclass(frozen=True, kw_only=True)
class OtherNet(Net, kind="other"):
    """A network of timm or torchvision, or of a user's file; `se` is the unit that is inserted into it.

    Attributes:
        source: "timm:resnet18", "torchvision:resnet18", or "net.py:make" for the function `make` of a file.
        where: where units are inserted: "auto", "residual", "concat", "conv", or a pattern of module names
            (`senet.insert_`).
        own_units: "keep" its own attention units, or take them out and leave constant gates: their "mean" over some of
            the training images where training starts from weights, else one; or always "one".
    """

    source: str
    where: str = "auto"
    own_units: Literal["keep", "mean", "one"] = "keep"

    def __post_init__(self) -> None:
        if self.se is not None and (self.se.stages is not None or self.se.placement != "standard"):
            raise ConfigError(f"se.stages, se.placement: have no effect on {self.source}; choose places with `where`")
        super().__post_init__()
        if not self.library and not self.file:
            raise ConfigError(f"source: {self.source!r}; expected: timm:NAME, torchvision:NAME or FILE.py:FUNCTION")
        if self.dropout:
            raise ConfigError(f"dropout: has no effect on {self.source}, which has its own")

    @property
    def library(self) -> str:
        """ "timm" or "torchvision"; "" for a user's file."""
        library = self.source.partition(":")[0]
        return library if library in LIBRARIES else ""

    @property
    def file(self) -> str:
        """The name of a user's file, "net.py"; "" for a library's network."""
        file = self.source.rpartition(":")[0]
        return file if file.endswith(".py") else ""

    @property
    def stage_outputs(self) -> tuple[StageOutput, ...]:
        """Unknown, so none."""
        return ()


def is_other(word: str) -> bool:
    """Whether a word names a network that is not ours: "timm:resnet18", "net.py:make"."""
    library, colon, rest = word.partition(":")
    return bool(colon and rest) and (library in LIBRARIES or ".py:" in word)


def other_net(word: str) -> OtherNet:
    """The table that a word of the command line names: "timm:resnet18", "nets/mine.py:make".

    "-se" at its end takes out the network's own units, see `own_units`.

    >>> other_net("timm:seresnet50-se").own_units
    'mean'
    """
    bare = word.removesuffix("-se")
    file, _, name = bare.rpartition(":")
    source = f"{PurePath(file).name}:{name}" if file.endswith(".py") else bare
    return OtherNet(source=source, own_units="keep" if bare == word else "mean")
