"""10,000 images in shards over HTTP and from S3 (moto's server): each exactly once, over processes and after a stop."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.shard_server import serving
from senet.cli import main
from senet.data import open_data
from senet.data.splits import Order, Split
from senet.recipes.recipe import DataRecipe

pytestmark = pytest.mark.slow

IMAGES = 10_000
RECIPE = DataRecipe(image_size=8, resize=8, in_memory="no", workers=0, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that tell their number: two pixels have its digits to the base of 100."""
    root = tmp_path_factory.mktemp("many")
    for name in ("train/ape", "train/bee", "val/ape", "val/bee"):
        (root / "images" / name).mkdir(parents=True)
    for i in range(IMAGES + 4):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[0, 0], pixels[0, 1] = 2 * (i // 100), 2 * (i % 100)
        part = "train" if i < IMAGES else "val"
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
        (root / "images" / part / ("ape", "bee")[i % 2] / f"{i:05d}.png").write_bytes(encoded.getvalue())
    assert main(["shard", str(root / "images"), str(root / "shards"), "--shard-mb", "1"]) == 0
    return root


@pytest.fixture(params=["http", "s3"])
def url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if request.param == "http":
        with serving(folder / "shards") as server:
            yield server.url
        return
    reason = "needs moto and s3fs: pip install 'senet[shards]' 'moto[server]'"
    pytest.importorskip("s3fs", reason=reason)
    moto = pytest.importorskip("moto.server", reason=reason)
    import boto3
    import fsspec

    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {"key": "test", "secret": "test", "endpoint_url": f"http://{host}:{port}"}
    client = boto3.client(
        "s3",
        endpoint_url=access["endpoint_url"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="images")
    for path in (folder / "shards").iterdir():
        if path.is_file():
            client.upload_file(str(path), "images", f"many/{path.name}")
    before = dict(fsspec.config.conf)
    # What a file in ~/.config/fsspec says.
    fsspec.config.conf["s3"] = access
    try:
        yield "s3://images/many"
    finally:
        fsspec.config.conf.clear()
        fsspec.config.conf.update(before)
        server.stop()


def numbers(split: Split, order: Order, stop: int | None = None) -> Counter[int]:
    """How often each image, told by its pixels, comes out of a loader with two processes."""
    found: Counter[int] = Counter()
    keys = list(order)[:stop]
    for batch in DataLoader(split, sampler=keys, batch_size=None, num_workers=2):  # type: ignore[arg-type]
        assert not batch.skipped
        pixels = batch.images[:, 0, 0, :2].long() // 2
        found.update((pixels[:, 0] * 100 + pixels[:, 1]).tolist())
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("is_cached", [False, True])
def test_each_image_once_over_processes_and_after_a_stop(url: str, tmp_path: Path, is_cached: bool) -> None:
    """Three processes with two workers each stop after 20 batches; two go on where they stopped."""
    cache = {"shard_cache_gb": 0.02, "shard_cache": str(tmp_path), "shuffle_window": 2} if is_cached else {}
    split = open_data(replace(RECIPE, name=url, **cache), seed=1).train
    assert len(split) == IMAGES
    size, batches = 96, 20

    def order(rank: int, world: int) -> Order:
        found = Order(IMAGES, size, split.seed, windows=split.windows, rank=rank, world=world)
        found.go_to(2 * IMAGES)
        return found

    seen: Counter[int] = Counter()
    for rank in range(3):
        seen.update(numbers(split, order(rank, 3), batches))
    assert len(seen) == size * batches
    place = order(0, 3).place(2, batches)
    for rank in range(2):
        resumed = order(rank, 2)
        resumed.go_to(place)
        seen.update(numbers(split, resumed))
    assert sorted(seen) == list(range(IMAGES))
    assert {*seen.values()} == {1}
