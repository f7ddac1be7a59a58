"""Training or validation images as data sets whose items are whole batches.

A key is (epoch, indices). Since it has the epoch, worker processes need no state, and a resumed run skips keys.

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
from senet.data.images import cpus, evaluation_side, fit, normalise, pixels, read, scaled
from senet.errors import DataError
from senet.initialization import stream
from senet.recipes.recipe import DataRecipe

Key = tuple[int, Sequence[int] | Tensor]
"""An epoch and the indices of the images of one batch."""


class Batch(NamedTuple):
    """What a loader returns; the input of `Split.prepare`.

    Attributes:
        epoch: The epoch.
        indices: (n,) int64.
        images: (n, C, S, S) uint8; None if the images are in memory.
        skipped: A line "file: reason" for each image of the batch that could not be read.
    """

    epoch: int
    indices: Tensor
    images: Tensor | None
    skipped: list[str]


class Order(Sampler[Key]):
    """Yields the keys of an epoch, one per batch; the last batch may be smaller.

    The epoch is its only state. A run is resumed by `set_epoch` and skipping keys.

    Args:
        n: Number of images.
        batch_size: Images in a batch.
        seed: The order is a permutation that depends on (seed, epoch) only; None for no shuffling.

    >>> list(Order(5, batch_size=2, seed=None))
    [(0, [0, 1]), (0, [2, 3]), (0, [4])]
    """

    def __init__(self, n: int, batch_size: int, seed: int | None) -> None:
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[Key]:
        epoch = self.epoch
        if self.seed is None:
            indices = torch.arange(self.n, device="cpu")
        else:
            indices = torch.randperm(self.n, generator=stream(self.seed, "order", epoch), device="cpu")
        # Lists, since each tensor sent to a worker process takes a file descriptor.
        return ((epoch, part.tolist()) for part in indices.split(self.batch_size))


class Split(Dataset[Batch], ABC):
    """Images and their classes, for
    `DataLoader(split, sampler=split.order(128), batch_size=None, num_workers=split.workers)`.

    Random numbers are a function of (seed, epoch, index) only: not of the batch size, the workers, the device or the
    global random state.

    Attributes:
        targets: (len(self),) int64, the class of each image.
        recipe: Preparation and augmentation.
        seed: For order and augmentation; None for evaluation, in order and without augmentation.
        skipped: A line "file: reason" for each image skipped so far, when opening or in prepared batches.
        workers: Recommended number of loader processes.
        side: Shorter side in pixels before evaluation takes the centre crop.
    """

    workers: int = 0
    side: int

    def __init__(self, targets: Tensor, recipe: DataRecipe, seed: int | None, skipped: Sequence[str] = ()) -> None:
        self.targets, self.recipe, self.seed, self.skipped = targets, recipe, seed, list(skipped)
        self._held: dict[str, tuple[Any, Any]] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.targets)

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes do not need the copies on a GPU.
        return {**self.__dict__, "_held": {}}

    def order(self, batch_size: int) -> Order:
        """Return the keys of an epoch: shuffled for training, in order for evaluation."""
        return Order(len(self), batch_size, self.seed)

    def draws(self, epoch: int) -> Draws:
        """Return the random numbers of `prepare` for all images of an epoch, on the CPU. For training only."""
        assert self.seed is not None
        return draw(self.recipe, self.seed, epoch, len(self))._replace(box=self._boxes(epoch))

    @abstractmethod
    def _boxes(self, epoch: int) -> Tensor | None:
        """Return the boxes that `prepare` crops with `crop="resized"`: (len(self), 4) top, left, height, width."""

    @abstractmethod
    def __getitem__(self, key: Key) -> Batch:
        """Return the batch of a key; runs in a worker process."""

    @abstractmethod
    def _pixels(self, batch: Batch, indices: Tensor) -> Tensor:
        """Return (n, C, S, S) uint8, channels_last, on the device of `indices`."""

    @abstractmethod
    def whole(self, index: int) -> Image.Image:
        """Return one image, upright, neither scaled nor cropped. DataError if it cannot be read."""

    def at_sizes(self, index: int, sizes: Sequence[int | tuple[int, int]]) -> list[Tensor]:
        """Return one image at several sizes, uncropped and antialiased: uint8 `(C, h, w)` each.

        Args:
            index: Which image.
            sizes: Shorter side in pixels (both sides with `keep_aspect=False`), or height and width.

        Raises:
            DataError: If it cannot be read.

        >>> split = TensorSplit(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), torch.zeros(1), DataRecipe(), seed=None)
        >>> [t.shape for t in split.at_sizes(0, [36, (8, 16)])]
        [torch.Size([1, 36, 36]), torch.Size([1, 8, 16])]
        """
        image = self.whole(index)
        return [torch.from_numpy(pixels(scaled(image, size, self.recipe))).permute(2, 0, 1) for size in sizes]

    def fingerprint(self) -> str:
        """Hash the images and their preparation in evaluation."""
        r = self.recipe
        made = (self.side, r.image_size, r.keep_aspect, r.interpolation, r.mean, r.std)
        digest = blake2b(repr(made).encode() + self.targets.numpy().tobytes(), digest_size=16)
        self._digest(digest)
        return digest.hexdigest()

    @abstractmethod
    def _digest(self, digest: blake2b) -> None:
        """Add the images to a hash."""

    def prepare(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalise a batch on the device, and augment it in training.

        Returns:
            Images `(n, C, S, S)` float32, `(x - mean) / std`, channels_last, and targets `(n,)` int64. n may be 0.

        Raises:
            DataError: For an image that could not be read, unless `on_bad_image="skip"`. It is raised here, in the main
                process, since an error in a worker process becomes a traceback of many lines.
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
        """Return `make()`, cached until `key` changes."""
        if name not in self._held or self._held[name][0] != key:
            self._held[name] = key, make()
        return self._held[name][1]


class TensorSplit(Split):
    """Images in memory, copied to the device at the first `prepare`; the loader only transports indices.

    `crop="resized"` crops from these S x S images, not from larger originals.

    Args:
        images: (n, C, S, S) uint8.
        targets: (n,) int64.
        recipe: Preparation and augmentation.
        seed: As for `Split`.
        skipped: As for `Split`.

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
        """Return one image as it is in memory."""
        return Image.fromarray(self.images[index].permute(1, 2, 0).squeeze(2).numpy())

    def _digest(self, digest: blake2b) -> None:
        digest.update(self.images.permute(0, 2, 3, 1).numpy().tobytes())

    def _boxes(self, epoch: int) -> Tensor | None:
        recipe, size = self.recipe, self.recipe.image_size
        if recipe.crop != "resized":
            return None
        return draw_boxes(recipe, size, size, len(self), stream(self.seed, "box", epoch))

    def __getitem__(self, key: Key) -> Batch:
        """Return the indices of a key."""
        epoch, indices = key
        return Batch(epoch, torch.as_tensor(indices), None, [])

    def _pixels(self, batch: Batch, indices: Tensor) -> Tensor:
        store = self._hold("images", indices.device, lambda: self.images.to(indices.device))
        # Indexing the (len, S, S, C) view keeps channels_last.
        return store.permute(0, 2, 3, 1)[indices].permute(0, 3, 1, 2)


