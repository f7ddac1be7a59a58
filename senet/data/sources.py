"""Open a data set: the digits in the package, CIFAR, or a folder of images."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from senet.data.images import BUILT_IN, EXTENSIONS, read_all
from senet.data.splits import FileSplit, Split, TensorSplit
from senet.errors import ConfigError, DataError
from senet.initialization import stream
from senet.recipes.recipe import DataRecipe

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

_FOLDERS = "expected: train/ and val/ (or test/) with one folder per class each, or one folder per class"
# A download fails after this time without data.
_TIMEOUT_S = 30
# Number of classes; both have 50,000 training and 10,000 test images (Krizhevsky, 2009).
_CIFAR = {"cifar10": 10, "cifar100": 100}


@dataclass(frozen=True)
class Data:
    """Training and validation images of one data set.

    Attributes:
        name: Name of the data set.
        classes: Names of the classes.
        channels: 1 for grey images, 3 for RGB.
        train: The training images.
        val: The validation images.
        source: Where the images come from, in one line.
        held_out: What the validation images are, in a few words.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    train: Split
    val: Split
    source: str
    held_out: str


def open_data(recipe: DataRecipe, seed: int, *, progress: bool = False) -> Data:
    """Open the data set of a recipe.

    Args:
        recipe: The data set, its preparation and augmentation.
        seed: For the order and the augmentation of the training images. Which images are held out depends on
            `recipe.split_seed` only.
        progress: Whether to show a bar while images are read into memory.

    Raises:
        DataError: If images, folders or labels cannot be used, or CIFAR cannot be downloaded.
        ConfigError: For options that exclude each other.

    >>> data = open_data(DataRecipe(name="digits"), seed=0)
    >>> len(data.train), len(data.val), data.classes[:3]
    (1438, 359, ('0', '1', '2'))
    """
    if recipe.name not in BUILT_IN:
        return _open_folder(recipe, seed, progress)
    if recipe.in_memory == "no":
        raise ConfigError(f"data.in_memory: 'no' has no effect on {recipe.name!r}; expected: auto, yes")
    return _open_digits(recipe, seed) if recipe.name == "digits" else _open_cifar(recipe, seed, progress)


@dataclass(frozen=True)
class Counts:
    """The size of a data set.

    Attributes:
        classes: Number of classes.
        train: Number of training images.
        val: Number of validation images.
    """

    classes: int
    train: int
    val: int


def count_data(recipe: DataRecipe) -> Counts:
    """Count what `open_data` would open, without reading images or downloading.

    Raises the errors of `open_data` for folders.

    >>> count_data(DataRecipe(name="cifar100", train_fraction=0.1))
    Counts(classes=100, train=5000, val=10000)
    """
    if recipe.name in _CIFAR:
        classes = _CIFAR[recipe.name]
        targets = torch.arange(classes, device="cpu").repeat_interleave(50_000 // classes)
        return Counts(classes, len(train_part(targets, recipe)), 10_000)
    # Drop the options that could raise errors but do not change the counts.
    plain = replace(recipe, crop="none", cutout=0, batch_size=1, eval_batch_size=1)
    if recipe.name not in BUILT_IN:
        plain = replace(plain, in_memory="no", resize=0)
    data = open_data(plain, seed=0)
    return Counts(len(data.classes), len(data.train), len(data.val))


def _open_digits(recipe: DataRecipe, seed: int) -> Data:
    with (files("senet.data") / "digits.npz").open("rb") as file, np.load(file) as arrays:
        images, targets = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["targets"]).long()
    size = (recipe.image_size, recipe.image_size)
    # The file has values from 0 to 16.
    grey = F.interpolate(images[:, None] * (255 / 16), size, mode="bilinear", antialias=True).round().byte()
    grey = grey.expand(-1, recipe.channels, -1, -1)
    classes = tuple("0123456789")
    train, val = hold_out(targets, classes, recipe)
    used = train[train_part(targets[train], recipe)]
    return Data(
        name="digits",
        classes=classes,
        channels=recipe.channels,
        train=TensorSplit(grey[used], targets[used], recipe, seed),
        val=TensorSplit(grey[val], targets[val], recipe, None),
        source="1,797 real handwritten digits (UCI, CC BY 4.0), in the package" + _share(used, train),
        held_out=f"{len(val):,} held-out digits",
    )


