"""Single images, judged by torchvision's transforms and by PIL."""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import functional as tv

from senet.data import load_image
from senet.data.images import read_all
from senet.data.sample import sample_notes
from senet.errors import ConfigError, DataError
from senet.recipes.recipe import DataRecipe

SaveImage = Callable[[Path, int, int, int], None]
FILES = DataRecipe(name="a folder", image_size=24, resize=30, in_memory="no", mean=(0.0,) * 3, std=(1.0,) * 3)
MEMORY = replace(FILES, in_memory="yes")


@pytest.mark.parametrize("size", [(24, 24), (30, 30), (40, 31), (31, 40), (25, 200), (300, 16), (13, 9)])
@pytest.mark.parametrize(("recipe", "side"), [(FILES, 30), (MEMORY, 24)])
def test_load_image_equals_torchvision(
    tmp_path: Path, save_image: SaveImage, size: tuple[int, int], recipe: DataRecipe, side: int
) -> None:
    save_image(tmp_path / "a.png", *size, 0)
    with Image.open(tmp_path / "a.png") as image:
        expected = tv.pil_to_tensor(tv.center_crop(tv.resize(image, side), 24))  # type: ignore[arg-type]
        assert torch.equal(load_image(image, recipe), expected)
    ours = load_image(tmp_path / "a.png", recipe)
    assert ours.dtype == torch.uint8
    assert ours.shape == (3, 24, 24)
    assert torch.equal(ours, expected)


def test_bicubic(tmp_path: Path, save_image: SaveImage) -> None:
    save_image(tmp_path / "a.png", 40, 31, 0)
    with Image.open(tmp_path / "a.png") as image:
        resized = tv.resize(image, 30, interpolation=tv.InterpolationMode.BICUBIC)  # type: ignore[arg-type]
        expected = tv.pil_to_tensor(tv.center_crop(resized, 24))  # type: ignore[arg-type]
    ours = load_image(tmp_path / "a.png", replace(FILES, interpolation="bicubic"))
    assert torch.equal(ours, expected)
    assert not torch.equal(ours, load_image(tmp_path / "a.png", FILES))


