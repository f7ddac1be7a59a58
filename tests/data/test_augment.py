"""Augmentation, judged by loops over single images and by a scalar version of each published rule."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import functional as tv
from torchvision.transforms import v2

from senet.data.augment import Draws, Each, augment, draw, draw_boxes, mix
from senet.data.images import normalise
from senet.initialization import number, stream
from senet.recipes.recipe import DataRecipe

RGB = DataRecipe(image_size=12, mean=(125.3 / 255, 123.0 / 255, 113.9 / 255), std=(63.0 / 255, 62.1 / 255, 66.7 / 255))
NOTHING = Draws()


def some_images(n: int = 20, channels: int = 3, size: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=stream("images"))


def slow(image: np.ndarray, draws: Draws, i: int, recipe: DataRecipe) -> np.ndarray:
    """One (C, S, S) image, pixel by pixel, in the order of the originals: normalise, pad, crop, flip, cut out."""
    channels, size, _ = image.shape
    out = np.zeros_like(image, dtype=np.float64)
    down, right = (0, 0) if draws.shift is None else draws.shift[i].tolist()
    for c in range(channels):
        for y in range(size):
            for x in range(size):
                # Pixel (y, x) of the crop whose corner is (down, right) away from the image's.
                sy, sx = y + down, x + right
                if 0 <= sy < size and 0 <= sx < size:
                    out[c, y, x] = (float(image[c, sy, sx]) / 255 - recipe.mean[c]) / recipe.std[c]
    if draws.flip is not None and draws.flip[i]:
        out = out[:, :, ::-1].copy()
    if draws.hole is not None:
        cy, cx = draws.hole[i].tolist()
        top, left = cy - recipe.cutout // 2, cx - recipe.cutout // 2
        for y in range(top, top + recipe.cutout):
            for x in range(left, left + recipe.cutout):
                if 0 <= y < size and 0 <= x < size:
                    out[:, y, x] = 0
    return out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": True},
        {"cutout": 4},
        {"cutout": 5},
        {"crop": "pad", "crop_padding": 4},
        {"crop": "pad", "crop_padding": 0},
        {"crop": "pad", "crop_padding": 3, "flip": True, "cutout": 30},
        {"crop": "pad", "crop_padding": 20, "flip": True, "cutout": 6},
    ],
)
def test_equals_the_slow_version(options: dict, channels: int) -> None:
    recipe = replace(RGB, mean=RGB.mean[:channels], std=RGB.std[:channels], **options)
    images = some_images(channels=channels)
    draws = draw(recipe, seed=3, epoch=2, n=len(images))
    ours = augment(images, draws, recipe)
    assert ours.dtype == torch.float32
    for i, image in enumerate(images.numpy()):
        np.testing.assert_allclose(ours[i].numpy(), slow(image, draws, i, recipe), atol=2e-6)


def test_the_border_and_the_hole_have_the_mean_colour() -> None:
    recipe = replace(RGB, image_size=8, cutout=2)
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    draws = NOTHING._replace(shift=torch.tensor([[-2, 0]]), hole=torch.tensor([[5, 6]]))
    x = augment(white, draws, recipe)[0]
    value = [(1 - m) / s for m, s in zip(recipe.mean, recipe.std, strict=True)]
    for c in range(3):
        expected = torch.full((8, 8), value[c])
        expected[:2] = 0
        expected[4:6, 5:7] = 0
        torch.testing.assert_close(x[c], expected)


def test_normalise_in_numbers() -> None:
    recipe = DataRecipe(mean=(125.3 / 255, 123.0 / 255, 113.9 / 255), std=(63.0 / 255, 62.1 / 255, 66.7 / 255))
    pixel = torch.tensor([0, 123, 255], dtype=torch.uint8).view(3, 1, 1)
    expected = torch.tensor([-125.3 / 63.0, 0.0, 141.1 / 66.7]).view(3, 1, 1)
    torch.testing.assert_close(normalise(pixel, recipe), expected)
    torch.testing.assert_close(normalise(pixel.expand(2, 3, 4, 4), recipe), expected.expand(2, 3, 4, 4))


@pytest.mark.parametrize("size", [12, 1, 7])
def test_resized_crop_equals_interpolating_each_crop(size: int) -> None:
    recipe = replace(RGB, image_size=size, crop="resized", flip=True)
    images = some_images(n=40, size=size)
    draws = draw(recipe, 0, 0, 40)._replace(box=draw_boxes(recipe, size, size, 40, stream("boxes")))
    assert draws.box is not None
    assert draws.flip is not None
    ours = augment(images, draws, recipe)
    for i in range(40):
        top, left, height, width = draws.box[i].tolist()
        part = images[i : i + 1, :, top : top + height, left : left + width].float()
        scaled = F.interpolate(part, (size, size), mode="bilinear", align_corners=False)
        expected = normalise(scaled.flip(-1) if draws.flip[i] else scaled, recipe)[0]
        torch.testing.assert_close(ours[i], expected, atol=1e-4, rtol=0)


def slow_box(u: list[float], height: int, width: int, recipe: DataRecipe) -> tuple[int, int, int, int]:
    """RandomResizedCrop's rule, of 22 uniform numbers."""
    (small, large), (narrow, wide) = recipe.crop_scale, recipe.crop_ratio
    for t in range(10):
        area = height * width * (small + u[t] * (large - small))
        ratio = math.exp(math.log(narrow) + u[10 + t] * (math.log(wide) - math.log(narrow)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(u[20] * (height - h + 1)), math.floor(u[21] * (width - w + 1)), h, w
    if width / height < narrow:
        w, h = width, round(width / narrow)
    elif width / height > wide:
        w, h = round(height * wide), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "options", "falls_back"),
    [
        (32, 32, {}, False),
        (375, 500, {}, False),
        (400, 20, {"crop_scale": (0.9, 1.0)}, True),
        (20, 401, {"crop_scale": (0.9, 1.0)}, True),
        (50, 50, {"crop_scale": (1.0, 1.0), "crop_ratio": (0.5, 0.6)}, True),
        (1, 1, {}, False),
    ],
)
def test_boxes_equal_the_scalar_rule(height: int, width: int, options: dict, falls_back: bool) -> None:
    recipe = replace(RGB, crop="resized", **options)
    boxes = draw_boxes(recipe, height, width, 300, stream("u"))
    uniforms = torch.rand((300, 22), generator=stream("u"), dtype=torch.float64).tolist()
    expected = [slow_box(u, height, width, recipe) for u in uniforms]
    assert boxes.tolist() == [list(box) for box in expected]
    assert (len(set(expected)) == 1) == (falls_back or height == 1)


