"""Images per second from a folder, from its shards on the disk and over HTTP, and from webdataset on the same tars.

    python -m benchmarks.shards FOLDER [--images 1000] [--rounds 7] [--workers 2] [--shard-mb 16]

Two measures. "prepared": a loader with worker processes decodes and crops to 224 x 224, as in training. "bytes": one
process reads the bytes alone, so that the cost of finding, checking and fetching them shows. All sources take turns in
each round; printed are medians and quartiles over the rounds. webdataset (pip install webdataset) streams, so it
neither shuffles as a whole nor checks digests; it decodes and crops with the same functions. HTTP is a server on this
machine in a process of its own: nginx where it is installed, since a server in Python takes more of the processors than
its clients.
"""

from __future__ import annotations

import argparse
import getpass
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from senet.data.images import cpus, fit, pixels
from senet.data.shard_writer import write_shards
from senet.data.shards import ShardFiles, sources_at, take
from senet.data.sources import find_images, open_data
from senet.data.splits import FileSplit
from senet.recipes.recipe import DataRecipe
from senet.runs.environment import this_environment

BATCH = 64


NGINX = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx.log; user {user};
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


@contextmanager
def served(folder: Path, work: Path) -> Iterator[tuple[str, str]]:
    """Serve a folder from another process: the server's name and its address."""
    if program := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (work / "nginx.conf").write_text(NGINX.format(work=work, folder=folder, port=port, user=getpass.getuser()))
        name, url = "nginx", f"http://127.0.0.1:{port}"
        server = subprocess.Popen([program, "-c", str(work / "nginx.conf"), "-e", str(work / "nginx.log")])
    else:
        name, command = "Python", [sys.executable, "-m", "benchmarks.shard_server", str(folder)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
    try:
        yield name, url
    finally:
        server.terminate()
        server.wait()


def batches_of(split: FileSplit, workers: int) -> Callable[[int], int]:
    order = split.order(BATCH)
    loader = DataLoader(split, sampler=order, batch_size=None, num_workers=workers)  # type: ignore[arg-type]

    def epoch(number: int) -> int:
        order.set_epoch(number)
        return sum(len(batch.indices) for batch in loader)

    return epoch


def bytes_of(split: FileSplit) -> Callable[[int], int]:
    order = split.order(BATCH)

    def epoch(number: int) -> int:
        order.set_epoch(number)
        count = 0
        for _, indices in order:
            for source in sources_at(split.files, list(indices)):  # type: ignore[arg-type]
                data = source.read_bytes() if isinstance(split.files, ShardFiles) else Path(source).read_bytes()
                count += len(data) > 0
        return count

    return epoch


def streamed(shards: Path, recipe: DataRecipe, workers: int, *, is_prepared: bool) -> Callable[[int], int]:
    import webdataset  # type: ignore[import-not-found]

    urls = [str(path) for path in sorted(shards.glob("train-*.tar"))]

    def prepared(sample: dict[str, Any]) -> Any:
        data = next(value for key, value in sample.items() if key in ("jpg", "png"))
        if not is_prepared:
            return len(data)
        image = Image.open(io.BytesIO(data))
        return torch.from_numpy(pixels(fit(image.convert("RGB"), recipe.shorter_side, recipe))), int(sample["cls"])

    def epoch(number: int) -> int:
        found = webdataset.WebDataset(
            urls, shardshuffle=len(urls), seed=number, empty_check=False, handler=webdataset.reraise_exception
        )
        samples = found.shuffle(1000).map(prepared)
        if not is_prepared:
            return sum(1 for _ in samples)
        loader = webdataset.WebLoader(samples.batched(BATCH), batch_size=None, num_workers=min(workers, len(urls)))
        return sum(len(batch[0]) for batch in loader)

    return epoch


def sources(folder: Path, work: Path, url: str, args: argparse.Namespace) -> dict[str, dict[str, Callable[[int], int]]]:
    """Measure -> source -> what reads an epoch and returns the number of images."""
    recipe = DataRecipe(
        name=str(folder), image_size=224, crop="none", workers=args.workers, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    cache = {"shard_cache_gb": 100.0, "shard_cache": str(work / "cache")}
    recipes = {
        "folder": recipe,
        "shards on the disk": replace(recipe, name=str(work / "shards")),
        "shards over HTTP, by ranges": replace(recipe, name=url),
        "shards over HTTP, cached": replace(recipe, name=url, **cache),
    }
    splits: dict[str, FileSplit] = {}
    for name, one in recipes.items():
        train = open_data(one, seed=0).train
        assert isinstance(train, FileSplit)
        splits[name] = train
    return {
        "prepared": {
            **{name: batches_of(split, args.workers) for name, split in splits.items()},
            "webdataset on the disk": streamed(work / "shards", recipe, args.workers, is_prepared=True),
        },
        "bytes": {
            **{name: bytes_of(split) for name, split in splits.items()},
            "webdataset on the disk": streamed(work / "shards", recipe, args.workers, is_prepared=False),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with train/ and val/")
    parser.add_argument("--images", type=int, default=1000, help="of the training part, evenly spaced")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=min(2, cpus()))
    parser.add_argument("--shard-mb", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        layout = find_images(DataRecipe(name=str(args.folder)))
        for name, part in layout.parts.items():
            step = max(1, len(part.files) // (args.images if name == "train" else 10))
            for file in take(part.files, range(0, len(part.files), step)):
                place = work / "images" / name / Path(file).parent.name / Path(file).name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(Path(file).read_bytes())
        layout = find_images(DataRecipe(name=str(work / "images")))
        write_shards(layout, work / "shards", shard_bytes=args.shard_mb * 10**6)
        with served(work / "shards", work) as (server, url):
            found = measured(sources(work / "images", work, url, args), args)
        print(json.dumps(found | {"images": len(layout.parts["train"].files), "server": server}, indent=2))


def measured(found: dict[str, dict[str, Callable[[int], int]]], args: argparse.Namespace) -> dict[str, Any]:
    rates: dict[str, dict[str, list[float]]] = {measure: {name: [] for name in some} for measure, some in found.items()}
    for number in range(args.rounds + 1):
        for measure, name, epoch in _each(found):
            start = time.perf_counter()
            count = epoch(number)
            # The first round fills caches and starts connections.
            if number:
                rates[measure][name].append(count / (time.perf_counter() - start))
    return {
        "rounds": args.rounds,
        "workers": args.workers,
        "images per second": {
            measure: {
                name: {
                    "median": round(statistics.median(values), 1),
                    "quartiles": [round(v, 1) for v in statistics.quantiles(values, n=4)[::2]],
                }
                for name, values in some.items()
            }
            for measure, some in rates.items()
        },
        "environment": vars(this_environment(torch.device("cpu"))),
    }


def _each(found: dict[str, dict[str, Callable[[int], int]]]) -> Iterator[tuple[str, str, Callable[[int], int]]]:
    for measure, some in found.items():
        for name, epoch in some.items():
            yield measure, name, epoch


if __name__ == "__main__":
    main()