@pytest.mark.parametrize("size", [(40, 31), (31, 40), (30, 30), (24, 24), (30, 60)])
def test_without_the_aspect_ratio(size: tuple[int, int]) -> None:
    """Places365: each side to 256, then the central 224."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    for recipe, side in ((FILES, 30), (MEMORY, 24)):
        expected = tv.pil_to_tensor(tv.center_crop(tv.resize(image, [side, side]), 24))  # type: ignore[arg-type]
        assert torch.equal(load_image(image, replace(recipe, keep_aspect=False)), expected)


def test_an_image_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert np.array_equal(load_image(tmp_path / "a.png", MEMORY).permute(1, 2, 0).numpy(), array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_pixel(mode: str, channels: int) -> None:
    recipe = replace(MEMORY, mean=(0.0,) * channels, std=(1.0,) * channels)
    grey = Image.fromarray(np.arange(0, 192, 8, dtype=np.uint8)[:, None].repeat(24, 1)).convert("RGB").convert(mode)
    expected = np.asarray(grey.convert("RGB" if channels == 3 else "L")).reshape(24, 24, channels)
    assert np.array_equal(load_image(grey, recipe).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bit_pixels_keep_their_upper_8_bits(tmp_path: Path, dtype: type) -> None:
    wide = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(dtype)
    Image.fromarray(wide).save(tmp_path / "a.tif")
    assert np.array_equal(load_image(tmp_path / "a.tif", MEMORY)[0].numpy(), wide // 256)


@pytest.mark.parametrize(
    ("values", "dtype", "given", "expected"),
    [
        # 12 bits in a file of 16; signed integers; floats; integers that are 8 bits.
        ([0, 2048, 4095, 5000], np.uint16, (0.0, 4095.0), [0, 128, 255, 255]),
        ([-1024, 0, 1024, 3071], np.int32, (-1024.0, 3071.0), [0, 64, 128, 255]),
        ([-2.0, 0.0, 1.0, np.inf], np.float32, (-2.0, 2.0), [0, 128, 191, 255]),
        ([0.0, 0.5, 1.0, np.nan], np.float32, (), [0, 128, 255, 0]),
        ([0, 1, 100, 255], np.int32, (0.0, 255.0), [0, 1, 100, 255]),
        ([0, 256, 32768, 65535], np.int32, (), [0, 1, 128, 255]),
        # Without a range, values that would be lost are refused.
        ([0, 1, 100, 255], np.int32, (), "integers from 0 to 255, which would be black; give .* data.pixel_range"),
        ([0, 1, 100, 255], np.uint16, (), "integers from 0 to 255, which would be black"),
        ([-1, 0, 1, 3000], np.int32, (), "integers from -1 to 3000, which lie outside 0 to 65535"),
        ([0, 1, 2, 70000], np.int32, (), "integers from 0 to 70000, which lie outside 0 to 65535"),
        ([0.0, 1.0, 2.0, 255.0], np.float32, (), "floats from 0 to 255, which lie outside 0 to 1"),
        ([-1.0, 0.0, 0.5, 1.0], np.float32, (), "floats from -1 to 1, which lie outside 0 to 1"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_range_of_wide_pixels(
    tmp_path: Path, values: list[float], dtype: Any, given: tuple[float, ...], expected: list[int] | str, channels: int
) -> None:
    Image.fromarray(np.array(values, dtype).reshape(2, 2)).save(tmp_path / "a.tif")
    moments: Any = {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    recipe = DataRecipe(name="f", image_size=2, pixel_range=given, **moments)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=rf"a\.tif: cannot be read as an image \(its pixels are {expected}"):
            load_image(tmp_path / "a.tif", recipe)
    else:
        assert load_image(tmp_path / "a.tif", recipe).flatten(1).tolist() == [expected] * channels


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]


@pytest.mark.parametrize("mode", [*MODES, "I;16", "I;16L", "I;16B", "I;16N"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_converts(mode: str, channels: int) -> None:
    recipe = replace(MEMORY, mean=(0.0,) * channels, std=(1.0,) * channels)
    assert load_image(Image.new(mode, (24, 24)), recipe).shape == (channels, 24, 24)


def test_lab_is_converted_as_colours() -> None:
    lab = Image.merge("LAB", [Image.new("L", (24, 24), value) for value in (136, 208 - 128 + 128, 195)])
    red, green, blue = load_image(lab, MEMORY)[:, 0, 0].tolist()
    assert (red > 200, green < 60, blue < 60) == (True, True, True), "CIELAB (53, 80, 67) is red"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "1"])
@pytest.mark.parametrize("background", [255, 0, 77])
def test_transparent_pixels_show_the_background(tmp_path: Path, mode: str, background: int) -> None:
    """Half transparent and half black, as alpha, as a palette's and as a colour that stands for transparent."""
    recipe = replace(MEMORY, background=background)
    alpha = Image.new("L", (24, 24), 0)
    alpha.paste(255, (0, 0, 12, 24))
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (24, 24))
        image.putalpha(alpha)
        image.save(tmp_path / "a.png")
    else:
        key = {"RGB": (255, 255, 255), "P": 255}.get(mode, 255 if mode == "L" else 1)
        alpha.point(lambda v: 255 - v).convert(mode).save(tmp_path / "a.png", transparency=key)
    read = load_image(tmp_path / "a.png", recipe)
    assert read[:, :, :12].unique().tolist() == [0]
    assert read[:, :, 12:].unique().tolist() == [background]


