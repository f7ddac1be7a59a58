"""Single images, judged by torchvision's transforms and by PIL."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from senet.data import load_image
from senet.data.images import read_all
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


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((24, 24), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: cannot be read as an image \(its pixels are 32-bit floats"):
        load_image(tmp_path / "a.tif", MEMORY)


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
