"""A folder of images of many shapes, and a network that sees where things are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from senet.data import Data, open_data
from senet.recipes.recipe import DataRecipe

CLASSES = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<folder>/train|val/<class>/<i>.png`: 6 classes, 1 and 2 images each, no two of one shape."""
    root = tmp_path_factory.mktemp("images")
    g = np.random.default_rng(0)
    for c in range(CLASSES):
        for part, count in (("train", 1), ("val", 2)):
            (root / part / f"c{c}").mkdir(parents=True)
            for i in range(count):
                height, width = (40 + 3 * c + i, 60 - c) if c % 2 else (57 - c - i, 44 + 2 * c)
                small = g.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
                pixels = small.repeat(4, 0).repeat(4, 1)[:height, :width]
                Image.fromarray(pixels).save(root / part / f"c{c}" / f"{i}.png")
    return root


RECIPE = DataRecipe(
    image_size=32,
    resize=40,
    in_memory="no",
    workers=0,
    mean=(120 / 255, 110 / 255, 100 / 255),
    std=(60 / 255, 50 / 255, 70 / 255),
)


@pytest.fixture
def opened(folder: Path) -> Callable[..., Data]:
    """`opened(**changes)`: the folder, by `RECIPE` with changes."""
    return lambda **changes: open_data(replace(RECIPE, name=str(folder), **changes), seed=0)


@pytest.fixture
def model() -> nn.Module:
    """Any size of image -> 6 logits, which depend on where in the image things are."""
    g = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, CLASSES)
    )
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return net
