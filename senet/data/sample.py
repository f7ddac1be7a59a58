"""Look at a few images when a folder is opened, for what training would not show: transparency, lost levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from senet.data.folders import printable
from senet.data.images import converted, is_wide, lost, opened
from senet.data.shards import ShardFiles, sources_at
from senet.errors import DataError
from senet.recipes.recipe import DataRecipe

_IMAGES = 16
# Fewer grey levels than this, of pixels that are stored with more than 8 bits, are worth a note.
_FEW = 64
# 12-bit values in files of 16 bits, or classes in place of colours, are darker than this.
_DARK = 32


def sample_notes(files: Sequence[str], recipe: DataRecipe) -> tuple[str, ...]:
    """Read up to 16 images, evenly spaced, and return what the recipe's preparation loses of them, a line each.

    Images that cannot be read are left to `on_bad_image`.

    Raises:
        DataError: The range of 16-bit, 32-bit or float pixels is unknown.
    """
    numbers: list[int] = np.linspace(0, len(files) - 1, min(_IMAGES, len(files))).astype(int).tolist()
    seen = clear = 0
    constant: list[str] = []
    wide: list[np.ndarray] = []
    narrow: list[np.ndarray] = []
    if isinstance(files, ShardFiles):
        # Whole shards would be fetched for an image each.
        files = files.without_cache()
    for file in sources_at(files, list(dict.fromkeys(numbers))):
        try:
            stored = opened(file)
        # Pillow raises many kinds of errors for damaged files.
        except Exception:
            continue
        if reason := lost(stored, recipe):
            raise DataError(f"{printable(file)}: {reason}")
        values = np.asarray(converted(stored, recipe))
        seen += 1
        if stored.has_transparency_data and not is_wide(stored):
            clear += np.asarray(stored.convert("LA" if stored.mode == "La" else "RGBA"))[..., -1].min() < 255
        if values.min() == values.max():
            constant.append(file)
        (wide if is_wide(stored) else narrow).append(np.unique(values))
    notes = []
    if clear:
        notes.append(
            f"{clear} of {seen} sampled images have transparent pixels, which show the grey value {recipe.background}; "
            "another: --data.background"
        )
    if constant:
        notes.append(
            f"{len(constant)} of {seen} sampled images have one colour only, the first: {printable(constant[0])}"
        )
    if wide and (levels := len(np.unique(np.concatenate(wide)))) < _FEW:
        notes.append(
            f"{len(wide)} of {seen} sampled images have more than 8 bits, of which {levels} grey levels are left; the "
            "values of black and white: --data.pixel-range 0,4095 for 12 bits"
        )
    if narrow and len(constant) < seen and (top := max(values[-1] for values in narrow)) < _DARK:
        notes.append(f"the brightest pixel of {seen} sampled images is {top} of 255, as if they had fewer bits")
    return tuple(notes)
