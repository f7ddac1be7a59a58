"""Training augmentation of whole batches on their device, with random numbers drawn before, on the CPU.

Sources: pad, crop and flip: arXiv:1709.01507v4, section 5.1 (CIFAR); random area and aspect ratio: section 5.1, after
GoogLeNet (arXiv:1409.4842); cutout: arXiv:1708.04552; MixUp: arXiv:1710.09412; CutMix: arXiv:1905.04899. torchvision's
transforms (RandAugment and others), which take one image at a time, come between the two halves: `place`, `Each`, then
`augment` without the draws that `place` used.

Shapes: n images, C channels, S pixels a side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from senet.data.images import moments, normalise
from senet.initialization import number, stream
from senet.recipes.recipe import DataRecipe

_TRIES = 10
# Range of the hash; products of two such numbers fit int64.
_HASHES = 2**31


class Draws(NamedTuple):
    """The random numbers of n images; None for augmentations that the recipe does not use.

    Attributes:
        flip: (n,) bool, whether to mirror.
        shift: (n, 2) int64, rows and columns of the shifted window, -crop_padding to crop_padding.
        hole: (n, 2) int64, row and column of the centre of cutout.
        box: (n, 4) int64, top, left, height and width of the crop that is scaled to S x S.
        angle: (n,) float32, degrees, counterclockwise.
        noise: (n,) int64, seed of the jitter.
        share: (n,) float32, what an image keeps of itself in MixUp and CutMix.
        cut: (n,) bool, whether it is CutMix.
        centre: (n, 2) int64, row and column of the centre of CutMix's rectangle.
    """

    flip: Tensor | None = None
    shift: Tensor | None = None
    hole: Tensor | None = None
    box: Tensor | None = None
    angle: Tensor | None = None
    noise: Tensor | None = None
    share: Tensor | None = None
    cut: Tensor | None = None
    centre: Tensor | None = None

    def at(self, indices: Tensor) -> Draws:
        """Select images: `indices` (m,) int64."""
        return Draws(*(t if t is None else t[indices] for t in self))

    def to(self, device: torch.device) -> Draws:
        """Move to a device."""
        return Draws(*(t if t is None else t.to(device) for t in self))


def draw(recipe: DataRecipe, seed: int, epoch: int, n: int) -> Draws:
    """Draw the random numbers of all `n` images of an epoch, without boxes; row i is a function of (seed, epoch, i).

    Switching one augmentation on or off does not change the others.
    """
    u = torch.rand((n, 5), generator=stream(seed, "augment", epoch), dtype=torch.float64, device="cpu")
    turn = torch.rand(n, generator=stream(seed, "rotate", epoch), dtype=torch.float64, device="cpu")
    padding = recipe.crop_padding
    return Draws(
        flip=u[:, 0] < 0.5 if recipe.flip else None,
        shift=(u[:, 1:3] * (2 * padding + 1)).long() - padding if recipe.crop == "pad" else None,
        hole=(u[:, 3:5] * recipe.image_size).long() if recipe.cutout else None,
        angle=((2 * turn - 1) * recipe.rotate).float() if recipe.rotate else None,
        noise=torch.randint(_HASHES, (n,), generator=stream(seed, "jitter", epoch), device="cpu")
        if recipe.jitter
        else None,
        **(_draw_mixing(recipe, seed, epoch, n) if recipe.mixes else {}),
    )


def _draw_mixing(recipe: DataRecipe, seed: int, epoch: int, n: int) -> dict[str, Tensor]:
    random = np.random.default_rng(number(seed, "mix", epoch))
    u = random.random((n, 3))
    chance = recipe.cutmix > 0 and (0.5 if recipe.mixup else 1.0)
    cut = u[:, 0] < chance
    alpha = np.where(cut, recipe.cutmix or 1.0, recipe.mixup or 1.0)
    return {
        "share": torch.from_numpy(random.beta(alpha, alpha).astype(np.float32)),
        "cut": torch.from_numpy(cut),
        "centre": torch.from_numpy((u[:, 1:] * recipe.image_size).astype(np.int64)),
    }


def draw_boxes(recipe: DataRecipe, height: int, width: int, n: int, generator: torch.Generator) -> Tensor:
    """Draw random crops for n images of one size, `crop="resized"`: (n, 4) int64 top, left, height, width.

    As torchvision's RandomResizedCrop: the area is uniform in `crop_scale`, the logarithm of the aspect ratio (width
    over height) uniform in `crop_ratio`; the first of 10 tries that fits, else the largest central crop.
    """
    u = torch.rand((n, 2 * _TRIES + 2), generator=generator, dtype=torch.float64, device="cpu").numpy()
    (small, large), (narrow, wide) = recipe.crop_scale, recipe.crop_ratio
    area = height * width * (small + u[:, :_TRIES] * (large - small))
    ratio = np.exp(math.log(narrow) + u[:, _TRIES : 2 * _TRIES] * math.log(wide / narrow))
    h, w = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first, found = (np.arange(n), fits.argmax(1)), fits.any(1)
    h = np.where(found, h[first], min(height, round(width / narrow)))
    w = np.where(found, w[first], min(width, round(height * wide)))
    top = np.where(found, u[:, -2] * (height - h + 1), (height - h) // 2)
    left = np.where(found, u[:, -1] * (width - w + 1), (width - w) // 2)
    return torch.from_numpy(np.stack([top, left, h, w], 1).astype(np.int64))


def augment(images: Tensor, draws: Draws, recipe: DataRecipe) -> Tensor:
    """Crop, mirror, normalise, rotate, jitter, cut out: `(n, C, S, S)` uint8, channels_last -> `(n, C, S, S)` float32.

    Padding, cutout and rotation fill with 0 after normalisation, the mean colour, as in the sources of the paper's
    CIFAR protocol (fb.resnet.torch, the code of cutout). Cutout's square is
    [centre - side // 2, centre - side // 2 + side), clipped at the border. Jitter does not clip.
    """
    n, _, size, _ = images.shape
    x, outside = place(images, draws)
    x = normalise(x, recipe)
    if outside is not None:
        x.masked_fill_(outside, 0.0)
    if draws.angle is not None:
        x = _rotate(x, draws.angle)
    if draws.noise is not None:
        _, std = moments(recipe.mean, recipe.std, x.device)
        x = x + (2 * _uniform(draws.noise, x) - 1) * (recipe.jitter / std)
    if draws.hole is not None:
        places = torch.arange(size, device=images.device).expand(n, size)
        first = draws.hole - recipe.cutout // 2
        hole_rows, hole_columns = (
            (places >= start) & (places < start + recipe.cutout) for start in first.split(1, dim=1)
        )
        x.masked_fill_(_square(hole_rows, hole_columns), 0.0)
    return x


def place(images: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None]:
    """Crop and mirror: `(n, C, S, S)` uint8, channels_last.

    Returns:
        The images, uint8, or float32 where crops are scaled; and which pixels lie outside, `(n, 1, S, S)`, or None.
    """
    n, _, size, _ = images.shape
    rows = places = torch.arange(size, device=images.device).expand(n, size)
    columns = places if draws.flip is None else torch.where(draws.flip[:, None], size - 1 - places, places)
    if draws.box is not None:
        return _resample(images, rows, columns, draws.box), None
    if draws.shift is not None:
        rows, columns = rows + draws.shift[:, :1], columns + draws.shift[:, 1:]
        inside = _square((rows >= 0) & (rows < size), (columns >= 0) & (columns < size))
        return _pick(images, rows.clamp(0, size - 1), columns.clamp(0, size - 1)), ~inside
    return images if draws.flip is None else _pick(images, rows, columns), None


class Each:
    """torchvision's transforms of a recipe, applied to one image after the other.

    An image's random numbers are a function of its key. Every image is transformed by Pillow, so the result does not
    depend on threads or devices. Blank pixels get the mean colour, rounded.
    """

    def __init__(self, recipe: DataRecipe) -> None:
        from torchvision.transforms import v2

        self.mean = [round(255 * value) for value in recipe.mean]
        options = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": self.mean}
        strength = recipe.color_jitter
        steps = {
            "randaugment": lambda: [v2.RandAugment(recipe.randaugment_ops, recipe.randaugment_magnitude, **options)],
            "trivialaugment": lambda: [v2.TrivialAugmentWide(**options)],
            "none": lambda: [],
        }[recipe.auto_augment]()
        if strength:
            steps.append(v2.ColorJitter(strength, strength, strength))
        steps.append(v2.PILToTensor())
        if recipe.random_erasing:
            steps.append(v2.RandomErasing(recipe.random_erasing, value=self.mean))  # type: ignore[arg-type]
        self.steps = v2.Compose(steps)

    def __call__(self, images: Tensor, draws: Draws, keys: Sequence[tuple[object, ...]]) -> Tensor:
        """Crop, mirror and transform `(n, C, S, S)` uint8; each image has a key for its random numbers."""
        x, outside = place(images, draws)
        if x.is_floating_point():
            x = x.round().clamp(0, 255).byte()
        if outside is not None:
            x = torch.where(outside, torch.tensor(self.mean, dtype=torch.uint8, device="cpu").view(-1, 1, 1), x)
        done = [torch.empty(0, *x.shape[1:], dtype=torch.uint8, device="cpu")]
        # torchvision draws from the global generator.
        before = torch.get_rng_state()
        try:
            for image, key in zip(x.permute(0, 2, 3, 1).numpy(), keys, strict=True):
                torch.default_generator.manual_seed(number(*key))
                done.append(self.steps(Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image))[None])
        finally:
            torch.set_rng_state(before)
        return torch.cat(done).contiguous(memory_format=torch.channels_last)


def mix(
    x: Tensor, targets: Tensor, mates: Tensor, draws: Draws, recipe: DataRecipe, classes: int
) -> tuple[Tensor, Tensor]:
    """MixUp and CutMix of the first n of m images.

    CutMix's rectangle has the image's proportions and the share `1 - share` of its area, before it is clipped at the
    border; the targets have the shares of what remains.

    Args:
        x: `(m, C, S, S)`, prepared.
        targets: `(m,)`, classes.
        mates: `(n,)` int64, the place in `x` of what each image is mixed with.
        draws: Of the first n images.
        recipe: Which of the two.
        classes: Number of classes.

    Returns:
        Images `(n, C, S, S)` and the probability of each class, `(n, classes)` float32.
    """
    assert draws.share is not None
    assert draws.cut is not None
    assert draws.centre is not None
    n, size = len(mates), x.shape[-1]
    mine, other, share = x[:n], x[mates], draws.share
    kept = share.view(-1, 1, 1, 1)
    mixed = other + kept * (mine - other)
    if recipe.cutmix:
        half = (0.5 * (1 - share).sqrt() * size).long()[:, None]
        first, last = (draws.centre - half).clamp(min=0), (draws.centre + half).clamp(max=size)
        places = torch.arange(size, device=x.device)
        rows, columns = ((places >= first[:, i : i + 1]) & (places < last[:, i : i + 1]) for i in (0, 1))
        pasted = torch.where(_square(rows, columns), other, mine)
        mixed = torch.where(draws.cut.view(-1, 1, 1, 1), pasted, mixed)
        share = torch.where(draws.cut, 1 - (last - first).prod(1) / size**2, share)
    wanted = F.one_hot(targets, classes).float()
    return mixed, wanted[:n] * share[:, None] + wanted[mates] * (1 - share[:, None])


def _square(rows: Tensor, columns: Tensor) -> Tensor:
    """Outer product of rows and columns: (n, S) and (n, S) bool -> (n, 1, S, S)."""
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _pick(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Index the (n, S) rows and (n, S) columns of each image: `(n, C, S, S) -> (n, C, S, S)`."""
    n, channels, size, _ = images.shape
    each = torch.arange(n, device=images.device)[:, None, None]
    # On a CPU one flat index is 4 times faster than three.
    places = (each * size + rows[:, :, None]) * size + columns[:, None, :]
    flat = images.permute(0, 2, 3, 1).reshape(-1, channels)
    return flat.index_select(0, places.flatten()).view(n, size, size, channels).permute(0, 3, 1, 2)


def _resample(images: Tensor, rows: Tensor, columns: Tensor, box: Tensor) -> Tensor:
    """Scale the box of each image to S x S, bilinear with repeated edges: `(n, C, S, S) -> (n, C, S, S)` float32.

    Boxes are never larger than the image, so no antialiasing is needed.
    """
    size = images.shape[-1]
    grid = []
    for places, start, length in ((columns, box[:, 1:2], box[:, 3:4]), (rows, box[:, 0:1], box[:, 2:3])):
        at = ((places + 0.5) * length / size - 0.5).clamp(min=0).minimum(length - 1) + start
        grid.append(at * 2 / max(size - 1, 1) - 1)
    x, y = grid
    where = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    return F.grid_sample(images.float(), where, padding_mode="border", align_corners=True)


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate each image about its centre, bilinear, 0 outside: `(n, C, S, S)`, (n,) degrees -> `(n, C, S, S)`."""
    size = x.shape[-1]
    sin, cos = (t.view(-1, 1, 1) for t in (angle.deg2rad().sin(), angle.deg2rad().cos()))
    # Coordinates from -1 to 1; rows go down.
    places = (torch.arange(size, device=x.device) * 2 - (size - 1)) / max(size - 1, 1)
    rows, columns = places[:, None], places[None, :]
    where = torch.stack([columns * cos - rows * sin, columns * sin + rows * cos], dim=-1)
    return F.grid_sample(x, where, padding_mode="zeros", align_corners=True)


def _uniform(seeds: Tensor, like: Tensor) -> Tensor:
    """Return numbers in [0, 1], (n, C, S, S) float32, each a function of its image's seed and its position.

    A hash instead of a generator gives equal numbers on all devices and in all batches.
    """
    places = torch.arange(like.shape[1:].numel(), device=like.device)
    mixed = _mix_(_mix_(places)[None] ^ seeds[:, None])
    return mixed.float().div_(_HASHES).view(like.shape)


def _mix_(h: Tensor) -> Tensor:
    """Hash integers below 2^31 one to one, in place: twice, xor with the upper bits and multiply by an odd number."""
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D)):
        h ^= h >> shift
        h *= factor
        h &= _HASHES - 1
    h ^= h >> 16
    return h
