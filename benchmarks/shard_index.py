"""What the index of so many images takes: bytes on the disk, memory and time to open, memory and time of an order.

    python -m benchmarks.shard_index --images 1000000

The rows are invented, of photographs of 110 kB in shards of 256 MB, and read by the functions that read real ones.
Beside it the same rows as JSON, which the index would be without its binary file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from senet.data.shard_store import Shard, Store
from senet.data.shards import INDEX, ROW, Index, PartIndex, index_json, key_of, read_index
from senet.data.splits import permutation


def invented(images: int, image_bytes: int = 110_000, shard_bytes: int = 256 * 10**6) -> Index:
    """An index of images that do not exist."""
    rng = np.random.default_rng(0)
    each = shard_bytes // image_bytes
    number = rng.permutation(images)
    rows = np.empty(images, ROW)
    rows["shard"], rows["offset"], rows["length"] = number // each, number % each * image_bytes, image_bytes
    rows["label"] = np.arange(images) * 1000 // images
    rows["digest"] = np.frombuffer(rng.bytes(images * ROW["digest"].itemsize), ROW["digest"])
    counts = np.bincount(rows["shard"])
    shards = tuple(
        Shard(f"train-{i:06d}.tar", int(count), shard_bytes, rng.bytes(32).hex()) for i, count in enumerate(counts)
    )
    return Index(tuple(f"class {k}" for k in range(1000)), "", {"train": PartIndex(shards, rows)})


def peak() -> int:
    """The most memory that this process has had, in bytes (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measured(folder: str, images: int) -> dict[str, float]:
    """Open the index and make two orders, in a fresh process so that its memory shows."""
    torch.set_num_threads(1)
    before = peak()
    start = time.perf_counter()
    part = read_index(Store(folder)).parts["train"]
    found = {"seconds to open": round(time.perf_counter() - start, 2), "bytes kept": part.rows.nbytes}
    shards = torch.from_numpy(part.rows["shard"].astype(np.int64))
    for name, windows in (("seconds of an order", None), ("seconds of an order in windows", shards // 8)):
        start = time.perf_counter()
        permutation(images, 0, 0, windows)
        found[name] = round(time.perf_counter() - start, 2)
    found["peak bytes"] = peak() - before
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10**6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = invented(args.images)
        rows = index.parts["train"].rows
        (Path(folder) / INDEX).write_bytes(index_json(index))
        (Path(folder) / "train.index").write_bytes(rows.tobytes())
        some = [[key_of(i), *map(int, r.item()[:4]), r["digest"].tobytes().hex()] for i, r in enumerate(rows[:1000])]
        found = {
            "images": args.images,
            "index.json": (Path(folder) / INDEX).stat().st_size,
            "train.index": (Path(folder) / "train.index").stat().st_size,
            "as JSON, from 1,000 rows": len(json.dumps(some)) * args.images // 1000,
        }
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found |= pool.apply(measured, (folder, args.images))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