class FileSplit(Split):
    """Images in files, decoded by worker processes when needed.

    In training, `crop="resized"` crops from the whole image. Otherwise the shorter side is scaled to `recipe.resize`
    and the centre cropped, and `crop="pad"` works on the result.

    Args:
        files: Their paths. Unreadable ones are noticed when they are needed.
        targets: (n,) int64.
        recipe: Preparation and augmentation.
        seed: As for `Split`.

    Raises:
        ConfigError: If `recipe.resize` is smaller than the image size.
    """

    def __init__(self, files: Sequence[str], targets: Tensor, recipe: DataRecipe, seed: int | None) -> None:
        super().__init__(targets, recipe, seed)
        self.files, self.side = files, evaluation_side(recipe)
        # torch warns of more workers than processors.
        self.workers = min(recipe.workers, cpus())

    def whole(self, index: int) -> Image.Image:
        """Return one decoded image."""
        return read(self.files[index], self.recipe.channels)

    def _digest(self, digest: blake2b) -> None:
        # Reading the files would take as long as the evaluation that the hash may save.
        for name in self.files:
            digest.update(f"{name}\0{_stamp(name)}\0".encode())

    def __getitem__(self, key: Key) -> Batch:
        """Decode and crop the images of a key."""
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
        return Batch(epoch, torch.tensor(kept, dtype=torch.int64, device="cpu"), images, skipped)

    def _boxes(self, epoch: int) -> Tensor | None:
        # The worker process crops, since a box depends on the size of the image.
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


def _stamp(file: str) -> tuple[int, int]:
    """Return size and time of change of a file; zeros if it is missing, which `on_bad_image` may allow."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