def _open_cifar(recipe: DataRecipe, seed: int, progress: bool) -> Data:
    from torchvision import datasets

    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[recipe.name]
    root = Path(recipe.root).expanduser()
    try:
        with _cifar_download():
            train, val = cls(root, train=True, download=True), cls(root, train=False)
    except (OSError, RuntimeError, HTTPException) as error:
        raise _no_cifar(recipe.name, root, cls, error) from error
    count = f"{len(train):,} training and {len(val):,} test images"
    used = train_part(torch.tensor(train.targets, device="cpu"), recipe)
    source = f"CIFAR-{len(train.classes)} (Krizhevsky, 2009), {count}, in {root / cls.base_folder}{_share(used, train)}"
    train.data, train.targets = train.data[used.numpy()], [train.targets[i] for i in used.tolist()]
    return Data(
        name=recipe.name,
        classes=tuple(train.classes),
        channels=recipe.channels,
        train=_cifar_split(train, recipe, seed, "training images" if progress else None),
        val=_cifar_split(val, recipe, None, "test images" if progress else None),
        source=source,
        held_out=f"{len(val):,} test images of CIFAR-{len(train.classes)}",
    )


def _cifar_split(part: CIFAR10, recipe: DataRecipe, seed: int | None, bar: str | None) -> Split:
    if part.data.shape[1] == recipe.image_size and recipe.channels == 3:
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2)
    else:
        images, _, _ = read_all([Image.fromarray(image) for image in part.data], recipe, bar=bar)
    return TensorSplit(images, torch.tensor(part.targets, device="cpu"), recipe, seed)


@contextmanager
def _cifar_download() -> Iterator[None]:
    """Set a timeout, and silence warnings about torchvision's way of unpacking CIFAR."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)


def _no_cifar(name: str, root: Path, cls: type[CIFAR10], error: Exception) -> DataError:
    archive = root / cls.filename
    if archive.is_file():
        return DataError(
            f"{archive} is damaged (wrong checksum) and could not be downloaded again ({error}); replace it by the "
            f"file from {cls.url}, or delete it and try again"
        )
    return DataError(
        f"{name} is not in {root} and could not be downloaded ({error}); put {cls.filename} from {cls.url} there, "
        "or give the path of an image folder as data.name"
    )


def _open_folder(recipe: DataRecipe, seed: int, progress: bool) -> Data:
    folder = Path(recipe.name).expanduser()
    if not folder.exists():
        raise DataError(
            f"data.name: {recipe.name!r} is neither a known data set nor a folder; "
            f"expected: {', '.join(BUILT_IN)}, or the path of an image folder"
        )
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; {_FOLDERS}")
    train, val = folder / "train", next((folder / v for v in ("val", "test") if (folder / v).is_dir()), None)
    if train.is_dir() and val is not None:
        where, held = f"train/, {val.name}/", f"images in {val}"
        classes, train_files, train_targets = _list(train)
        val_classes, val_files, val_targets = _list(val)
        _check_same(train, classes, val, val_classes)
    elif train.is_dir() and _subfolders(train):
        raise DataError(f"{folder}: has train/ but neither val/ nor test/; {_FOLDERS}")
    else:
        where = f"{recipe.val_fraction:.0%} held out, split_seed {recipe.split_seed}"
        held = f"held-out images of {folder} (split_seed {recipe.split_seed})"
        classes, all_files, targets = _list(folder)
        parts = hold_out(targets, classes, recipe, folder)
        train_files, val_files = ([all_files[i] for i in part.tolist()] for part in parts)
        train_targets, val_targets = (targets[part] for part in parts)
    count = len(train_files) + len(val_files)
    used = train_part(train_targets, recipe)
    share = _share(used, train_files)
    train_files, train_targets = [train_files[i] for i in used.tolist()], train_targets[used]
    return Data(
        name=folder.resolve().name,
        classes=classes,
        channels=recipe.channels,
        train=_split(train_files, train_targets, recipe, seed, "training images" if progress else None),
        val=_split(val_files, val_targets, recipe, None, "validation images" if progress else None),
        source=f"{count:,} images in {folder} ({where}){share}",
        held_out=f"{len(val_files):,} {held}",
    )


def _split(names: Sequence[str], targets: Tensor, recipe: DataRecipe, seed: int | None, bar: str | None) -> Split:
    if not recipe.is_in_memory:
        return FileSplit(names, targets, recipe, seed)
    images, kept, skipped = read_all(names, recipe, bar=bar)
    return TensorSplit(images, targets[kept], recipe, seed, skipped)


def _subfolders(folder: Path) -> list[Path]:
    """List the folders that are not hidden, sorted, so that classes have the same numbers on every machine."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _list(folder: Path) -> tuple[tuple[str, ...], list[str], Tensor]:
    """List a folder of class folders: class names, files sorted by class and name, and their classes (n,) int64.

    Raises DataError for fewer than two classes, or a class without images.
    """
    folders = _subfolders(folder)
    if not folders:
        raise DataError(f"{folder}: no class folders; {_FOLDERS}")
    if len(folders) == 1:
        raise DataError(f"{folder}: has only one class folder, {folders[0].name!r}; {_FOLDERS}")
    names: list[str] = []
    counts = []
    for one in folders:
        # Hidden files are often not images, such as "._cat.jpg" of macOS.
        with os.scandir(one) as entries:
            inside = [e.name for e in entries if not e.name.startswith(".") and not e.is_dir()]
        found = sorted(name for name in inside if name.lower().endswith(EXTENSIONS))
        if not found:
            raise DataError(f"{one}: has no images; expected: files ending in {', '.join(EXTENSIONS)}")
        names += (os.path.join(one, name) for name in found)
        counts.append(len(found))
    targets = torch.arange(len(folders), device="cpu").repeat_interleave(torch.tensor(counts, device="cpu"))
    return tuple(f.name for f in folders), names, targets


