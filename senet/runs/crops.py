"""crops.json: a run's errors at sizes of the crop beside its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from senet.runs.folder import CROPS, json_file


@dataclass(frozen=True, kw_only=True)
class CropErrors:
    """Errors in percent by measure: "top1_error_320" is the top-1 error with crops of 320 pixels."""

    errors: Mapping[str, float] = field(default_factory=dict)


write_crops, read_crops = json_file(CropErrors, CROPS)