def chunk(kind: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    """A chunk of a PNG file."""
    code = zlib.crc32(kind + data) if crc is None else crc
    return len(data).to_bytes(4, "big") + kind + data + code.to_bytes(4, "big")


JUNK = {
    "no EXIF at all": chunk(b"eXIf", b"junkjunkjunk"),
    "EXIF that ends": chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff"),
    "a wrong checksum": chunk(b"tEXt", b"a\0b", crc=1),
    "a profile of nothing": chunk(b"iCCP", b"icc"),
    "text that grows": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000))),
    "text of no coding": chunk(b"iTXt", b"a\0\1\0\0\0junk"),
    "a wrong size of pixels": chunk(b"pHYs", b"\0"),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_broken_metadata_of_png_costs_no_pixel(tmp_path: Path, junk: bytes) -> None:
    array = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    data = file.getvalue()
    # Behind the header, which has 8 + 25 bytes.
    (tmp_path / "a.png").write_bytes(data[:33] + junk + data[33:])
    assert np.array_equal(load_image(tmp_path / "a.png", MEMORY).permute(1, 2, 0).numpy(), array)


@pytest.mark.parametrize(
    "segment",
    [
        b"\xe1Exif\0\0junkjunkjunk",
        b"\xe1Exif\0\0II*\0\xff",
        b"\xe2ICC_PROFILE\0\1",
        b"\xe2MPF\0junk",
        b"\xedPhotoshop 3.0\08BIM",
    ],
)
def test_broken_metadata_of_jpeg_costs_no_pixel(tmp_path: Path, save_image: SaveImage, segment: bytes) -> None:
    save_image(tmp_path / "a.jpg", 24, 24, 0)
    data = (tmp_path / "a.jpg").read_bytes()
    marked = b"\xff" + segment[:1] + (len(segment) + 1).to_bytes(2, "big") + segment[1:]
    # Behind JFIF's segment, which has 18 bytes.
    (tmp_path / "b.jpg").write_bytes(data[:20] + marked + data[20:])
    expected = load_image(tmp_path / "a.jpg", MEMORY)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(load_image(tmp_path / "b.jpg", MEMORY), expected)
    assert not caught


@pytest.mark.parametrize("value", range(1, 9))
def test_all_orientations_are_those_of_pillow(tmp_path: Path, save_image: SaveImage, value: int) -> None:
    save_image(tmp_path / "a.png", 24, 24, 0)
    exif = Image.Exif()
    exif[0x0112] = value
    Image.open(tmp_path / "a.png").save(tmp_path / "b.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "b.png"))
    assert np.array_equal(load_image(tmp_path / "b.png", MEMORY).permute(1, 2, 0).numpy(), np.asarray(expected))


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".webp", ".png"])
def test_the_first_of_several_images(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.new("RGB", (24, 24), colour) for colour in ("white", "black"))
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second])
    assert load_image(tmp_path / f"a{suffix}", MEMORY).min() > 250


def test_large_images_do_not_warn_and_huge_ones_are_named(
    tmp_path: Path, save_image: SaveImage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(tmp_path / "a.png", 24, 24, 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    load_image(tmp_path / "a.png", MEMORY)
    read_all([str(tmp_path / "a.png")] * 3, MEMORY)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"a\.png: .* \(it has more than 200 pixels, Pillow's limit; scale it down\)"):
        load_image(tmp_path / "a.png", MEMORY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a drawing in PostScript or PDF; convert it to PNG"),
        (b"%PDF-1.4\n", "a drawing in PostScript or PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", r"for HEIC: pip install 'senet\[heic\]'"),
        (b"", "it is empty"),
        (b"<html>", "no format of images"),
    ],
)
def test_what_is_no_raster_image_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jpg: cannot be read as an image \(.*{message}"):
        load_image(tmp_path / "a.jpg", MEMORY)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "4 of 4 sampled images have transparent pixels, which show"),
        (Image.new("L", (8, 8), 7), "4 of 4 sampled images have one colour only, the first: "),
        (Image.fromarray(np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)), "of which 16 grey levels are left"),
        (Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 12), "the brightest pixel of 4 .* is 11 of 255"),
        (Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4), None),
        (Image.fromarray(np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)), None),
    ],
)
def test_notes_of_a_sample(tmp_path: Path, image: Image.Image, message: str | None) -> None:
    files = [str(tmp_path / f"{i}.png") for i in range(4)]
    for file in files:
        image.save(file)
    (tmp_path / "broken.png").write_bytes(b"junk")
    notes = sample_notes([*files, str(tmp_path / "broken.png"), str(tmp_path / "absent.png")], MEMORY)
    assert bool(notes) == (message is not None)
    assert message is None or re.search(message, notes[0])