def test_draws_are_uniform() -> None:
    recipe = replace(RGB, flip=True, crop="pad", crop_padding=2, cutout=4)
    n = 20_000
    draws = draw(recipe, 0, 0, n)
    assert draws.flip is not None
    assert draws.shift is not None
    assert draws.hole is not None
    # Five standard deviations of a count.
    for counts, share in (
        (draws.flip.long().bincount(), 1 / 2),
        *((draws.shift[:, d].add(2).bincount(), 1 / 5) for d in (0, 1)),
        *((draws.hole[:, d].bincount(), 1 / 12) for d in (0, 1)),
    ):
        assert len(counts) == round(1 / share)
        assert (counts - n * share).abs().max() < 5 * math.sqrt(n * share * (1 - share))
    # And independent of one another.
    table = torch.cat([draws.flip[:, None], draws.shift, draws.hole], 1).double().T
    assert (torch.corrcoef(table) - torch.eye(5)).abs().max() < 5 / math.sqrt(n)


def test_draws_depend_on_seed_and_epoch_and_not_on_the_other_options() -> None:
    each = {"flip": {"flip": True}, "shift": {"crop": "pad"}, "hole": {"cutout": 4}}
    each |= {"angle": {"rotate": 10.0}, "noise": {"jitter": 20.0}}
    full = replace(RGB, flip=True, crop="pad", cutout=4, rotate=10.0, jitter=20.0)
    a = draw(full, 0, 0, 50)
    for name, options in each.items():
        mine = getattr(a, name)
        for other in (draw(full, 1, 0, 50), draw(full, 0, 1, 50)):
            assert not torch.equal(mine, getattr(other, name)), name
        alone = draw(replace(RGB, **options), 0, 0, 50)._asdict()
        assert torch.equal(mine, alone.pop(name)), name
        assert set(alone.values()) == {None}, name
        # An image's draws do not depend on how many come after it.
        assert torch.equal(mine[:7], getattr(draw(full, 0, 0, 7), name)), name


