"""Image files for the tests of the data room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, width: int, height: int, seed: int) -> None:
    """Random pixels, in the format that the name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Repeated 4 x 4, so that JPEG keeps most of it.
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    Image.fromarray(small.repeat(4, 0).repeat(4, 1)[:height, :width]).save(path)


@pytest.fixture
def save_image() -> Callable[[Path, int, int, int], None]:
    """`save_image(path, width, height, seed)`: random pixels."""
    return write_image


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes `tmp_path/images/<part>/<class>/<i>.png`: `make_folder({"train/cat": 3}, size=(40, 30))`."""

    def make(counts: dict[str, int], size: tuple[int, int] = (40, 30), suffix: str = ".png") -> Path:
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        for number, (name, count) in enumerate(counts.items()):
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                # Sizes differ from image to image.
                write_image(root / name / f"{i:02d}{suffix}", size[0] + i, size[1] + 2 * i, seed=100 * number + i)
        return root

    return make


@pytest.fixture
def truncate() -> Callable[[Path], None]:
    """`truncate(path)`: keeps the first half of a file, so that its header is whole and its pixels are not."""

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut
