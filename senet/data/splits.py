"""The training or the validation images: data sets whose items are whole batches.

A key is (epoch, indices). It carries the epoch, so a loader's worker processes need no state and a resumed run skips.

Shapes: n images in a batch, C channels, S = recipe.image_size pixels a side.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from senet.data.augment import Draws, augment, draw, draw_boxes
from senet.data.images import cpus, evaluation_side, fit, normalise, pixels, read
from senet.errors import DataError
from senet.initialization import stream
from senet.recipes.recipe import DataRecipe

Key = tuple[int, Sequence[int] | Tensor]
"""An epoch and the indices of the images of one batch."""


class Batch(NamedTuple):
    """What a loader hands over; `Split.prepare` makes it what a network takes.

    indices: (n,) int64, which images.
    images: (n, C, S, S) uint8; `None` where they are in memory and need not travel.
    skipped: a line "file: reason" for each image of the batch that could not be read.
    """

    epoch: int
    indices: Tensor
    images: Tensor | None
    skipped: list[str]


class Order(Sampler[Key]):
    """The keys of an epoch, one per batch; the last batch may be smaller.

    seed: shuffles by a permutation that is a function of (seed, epoch) alone; `None` for no shuffling.

    The epoch is its only state: a run resumes by `set_epoch` and skipping.

    >>> list(Order(5, batch_size=2, seed=None))
    [(0, [0, 1]), (0, [2, 3]), (0, [4])]
    """

    def __init__(self, n: int, batch_size: int, seed: int | None) -> None:
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch, from 0, whose keys come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[Key]:
        epoch = self.epoch
        if self.seed is None:
            indices = torch.arange(self.n)
        else:
            indices = torch.randperm(self.n, generator=stream(self.seed, "order", epoch))
        # Lists: a tensor sent to a worker process would take a file descriptor.
        return ((epoch, part.tolist()) for part in indices.split(self.batch_size))


class Split(Dataset[Batch], ABC):
    """Images and their classes, fed as
    `DataLoader(split, sampler=split.order(128), batch_size=None, num_workers=split.workers)`.

    targets: (len(self),) int64, the class of each image.
    seed: of the order and the augmentation; `None` is evaluation: in order, nothing augmented.
    skipped: a line "file: reason" for each image left out so far: at opening, or in the batches prepared.

    Every draw is a function of (seed, epoch, index) alone: not of the batch size, the workers, the device or any global
    random state, which stays untouched.
    """

    workers: int = 0
    """Loader processes that pay off."""

    side: int
    """Pixels of an image's shorter side before evaluation cuts out the centre."""

    def __init__(self, targets: Tensor, recipe: DataRecipe, seed: int | None, skipped: Sequence[str] = ()) -> None:
        self.targets, self.recipe, self.seed, self.skipped = targets, recipe, seed, list(skipped)
        self._held: dict[str, tuple[Any, Any]] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.targets)

    def __getstate__(self) -> dict[str, Any]:
        # Copies on a GPU stay out of worker processes.
        return {**self.__dict__, "_held": {}}

    def order(self, batch_size: int) -> Order:
        """The keys of an epoch: shuffled for training, in order for evaluation."""
        return Order(len(self), batch_size, self.seed)

    def draws(self, epoch: int) -> Draws:
        """What chance decides in `prepare` for each of the images in that epoch, on the CPU. Training only."""
        assert self.seed is not None
        return draw(self.recipe, self.seed, epoch, len(self))._replace(box=self._boxes(epoch))

    @abstractmethod
    def _boxes(self, epoch: int) -> Tensor | None:
        """What `prepare` cuts from each image, `crop="resized"`: (len(self), 4) top, left, height, width."""

    @abstractmethod
    def __getitem__(self, key: Key) -> Batch:
        """The batch of a key; runs in the loader's worker process."""

    @abstractmethod
    def _pixels(self, batch: Batch, indices: Tensor) -> Tensor:
        """(n, C, S, S) uint8, channels_last, on the device that `indices` is on."""

    @abstractmethod
    def whole(self, index: int) -> Image.Image:
        """One image, upright, not yet scaled or cropped. Raises DataError where it cannot be read."""

    def at_sizes(self, index: int, sizes: Sequence[int | tuple[int, int]]) -> list[Tensor]:
        """One image, uncropped, at several sizes: uint8 `(C, h, w)` each, antialiased where it shrinks.

        sizes: pixels of the shorter side (of each side with `keep_aspect=False`), or height and width.
        Raises DataError where it cannot be read.

        >>> split = TensorSplit(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), torch.zeros(1), DataRecipe(), seed=None)
        >>> [t.shape for t in split.at_sizes(0, [36, (8, 16)])]
        [torch.Size([1, 36, 36]), torch.Size([1, 8, 16])]
        """
        image = self.whole(index)
        return [torch.from_numpy(pixels(_scaled(image, size, self.recipe))).permute(2, 0, 1) for size in sizes]

    def fingerprint(self) -> str:
        """A name for these images as evaluation sees them: others, or the same prepared otherwise, have another."""
        r = self.recipe
        made = (self.side, r.image_size, r.keep_aspect, r.interpolation, r.mean, r.std)
        digest = blake2b(repr(made).encode() + self.targets.numpy().tobytes(), digest_size=16)
        self._digest(digest)
        return digest.hexdigest()

    @abstractmethod
    def _digest(self, digest: blake2b) -> None:
        """Add the images to a digest."""

    def prepare(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """What the network takes: images `(n, C, S, S)` float32, `(x - mean) / std`, channels_last; targets (n,) int64.

        Runs in the main process, on the device; in training it augments.

        Raises DataError for an image that could not be read: here, not in the worker process, so that the message stays
        one line. With `on_bad_image="skip"` it is left out instead, and n may be 0.
        """
        if batch.skipped and self.recipe.on_bad_image == "error":
            raise DataError(batch.skipped[0])
        self.skipped += [line for line in batch.skipped if line not in self.skipped]
        indices = batch.indices.to(device, non_blocking=True)
        images = self._pixels(batch, indices)
        targets = self._hold("targets", device, lambda: self.targets.to(device))[indices]
        if self.seed is None:
            x = normalise(images, self.recipe)
        else:
            draws = self._hold("draws", (batch.epoch, device), lambda: self.draws(batch.epoch).to(device))
            x = augment(images, draws.at(indices), self.recipe)
        return x.contiguous(memory_format=torch.channels_last), targets

    def _hold(self, name: str, key: Any, make: Any) -> Any:
        """`make()`, kept until `key` changes."""
        if name not in self._held or self._held[name][0] != key:
            self._held[name] = key, make()
        return self._held[name][1]


class TensorSplit(Split):
    """Images that live in memory, and on the device once `prepare` has seen it: nothing but indices travels.

    images: (len(self), C, S, S) uint8.

    `crop="resized"` cuts from these S x S images, not from the larger files they were made of.

    >>> split = TensorSplit(torch.zeros(5, 1, 32, 32, dtype=torch.uint8), torch.arange(5), DataRecipe(), seed=0)
    >>> images, targets = split.prepare(split[0, [3, 1]], torch.device("cpu"))
    >>> images.shape, targets
    (torch.Size([2, 1, 32, 32]), tensor([3, 1]))
    """

    def __init__(
        self, images: Tensor, targets: Tensor, recipe: DataRecipe, seed: int | None, skipped: Sequence[str] = ()
    ) -> None:
        super().__init__(targets, recipe, seed, skipped)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.side = recipe.image_size

    def whole(self, index: int) -> Image.Image:
        """One image, as it is in memory."""
        return Image.fromarray(self.images[index].permute(1, 2, 0).squeeze(2).numpy())

    def _digest(self, digest: blake2b) -> None:
        digest.update(self.images.permute(0, 2, 3, 1).numpy().tobytes())

    def _boxes(self, epoch: int) -> Tensor | None:
        recipe, size = self.recipe, self.recipe.image_size
        if recipe.crop != "resized":
            return None
        return draw_boxes(recipe, size, size, len(self), stream(self.seed, "box", epoch))

    def __getitem__(self, key: Key) -> Batch:
        """The key itself."""
        epoch, indices = key
        return Batch(epoch, torch.as_tensor(indices), None, [])

    def _pixels(self, batch: Batch, indices: Tensor) -> Tensor:
        store = self._hold("images", indices.device, lambda: self.images.to(indices.device))
        # Rows of the (len, S, S, C) view: whole images are copied, and stay channels_last.
        return store.permute(0, 2, 3, 1)[indices].permute(0, 3, 1, 2)


class FileSplit(Split):
    """Images that worker processes decode when their turn comes.

    files: their names. An image that cannot be read is found when its turn comes.

    Training with `crop="resized"` cuts from the whole file; else, and in evaluation, the shorter side goes to
    `recipe.resize` and the centre is cut out, and `crop="pad"` works on that.

    Raises ConfigError where `recipe.resize` is smaller than the image size.
    """

    def __init__(self, files: Sequence[str], targets: Tensor, recipe: DataRecipe, seed: int | None) -> None:
        super().__init__(targets, recipe, seed)
        self.files, self.side = files, evaluation_side(recipe)
        # More than there are processors only wait for each other, and torch warns of them.
        self.workers = min(recipe.workers, cpus())

    def whole(self, index: int) -> Image.Image:
        """One image, decoded."""
        return read(self.files[index], self.recipe.channels)

    def _digest(self, digest: blake2b) -> None:
        # Name, size and time of change: reading all files would take as long as the evaluation that this may save.
        for name in self.files:
            digest.update(f"{name}\0{_stamp(name)}\0".encode())

    def __getitem__(self, key: Key) -> Batch:
        """The decoded and cropped images of a key."""
        epoch, indices = key
        size, channels = self.recipe.image_size, self.recipe.channels
        store = np.empty((len(indices), size, size, channels), np.uint8)
        kept, skipped = [], []
        wanted: list[int] = torch.as_tensor(indices).tolist()
        for index in wanted:
            try:
                store[len(kept)] = pixels(self._crop(read(self.files[index], channels), epoch, index))
                kept.append(index)
            except DataError as error:
                skipped.append(str(error))
        images = torch.from_numpy(store[: len(kept)]).permute(0, 3, 1, 2)
        return Batch(epoch, torch.tensor(kept, dtype=torch.int64), images, skipped)

    def _boxes(self, epoch: int) -> Tensor | None:
        # The worker process has cut them: a box needs the size of its file.
        return None

    def _crop(self, image: Image.Image, epoch: int, index: int) -> Image.Image:
        recipe, size = self.recipe, self.recipe.image_size
        if self.seed is None or recipe.crop != "resized":
            return fit(image, self.side, recipe)
        box = draw_boxes(recipe, image.height, image.width, 1, stream(self.seed, "box", epoch, index))
        top, left, height, width = box[0].tolist()
        part = image.crop((left, top, left + width, top + height))
        return part.resize((size, size), Image.Resampling.BILINEAR)

    def _pixels(self, batch: Batch, indices: Tensor) -> Tensor:
        assert batch.images is not None
        return batch.images.to(indices.device, non_blocking=True)


def _scaled(image: Image.Image, size: int | tuple[int, int], recipe: DataRecipe) -> Image.Image:
    """The image with a shorter side of `size` pixels (each side with `keep_aspect=False`), or of this height and width.

    The longer side is rounded down, as in `fit`.
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


def _stamp(file: str) -> tuple[int, int]:
    """Bytes and time of change; zeros for a file that has gone, which `on_bad_image` may allow."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