def _check_same(train: Path, train_classes: Sequence[str], val: Path, val_classes: Sequence[str]) -> None:
    for one, other, names in (
        (val, train, set(val_classes) - set(train_classes)),
        (train, val, set(train_classes) - set(val_classes)),
    ):
        if names:
            some = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise DataError(f"{one}: has class folders that {other} lacks ({some}); expected: the same in both")


def hold_out(
    targets: Tensor, classes: Sequence[str], recipe: DataRecipe, folder: Path | None = None
) -> tuple[Tensor, Tensor]:
    """Split a data set: hold out `val_fraction` of every class, at least one image and not all.

    The choice is a function of `recipe.split_seed`.

    Returns:
        Sorted indices of the training and of the validation images.

    Raises:
        DataError: For a class of fewer than 2 images.
    """
    held = torch.zeros(len(targets), dtype=torch.bool, device="cpu")
    for number, name in enumerate(classes):
        members = (targets == number).nonzero()[:, 0]
        if len(members) < 2:
            raise DataError(f"{folder}: class {name!r} has {len(members)} image; expected: 2 or more, to hold one out")
        count = min(max(round(len(members) * recipe.val_fraction), 1), len(members) - 1)
        shuffled = torch.randperm(len(members), generator=stream(recipe.split_seed, "hold out", number), device="cpu")
        held[members[shuffled[:count]]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def train_part(targets: Tensor, recipe: DataRecipe) -> Tensor:
    """Choose the training images: sorted indices of `train_fraction` of every class, at least one image.

    The choice is a function of `recipe.split_seed`; a smaller part is a subset of a larger one.
    """
    if recipe.train_fraction == 1:
        return torch.arange(len(targets), device="cpu")
    used = torch.zeros(len(targets), dtype=torch.bool, device="cpu")
    for number in targets.unique().tolist():
        members = (targets == number).nonzero()[:, 0]
        shuffled = torch.randperm(len(members), generator=stream(recipe.split_seed, "train part", number), device="cpu")
        used[members[shuffled[: max(round(len(members) * recipe.train_fraction), 1)]]] = True
    return used.nonzero()[:, 0]


def _share(used: Sized, train: Sized) -> str:
    """Return the end of `Data.source`: how many of the training images are used, if not all."""
    return "" if len(used) == len(train) else f"; {len(used):,} of {len(train):,} training images"
