"""Images with the objects in them, as data sets whose items are whole batches (see `senet.data.splits`).

Boxes of targets are (left, top, right, bottom) in pixels. Flip and scale of an image are a function of (seed, epoch,
index).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from senet.data.images import normalise, pixels, read, scaled
from senet.data.splits import Batch, FileSplit, Key, Order
from senet.errors import DataError
from senet.initialization import stream
from senet.models.detector import LONGEST
from senet.processes import rank, world
from senet.recipes.recipe import DataRecipe

Target = dict[str, Tensor]

# Detectron's and torchvision's limit of an image's longest side, and pycocotools' areas of objects, in pixels.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Size of an object -> its smallest and largest area, as COCO has them."""


@dataclass(frozen=True)
class Objects:
    """One image's objects, as they are annotated.

    Attributes:
        file: Path of the image.
        width: In pixels.
        height: In pixels.
        boxes: (k, 4) float64, (left, top, width, height) in pixels as COCO has them; may reach over the edge.
        classes: (k,) int64, from 0.
        crowd: (k,) bool: a box around many objects, which neither train nor count as missed.
        areas: (k,) float64, of the objects, by which COCO calls them small, medium or large.
        masks: Of each object, as COCO writes them (polygons or run lengths); () without masks.
    """

    file: str
    width: int
    height: int
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    masks: tuple[Any, ...] = ()

    @property
    def corners(self) -> np.ndarray:
        """The boxes as (left, top, right, bottom)."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], 1)

    def of_training(self) -> np.ndarray:
        """The numbers of the objects that train: no crowds."""
        return np.flatnonzero(~self.crowd)


@dataclass
class Faults:
    """Objects that are left out: why and how many, and the first of each kind by name."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, why: str, where: str) -> None:
        """Count an object."""
        self.counts[why] += 1
        self.first.setdefault(why, where)

    def lines(self, source: object) -> tuple[str, ...]:
        """A line for each kind."""
        return tuple(
            f"{source}: {n:,} box{'es' if n > 1 else ''} left out, {why}; the first: {self.first[why]}"
            for why, n in self.counts.items()
        )


def fault(box: Sequence[float], width: int, height: int) -> str:
    """Why a box (left, top, width, height) cannot be used in an image of a size; "" for one that can.

    >>> fault((0, 0, 5, 5), 10, 10), fault((0, 0, 5, 0), 10, 10), fault((12, 0, 3, 5), 10, 10)
    ('', 'without area', 'outside the image')
    """
    left, top, w, h = box
    if not all(map(np.isfinite, box)):
        return "with NaN or infinity"
    if w <= 0 or h <= 0:
        return "without area"
    if left + w <= 0 or top + h <= 0 or left >= width or top >= height:
        return "outside the image"
    return ""


class ObjectOrder(Order):
    """The order of an epoch in which the images of a batch are all upright or all wide, so that little is padded.

    Args:
        wide: (n,) bool.
        batch_size: Images in a batch; the last ones of both kinds share batches.
        seed, rank, world: See `Order`.
    """

    def __init__(self, wide: Tensor, batch_size: int, seed: int | None, *, rank: int = 0, world: int = 1) -> None:
        super().__init__(len(wide), batch_size, seed, rank=rank, world=world)
        self.wide = wide

    def images(self) -> Tensor:
        """The images of the epoch, (n,) int64: batches of one kind, then the rest of both."""
        groups: dict[bool, list[int]] = {False: [], True: []}
        batches: list[int] = []
        for i in super().images().tolist():
            group = groups[bool(self.wide[i])]
            group.append(i)
            if len(group) == self.batch_size:
                batches += group
                group.clear()
        return torch.tensor(batches + groups[False] + groups[True], dtype=torch.int64, device="cpu")


