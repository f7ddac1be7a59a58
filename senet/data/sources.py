"""Open a data set: the digits in the package, CIFAR, or a folder of images."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from senet.data.folders import (
    EXPECTED,
    Layout,
    Listing,
    PartName,
    describe,
    digest,
    find_layout,
    list_images,
    no_images,
    printable,
)
from senet.data.images import BUILT_IN, read_all
from senet.data.places import CATEGORIES, read_places
from senet.data.sample import sample_notes
from senet.data.shards import is_shards, read_layout, take
from senet.data.splits import FileSplit, Split, TensorSplit
from senet.data.table import ENDINGS, read_table
from senet.errors import ConfigError, DataError
from senet.initialization import stream
from senet.recipes.recipe import PARTS, DataRecipe, TrainedOn

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

VAL_FRACTION = 0.2
"""Share of the training images that is held out where `data.val_fraction` is 0 and there is neither val nor test."""

WORDS = {**{name: f"{word} images" for name, word in PARTS.items()}, "all": "images"}
"""The images of a part, in words."""

# A download fails after this time without data.
_TIMEOUT_S = 30
# Number of classes; both have 50,000 training and 10,000 test images (Krizhevsky, 2009).
_CIFAR = {"cifar10": 10, "cifar100": 100}


@dataclass(frozen=True)
class Data:
    """The images of one data set.

    Attributes:
        name: Name of the data set.
        classes: Names of the classes.
        channels: 1 for grey images, 3 for RGB.
        train: The training images.
        val: The validation images, which may choose an epoch; None where there are none.
        test: The test images, which choose nothing; None where there are none.
        source: Where the images come from and what is not read, in one line.
        held_out: What the images of `measured` are, in a few words.
        notes: What a user should know of the images, a line each.
        digest: What a folder is recognised by when it has moved (`folders.digest`); "" for the other data sets.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    train: Split
    val: Split | None
    source: str
    held_out: str
    test: Split | None = None
    notes: tuple[str, ...] = ()
    digest: str = ""

    @property
    def measured(self) -> Split:
        """The images that an epoch is measured on: of validation, or of the test where there are none."""
        return self.parts[self.measured_part]

    @property
    def measured_part(self) -> Literal["val", "test"]:
        """The part that `measured` is."""
        return "test" if self.val is None else "val"

    @property
    def parts(self) -> dict[PartName, Split]:
        """The parts that there are, by name."""
        named: tuple[tuple[PartName, Split | None], ...] = (
            ("train", self.train),
            ("val", self.val),
            ("test", self.test),
        )
        return {name: split for name, split in named if split is not None}


def is_trained_on(trained_on: TrainedOn, recipe: DataRecipe, layout: Layout) -> tuple[bool, str]:
    """Whether a folder is the one of `trained_on`, wherever it is now, and what to say of it; "" for nothing."""
    here, (kind, _, names) = digest(layout), trained_on.digest.partition(":")
    place = Path(trained_on.name).expanduser()
    is_there = trained_on.name not in BUILT_IN and place.resolve() == Path(recipe.name).expanduser().resolve()
    if here and here == trained_on.digest:
        return True, "" if is_there else f"these are the files of {trained_on.name}, which the network was trained on"
    if is_there:
        return True, (
            f"the files of {layout.folder} have changed since the network was trained on them"
            + (", so images that are held out now may be among those" if "val" not in layout.parts else "")
        )
    if names and kind == "train" and here == f"all:{names}":
        return False, "the network was trained on these images, so their errors do not tell how it does on new ones"
    if trained_on.name in BUILT_IN or place.exists():
        return False, ""
    return False, (
        f"the network was trained on {trained_on.name}, which is no longer there; if these are some of the same "
        "images, those that it was trained on are among them"
    )


def check_trained_on(trained_on: TrainedOn, recipe: DataRecipe) -> None:
    """Raise DataError where a folder does not have the files of `trained_on`."""
    if trained_on.digest and count_data(recipe).digest != trained_on.digest:
        raise DataError(
            f"data.name: {recipe.name!r} does not have the files of {trained_on.name} that the network was trained on; "
            "expected: the same folder, moved or copied"
        )


