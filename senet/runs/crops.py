"""crops.json: a run's errors at sizes of the crop beside its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from senet.runs.folder import CROPS, read_value, write_value


@dataclass(frozen=True, kw_only=True)
class CropErrors:
    """Errors in percent by measure: "top1_error_320" is the top-1 error with crops of 320 pixels."""

    errors: Mapping[str, float] = field(default_factory=dict)


def write_crops(folder: Path, crops: CropErrors) -> None:
    """Write crops.json; RunError where it cannot be written."""
    write_value(folder / CROPS, crops)


def read_crops(folder: Path) -> CropErrors:
    """The errors measured so far, none where the file is absent; RunError where it is damaged."""
    path = folder / CROPS
    return read_value(CropErrors, path) if path.is_file() else CropErrors()
