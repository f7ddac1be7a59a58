"""Damaged and invented files for the readers of shards, checkpoints and recipes: only documented errors, of one line.

    python -m benchmarks.fuzz_readers --examples 2000
    pip install atheris; python -m benchmarks.fuzz_readers --atheris 300

hypothesis changes a sound file, byte by byte or value by value, and shrinks what fails. A reader must read the file or
raise an error of `senet.errors` in one line; it must neither execute anything nor raise another error. The figures
printed are the numbers of files that were read and refused, for each reader.

atheris (libFuzzer) keeps changed files that reach new lines and changes those further, for so many seconds a reader.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from senet import create_model
from senet.data.shard_store import Store
from senet.data.shard_writer import scan, write_shards
from senet.data.shards import INDEX, ShardFiles, read_index
from senet.data.sources import find_images
from senet.errors import SenetError
from senet.models.net import Preprocessing, ResidualNet, Stage, Stem
from senet.recipes.recipe import DataRecipe
from senet.recipes.registry import get_recipe
from senet.runs.checkpoint import load, read_ckpt, save, untrained_recipe
from senet.runs.recipe_file import read_recipe, write_recipe
from senet.training.callbacks import AtomicIO
from senet.weights.header import KEY

NET = ResidualNet(
    stem=Stem(width=4, kernel=3, stride=1),
    pool="none",
    stages=(Stage(block="basic", depth=1, mid=4, out=4),),
    num_classes=2,
)


@dataclass(frozen=True)
class Reader:
    """One reader: the file that is changed, what reads it, and what makes a changed file whole again."""

    file: Path
    read: Callable[[], Any]
    mend: Callable[[], Any] = lambda: None
    is_tree: bool = False


def sound(folder: Path) -> dict[str, Reader]:
    """Sound files of each kind."""
    rng = np.random.default_rng(0)
    for part, name, count in (("train", "ape", 6), ("train", "bee", 6), ("val", "ape", 2), ("val", "bee", 2)):
        (folder / "images" / part / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / part / name / f"{i}.jpg")
    shards = folder / "shards"
    index = write_shards(find_images(DataRecipe(name=str(folder / "images"))), shards, shard_bytes=15_000).index
    head, part = (shards / INDEX).read_text(), index.parts["train"]
    within = np.flatnonzero(part.rows["shard"] == 0)
    within = within[part.rows["offset"][within].argsort()]

    def right_digest() -> None:
        changed = json.loads(head)
        changed["parts"]["train"]["index"]["digest"] = sha256((shards / "train.index").read_bytes()).hexdigest()
        (shards / INDEX).write_text(json.dumps(changed))

    def all_images() -> None:
        found = read_index(Store(str(shards))).parts["train"]
        files = ShardFiles(Store(str(shards)), "train", found.shards, found.rows)
        for path in files.fetched(range(len(files))):
            path.read_bytes()

    model = create_model(NET)
    halves = (0.5,) * 3
    preprocessing = Preprocessing(mean=halves, std=halves, image_size=32, resize=32)
    recipe = untrained_recipe("tiny", NET, preprocessing, ("ape", "bee"))
    save(folder / "best.safetensors", model, recipe=recipe, classes=("ape", "bee"))
    state = {
        KEY: json.dumps({"a": 1}),
        "state_dict": dict(model.state_dict()),
        "epoch": 3,
        "loops": {"a": [1, 2.5, None]},
    }
    AtomicIO().save_checkpoint(state, folder / "last.ckpt")
    write_recipe(folder / "recipe.yaml", replace(get_recipe("digits"), name="tiny"))
    labels = part.rows["label"][within].tolist()
    shard, ckpt, best = shards / part.shards[0].file, folder / "last.ckpt", folder / "best.safetensors"
    return {
        "index.json, bytes": Reader(shards / INDEX, lambda: read_index(Store(str(shards)))),
        "index.json, values": Reader(shards / INDEX, lambda: read_index(Store(str(shards))), is_tree=True),
        "train.index": Reader(shards / "train.index", all_images, right_digest),
        "tar": Reader(shard, lambda: scan(shard, within.tolist(), labels)),
        "images of a tar": Reader(shard, all_images, lambda: (shards / INDEX).write_text(head)),
        "best.safetensors": Reader(best, lambda: load(best)),
        "last.ckpt": Reader(ckpt, lambda: read_ckpt(ckpt)),
        "recipe.yaml, bytes": Reader(folder / "recipe.yaml", lambda: read_recipe(folder / "recipe.yaml")),
        "recipe.yaml, values": Reader(
            folder / "recipe.yaml", lambda: read_recipe(folder / "recipe.yaml"), is_tree=True
        ),
    }


# A place is a share of the file; many faults lie near its beginning, where headers are.
_places = st.one_of(st.floats(0, 1), st.floats(0, 0.02))
_changes = st.lists(
    st.tuples(
        st.sampled_from(("flip", "cut", "insert", "zeros", "repeat")), _places, st.binary(min_size=1, max_size=12)
    ),
    min_size=1,
    max_size=4,
)
_leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20)
)
_values = st.recursive(
    _leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
_edits = st.lists(
    st.tuples(st.lists(st.integers(0, 40), max_size=6), st.sampled_from(("set", "drop", "add")), _values),
    min_size=1,
    max_size=3,
)


def changed(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """Apply changes to the bytes of a file."""
    for kind, share, some in changes:
        at = int(share * max(len(data) - 1, 0))
        if kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + some + data[at:]
        elif kind == "zeros":
            data = data[:at] + bytes(len(some)) + data[at + len(some) :]
        elif kind == "repeat":
            data = data[:at] + data[max(0, at - 600) : at] + data[at:]
        else:
            data = data[:at] + some + data[at + len(some) :]
    return data


def edited(tree: Any, edits: list[tuple[list[int], str, Any]]) -> Any:
    """Set, drop or add values in a tree of dictionaries and lists."""
    tree = deepcopy(tree)
    for path, kind, value in edits:
        node = tree
        for step in path[:-1]:
            inner = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
            if not inner or not isinstance(inner[step % len(inner)], (dict, list)):
                break
            node = inner[step % len(inner)]
        last = path[-1] if path else 0
        if not isinstance(node, (dict, list)) or (not node and kind != "add"):
            continue
        key: Any = [*node][last % len(node)] if isinstance(node, dict) and node else last % max(len(node), 1)
        if kind == "drop":
            del node[key]
        elif isinstance(node, list):
            node[key : key + (kind == "set")] = [value]
        else:
            node[f"new {last}" if kind == "add" else key] = value
    return tree


def outcome(reader: Reader, data: bytes) -> str:
    """Read a changed file: "read" or "refused"; AssertionError for an error of more than one line.

    The sound file is put back.
    """
    before = reader.file.read_bytes()
    reader.file.write_bytes(data)
    try:
        reader.mend()
        reader.read()
    except SenetError as error:
        if "\n" in str(error).strip() or not str(error).strip():
            raise AssertionError(f"not one line: {error!r}") from error
        return "refused"
    finally:
        reader.file.write_bytes(before)
    return "read"


def fuzz(reader: Reader, examples: int, *, is_random: bool = False) -> Counter[str]:
    """Try so many changed files."""
    found: Counter[str] = Counter()
    before = reader.file.read_bytes()
    how = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not is_random,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )
    if reader.is_tree:
        tree = yaml.safe_load(before)
        dump = json.dumps if reader.file.suffix == ".json" else yaml.safe_dump

        @how
        @given(_edits)
        def trees(edits: list[tuple[list[int], str, Any]]) -> None:
            found[outcome(reader, dump(edited(tree, edits)).encode("utf-8", "surrogatepass"))] += 1

        trees()
    else:

        @how
        @given(_changes)
        def files(changes: list[tuple[str, float, bytes]]) -> None:
            found[outcome(reader, changed(before, changes))] += 1

        files()
    return found


BY_COVERAGE = """
import sys
import atheris
with atheris.instrument_imports(include=["senet", "yaml", "tarfile", "json", "safetensors", "benchmarks"]):
    from benchmarks import fuzz_readers