@dataclass(frozen=True)
class Part:
    """The images of one part, for evaluation: in order, without augmentation.

    Attributes:
        name: Which part.
        classes: Names of the classes.
        split: The images.
        words: What they are and how many, in a few words.
        notes: What a user should know of the images, a line each.
    """

    name: PartName
    classes: tuple[str, ...]
    split: Split
    words: str
    notes: tuple[str, ...] = ()


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
    if recipe.labels != "classes":
        # What is in it has parts that are made here.
        from senet.data.object_sources import open_objects

        return open_objects(recipe, seed)
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
        val: Number of images that an epoch is measured on.
        lines: `source` and `notes` of a folder.
        digest: See `Data`.
    """

    classes: int
    train: int
    val: int
    lines: tuple[str, ...] = field(default=(), compare=False)
    digest: str = field(default="", compare=False, repr=False)

    @property
    def words(self) -> str:
        """The numbers in words."""
        return f"{self.classes:,} classes, {self.train:,} training images, {self.val:,} to measure on"


def open_part(
    recipe: DataRecipe,
    part: PartName | Literal[""] = "",
    *,
    trained_on: TrainedOn | None = None,
    progress: bool = False,
) -> Part:
    """Open the images of one part, and only these, for evaluation.

    Args:
        recipe: The data set and its preparation.
        part: "train", "val" or "test"; "all" for the images of a folder that is not split, as if none were held out.
            Without it, all of such a folder, else the test images, else those of validation.
        trained_on: What the network was trained on. Where it is this folder and the folder is not split, those are
            taken without `part` that were held out.
        progress: Whether to show a bar while images are read into memory.

    Raises:
        DataError: There is no such part, or its images cannot be used.

    >>> open_part(DataRecipe(name="digits")).words
    '359 held-out digits'
    """
    if recipe.labels != "classes":
        from senet.data.object_sources import open_object_part

        is_own = trained_on is not None and os.path.realpath(trained_on.name) == os.path.realpath(recipe.name)
        return open_object_part(recipe, part, is_own=is_own)
    if recipe.name in BUILT_IN:
        data = open_data(replace(recipe, train_fraction=1.0), seed=0, progress=progress)
        name = _pick(part, tuple(data.parts), recipe.name)
        split = copy(data.parts[name])
        words = data.held_out if data.parts[name] is data.measured else f"{len(split):,} {WORDS[name]}"
        split.seed = None
        return Part(name, data.classes, split, words, data.notes)
    layout = find_images(recipe)
    is_own, note = is_trained_on(trained_on, recipe, layout) if trained_on else (False, "")
    whole = "all" in layout.parts and not is_own
    name = part or ("all" if whole else "test" if "test" in layout.parts else "val")
    # Nothing is held out of what is measured as a whole.
    if name in layout.parts and not (name == "train" and "val" not in layout.parts):
        found = _files(layout.parts[name])
    else:
        parts, _ = _parts(layout, recipe)
        found = parts[_pick(name, tuple(parts), str(layout.folder))]
    notes = (*layout.notes, *filter(None, [describe(layout.unread), note]))
    notes += sample_notes(found.files, recipe)
    split = _split(found, recipe, None, WORDS[name] if progress else None)
    return Part(name, layout.classes, split, f"{len(found.files):,} {found.words}", notes)


def _pick(part: PartName | Literal[""], names: Sequence[PartName], where: str) -> PartName:
    if part == "":
        return "test" if "test" in names else "val"
    if part not in names:
        raise DataError(f"{where}: has no part {part!r}; expected: {', '.join(names)}")
    return part


def count_data(recipe: DataRecipe) -> Counts:
    """Count what `open_data` would open, without downloading, and from a folder without reading more than a few images.

    Raises the errors of `open_data` for folders.

    >>> count_data(DataRecipe(name="cifar100", train_fraction=0.1))
    Counts(classes=100, train=5000, val=10000, lines=())
    """
    if recipe.name in _CIFAR:
        classes = _CIFAR[recipe.name]
        targets = torch.arange(classes, device="cpu").repeat_interleave(50_000 // classes)
        held = 0
        if recipe.val_fraction:
            names = [str(i) for i in range(classes)]
            train, val = hold_out(targets, names, recipe.val_fraction, recipe.split_seed)
            targets, held = targets[train], len(val)
        return Counts(classes, len(train_part(targets, recipe)), held or 10_000)
    # Drop the options that could raise errors but do not change the counts.
    plain = replace(recipe, crop="none", cutout=0, batch_size=1, eval_batch_size=1)
    if recipe.name not in BUILT_IN:
        plain = replace(plain, in_memory="no", resize=0)
    data = open_data(plain, seed=0)
    lines = () if recipe.name in BUILT_IN else (data.source, *data.notes)
    return Counts(len(data.classes), len(data.train), len(data.measured), lines, data.digest)


def _open_digits(recipe: DataRecipe, seed: int) -> Data:
    with (files("senet.data") / "digits.npz").open("rb") as file, np.load(file) as arrays:
        images, targets = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["targets"]).long()
    size = (recipe.image_size, recipe.image_size)
    # The file has values from 0 to 16.
    grey = F.interpolate(images[:, None] * (255 / 16), size, mode="bilinear", antialias=True).round().byte()
    grey = grey.expand(-1, recipe.channels, -1, -1)
    classes = tuple("0123456789")
    train, val = hold_out(targets, classes, recipe.val_fraction or VAL_FRACTION, recipe.split_seed)
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
    targets = torch.tensor(train.targets, device="cpu")
    chosen, held = torch.arange(len(targets), device="cpu"), None
    if recipe.val_fraction:
        chosen, held = hold_out(targets, train.classes, recipe.val_fraction, recipe.split_seed)
    used = chosen[train_part(targets[chosen], recipe)]
    source = f"CIFAR-{len(train.classes)} (Krizhevsky, 2009), {count}, in {root / cls.base_folder}"
    kind = f"test images of CIFAR-{len(train.classes)}"
    if held is not None:
        kind = f"held-out training images of CIFAR-{len(train.classes)} (split_seed {recipe.split_seed})"
        source += f", {recipe.val_fraction:.0%} of the training images held out, split_seed {recipe.split_seed}"
    return Data(
        name=recipe.name,
        classes=tuple(train.classes),
        channels=recipe.channels,
        train=_cifar_split(train, used, recipe, seed, "training images" if progress else None),
        val=None if held is None else _cifar_split(train, held, recipe, None, None),
        test=_cifar_split(val, None, recipe, None, "test images" if progress else None),
        source=source + _share(used, chosen),
        held_out=f"{len(val if held is None else held):,} {kind}",
    )


def _cifar_split(part: CIFAR10, which: Tensor | None, recipe: DataRecipe, seed: int | None, bar: str | None) -> Split:
    pictures, targets = part.data, torch.tensor(part.targets, device="cpu")
    if which is not None:
        pictures, targets = pictures[which.numpy()], targets[which]
    if pictures.shape[1] == recipe.image_size and recipe.channels == 3:
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    else:
        images, _, _ = read_all([Image.fromarray(image) for image in pictures], recipe, bar=bar)
    return TensorSplit(images, targets, recipe, seed)


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


@dataclass(frozen=True)
class _Files:
    """The files of a part, their classes, and what they are in words."""

    files: Sequence[str]
    targets: Tensor
    words: str


def _files(listing: Listing) -> _Files:
    targets = torch.as_tensor(listing.targets, dtype=torch.int64, device="cpu")
    return _Files(listing.files, targets, f"images in {listing.folder}")


def find_images(recipe: DataRecipe) -> Layout:
    """The parts, classes and images of a folder, a CSV file or shards. DataError where there are none."""
    name = os.path.expanduser(recipe.name)
    if is_shards(name):
        return read_layout(recipe)
    for field_name in ("shuffle_window", "shard_cache_gb", "shard_cache"):
        if value := getattr(recipe, field_name):
            raise ConfigError(f"data.{field_name}: {value!r} has no effect on {printable(name)}, which has no shards")
    if not os.path.exists(name):
        raise DataError(
            f"data.name: '{printable(recipe.name)}' is neither a known data set nor a folder"
            f"{'' if os.path.isabs(name) else f' in {printable(os.getcwd())}'}; "
            f"expected: {', '.join(BUILT_IN)}, or the path of an image folder or of a CSV file; --data names another"
        )
    path = Path(name)
    if (path / CATEGORIES).is_file():
        return read_places(path)
    return read_table(path) if path.suffix.lower() in ENDINGS and path.is_file() else find_layout(path)


def _parts(layout: Layout, recipe: DataRecipe) -> tuple[dict[PartName, _Files], str]:
    """Return the parts of a folder, with a validation part held out where there is none, and their names in words."""
    parts: dict[PartName, _Files] = {}
    where = []
    for name, listing in layout.parts.items():
        parts[name] = _files(listing)
        where += [] if name == "all" else [f"{os.path.relpath(listing.folder, layout.folder)}/"]
    whole = parts.get("all") or parts.get("train")
    if "val" in parts or whole is None:
        if recipe.val_fraction and whole is not None:
            raise ConfigError(
                f"data.val_fraction: {recipe.val_fraction} has no effect on {layout.folder}, which has {where[1]}"
            )
    elif fraction := recipe.val_fraction or (0.0 if "test" in parts else VAL_FRACTION):
        chosen = hold_out(whole.targets, layout.classes, fraction, recipe.split_seed, layout.folder)
        words = f"images of {layout.folder} (split_seed {recipe.split_seed})"
        parts["train"], parts["val"] = (
            _Files(take(whole.files, some.tolist()), whole.targets[some], f"{kind} {words}")
            for some, kind in zip(chosen, ("training", "held-out"), strict=True)
        )
        where.append(f"{fraction:.0%} held out, split_seed {recipe.split_seed}")
    return parts, ", ".join(where)


def _check_trainable(listing: Listing) -> None:
    if len(listing.classes) == 1:
        raise DataError(f"{listing.folder}: has only one class folder, {listing.classes[0]!r}; {EXPECTED}")
    if listing.empty:
        folder = Path(listing.folder) / listing.empty[0]
        raise DataError(f"{folder}: has no images; {no_images(list_images(folder)[1])}")


def _open_folder(recipe: DataRecipe, seed: int, progress: bool) -> Data:
    layout = find_images(recipe)
    listing = layout.parts.get("all") or layout.parts.get("train")
    if listing is None:
        raise DataError(f"{layout.folder}: has no training images; {EXPECTED}")
    _check_trainable(listing)
    parts, where = _parts(layout, recipe)
    whole = parts["train"]
    used = train_part(whole.targets, recipe)
    parts["train"] = replace(whole, files=take(whole.files, used.tolist()), targets=whole.targets[used])
    count = len(whole.files) + sum(len(parts[name].files) for name in ("val", "test") if name in parts)
    unread = describe(layout.unread)
    opened = {
        name: _split(parts[name], recipe, seed if name == "train" else None, WORDS[name] if progress else None)
        for name in ("train", "val", "test")
        if name in parts
    }
    measured = parts["val" if "val" in parts else "test"]
    return Data(
        name=os.path.basename(os.path.realpath(layout.folder)),
        classes=layout.classes,
        channels=recipe.channels,
        train=opened["train"],
        val=opened.get("val"),
        test=opened.get("test"),
        source=f"{count:,} images in {layout.folder} ({where}){_share(used, whole.files)}"
        + (f"; {unread}" if unread else ""),
        held_out=f"{len(measured.files):,} {measured.words}",
        notes=(*layout.notes, *sample_notes(parts["train"].files, recipe)),
        digest=digest(layout),
    )


def _split(part: _Files, recipe: DataRecipe, seed: int | None, bar: str | None) -> Split:
    if not recipe.is_in_memory:
        return FileSplit(part.files, part.targets, recipe, seed)
    images, kept, skipped = read_all(part.files, recipe, bar=bar)
    return TensorSplit(images, part.targets[kept], recipe, seed, skipped)


def hold_out(
    targets: Tensor, classes: Sequence[str], fraction: float, split_seed: int, folder: Path | str | None = None
) -> tuple[Tensor, Tensor]:
    """Split a data set: hold out a share of every class, at least one image and not all.

    The choice is a function of `split_seed`.

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
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        shuffled = torch.randperm(len(members), generator=stream(split_seed, "hold out", number), device="cpu")
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
