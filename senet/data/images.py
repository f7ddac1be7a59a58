"""Read an image, apply the evaluation transform, and normalise.

Shapes: n images, C channels (1 grey, 3 RGB), S = recipe.image_size pixels a side.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from senet.data.folders import formats, printable
from senet.data.shards import ShardPath, sources_at
from senet.errors import ConfigError, DataError
from senet.progress import Bar
from senet.recipes.recipe import DataRecipe

BUILT_IN = ("digits", "cifar10", "cifar100")
"""Data sets with a name; their images are always in memory."""

_ORIENTATION = 0x0112
# EXIF's orientation -> what makes the image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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
    image = fit(read(source, recipe), evaluation_side(recipe), recipe)
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


def read(source: str | Path | Image.Image, recipe: DataRecipe) -> Image.Image:
    """Decode an image as grey (1 channel) or RGB (3), upright according to its EXIF data.

    Transparent pixels show `recipe.background`. Pixels of more than 8 bits are scaled by `recipe.pixel_range`. Of
    animations and files of several pages the first image is read. Broken metadata is left out.

    Raises:
        DataError: If any part of the pixels cannot be decoded.
    """
    try:
        return converted(source.copy() if isinstance(source, Image.Image) else opened(source), recipe)
    except DataError:
        # A shard, which is named.
        raise
    except FileNotFoundError as error:
        raise DataError(f"{printable(str(source))}: no such file") from error
    # For damaged files PIL raises OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        name = getattr(source, "filename", "") if isinstance(source, Image.Image) else str(source)
        reason = printable(_reason(error, name if isinstance(source, Image.Image) else source))
        failure = DataError(f"{printable(name) or 'image'}: cannot be read as an image ({reason})")
        raise (source.files.named(failure, source.row) if isinstance(source, ShardPath) else failure) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of Pillow, for example of large images, which name no file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def opened(source: str | Path) -> Image.Image:
    """Decode a file as it is stored, upright; where metadata breaks this, without the metadata."""
    data = source.read_bytes() if isinstance(source, ShardPath) else None
    # Opening a pipe waits for who writes to it.
    if data is None and os.path.exists(source) and not os.path.isfile(source):
        raise ValueError("it is not a file")
    try:
        return _decoded(source if data is None else io.BytesIO(data))
    except (FileNotFoundError, PermissionError, IsADirectoryError, Image.DecompressionBombError):
        raise
    except Exception:
        pixels_alone = without_metadata(Path(source).read_bytes() if data is None else data)
        if pixels_alone is None:
            raise
        return _decoded(io.BytesIO(pixels_alone))


def _decoded(source: str | Path | IO[bytes]) -> Image.Image:
    with quiet(), Image.open(source, formats=_readers()) as image:
        # Opening only reads the header; loading finds truncated files.
        image.load()
        try:
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        # Broken metadata is no reason to refuse the pixels.
        except Exception:
            turn = None
        return image if turn is None else image.transpose(turn)


def upright_size(source: str | Path) -> tuple[int, int]:
    """Width and height of an image that is upright according to its EXIF data; reads only the header.

    Raises:
        DataError: It is not an image.
    """
    try:
        with quiet(), Image.open(source, formats=_readers()) as image:
            width, height = image.size
            try:
                is_turned = image.getexif().get(_ORIENTATION, 1) >= 5
            except Exception:
                is_turned = False
    except Exception as error:
        reason = printable(str(error) or type(error).__name__)
        raise DataError(f"{printable(str(source))}: cannot be read as an image ({reason})") from error
    return (height, width) if is_turned else (width, height)


@cache
def _readers() -> tuple[str, ...]:
    # The commonest first; a reader may be asked for each file. EPS and PDF are refused: they run other programs.
    first = ("JPEG", "PNG")
    raster = set(formats().values())
    return (*first, *(name for name in Image.ID if name in raster and name not in first))


def without_metadata(data: bytes) -> bytes | None:
    """The bytes of a JPEG or PNG file without the parts that do not hold pixels; None for other files."""
    kept = []
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        kept, at = [data[:8]], 8
        while at + 8 <= len(data):
            length, kind = struct.unpack(">I4s", data[at : at + 8])
            # A small letter first: a chunk that decoders may skip. Transparency is one, but belongs to the pixels.
            if kind[:1].isupper() or kind == b"tRNS":
                kept.append(data[at : at + 12 + length])
            at += 12 + length
    elif data.startswith(b"\xff\xd8"):
        kept, at = [data[:2]], 2
        while data[at : at + 1] == b"\xff" and at + 4 <= len(data) and data[at + 1] != 0xDA:
            marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
            # APP14 says how colours are coded; the other APP segments and comments are about the picture.
            if not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
                kept.append(data[at : at + 2 + length])
            at += 2 + length
        kept.append(data[at:])
    return b"".join(kept) or None


def _reason(error: Exception, source: str | Path) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, Pillow's limit; scale it down"
    if isinstance(error, UnidentifiedImageError):
        if isinstance(source, ShardPath):
            start = source.read_bytes()[:12]
        else:
            with open(source, "rb") as file:
                start = file.read(12)
        if start.startswith((b"%!PS", b"%PDF", b"\xc5\xd0\xd3\xc6")):
            return "it is a drawing in PostScript or PDF; convert it to PNG"
        if start[4:8] == b"ftyp":
            return "no format that is read here; for HEIC: pip install 'senet[heic]'"
        return "no format of images" if start else "it is empty"
    return str(error) or type(error).__name__


def converted(image: Image.Image, recipe: DataRecipe) -> Image.Image:
    """Convert an image of any mode to grey or RGB. ValueError where its range must be given."""
    mode = "L" if recipe.channels == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    if is_wide(image):
        image = _narrow(image, recipe)
    elif image.has_transparency_data:
        # Pillow converts La by way of LA only.
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        ground = Image.new("RGBA", image.size, (*[recipe.background] * 3, 255))
        image = Image.alpha_composite(ground, image)
    elif image.mode == "LAB":
        image = _from_lab()(image)
    return image if image.mode == mode else image.convert(mode)


@cache
def _from_lab() -> Callable[[Image.Image], Image.Image]:
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, rgb, "LAB", "RGB").apply


def is_wide(image: Image.Image) -> bool:
    """Whether pixels have more than 8 bits: 16, 32-bit integers or floats."""
    return image.mode == "F" or image.mode.startswith("I")


def lost(image: Image.Image, recipe: DataRecipe) -> str:
    """Say why the range of an image of more than 8 bits must be given; "" where it need not be."""
    if not is_wide(image) or recipe.pixel_range:
        return ""
    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0)
    least, most = values.min(), values.max()
    kind = "floats" if image.mode == "F" else "integers"
    high = 1 if image.mode == "F" else 65535
    # Resized floats go a little beyond.
    slack = 0.1 if image.mode == "F" else 0
    if least < -slack or most > high + slack:
        wrong = f"lie outside 0 to {high}"
    elif image.mode != "F" and least < most < 256:
        # As 16 bits these would all be black.
        wrong = "would be black"
    else:
        return ""
    return f"its pixels are {kind} from {least:g} to {most:g}, which {wrong}; give black and white by data.pixel_range"


def _narrow(image: Image.Image, recipe: DataRecipe) -> Image.Image:
    """Scale to 8 bits; values outside the range that is given become black or white, NaN black."""
    if reason := lost(image, recipe):
        raise ValueError(reason)
    values = np.asarray(image)
    low, high = recipe.pixel_range or ((0, 1) if image.mode == "F" else (0, 65535))
    if (low, high) == (0, 65535) and image.mode != "F":
        # The upper 8 bits; PIL would clip at 255.
        return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8))
    scaled = np.nan_to_num((values.astype(np.float64) - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    return Image.fromarray(np.rint(scaled.clip(0, 1) * 255).astype(np.uint8))


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
    size_of_first = first.files.span(first.row).length if isinstance(first, ShardPath) else 0
    if not isinstance(first, Image.Image) and os.path.exists(first):
        size_of_first = os.path.getsize(first)
    is_large = size_of_first >= _SMALL
    threads = cpus() if is_large else 1
    with (
        ThreadPoolExecutor(threads) as pool,
        Bar(total=len(sources), desc=bar, unit="image", show=bar is not None) as shown,
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
    numbers = range(start, min(start + _CHUNK, len(sources)))
    for i, source in zip(numbers, sources_at(sources, numbers), strict=True):
        try:
            store[i] = pixels(fit(read(source, recipe), side, recipe))
        except DataError as error:
            if recipe.on_bad_image == "error":
                raise
            bad[i] = str(error)
    return bad