fuzz_readers.by_coverage(atheris, sys.argv[1], sys.argv[2:])
"""


def by_coverage(atheris: Any, name: str, options: list[str]) -> None:
    """Fuzz a reader by libFuzzer in this process, which then ends; its last line is the numbers of files so far.

    Args:
        atheris: The module.
        name: A key of `sound`.
        options: Of libFuzzer.
    """
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    reader = sound(folder)[name]
    (folder / "corpus").mkdir()
    (folder / "corpus/sound").write_bytes(reader.file.read_bytes())
    found: Counter[str] = Counter()

    def one(data: bytes) -> None:
        found[outcome(reader, data)] += 1
        if not found.total() % 100:
            (folder / "corpus").with_suffix(".json").write_text(json.dumps(found))

    print(folder, flush=True)
    atheris.Setup([sys.argv[0], *options, "-max_len=65536", f"-artifact_prefix={folder}/", str(folder / "corpus")], one)
    atheris.Fuzz()


def in_processes(names: list[str], seconds: int) -> None:
    """Fuzz readers by libFuzzer, one after the other, and print what was found."""
    for name in names:
        options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096"]
        ended = subprocess.run([sys.executable, "-c", BY_COVERAGE, name, *options], capture_output=True, text=True)
        folder = Path(next(line for line in ended.stdout.splitlines() if line.startswith("/")))
        counts = folder / "corpus.json"
        kept = len([*(folder / "corpus").iterdir()])
        print(f"{name:<22}{counts.read_text() if counts.is_file() else '{}'}, {kept} files kept", flush=True)
        if ended.returncode:
            print(f"status {ended.returncode}, {folder}:\n{ended.stdout[-1500:]}{ended.stderr[-1500:]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000, help="for each reader")
    parser.add_argument("--atheris", type=int, default=0, metavar="SECONDS", help="for each reader, by coverage")
    parser.add_argument("--readers", default="", help="some alone, by the beginnings of their names, with commas")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.atheris:
            wanted = tuple(args.readers.split(","))
            readers = sound(Path(folder)).items()
            # Where values are changed it is the same reader.
            in_processes([n for n, reader in readers if not reader.is_tree and n.startswith(wanted)], args.atheris)
            return
        for name, reader in sound(Path(folder)).items():
            print(f"{name:<22}{json.dumps(fuzz(reader, args.examples, is_random=True))}", flush=True)


if __name__ == "__main__":
    main()
