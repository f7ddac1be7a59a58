"""Faults of shards and of their server, injected at random: each is named, and no image is trained on that it touches.

    python -m benchmarks.shard_faults --count 100

A data set of 120 images in shards is damaged in one place: a byte or a run of bytes changes, a shard is cut off,
missing, or in the place of another, or the server answers wrongly. Then an epoch is read twice, from the disk or over
HTTP, with and without a cache. With `on_bad_image="error"` it must stop with one line that names the shard or the file
of the index; with "skip" it must deliver all images that the fault does not touch, as they were prepared before, and no
other. What touches no image (a header of the tar, the padding) must be named by `senet shard --check`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.shard_server import FAULTS, ShardServer, serving
from senet.data.shard_store import Store
from senet.data.shard_writer import check_shards, write_shards
from senet.data.shards import INDEX, ROW
from senet.data.sources import find_images, open_data
from senet.data.splits import Batch, Split
from senet.errors import DataError
from senet.recipes.recipe import DataRecipe

RECIPE = DataRecipe(
    image_size=16, resize=20, in_memory="no", crop="resized", flip=True, workers=0, mean=(0.5,) * 3, std=(0.5,) * 3
)
ON_DISK = ("byte", "bytes", "cut off", "no shard", "exchanged", "no index")


@dataclass(frozen=True)
class Prepared:
    """A sound data set: its folder, and index -> pixels of each image in epoch 1."""

    shards: Path
    images: dict[int, bytes]


def prepare(folder: Path, per_class: int = 40, shard_bytes: int = 30_000) -> Prepared:
    """Write images of three classes as shards and read them once."""
    rng = np.random.default_rng(0)
    for name in ("ape", "bee", "cat"):
        for part, count in (("train", per_class), ("val", 4)):
            (folder / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
                Image.fromarray(small.repeat(4, 0).repeat(4, 1)).save(folder / "images" / part / name / f"{i:03d}.jpg")
    write_shards(find_images(DataRecipe(name=str(folder / "images"))), folder / "shards", shard_bytes=shard_bytes)
    return Prepared(folder / "shards", images_of(open_data(replace(RECIPE, name=str(folder / "shards")), 0).train))


def images_of(split: Split) -> dict[int, bytes]:
    """Index -> pixels of each image that an epoch delivers."""
    order = split.order(16)
    order.set_epoch(1)
    found: dict[int, bytes] = {}
    for key in order:
        batch: Batch = split[key]
        split.prepare(batch, torch.device("cpu"))
        assert isinstance(batch.images, torch.Tensor)
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            assert index not in found
            found[index] = image.numpy().tobytes()
    return found


def damage(rng: random.Random, kind: str, shards: Path) -> tuple[set[int], str]:
    """Damage a folder of shards; return the rows of the training images that this touches, and the file."""
    rows = np.frombuffer((shards / "train.index").read_bytes(), ROW)
    number = rng.randrange(int(rows["shard"].max()) + 1)
    shard = shards / f"train-{number:06d}.tar"
    within = np.flatnonzero(rows["shard"] == number)
    starts, ends = rows["offset"][within], rows["offset"][within] + rows["length"][within]
    data = bytearray(shard.read_bytes())
    if kind == "no index":
        file = shards / rng.choice((INDEX, "train.index", "val.index"))
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        return {*range(len(rows))}, file.name
    if kind == "no shard":
        shard.unlink()
        return {*within.tolist()}, shard.name
    if kind == "exchanged":
        other = shards / f"train-{(number + 1) % (int(rows['shard'].max()) + 1):06d}.tar"
        content = other.read_bytes()
        other.write_bytes(data)
        shard.write_bytes(content)
        touched = np.flatnonzero(np.isin(rows["shard"], [number, int(other.stem[-6:])]))
        return {*touched.tolist()}, ""
    if kind == "cut off":
        at = rng.randrange(len(data))
        shard.write_bytes(data[:at])
        return {*within[ends > at].tolist()}, shard.name
    at = rng.randrange(len(data))
    length = 1 if kind == "byte" else min(rng.choice((16, 512, 4096)), len(data) - at)
    for i in range(at, at + length):
        data[i] ^= rng.randrange(1, 256)
    shard.write_bytes(data)
    return {*within[(starts < at + length) & (ends > at)].tolist()}, shard.name


def one(rng: random.Random, prepared: Prepared, folder: Path, kind: str = "") -> tuple[str, str]:
    """Inject one fault and look at what comes of it.

    Returns:
        What was done, and what came of it: "named", or "named by --check" where it touches no image.

    Raises:
        AssertionError: A fault without a name, or an image that was lost or delivered wrongly.
    """
    kind = kind or rng.choice((*ON_DISK, *FAULTS))
    place = "server" if kind in FAULTS else rng.choice(("disk", "server"))
    is_cached = place == "server" and kind != "whole" and rng.random() < 0.5
    shards = folder / "damaged"
    shutil.copytree(prepared.shards, shards)
    rows = np.frombuffer((shards / "train.index").read_bytes(), ROW)
    try:
        touched, file = damage(rng, kind, shards) if kind in ON_DISK else (set(), "")
        with serving(shards) as server:
            if kind in FAULTS:
                file = f"train-{rng.randrange(int(rows['shard'].max()) + 1):06d}.tar"
                server.faults[file] = kind, -1
                touched = {*np.flatnonzero(rows["shard"] == int(file[6:12])).tolist()}
            elif is_cached and kind in ("byte", "bytes", "cut off") and touched:
                # A whole shard is refused where a part of it is wrong.
                touched = {*np.flatnonzero(rows["shard"] == int(file[6:12])).tolist()}
            name = str(shards) if place == "disk" else server.url
            cache = {"shard_cache_gb": 1.0, "shard_cache": str(folder / "cache")} if is_cached else {}
            outcome = _judge(prepared, replace(RECIPE, name=name, **cache), touched, file, kind, server)
    finally:
        shutil.rmtree(shards)
        shutil.rmtree(folder / "cache", ignore_errors=True)
    return f"{kind}, {place}{', cached' if is_cached else ''}", outcome


def _judge(prepared: Prepared, recipe: DataRecipe, touched: set[int], file: str, kind: str, server: ShardServer) -> str:
    try:
        delivered = images_of(open_data(recipe, 0).train)
        said = ""
    except DataError as error:
        delivered, said = {}, str(error)
    if kind == "no index" and said:
        assert file in said
        assert "\n" not in said
        return "named"
    if said:
        assert file in said
        assert recipe.name in said
        assert "\n" not in said
        lenient = open_data(replace(recipe, on_bad_image="skip"), 0).train
        delivered = images_of(lenient)
        lost = prepared.images.keys() - touched - delivered.keys()
        # With a cache, a shard that is wrong between its images is refused as a whole.
        assert not lost or recipe.shard_cache_gb
        assert all(prepared.images[index] == image for index, image in delivered.items())
        assert not touched & delivered.keys()
        assert len(lenient.skipped) == len(prepared.images) - len(delivered)
        return "named"
    assert delivered == prepared.images
    # A byte of the index's JSON may say nothing, such as a space or the version that wrote it.
    assert not touched or kind == "no index"
    _, faults = check_shards(Store(str(server.folder)))
    if kind == "no index" and not faults:
        return "harmless"
    # A digest that changed in the index accuses its shard.
    assert kind == "no index" or any(file in fault for fault in faults)
    return "named by --check"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    Store.wait_s, Store.timeout_s = 0.005, 0.5
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Path(folder))
        for i in range(args.count):
            kinds = (*ON_DISK, *FAULTS)
            what, outcome = one(random.Random(args.seed * 10**6 + i), prepared, Path(folder), kinds[i % len(kinds)])
            found.setdefault(what.partition(",")[0], Counter())[outcome] += 1
    print(json.dumps({"injected": args.count, "trained on": 0, "kinds": found}, indent=2))


if __name__ == "__main__":
    main()
