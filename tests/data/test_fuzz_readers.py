"""A few of the files that `benchmarks/fuzz_readers.py` makes."""

from __future__ import annotations

import pytest

from benchmarks.fuzz_readers import Reader, fuzz, sound

NAMES = ("index.json, bytes", "index.json, values", "train.index", "tar", "images of a tar", "best.safetensors")
NAMES += ("last.ckpt", "recipe.yaml, bytes", "recipe.yaml, values")


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return sound(tmp_path_factory.mktemp("sound"))


def test_all_are_tried(readers: dict[str, Reader]) -> None:
    assert tuple(readers) == NAMES
    for reader in readers.values():
        reader.read()


@pytest.mark.parametrize("name", NAMES)
def test_only_documented_errors(readers: dict[str, Reader], name: str) -> None:
    found = fuzz(readers[name], 40)
    assert found["refused"] >= 5
    assert sum(found.values()) >= 40