def test_an_unknown_range_stops_before_training(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 9.0, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: its pixels are floats from 9 to 9, which lie outside 0 to 1; give"):
        sample_notes([str(tmp_path / "a.tif")], MEMORY)
    assert sample_notes([str(tmp_path / "a.tif")], replace(MEMORY, pixel_range=(0.0, 10.0)))[0].startswith("1 of 1")


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    array = np.zeros((24, 24, 3), np.uint8)
    array[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn anticlockwise
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_image(tmp_path / "a.png", MEMORY).permute(1, 2, 0).numpy(), np.rot90(array, -1))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".ppm", ".gif", ".tif", ".webp"])
def test_a_truncated_file_is_named(
    tmp_path: Path, save_image: SaveImage, truncate: Callable[[Path], None], suffix: str
) -> None:
    path = tmp_path / f"half{suffix}"
    save_image(path, 64, 48, 1)
    assert load_image(path, MEMORY).shape == (3, 24, 24)
    truncate(path)
    with pytest.raises(DataError, match=rf"half\{suffix}: cannot be read as an image \(") as caught:
        load_image(path, MEMORY)
    assert "\n" not in str(caught.value)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(DataError, match=r"notes\.jpg: cannot be read as an image"):
        load_image(tmp_path / "notes.jpg", FILES)
    with pytest.raises(DataError, match=r"absent\.jpg: no such file$"):
        load_image(tmp_path / "absent.jpg", FILES)


def test_a_pipe_and_a_folder_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tmp_path):
        with pytest.raises(DataError, match=r"cannot be read as an image \(it is not a file\)"):
            load_image(path, MEMORY)


def test_a_crop_larger_than_the_image_is_refused() -> None:
    small = replace(FILES, image_size=224, resize=200)
    image = Image.new("RGB", (300, 300))
    with pytest.raises(ConfigError, match=r"data\.resize: 200 is smaller than data\.image_size=224.*224 or more"):
        load_image(image, small)
    assert load_image(image, replace(small, resize=224)).shape == (3, 224, 224)
    # In memory, and for the built-in sets, `resize` is not used.
    assert load_image(image, replace(small, in_memory="yes")).shape == (3, 224, 224)
    assert load_image(image, replace(small, in_memory="auto", name="cifar10")).shape == (3, 224, 224)


@pytest.mark.parametrize("size", [(40, 30), (400, 300)])
def test_read_all_in_threads_keeps_the_order(tmp_path: Path, size: tuple[int, int]) -> None:
    names = [str(tmp_path / f"{i}.png") for i in range(150 if size[0] < 100 else 12)]
    for i, name in enumerate(names):
        Image.new("RGB", size, (i, 0, 0)).save(name)
    images, kept, skipped = read_all(names, MEMORY)
    assert images.shape == (len(names), 3, 24, 24)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[:, 0, 0, 0].tolist() == kept == list(range(len(names)))
    assert skipped == []


def test_read_all_shows_a_bar_to_who_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [Image.new("RGB", (24, 24))] * 70
    read_all(images, MEMORY)
    assert capsys.readouterr().err == ""
    read_all(images, MEMORY, bar="training images")
    assert capsys.readouterr().err == "", "a bar in a log file"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    read_all(images, MEMORY, bar="training images")
    assert "training images: " in capsys.readouterr().err
