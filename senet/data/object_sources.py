"""Open a data set of images with objects: `senet.data.annotations` says which folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from senet.data.annotations import ObjectListing, read_objects
from senet.data.folders import PartName
from senet.data.objects import Objects, ObjectSplit
from senet.data.sources import VAL_FRACTION, WORDS, Data, Part
from senet.errors import ConfigError, DataError, unknown
from senet.initialization import stream
from senet.recipes.recipe import DataRecipe


def open_objects(recipe: DataRecipe, seed: int) -> Data:
    """Open a data set of images with objects for training; see `senet.data.open_data`.

    Training images without an object are left out, as in the original, unless `recipe.keep_empty`.

    Raises:
        DataError: Its annotations cannot be used.
        ConfigError: `val_fraction` without effect.
    """
    folder = _folder(recipe)
    found, where = _parts(recipe, folder)
    if "train" not in found:
        raise DataError(f"{folder}: has no training images; it has {', '.join(found)}")
    if not (found.keys() & {"val", "test"}):
        raise DataError(f"{folder}: has neither validation nor test images")
    train, notes = found["train"].objects, _notes(found)
    if not recipe.keep_empty:
        full = [o for o in train if len(o.of_training())]
        if not full:
            raise DataError(f"{found['train'].source}: none of the {len(train):,} training images has an object")
        if left := len(train) - len(full):
            notes += (
                f"{left:,} training image{'s' * (left > 1)} without an object left out; data.keep_empty keeps them",
            )
        train = full
    whole = len(train)
    if recipe.train_fraction < 1:
        order = torch.randperm(whole, generator=stream(recipe.split_seed, "train part"), device="cpu")
        train = [train[i] for i in sorted(order[: max(round(whole * recipe.train_fraction), 1)].tolist())]
    objects = sum(len(o.boxes) for o in train)
    count = sum(len(listing.objects) for listing in found.values())
    source = f"{count:,} images in {folder} ({where}); {objects:,} objects of {len(found['train'].classes):,} classes"
    source += f" in {len(train):,} training images"
    opened = {n: ObjectSplit(found[n].objects, recipe, None) for n in ("val", "test") if n in found}
    measured = "val" if "val" in found else "test"
    return Data(
        name=folder.resolve().name,
        classes=found["train"].classes,
        channels=recipe.channels,
        train=ObjectSplit(train, recipe, seed),
        val=opened.get("val"),
        test=opened.get("test"),
        source=source,
        held_out=f"{len(opened[measured]):,} {WORDS[measured]} of {folder}",
        notes=notes,
    )


def open_object_part(recipe: DataRecipe, part: PartName | Literal[""] = "", *, is_own: bool = False) -> Part:
    """Open the images of one part, and only these; see `senet.data.open_part`."""
    folder = _folder(recipe)
    listed = read_objects(folder)
    found = listed if "all" in listed and not is_own and part in ("", "all") else _parts(recipe, folder, listed)[0]
    name: PartName = part or next(p for p in ("all", "test", "val", "train") if p in found)  # type: ignore[assignment]
    if name not in found:
        raise DataError(str(unknown(f"{folder}: part", name, tuple(found), kind="its parts")))
    split = ObjectSplit(found[name].objects, recipe, None)
    words = f"{len(split):,} {WORDS[name]} of {folder}"
    return Part(name, found[name].classes, split, words, _notes({name: found[name]}))


def _folder(recipe: DataRecipe) -> Path:
    path = Path(os.path.expanduser(recipe.name))
    # The data.yaml of a YOLO folder is what its own tools take.
    return path.parent if path.suffix in (".yaml", ".yml") and path.is_file() else path


def _parts(
    recipe: DataRecipe, folder: Path, listed: dict[PartName, ObjectListing] | None = None
) -> tuple[dict[PartName, ObjectListing], str]:
    """The parts of a folder, with a validation part held out where there is none, and in words where they are from."""
    found = dict(listed or read_objects(folder))
    whole = found.pop("all", None)
    train = whole or found.get("train")
    names = ", ".join(str(listing.source.relative_to(folder)) for listing in (whole, *found.values()) if listing)
    if train is None or found.keys() & {"val", "test"}:
        if recipe.val_fraction:
            raise ConfigError(f"data.val_fraction: {recipe.val_fraction} has no effect on {folder}, which has {names}")
        return found, names
    fraction = recipe.val_fraction or VAL_FRACTION
    n = len(train.objects)
    if n < 2:
        raise DataError(f"{train.source}: has {n} image; expected: 2 or more, to hold one out")
    order = torch.randperm(n, generator=stream(recipe.split_seed, "hold out"), device="cpu").tolist()
    held = {*order[: min(max(round(n * fraction), 1), n - 1)]}
    parts: tuple[tuple[PartName, Sequence[Objects]], ...] = (
        ("train", [o for i, o in enumerate(train.objects) if i not in held]),
        ("val", [o for i, o in enumerate(train.objects) if i in held]),
    )
    split: dict[PartName, ObjectListing] = {
        name: ObjectListing(train.classes, list(objects), train.source) for name, objects in parts
    }
    split["train"].faults = train.faults
    return split, f"{names}, {fraction:.0%} held out, split_seed {recipe.split_seed}"


def _notes(found: dict[PartName, ObjectListing]) -> tuple[str, ...]:
    return tuple(line for listing in found.values() for line in listing.faults.lines(listing.source))
