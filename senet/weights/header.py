"""The header of our own weight files: JSON beside the tensors, in `.safetensors` and `.ckpt`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from senet.config import from_dict, to_dict
from senet.errors import CheckpointError
from senet.files import check_format, format_stamp
from senet.models.net import Net, Preprocessing

KEY = "senet"
"""Where the text stands: this key of the safetensors metadata, and of the dictionary in a `.ckpt`."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """A file's description of its network.

    Attributes:
        name: What the network is called.
        model: The network's table.
        preprocessing: How it expects its images; None if that is not known.
        classes: Names of the outputs, in order; empty if not known.
        measurements: What was measured when the file was written, such as `{"top1_error": 1.9}`.
        recipe: How it was trained: the recipe's other sections, as written; None if it was not trained here.
            `runs.checkpoint` reads them.
        images: Digest of the folder that it was trained on (`senet.data.folders.digest`); "" if there was none.
    """

    name: str
    model: Net
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    measurements: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    images: str = ""

    def dumps(self) -> str:
        """The header as JSON."""
        return json.dumps(format_stamp() | to_dict(self))

    @classmethod
    def loads(cls, text: str, where: str | Path) -> Header:
        """Read what `dumps` wrote.

        Args:
            text: JSON.
            where: How error messages name the file.

        Raises:
            CheckpointError: For text that is not such a header, and for a file of another version of senet.
        """
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError(f"{found!r} is not a mapping of fields")
            check_format(found, where, CheckpointError)
            return from_dict(cls, {name: found[name] for name in found.keys() - format_stamp().keys()})
        except ValueError as error:
            raise CheckpointError(f"{where}: its header cannot be read: {error}") from error
