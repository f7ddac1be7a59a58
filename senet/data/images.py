"""Read an image, apply the evaluation transform, and normalise.

Shapes: n images, C channels (1 grey, 3 RGB), S = recipe.image_size pixels a side.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from senet.errors import ConfigError, DataError
from senet.recipes.recipe import DataRecipe

BUILT_IN = ("digits", "cifar10", "cifar100")
"""Data sets with a name; their images are always in memory."""

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of image files, in lower or upper case."""

# Images per task of a thread.
_CHUNK = 64
# For files smaller than this (bytes), decoding is mostly Python and threads do not help.
_SMALL = 4000


def load_image(source: str | Path | Image.Image, recipe: DataRecipe) -> Tensor:
    """Read one image with the evaluation transform (arXiv:1709.01507v4, section 5.1): `(C, S, S)` uint8.

    The shorter side (both sides with `keep_aspect=False`) is scaled to `recipe.resize`, antialiased, and the centre
    cropped. If the recipe keeps images in memory, it is scaled to S.

    Raises:
        DataError: For a file that is not an image.
        ConfigError: If `recipe.resize` is smaller than S.

    >>> load_image(Image.new("RGB", (640, 480)), DataRecipe(image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3)).shape
    torch.Size([3, 224, 224])
    """
    image = fit(read(source, recipe.channels), evaluation_side(recipe), recipe)
    return torch.from_numpy(pixels(image)).permute(2, 0, 1)


def normalise(images: Tensor, recipe: DataRecipe) -> Tensor:
    """Normalise pixel values 0 to 255: `(x - mean) / std` per channel, `(*, C, H, W) -> (*, C, H, W)` float32.

    The memory format does not change.

    >>> normalise(torch.tensor([[[0, 255]]], dtype=torch.uint8), DataRecipe(mean=(0.5,), std=(0.5,)))
    tensor([[[-1.,  1.]]])
    """
    mean, std = moments(recipe.mean, recipe.std, images.device)
    return images.float().sub(mean).div_(std)


@cache
def moments(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of pixel values 0 to 255, from those of values 0 to 1: (C, 1, 1) float32 each."""
    # Cached: a copy to a GPU in every step would synchronise.
    return tuple(torch.tensor([255 * v for v in x], device=device).view(-1, 1, 1) for x in (mean, std))  # type: ignore[return-value]


def evaluation_side(recipe: DataRecipe) -> int:
    """Return the shorter side in pixels before the centre crop. ConfigError if the crop does not fit."""
    if recipe.is_in_memory or recipe.name in BUILT_IN:
        return recipe.image_size
    if recipe.shorter_side < recipe.image_size:
        raise ConfigError(
            f"data.resize: {recipe.resize} is smaller than data.image_size={recipe.image_size}; "
            f"expected: 0, or {recipe.image_size} or more"
        )
    return recipe.shorter_side


def read(source: str | Path | Image.Image, channels: int) -> Image.Image:
    """Decode an image as grey (1 channel) or RGB (3), upright according to its EXIF data.

    Transparency is dropped, 16-bit pixels keep their upper 8 bits, animations their first frame.

    Raises:
        DataError: If any part of the file cannot be decoded.
    """
    try:
        if isinstance(source, Image.Image):
            return _converted(source.copy(), channels)
        with Image.open(source) as image:
            return _converted(image, channels)
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file") from error
    # For damaged files PIL raises OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        name = getattr(source, "filename", source)
        raise DataError(f"{name}: cannot be read as an image ({error})") from error


def _converted(image: Image.Image, channels: int) -> Image.Image:
    # Opening only reads the header; loading finds truncated files.
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise ValueError("its pixels are 32-bit floats, whose range is unknown")
    if image.mode.startswith("I"):
        # PIL would clip 16-bit values at 255.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def scaled(image: Image.Image, size: int | tuple[int, int], recipe: DataRecipe) -> Image.Image:
    """Scale an image, antialiased.

    Args:
        image: The image.
        size: Shorter side in pixels (both sides with `keep_aspect=False`), or height and width. The longer side is
            rounded down.
        recipe: For `keep_aspect` and `interpolation`.
    """
    width, height = image.size
    shorter = min(width, height)
    if not isinstance(size, int):
        height, width = size
    elif not recipe.keep_aspect:
        height = width = size
    elif shorter != size:
        width, height = int(size * width / shorter), int(size * height / shorter)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling[recipe.interpolation.upper()])


def fit(image: Image.Image, side: int, recipe: DataRecipe) -> Image.Image:
    """Scale the shorter side to `side` pixels and crop the central square of the recipe's size."""
    image, size = scaled(image, side, recipe), recipe.image_size
    width, height = image.size
    if (width, height) == (size, size):
        return image
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def pixels(image: Image.Image) -> np.ndarray:
    """Convert a grey or RGB image to an `(H, W, C)` uint8 array that owns its memory."""
    return np.array(image).reshape(image.height, image.width, -1)


def read_all(
    sources: Sequence[str | Image.Image], recipe: DataRecipe, *, bar: str | None = None
) -> tuple[Tensor, list[int], list[str]]:
    """Read many images with the evaluation transform, in threads.

    Args:
        sources: Paths or images.
        recipe: The preparation.
        bar: Label of a progress bar; None for no bar.

    Returns:
        The images, `(n, C, S, S)` uint8, channels_last; their indices in `sources`; and a line "file: reason" for each
        image skipped with `recipe.on_bad_image="skip"`.

    Raises:
        DataError: For an unreadable image with `on_bad_image="error"`, or if all are unreadable.
    """
    size = recipe.image_size
    store = np.empty((len(sources), size, size, recipe.channels), np.uint8)
    bad: dict[int, str] = {}
    read_chunk = partial(_read_chunk, sources, recipe, store)
    first = sources[0]
    is_large = not isinstance(first, Image.Image) and os.path.exists(first) and os.path.getsize(first) >= _SMALL
    threads = cpus() if is_large else 1
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(sources), desc=bar, leave=False, disable=True if bar is None else None) as shown,
    ):
        for found in pool.map(read_chunk, range(0, len(sources), _CHUNK)):
            bad |= found
            shown.update(min(_CHUNK, len(sources) - shown.n))
    if len(bad) == len(sources):
        raise DataError(f"none of the {len(bad):,} images can be read; the first: {bad[0]}")
    kept = [i for i in range(len(sources)) if i not in bad]
    return torch.from_numpy(store[kept] if bad else store).permute(0, 3, 1, 2), kept, list(bad.values())


def cpus() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_chunk(
    sources: Sequence[str | Image.Image], recipe: DataRecipe, store: np.ndarray, start: int
) -> dict[int, str]:
    bad: dict[int, str] = {}
    side = evaluation_side(recipe)
    for i in range(start, min(start + _CHUNK, len(sources))):
        try:
            store[i] = pixels(fit(read(sources[i], recipe.channels), side, recipe))
        except DataError as error:
            if recipe.on_bad_image == "error":
                raise
            bad[i] = str(error)
    return bad
