"""Training or validation images as data sets whose items are whole batches.

A key is (epoch, indices). Since it has the epoch, worker processes need no state, and a resumed run skips keys. Several
processes that train together share the images of each batch.

An index is a number in the list of an epoch's images, which `Split.images_in` returns. That is the list of all images,
unless `recipe.balanced` chooses others in each epoch.

Shapes: n images in a batch, C channels, S = recipe.image_size pixels a side.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from senet.data.augment import Draws, Each, augment, draw, draw_boxes, mix
from senet.data.images import cpus, evaluation_side, fit, normalise, pixels, read, scaled
from senet.data.shards import ShardFiles, sources_at
from senet.errors import DataError
from senet.initialization import stream
from senet.processes import rank, share, world
from senet.recipes.recipe import DataRecipe

Key = tuple[int, Sequence[int] | Tensor]
"""An epoch and the indices of the images of one batch."""


class Batch(NamedTuple):
    """What a loader returns; the input of `Split.prepare`.

    Attributes:
        epoch: The epoch.
        indices: (m,) int64.
        images: (m, C, S, S) uint8; None if the images are in memory; a list of (C, h, w) uint8 with objects.
        skipped: A line "file: reason" for each image of the batch that could not be read.
        targets: The objects of each image, where there are some; see `ObjectSplit`.
        mates: (n,) int64, where MixUp or CutMix are used: the place in the batch of the image that each of the first n
            is mixed with; the others are there to be mixed with. None: all m are the batch.
    """

    epoch: int
    indices: Tensor
    images: Tensor | list[Tensor] | None
    skipped: list[str]
    mates: Tensor | None = None
    targets: list[dict[str, Tensor]] | None = None


def permutation(n: int, seed: int, epoch: int, windows: Tensor | None = None) -> Tensor:
    """The order of an epoch's n images.

    Args:
        n: Number of images.
        seed: The order depends on (seed, epoch) only.
        epoch: From 0.
        windows: (n,) int64, which images stay together: first come those with 0, then those with 1, and so on.

    >>> permutation(4, 0, 0, torch.tensor([1, 0, 1, 0]))
    tensor([1, 3, 2, 0])
    """
    order = torch.randperm(n, generator=stream(seed, "order", epoch), device="cpu")
    return order if windows is None else order[windows[order].argsort(stable=True)]


class Order(Sampler[Key]):
    """Yields the keys of an epoch, one per batch; the last batch may be smaller.

    A batch is one of all processes that train together, and each has its share of it, `share`. So the batches are the
    same for any number of processes, and its only state is one integer, the `place`: how many images of the run came
    before, whole epochs of n and those of the unfinished one.

    Args:
        n: Number of images.
        batch_size: Images in a batch, of all processes.
        seed: The order is a permutation that depends on (seed, epoch) only; None for no shuffling.
        classes: (n,) int64, the class of each image, where classes are to take turns: first an image of each, then
            another of each, so that a few batches have all of them. None for the plain order.
        windows: Epoch -> `windows` of `permutation`.
        rank: Which of the processes, from 0.
        world: How many there are.

    >>> list(Order(5, batch_size=2, seed=None))
    [(0, [0, 1]), (0, [2, 3]), (0, [4])]
    >>> list(Order(5, batch_size=2, seed=None, rank=1, world=2))
    [(0, [1]), (0, [3]), (0, [4])]
    >>> order = Order(5, batch_size=2, seed=None)
    >>> order.go_to(7)
    >>> list(order)
    [(1, [2, 3]), (1, [4])]
    >>> list(Order(5, batch_size=2, seed=None, classes=torch.tensor([0, 0, 0, 1, 1])))
    [(0, [0, 3]), (0, [1, 4]), (0, [2])]
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int | None,
        classes: Tensor | None = None,
        *,
        windows: Callable[[int], Tensor | None] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.n, self.batch_size, self.seed, self.classes = n, batch_size, seed, classes
        self.windows, self.rank, self.world = windows, rank, world
        self.epoch = self.consumed = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; another one than before starts at its first image."""
        if epoch != self.epoch:
            self.epoch, self.consumed = epoch, 0

    def go_to(self, place: int) -> None:
        """Start after so many images of the run."""
        self.epoch, self.consumed = divmod(place, self.n)

    def place(self, epoch: int, batches: int) -> int:
        """How many images of the run came before, after so many batches of an epoch."""
        return epoch * self.n + min(batches * self.batch_size, self.n)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return -(-self.n // self.batch_size)

    def images(self) -> Tensor:
        """The images of the epoch, (n,) int64, in the order in which they are trained on."""
        if self.seed is None:
            indices = torch.arange(self.n, device="cpu")
        else:
            windows = self.windows(self.epoch) if self.windows else None
            indices = permutation(self.n, self.seed, self.epoch, windows)
        return indices if self.classes is None else _in_turn(indices, self.classes)

    def __iter__(self) -> Iterator[Key]:
        epoch, batches = self.epoch, self.images()[self.consumed :].split(self.batch_size)
        # Lists, since each tensor sent to a worker process takes a file descriptor.
        return ((epoch, batch[share(len(batch), self.rank, self.world)].tolist()) for batch in batches)


def _in_turn(indices: Tensor, classes: Tensor) -> Tensor:
    """Sort images by how many of their class come before them, and leave the order as it is otherwise."""
    of = classes[indices]
    by_class = of.argsort(stable=True)
    counts = of.bincount()
    before = torch.empty_like(of)
    before[by_class] = torch.arange(len(of), device="cpu") - (counts.cumsum(0) - counts)[of[by_class]]
    return indices[before.argsort(stable=True)]


class Split(Dataset[Batch], ABC):
    """Images and their classes, for
    `DataLoader(split, sampler=split.order(128), batch_size=None, num_workers=split.workers)`.

    Random numbers are a function of (seed, epoch, index) only: not of the batch size, the workers, the device or the
    global random state.

    Attributes:
        targets: (len(self),) int64, the class of each image.
        recipe: Preparation and augmentation.
        seed: For order and augmentation; None for evaluation, in order and without augmentation.
        classes: Number of classes of mixed targets: the highest class plus one, unless it is set.
        skipped: A line "file: reason" for each image skipped so far, when opening or in prepared batches.
        workers: Recommended number of loader processes.
        side: Shorter side in pixels before evaluation takes the centre crop.
    """

    workers: int = 0
    side: int

    def __init__(self, targets: Tensor, recipe: DataRecipe, seed: int | None, skipped: Sequence[str] = ()) -> None:
        self.targets, self.recipe, self.seed, self.skipped = targets, recipe, seed, list(skipped)
        self._held: dict[str, tuple[Any, Any]] = {}
        self.classes = int(targets.max()) + 1 if len(targets) else 0
        is_each = seed is not None and recipe.augments_each
        # Made here and not in each worker process, since it imports torchvision.
        self._each = Each(recipe) if is_each else None
        # torch warns of more workers than processors.
        self.workers = min(recipe.workers, cpus()) if is_each else 0

    def __len__(self) -> int:
        """Number of images."""
        return len(self.targets)

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes do not need the copies on a GPU.
        return {**self.__dict__, "_held": {}}

    def order(self, batch_size: int, *, in_turn: bool = False) -> Order:
        """Return the keys of an epoch: shuffled for training, in order for evaluation; `in_turn`: see `Order`."""
        classes = self.targets if in_turn else None
        return Order(len(self), batch_size, self.seed, classes, windows=self.windows, rank=rank(), world=world())

    def draws(self, epoch: int) -> Draws:
        """Return the random numbers of `prepare` for all images of an epoch, on the CPU. For training only."""
        assert self.seed is not None
        return draw(self.recipe, self.seed, epoch, len(self))._replace(box=self._boxes(epoch))

    @abstractmethod
    def _boxes(self, epoch: int) -> Tensor | None:
        """Return the boxes that `prepare` crops with `crop="resized"`: (len(self), 4) top, left, height, width."""

    def images_in(self, epoch: int) -> Tensor:
        """Return the images of an epoch's list, (len(self),) int64: all in order, or as `recipe.balanced` draws them.

        Then each class has as many, give or take one, and so has each image of a class.
        """
        if self.seed is None or not self.recipe.balanced:
            return self._hold("list", None, lambda: torch.arange(len(self), device="cpu"))
        return self._hold("list", epoch, lambda: balanced(self.targets, stream(self.seed, "balanced", epoch)))

    def windows(self, epoch: int) -> Tensor | None:
        """Return which images of an epoch's list stay together in its order, `windows` of `permutation`."""
        return None

    def mates(self, epoch: int) -> Tensor:
        """Return what each index of an epoch is mixed with, (len(self),) int64: its neighbour in the epoch's order.

        The first and the second are mates, the third and the fourth, and so on; the last of an odd number is its own.
        """

        def pair() -> Tensor:
            assert self.seed is not None
            order = permutation(len(self), self.seed, epoch, self.windows(epoch))
            mates, pairs = torch.arange(len(self), device="cpu"), order[: len(order) // 2 * 2].view(-1, 2)
            mates[pairs] = pairs.flip(1)
            return mates

        return self._hold("mates", epoch, pair)

    def __getitem__(self, key: Key) -> Batch:
        """Return the batch of a key; runs in a worker process."""
        epoch, indices = key
        # A process may have no image of a batch.
        wanted = torch.as_tensor(indices, dtype=torch.int64)
        is_mixed = self.seed is not None and self.recipe.mixes
        if is_mixed:
            partners = self.mates(epoch)[wanted]
            # A mate is in the same batch, if its size is even; else it is read too.
            wanted = torch.cat([wanted, partners[~torch.isin(partners, wanted)].unique()])
        found, images, skipped = self._read(epoch, wanted)
        if self._each is not None:
            assert images is not None
            assert self.seed is not None
            draws = self._hold("draws here", epoch, lambda: self.draws(epoch)).at(found)
            images = self._each(images, draws, [(self.seed, "each", epoch, i) for i in found.tolist()])
        if not is_mixed:
            return Batch(epoch, found, images, skipped)
        place = {index: i for i, index in enumerate(found.tolist())}
        own = [i for i in torch.as_tensor(indices).tolist() if i in place]
        # Beside a mate that cannot be read, an image stays as it is.
        mates = [place.get(mate, place[i]) for i, mate in zip(own, self.mates(epoch)[own].tolist(), strict=True)]
        return Batch(epoch, found, images, skipped, torch.tensor(mates, dtype=torch.int64, device="cpu"))

    @abstractmethod
    def _read(self, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor | None, list[str]]:
        """Return the indices that can be read; their pixels, or None if they stay in memory; `Batch.skipped`."""

    def _pixels(self, batch: Batch, indices: Tensor) -> Tensor:
        """Return (m, C, S, S) uint8, channels_last, on the device of `indices`."""
        assert isinstance(batch.images, Tensor)
        return batch.images.to(indices.device, non_blocking=True)

    def counts(self, classes: int) -> list[int]:
        """How many images of each class there are."""
        return self.targets.bincount(minlength=classes).tolist()

    def label_bytes(self) -> bytes:
        """The labels, for a hash."""
        return self.targets.numpy().tobytes()

    @abstractmethod
    def whole(self, index: int) -> Image.Image:
        """Return one image, upright, neither scaled nor cropped. DataError if it cannot be read."""

    def name(self, index: int) -> str:
        """What messages call an image: its file, or its number."""
        return f"image {index}"

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
        made = (self.side, r.image_size, r.keep_aspect, r.interpolation, r.mean, r.std, r.background, r.pixel_range)
        digest = blake2b(repr(made).encode() + self.label_bytes(), digest_size=16)
        self._digest(digest)
        return digest.hexdigest()

    @abstractmethod
    def _digest(self, digest: blake2b) -> None:
        """Add the images to a hash."""

    def prepare(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalise a batch on the device, and augment it in training.

        Returns:
            Images `(n, C, S, S)` float32, `(x - mean) / std`, channels_last, and targets: classes `(n,)` int64, or with
            MixUp or CutMix probabilities `(n, classes)` float32. n may be 0.

        Raises:
            DataError: For an image that could not be read, unless `on_bad_image="skip"`. It is raised here, in the main
                process, since an error in a worker process becomes a traceback of many lines.
        """
        if batch.skipped and self.recipe.on_bad_image == "error":
            raise DataError(batch.skipped[0])
        self.skipped += [line for line in batch.skipped if line not in self.skipped]
        indices = batch.indices.to(device, non_blocking=True)
        images = self._pixels(batch, indices)
        chosen_in = batch.epoch if self.recipe.balanced else 0
        targets = self._hold("targets", (chosen_in, device), lambda: self._targets(chosen_in).to(device))[indices]
        if self.seed is None:
            x = normalise(images, self.recipe)
        else:
            drawn = self._hold("draws", (batch.epoch, device), lambda: self.draws(batch.epoch).to(device))
            draws = drawn.at(indices)
            if self._each is not None:
                draws = draws._replace(flip=None, shift=None, box=None)
            x = augment(images, draws, self.recipe)
            if batch.mates is not None:
                mates = batch.mates.to(device, non_blocking=True)
                x, targets = mix(x, targets, mates, drawn.at(indices[: len(mates)]), self.recipe, self.classes)
        return x.contiguous(memory_format=torch.channels_last), targets

    def _targets(self, epoch: int) -> Tensor:
        return self.targets[self.images_in(epoch)]

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

    def _read(self, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor | None, list[str]]:
        return indices, None if self._each is None else self.images[self.images_in(epoch)[indices]], []

    def _pixels(self, batch: Batch, indices: Tensor) -> Tensor:
        if batch.images is not None:
            return super()._pixels(batch, indices)
        if self.recipe.balanced and self.seed is not None:
            indices = self.images_in(batch.epoch).to(indices.device)[indices]
        store = self._hold("images", indices.device, lambda: self.images.to(indices.device))
        # Indexing the (len, S, S, C) view keeps channels_last.
        return store.permute(0, 2, 3, 1)[indices].permute(0, 3, 1, 2)


class FileSplit(Split):
    """Images in files or shards, decoded by worker processes when needed.

    In training, `crop="resized"` crops from the whole image. Otherwise the shorter side is scaled to `recipe.resize`
    and the centre cropped, and `crop="pad"` works on the result.

    Args:
        files: Their paths, or `ShardFiles`. Unreadable ones are noticed when they are needed.
        targets: (n,) int64.
        recipe: Preparation and augmentation.
        seed: As for `Split`.

    Raises:
        ConfigError: If `recipe.resize` is smaller than the image size.
    """

    def __init__(self, files: Sequence[str], targets: Tensor, recipe: DataRecipe, seed: int | None) -> None:
        super().__init__(targets, recipe, seed)
        self.files, self.side = files, evaluation_side(recipe)
        self.workers = min(recipe.workers, cpus())

    def name(self, index: int) -> str:
        """Return the file."""
        return self.files[index]

    def whole(self, index: int) -> Image.Image:
        """Return one decoded image."""
        return read(self.files[index], self.recipe)

    def windows(self, epoch: int) -> Tensor | None:
        """Return for images in shards the place of their window: so many shards, in a random order of all."""
        size = self.recipe.shuffle_window
        if self.seed is None or not size or not isinstance(self.files, ShardFiles):
            return None
        place = torch.randperm(len(self.files.shards), generator=stream(self.seed, "shards", epoch), device="cpu")
        return place[torch.from_numpy(self.files.shard_numbers())[self.images_in(epoch)]] // size

    def _digest(self, digest: blake2b) -> None:
        # Reading the files would take as long as the evaluation that the hash may save.
        if isinstance(self.files, ShardFiles):
            digest.update(b"".join(self.files.digests()))
            return
        for name in self.files:
            digest.update(os.fsencode(name) + f"\0{_stamp(name)}\0".encode())

    def _read(self, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor | None, list[str]]:
        """Decode and crop."""
        size, channels = self.recipe.image_size, self.recipe.channels
        store = np.empty((len(indices), size, size, channels), np.uint8)
        kept, skipped = [], []
        images_of: list[int] = self.images_in(epoch)[indices].tolist()
        for index, source in zip(indices.tolist(), sources_at(self.files, images_of), strict=True):
            try:
                store[len(kept)] = pixels(self._crop(read(source, self.recipe), epoch, index))
                kept.append(index)
            except DataError as error:
                skipped.append(str(error))
        images = torch.from_numpy(store[: len(kept)]).permute(0, 3, 1, 2)
        return torch.tensor(kept, dtype=torch.int64, device="cpu"), images, skipped

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


def balanced(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many images as there are, (n,) int64, equally of each class, give or take one.

    Within a class, each image is drawn as often as the others, give or take one.

    >>> balanced(torch.tensor([0, 0, 0, 1]), stream(0))[-2:]
    tensor([3, 3])
    """
    of_class = targets.argsort(stable=True).split(targets.unique(return_counts=True)[1].tolist())
    quota = torch.full((len(of_class),), len(targets) // len(of_class), device="cpu")
    quota[torch.randperm(len(of_class), generator=generator, device="cpu")[: len(targets) % len(of_class)]] += 1
    drawn = []
    for members, count in zip(of_class, quota.tolist(), strict=True):
        rounds = range(-(-count // len(members)))
        order = [torch.randperm(len(members), generator=generator, device="cpu") for _ in rounds]
        drawn.append(members[torch.cat(order)[:count]])
    return torch.cat(drawn)


def _stamp(file: str) -> tuple[int, int]:
    """Return size and time of change of a file; zeros if it is missing, which `on_bad_image` may allow."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