@pytest.mark.parametrize("size", [12, 7])
def test_turning_equals_torchvision(size: int) -> None:
    recipe = replace(RGB, image_size=size, rotate=180.0)
    images = some_images(size=size)
    draws = draw(recipe, 0, 0, len(images))
    assert draws.angle is not None
    assert -180 < draws.angle.min() < -100
    assert 100 < draws.angle.max() < 180
    ours, straight = augment(images, draws, recipe), normalise(images, recipe)
    for i, angle in enumerate(draws.angle.tolist()):
        expected = tv.rotate(straight[i], angle, tv.InterpolationMode.BILINEAR)
        torch.testing.assert_close(ours[i], expected, atol=2e-5, rtol=0)
    quarter = augment(images, NOTHING._replace(angle=torch.full((len(images),), 90.0)), recipe)
    torch.testing.assert_close(quarter, straight.rot90(1, (2, 3)), atol=2e-5, rtol=0)


def test_jitter_is_uniform_and_independent() -> None:
    recipe = replace(RGB, image_size=64, jitter=20.0)
    images = torch.full((12, 3, 64, 64), 100, dtype=torch.uint8)
    draws = draw(recipe, 0, 0, 12)
    std = 255 * torch.tensor(recipe.std).view(3, 1, 1)
    noise = (augment(images, draws, recipe) - normalise(images, recipe)) * std
    n = noise.numel()
    counts = torch.histc(noise, 40, -20, 20)
    assert counts.sum() == n
    # Five standard deviations of a count, of a mean product.
    assert (counts - n / 40).abs().max() < 5 * math.sqrt(n / 40)
    neighbours = {
        "channel": (noise[:, :-1], noise[:, 1:]),
        "row": (noise[:, :, :-1], noise[:, :, 1:]),
        "column": (noise[..., :-1], noise[..., 1:]),
        "image": (noise[:-1], noise[1:]),
    }
    for name, (a, b) in neighbours.items():
        assert abs((a * b).mean()) / noise.var() < 5 / math.sqrt(a.numel()), name
    # An image's noise is its own, whatever the batch.
    some = torch.tensor([7, 2])
    torch.testing.assert_close(
        (augment(images[:2], draws.at(some), recipe) - normalise(images[:2], recipe)) * std, noise[some]
    )


def test_the_hole_is_blank_after_turning_and_jitter() -> None:
    recipe = replace(RGB, cutout=4, rotate=10.0, jitter=20.0)
    draws = draw(recipe, 0, 0, 20)._replace(hole=torch.full((20, 2), 6))
    x = augment(some_images(), draws, recipe)
    assert (x[:, :, 4:8, 4:8] == 0).all()
    assert (x[:, :, :4] != 0).any(1).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["randaugment", "trivialaugment", "color", "erasing"])
def test_one_image_at_a_time_is_torchvision_s_own_class(kind: str, channels: int) -> None:
    """Only the seeds are ours; so the distribution is theirs. An image does not depend on those beside it."""
    mean = (0.2,) if channels == 1 else (0.2, 0.4, 0.6)
    fill = [round(255 * m) for m in mean]
    options: dict = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": fill}
    fields, theirs = {
        "randaugment": ({"auto_augment": "randaugment", "randaugment_ops": 3}, lambda: v2.RandAugment(3, 9, **options)),
        "trivialaugment": ({"auto_augment": "trivialaugment"}, lambda: v2.TrivialAugmentWide(**options)),
        "color": ({"color_jitter": 0.4}, lambda: v2.ColorJitter(0.4, 0.4, 0.4)),
        "erasing": ({"random_erasing": 0.7}, lambda: v2.RandomErasing(0.7, value=fill)),
    }[kind]
    images = some_images(12, channels)
    recipe = DataRecipe(image_size=12, mean=mean, std=(0.5,) * channels, **fields)
    each, keys = Each(recipe), [("a key", i) for i in range(12)]
    found = each(images, NOTHING, keys)
    assert torch.equal(each(images[4:7], NOTHING, keys[4:7]), found[4:7])
    assert (found != images).flatten(1).any(1).float().mean() > 0.4
    for image, key, have in zip(images, keys, found, strict=True):
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array[:, :, 0] if channels == 1 else array)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number(*key))
            want = theirs()(v2.functional.pil_to_tensor(picture) if kind == "erasing" else picture)
        assert torch.equal(have, want if kind == "erasing" else v2.functional.pil_to_tensor(want))


