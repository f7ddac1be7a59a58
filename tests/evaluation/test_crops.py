"""Views of images against crops cut by hand with PIL, one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from senet.data import Data, load_image
from senet.data.splits import FileSplit, TensorSplit
from senet.errors import ConfigError, DataError
from senet.evaluation.accuracy import answers, evaluate
from senet.evaluation.crops import Views
from senet.recipes.recipe import DataRecipe
from tests.evaluation.conftest import RECIPE

S = RECIPE.image_size


def by_hand(image: Image.Image, crops: int, flip: bool, sides: tuple[int, ...], whole: bool) -> list[Image.Image]:
    """The views of one image, in any order."""
    views = []
    for side in sides:
        w, h = image.size
        w, h = (side, math.floor(h * side / w)) if w < h else (math.floor(w * side / h), side)
        scaled = image.resize((w, h), Image.Resampling.BILINEAR)
        left, top = round((w - S) / 2), round((h - S) / 2)
        boxes = [(left, top, left + S, top + S)]
        if crops > 1:
            boxes += [(0, 0, S, S), (w - S, 0, w, S), (0, h - S, S, h), (w - S, h - S, w, h)]
        some = [scaled] if whole else [scaled.crop(b) for b in boxes]
        if crops == 12:
            some.append(image.resize((S, S), Image.Resampling.BILINEAR))
        views += some
        if flip or crops > 1:
            views += [ImageOps.mirror(v) for v in some]
    return views


@torch.no_grad()
def answer_by_hand(model: nn.Module, views: list[Image.Image], average: str) -> list[float]:
    """Probabilities, summed up one view at a time."""
    total: list[float] | None = None
    for view in views:
        x = (np.asarray(view, np.float64) / 255 - RECIPE.mean) / RECIPE.std
        logits = model(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32))[0].double()
        one = (logits if average == "logits" else logits.softmax(0)).tolist()
        total = one if total is None else [a + b for a, b in zip(total, one, strict=True)]
    assert total is not None
    mean = [v / len(views) for v in total]
    return torch.tensor(mean).softmax(0).tolist() if average == "logits" else mean


@pytest.mark.parametrize(
    "views",
    [
        Views(flip=True),
        Views(crops=10),
        Views(crops=12),
        Views(crops=10, scales=(36, 48)),
        Views(crops=12, scales=(48, 36, 40), average="logits"),
        Views(scales=(32, 40, 50)),
        Views(scales=(32, 50), flip=True),
        Views(whole=True, scales=(20, 40), flip=True),
    ],
    ids=repr,
)
def test_views_are_those_cut_by_hand(views: Views, opened: Callable[..., Data], model: nn.Module, folder: Path) -> None:
    # 17 views in a pass: batches that end in the middle of an image's views.
    found = answers(model, opened().val, views=views, batch_size=17)
    files = sorted((folder / "val").glob("*/*.png"))
    assert len(files) == len(found.logits) == 12
    for file, logits in zip(files, found.logits, strict=True):
        with Image.open(file) as image:
            cut = by_hand(image, views.crops, views.flip, views.scales or (RECIPE.resize,), views.whole)
        assert len(cut) == views.count
        wanted = answer_by_hand(model, cut, views.average)
        assert logits.double().softmax(0).tolist() == pytest.approx(wanted, abs=2e-6)
    assert found.targets.tolist() == [c for c in range(6) for _ in range(2)]


def test_one_centre_crop_is_the_single_crop(opened: Callable[..., Data], model: nn.Module) -> None:
    split = opened().val
    assert torch.equal(answers(model, split, views=Views()).logits, answers(model, split).logits)
    # Scaled to another side it is what a recipe with that side gives, and so are distorted images.
    for changes in ({"resize": 50}, {"resize": 50, "keep_aspect": False}):
        other = opened(**changes).val
        assert torch.equal(answers(model, other, views=Views(scales=(50,))).logits, answers(model, other).logits)
    assert not torch.equal(answers(model, split, views=Views(scales=(50,))).logits, answers(model, split).logits)


def test_worker_processes_cut_the_same(opened: Callable[..., Data], model: nn.Module) -> None:
    views = Views(crops=10)
    one, two = (answers(model, opened(workers=w).val, views=views, batch_size=30) for w in (0, 1))
    assert torch.equal(one.logits, two.logits)


def test_images_in_memory(model: nn.Module) -> None:
    recipe = DataRecipe(image_size=S, mean=RECIPE.mean, std=RECIPE.std)
    pixels = torch.randint(0, 256, (5, 3, S, S), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = TensorSplit(pixels, torch.arange(5), recipe, seed=None)
    found = answers(model, split, views=Views(crops=10, scales=(40,)))
    for image, logits in zip(pixels, found.logits, strict=True):
        whole = Image.fromarray(image.permute(1, 2, 0).numpy())
        wanted = answer_by_hand(model, by_hand(whole, 10, True, (40,), False), "probabilities")
        assert logits.softmax(0).tolist() == pytest.approx(wanted, abs=2e-6)
    grey = TensorSplit(pixels[:, :1], torch.arange(5), DataRecipe(image_size=S), seed=None)
    assert torch.equal(grey.at_sizes(2, [S])[0], pixels[2, :1])


def test_distorted_images_have_square_views(opened: Callable[..., Data], folder: Path) -> None:
    split = opened(keep_aspect=False).val
    assert [t.shape for t in split.at_sizes(0, [40, (32, 16)])] == [(3, 40, 40), (3, 32, 16)]
    file = sorted((folder / "val").glob("*/*.png"))[0]
    centre = split.at_sizes(0, [40])[0][:, 4:36, 4:36]
    assert torch.equal(centre, load_image(file, split.recipe))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crops": 11}, "crops: 11 is not known.*; expected: 1, 10, 12"),
        ({"average": "median"}, "average: 'median' is not known"),
        ({"crops": 10, "flip": True}, "flip: has no effect with crops=10"),
        ({"crops": 12, "whole": True}, "whole: excludes crops=12"),
        ({"scales": (40, 40)}, "scales: .*; expected: different"),
        ({"scales": (0,)}, "scales: .* 1 to 65,535"),
    ],
)
def test_views_that_cannot_be(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Views(**fields)


def test_views_that_do_not_fit(opened: Callable[..., Data], model: nn.Module) -> None:
    split = opened().val
    with pytest.raises(ConfigError, match="scales: 30 is smaller than the crop, image_size=32"):
        evaluate(model, split, views=Views(scales=(40, 30)))
    with pytest.raises(ConfigError, match=r"side of 32 all crops of 32 pixels are the same; .* such as 37"):
        evaluate(model, split, views=Views(crops=10, scales=(32,)))


def test_an_image_that_cannot_be_read(tmp_path: Path, model: nn.Module) -> None:
    for i in range(3):
        Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    files = [str(tmp_path / f"{i}.png") for i in range(3)]
    recipe = replace(RECIPE, name=str(tmp_path), resize=36)
    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        answers(model, FileSplit(files, torch.tensor([3, 4, 5]), recipe, None), views=Views(crops=10))
    lenient = replace(recipe, on_bad_image="skip")
    for batch_size in (1, 100):
        split = FileSplit(files, torch.tensor([3, 4, 5]), lenient, None)
        found = answers(model, split, views=Views(crops=10), batch_size=batch_size)
        assert found.targets.tolist() == [3, 5]
        (line,) = found.skipped
        assert "1.png" in line
        measured = evaluate(model, FileSplit(files, torch.tensor([3, 4, 5]), lenient, None), views=Views(flip=True))
        assert (measured.images, len(measured.skipped_images)) == (2, 1)
