"""`senet shard`, and training on what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.shard_server import serving

Senet = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("train/cat", 12), ("train/dog", 12), ("val/cat", 4), ("val/dog", 4)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_write_check_and_damage(senet: Senet, photos: Path) -> None:
    status, out, err = senet("shard", "photos", "shards", "--jobs", "2")
    assert (status, err) == (0, "")
    first, *_, last = out.splitlines()
    assert first.startswith("shards: 24 train, 8 val images of 2 classes in 2 shards, ")
    assert first.endswith(" MB; all digests are right")
    assert last == "  senet train --data shards"
    status, out, _ = senet("shard", "photos", "shards", "--json")
    found = json.loads(out)
    assert (status, found["images"], found["kept"], found["faults"]) == (0, {"train": 24, "val": 8}, 2, [])
    with serving(photos.parent / "shards") as server:
        assert senet("shard", server.url, "--check")[0] == 0
    shard = photos.parent / "shards" / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    status, out, _ = senet("shard", "shards", "--check")
    first, *faults = out.splitlines()
    assert status == 1
    assert first.endswith(f"MB; {len(faults)} are missing or damaged")
    assert all(line.startswith("shards/train-000000.tar, byte ") for line in faults)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos"], "OUT: is missing; to check shards: --check"),
        (["photos", "out", "--check"], "OUT: has no effect with --check"),
        (["photos", "--check"], "FOLDER: 'photos' has no shards; expected: the OUT of senet shard, or a URL"),
        (["digits", "out"], "FOLDER: 'digits' is kept in memory and needs no shards; expected: a folder"),
        (["fotos", "out"], "data.name: 'fotos' is neither a known data set nor a folder"),
        (["photos", "out", "--shard-mb", "0"], "--shard-mb: 0 is too small; expected: 1 or more"),
        (["photos", "photos"], "photos: is not empty (it has "),
    ],
)
def test_mistakes(senet: Senet, photos: Path, words: list[str], message: str) -> None:
    status, out, err = senet("shard", *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"senet shard: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_run_on_shards_is_the_run_on_the_folder(senet: Senet, photos: Path) -> None:
    """The same weights, to the bit; and a network trained on one is measured on the other's held-out images."""
    assert senet("shard", "photos", "shards")[0] == 0
    options = ["--image-size", "16", "--epochs", "1", "--batch-size", "8", "--threads", "1", "--recipe", "cifar10"]
    with serving(photos.parent / "shards") as server:
        for name, data in (("a", "photos"), ("b", "shards"), ("c", server.url)):
            status, _, err = senet("train", "se_resnet20", *options, "--data", data, "--in-memory", "no", "--out", name)
            assert status == 0, err
    weights = [(photos.parent / name / "best.safetensors") for name in "abc"]
    from safetensors.torch import load_file

    first, *others = (load_file(path) for path in weights)
    assert all(found.keys() == first.keys() for found in others)
    assert all((found[key] == first[key]).all() for found in others for key in first)
    status, out, err = senet("evaluate", "b", "--data", "photos")
    assert status == 0, err
    assert "8 images" in out