class ObjectSplit(FileSplit):
    """Images with their objects. `prepare` returns lists: normalised images (3, h, w), and a target for each.

    A target has `boxes` (k, 4) float32 in pixels of the scaled image, `labels` (k,) int64 from 1, and `masks` (k, h, w)
    uint8 where `recipe.labels` is "masks", all without crowds; `crowd` (c, 4); `index`; `size`, height and width of the
    image in its file; and `scaled`, those that it is scaled to.

    Attributes:
        objects: Of each image.
    """

    def __init__(self, objects: Sequence[Objects], recipe: DataRecipe, seed: int | None) -> None:
        largest = [o.classes[int(o.areas.argmax())] if len(o.areas) else 0 for o in objects]
        super().__init__(
            [o.file for o in objects], torch.tensor(largest, dtype=torch.int64, device="cpu"), recipe, seed
        )
        self.objects = objects

    def order(self, batch_size: int, *, in_turn: bool = False) -> Order:
        """Return the keys of an epoch; in training a batch is of upright or of wide images."""
        if self.seed is None:
            return super().order(batch_size)
        wide = torch.tensor([o.width > o.height for o in self.objects], device="cpu")
        return ObjectOrder(wide, batch_size, self.seed, rank=rank(), world=world())

    def counts(self, classes: int) -> list[int]:
        """How many objects of each class there are, without crowds."""
        found = np.zeros(classes, np.int64)
        for o in self.objects:
            np.add.at(found, o.classes[~o.crowd], 1)
        return found.tolist()

    def label_bytes(self) -> bytes:
        """The objects, for a hash."""
        parts = [
            (o.boxes.tobytes(), o.classes.tobytes(), o.crowd.tobytes(), repr(o.masks).encode()) for o in self.objects
        ]
        return b"".join(b for part in parts for b in part)

    def _digest(self, digest: blake2b) -> None:
        super()._digest(digest)
        digest.update(self.label_bytes())

    def __getitem__(self, key: Key) -> Batch:
        """Return the batch of a key; runs in a worker process."""
        epoch, indices = key
        kept, images, targets, skipped = [], [], [], []
        for index in torch.as_tensor(indices).tolist():
            try:
                image, target = self.item(epoch, index)
            except DataError as error:
                skipped.append(str(error))
                continue
            kept.append(index)
            images.append(image)
            targets.append(target)
        found = torch.tensor(kept, dtype=torch.int64, device="cpu")
        return Batch(epoch, found, images, skipped, targets=targets)  # type: ignore[arg-type]

    def item(self, epoch: int, index: int) -> tuple[Tensor, Target]:
        """Return one image (3, h, w) uint8, scaled and perhaps mirrored, and its target.

        Raises:
            DataError: It cannot be read, or has another size than its annotation says.
        """
        o, recipe = self.objects[index], self.recipe
        image = read(o.file, recipe)
        if image.size != (o.width, o.height):
            raise DataError(
                f"{o.file}: is of {image.width}x{image.height} pixels, and its annotation of {o.width}x{o.height}"
            )
        shorter, mirrored = recipe.image_size, False
        if self.seed is not None:
            draws = torch.rand(2, generator=stream(self.seed, "objects", epoch, index), device="cpu").tolist()
            sides = recipe.scales or (recipe.image_size,)
            shorter = sides[int(draws[0] * len(sides))]
            mirrored = recipe.flip and draws[1] < 0.5
        height, width = fitted_size(o.height, o.width, shorter, recipe.max_size)
        image = scaled(image, (height, width), recipe)
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(pixels(image)).permute(2, 0, 1), target_of(o, index, height, width, recipe, mirrored)

    def prepare(self, batch: Batch, device: torch.device) -> tuple[Any, Any]:
        """Normalise a batch on the device.

        Raises:
            DataError: For an image that could not be read, unless `on_bad_image="skip"`.
        """
        if batch.skipped and self.recipe.on_bad_image == "error":
            raise DataError(batch.skipped[0])
        self.skipped += [line for line in batch.skipped if line not in self.skipped]
        assert isinstance(batch.images, list)
        assert batch.targets is not None
        images = [normalise(image.to(device, non_blocking=True), self.recipe) for image in batch.images]
        targets = [{name: t.to(device, non_blocking=True) for name, t in target.items()} for target in batch.targets]
        return images, targets


def fitted_size(height: int, width: int, shorter: int, longest: int) -> tuple[int, int]:
    """Height and width of an image whose shorter side becomes `shorter`, unless the longer one would exceed `longest`.

    >>> fitted_size(480, 640, 800, 1333), fitted_size(300, 900, 800, 1333)
    ((800, 1067), (444, 1333))
    """
    longest = longest or int(shorter * LONGEST)
    scale = min(shorter / min(height, width), longest / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def target_of(o: Objects, index: int, height: int, width: int, recipe: DataRecipe, mirrored: bool) -> Target:
    """The target of an image that is scaled to height and width, and mirrored after that."""
    boxes = o.corners * np.array([width / o.width, height / o.height] * 2)
    boxes = boxes.clip(0, [width, height] * 2)
    if mirrored:
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    train = o.of_training()
    target = {
        "boxes": torch.from_numpy(boxes[train]).float(),
        "labels": torch.from_numpy(o.classes[train] + 1),
        "crowd": torch.from_numpy(boxes[o.crowd]).float(),
        "index": torch.tensor(index, device="cpu"),
        "size": torch.tensor([o.height, o.width], device="cpu"),
        "scaled": torch.tensor([height, width], device="cpu"),
    }
    if recipe.labels == "masks":
        target["masks"] = masks_of(o, train, height, width, mirrored)
    return target


def masks_of(o: Objects, which: np.ndarray, height: int, width: int, mirrored: bool) -> Tensor:
    """The masks (k, h, w) uint8 of some objects of an image that is scaled to height and width."""
    if not o.masks:
        raise DataError(f"{o.file}: has boxes and no masks; expected with data.labels='masks': segmentations")
    found = torch.zeros(len(which), height, width, dtype=torch.uint8)
    for k, i in enumerate(which.tolist()):
        mask = Image.fromarray(decoded(o.masks[i], o.height, o.width)).resize((width, height), Image.Resampling.NEAREST)
        found[k] = torch.from_numpy(np.array(mask))
    return found.flip(2) if mirrored else found


def decoded(mask: Any, height: int, width: int) -> np.ndarray:
    """A mask (h, w) uint8 from polygons or run lengths."""
    from faster_coco_eval.core import mask as coco

    if isinstance(mask, list):
        mask = coco.merge(coco.frPyObjects(mask, height, width))  # type: ignore[arg-type]
    elif isinstance(mask["counts"], list):
        mask = coco.frPyObjects(mask, height, width)
    return np.ascontiguousarray(coco.decode(mask))