def test_crops_come_before_torchvision_s_transforms_and_pad_with_the_mean_colour() -> None:
    recipe = replace(RGB, crop="pad", crop_padding=4, flip=True, random_erasing=1e-9)
    draws, images = draw(recipe, 1, 0, 20), some_images()
    found = normalise(Each(recipe)(images, draws, [(i,) for i in range(20)]), recipe)
    # Half a grey level, in deviations.
    torch.testing.assert_close(found, augment(images, draws, recipe), rtol=0, atol=0.51 / 62)
    assert not torch.equal(found, normalise(images, recipe))
    boxes = draw_boxes(recipe, 12, 12, 20, stream("boxes"))
    found = normalise(Each(recipe)(images, draws._replace(box=boxes), [(i,) for i in range(20)]), recipe)
    torch.testing.assert_close(found, augment(images, draws._replace(box=boxes), recipe), rtol=0, atol=0.51 / 62)


def test_mixup_and_cutmix_by_hand() -> None:
    x = torch.stack([torch.full((1, 8, 8), float(i)) for i in range(3)])
    draws = Draws(
        share=torch.tensor([0.75, 0.75, 0.4]),
        cut=torch.tensor([False, True, True]),
        centre=torch.tensor([[0, 0], [4, 5], [7, 0]]),
    )
    recipe = DataRecipe(image_size=8, mixup=1.0, cutmix=1.0)
    found, targets = mix(x, torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]), draws, recipe, 4)
    # MixUp: 0.75 * 0 + 0.25 * 1.
    assert torch.equal(found[0], torch.full((1, 8, 8), 0.25))
    assert targets[0].tolist() == [0.75, 0.25, 0, 0]
    # CutMix of a quarter: a side of 0.5 * 8 = 4 pixels, two either way of (4, 5): rows 2 to 5, columns 3 to 6.
    want = torch.full((8, 8), 1.0)
    want[2:6, 3:7] = 2.0
    assert torch.equal(found[1, 0], want)
    assert targets[1].tolist() == [0, 0.75, 0.25, 0]
    # sqrt(0.6) * 8 / 2 = 3.098, 3 pixels either way of the corner (7, 0): rows 4 to 7, columns 0 to 2.
    want = torch.full((8, 8), 2.0)
    want[4:8, 0:3] = 0.0
    assert torch.equal(found[2, 0], want)
    assert targets[2].tolist() == pytest.approx([12 / 64, 0, 52 / 64, 0])


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_shares_are_those_of_the_beta_distribution(alpha: float) -> None:
    recipe = replace(RGB, mixup=alpha, cutmix=5.0)
    draws = draw(recipe, 0, 0, 20_000)
    assert draws.share is not None
    assert draws.cut is not None
    assert draws.cut.float().mean() == pytest.approx(0.5, abs=0.02)
    for chosen, a in ((~draws.cut, alpha), (draws.cut, 5.0)):
        # Mean and variance of Beta(a, a).
        assert draws.share[chosen].mean() == pytest.approx(0.5, abs=0.02)
        assert draws.share[chosen].var() == pytest.approx(1 / (4 * (2 * a + 1)), rel=0.05)
    only = draw(replace(RGB, cutmix=5.0), 0, 0, 50).cut
    assert only is not None
    assert only.all()
    assert draw(RGB, 0, 0, 5).share is None
