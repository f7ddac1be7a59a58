"""Images in shards: WebDataset tars, and beside them an index by which each image is read on its own.

`index.json` has the classes, and of each part (train, val, test, or all) the shards and two files: `train.index`, a row
of `ROW` per image, and `train.names`, a line per image with the path that it came from. Rows are in the order of the
folder, by class and name, while the shards hold the training images shuffled. So training on shards has the same order,
the same crops and the same images held out as on the folder that they were made of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senet.data.folders import Layout, Listing, PartName
from senet.data.shard_store import DIGEST_BYTES, Cache, Shard, Span, Store, is_url
from senet.errors import ConfigError, DataError
from senet.files import cache_folder
from senet.recipes.recipe import DataRecipe

INDEX = "index.json"

FORMAT = "senet shards 1"
"""What `index.json` begins with; another number is another format."""

ROW = np.dtype(
    [("offset", "<u8"), ("length", "<u4"), ("shard", "<u4"), ("label", "<u4"), ("digest", f"V{DIGEST_BYTES}")]
)
"""An image in a part's index: the place and number of its bytes in a shard, its class and its digest; 36 bytes."""

PARTS: tuple[PartName, ...] = ("all", "train", "val", "test")

_MOST_JSON = 2**28
# A name without a folder, so that no file outside the data set is read.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def key_of(row: int) -> str:
    """The key of an image in its shard, the name of its members without the ending: its row in the index."""
    return f"{row:09d}"


class ShardPath(str):
    """An image in a shard, named by a text such as "photos/train-000002.tar, 000000017 at byte 1,024".

    Attributes:
        files: The images that it is one of.
        row: Its row in their index.
    """

    files: ShardFiles
    row: int
    _read: bytes | DataError | None = None

    def __new__(cls, files: ShardFiles, row: int, read: bytes | DataError | None = None) -> ShardPath:
        """Name an image; `read`: its bytes, or why there are none, where they have been read."""
        span = files.span(row)
        self = super().__new__(cls, f"{files.store.where(span.shard.file)}, {key_of(row)} at byte {span.offset:,}")
        self.files, self.row, self._read = files, row, read
        return self

    def read_bytes(self) -> bytes:
        """Return its bytes. DataError, which names it, if they cannot be read or are damaged."""
        found = self._read
        if found is None:
            (found,) = self.files.store.fetch([self.files.span(self.row)])
        if isinstance(found, DataError):
            raise self.files.named(found, self.row)
        return found


class ShardFiles(Sequence[str]):
    """The images of a part, or some of them, as a list of `ShardPath`; it keeps 36 bytes and a number of each.

    Args:
        store: Where they are read.
        part: Name of the part.
        shards: Its shards.
        rows: Its index, (n,) `ROW`.
        which: (m,) the rows of these images; None for all.
    """

    def __init__(
        self,
        store: Store,
        part: PartName,
        shards: Sequence[Shard],
        rows: np.ndarray,
        which: np.ndarray | None = None,
    ) -> None:
        self.store, self.shards, self.rows = store, tuple(shards), rows
        self.part: PartName = part
        self.which = np.arange(len(rows)) if which is None else which

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, index: int) -> ShardPath:  # type: ignore[override]
        return ShardPath(self, int(self.which[index]))

    def take(self, indices: Sequence[int]) -> ShardFiles:
        """Some of these images."""
        return ShardFiles(self.store, self.part, self.shards, self.rows, self.which[np.asarray(indices, np.int64)])

    def without_cache(self) -> ShardFiles:
        """These images, each read by a range request at a URL."""
        return ShardFiles(Store(self.store.root), self.part, self.shards, self.rows, self.which)

    def fetched(self, indices: Sequence[int]) -> list[ShardPath]:
        """Some of these images, whose bytes have been read, from a URL all at once."""
        rows = [int(self.which[i]) for i in indices]
        found = self.store.fetch([self.span(row) for row in rows])
        return [ShardPath(self, row, data) for row, data in zip(rows, found, strict=True)]

    def span(self, row: int) -> Span:
        """Where the image of a row is."""
        found = self.rows[row]
        return Span(self.shards[found["shard"]], int(found["offset"]), int(found["length"]), found["digest"].tobytes())

    def shard_numbers(self) -> np.ndarray:
        """(m,) int64, the shard of each image."""
        return self.rows["shard"][self.which].astype(np.int64)

    def sizes(self) -> np.ndarray:
        """(m,) int64, the number of bytes of each image."""
        return self.rows["length"][self.which].astype(np.int64)

    def digests(self) -> list[bytes]:
        """The digest of each image."""
        return [digest.tobytes() for digest in self.rows["digest"][self.which]]

    def named(self, error: DataError, row: int) -> DataError:
        """An error of the store with the image's key and, where the names can be read, the path that it came from."""
        try:
            name = self.store.read(f"{self.part}.names").decode().split("\n")[row]
        except (DataError, UnicodeDecodeError, IndexError):
            name = ""
        return DataError(f"{error} ({key_of(row)}{f', {name}' if name else ''})")


@dataclass(frozen=True)
class PartIndex:
    """The images of a part.

    Attributes:
        shards: Its shards.
        rows: (n,) `ROW`, in the order of the folder.
    """

    shards: tuple[Shard, ...]
    rows: np.ndarray


@dataclass(frozen=True)
class Index:
    """What a data set of shards holds.

    Attributes:
        classes: Names of the classes.
        digest: What the folder that it was made of is recognised by (`folders.digest`).
        parts: The parts by name.
    """

    classes: tuple[str, ...]
    digest: str
    parts: dict[PartName, PartIndex]


def is_shards(name: str) -> bool:
    """Whether the name of a data set is a URL, or a folder with an index of shards."""
    return is_url(name) or ((Path(name) / INDEX).is_file() and any(Path(name).glob("*.tar")))


def sources_at(files: Sequence[Any], indices: Sequence[int]) -> list[Any]:
    """Some of the files of a list; those in shards have been read, at a URL all at once."""
    return files.fetched(indices) if isinstance(files, ShardFiles) else [files[i] for i in indices]


def take(files: Sequence[str], indices: Sequence[int]) -> Sequence[str]:
    """Some of the files of a list, as a list of the same kind."""
    return files.take(indices) if isinstance(files, ShardFiles) else [files[i] for i in indices]


def index_json(index: Index) -> bytes:
    """`index.json` of an index whose rows are in the files beside it."""
    from senet import __version__

    parts = {
        name: {
            "samples": len(part.rows),
            "index": {"file": f"{name}.index", "digest": _sha256(part.rows.tobytes())},
            "shards": [vars(shard) for shard in part.shards],
        }
        for name, part in index.parts.items()
    }
    head = {"format": FORMAT, "senet": __version__, "classes": index.classes, "digest": index.digest, "parts": parts}
    return json.dumps(head, indent=1, ensure_ascii=False).encode()


def read_index(store: Store) -> Index:
    """Read and check the index of a data set of shards.

    Raises:
        DataError: It cannot be read, is of another format or damaged; the message names the file and what is wrong.
    """
    where = store.where(INDEX)
    data = store.read(INDEX)
    try:
        head = _Fields(json.loads(data) if len(data) <= _MOST_JSON else None, where)
    # Deep nesting, a number of thousands of digits, text that is not UTF-8.
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({' '.join(str(error).split())[:200]})") from error
    if (found := head.text("format")) != FORMAT:
        raise DataError(f"{where}: has the format {found[:40]!r}; expected: {FORMAT!r}, as this senet writes it")
    classes = tuple(head.texts("classes"))
    if not classes or len({*classes}) < len(classes):
        raise DataError(
            f"{where}: classes: are {'named twice' if classes else 'missing'}; expected: one name per class"
        )
    parts: dict[PartName, PartIndex] = {}
    listed = head.fields("parts")
    for name in PARTS:
        if name in listed.values:
            parts[name] = _read_part(store, listed.fields(name), len(classes))
    if not parts or len(parts) < len(listed.values):
        raise DataError(f"{where}: parts: are {[*listed.values][:5]}; expected: some of {', '.join(PARTS)}")
    return Index(classes, head.text("digest"), parts)


def _read_part(store: Store, fields: _Fields, classes: int) -> PartIndex:
    shards = []
    for entry in fields.list("shards"):
        found = _Fields(entry, fields.where)
        shards.append(Shard(found.file("file"), found.count("samples"), found.count("bytes"), found.sha256("digest")))
    index = fields.fields("index")
    file, n = index.file("file"), fields.count("samples")
    where, data = store.where(file), store.read(file)
    if len(data) != n * ROW.itemsize:
        raise DataError(f"{where}: has {len(data):,} bytes; expected: {ROW.itemsize} for each of {n:,} images")
    if _sha256(data) != index.sha256("digest"):
        raise DataError(f"{where}: its digest is not that of {INDEX}: it is damaged, or of another data set")
    rows = np.frombuffer(data, ROW)
    sizes, counts = (np.array([getattr(s, name) for s in shards], np.uint64) for name in ("bytes", "samples"))
    in_shards = rows["shard"] < len(shards)
    if not n or not in_shards.all() or not (rows["label"] < classes).all():
        raise DataError(f"{where}: has no images, or shards or classes that {INDEX} has not")
    # A sum could overflow.
    sizes = sizes[rows["shard"]]
    if not ((rows["offset"] <= sizes) & (rows["length"] <= sizes - np.minimum(rows["offset"], sizes))).all():
        raise DataError(f"{where}: has an image beyond the end of its shard")
    if not (np.bincount(rows["shard"], minlength=len(shards)) == counts).all():
        raise DataError(f"{where}: has other numbers of images in the shards than {INDEX}")
    return PartIndex(tuple(shards), rows)


def store_for(recipe: DataRecipe) -> Store:
    """The store of a recipe's data set, whose name `is_shards`, with its cache.

    Raises:
        ConfigError: A cache for a folder, or a folder for no cache.
    """
    gigabytes = recipe.shard_cache_gb
    if gigabytes and not is_url(recipe.name):
        raise ConfigError(f"data.shard_cache_gb: {gigabytes} has no effect on a folder; expected: 0")
    if recipe.shard_cache and not gigabytes:
        raise ConfigError(
            f"data.shard_cache: {recipe.shard_cache!r} has no effect with data.shard_cache_gb=0; expected: its size"
        )
    folder = Path(recipe.shard_cache).expanduser() if recipe.shard_cache else cache_folder() / "shards"
    root = recipe.name if is_url(recipe.name) else str(Path(recipe.name).expanduser())
    return Store(root, Cache(folder, round(gigabytes * 1e9)) if gigabytes else None)


def read_layout(recipe: DataRecipe) -> Layout:
    """The parts of a recipe's data set of shards, as those of a folder.

    Raises:
        DataError: The index cannot be read.
        ConfigError: A cache that is too small for the order, or has no effect.
    """
    store = store_for(recipe)
    index = read_index(store)
    if store.cache is not None:
        _check_room(index, recipe, store.cache.most_bytes)
    parts: dict[PartName, Listing] = {
        name: Listing(
            folder=store.where(name) if store.is_remote else Path(store.where(name)),
            classes=index.classes,
            files=ShardFiles(store, name, part.shards, part.rows),
            targets=part.rows["label"].astype(np.int64),
        )
        for name, part in index.parts.items()
    }
    if (whole := parts.get("all")) is not None:
        parts["all"] = Listing(_root(store), whole.classes, whole.files, whole.targets)
    return Layout(_root(store), parts, stored_digest=index.digest)


def _root(store: Store) -> Path | str:
    return store.root if store.is_remote else Path(store.root)


def _check_room(index: Index, recipe: DataRecipe, room: int) -> None:
    """A cache that must drop shards before all of their images are read would fetch each many times in an epoch."""
    sizes = [shard.bytes for part in index.parts.values() for shard in part.shards]
    # Those of a window and of the next one, whose first batches are read ahead.
    needed = min(sum(sizes), 2 * recipe.shuffle_window * max(sizes))
    if not recipe.shuffle_window or "all" in index.parts:
        # Images that are held out of shards of all are read in the order of the folder.
        needed = sum(sizes)
    if room < needed:
        raise ConfigError(
            f"data.shard_cache_gb: {recipe.shard_cache_gb:g} is too small for data.shuffle_window="
            f"{recipe.shuffle_window}; expected: {needed / 1e9:.3g} or more, or 0 to read each image by a range request"
        )


class _Fields:
    """The fields of an object in `index.json`; each method names the file and the field where it is not as expected."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise DataError(f"{where}: {str(values)[:40]!r} is not an object of JSON")
        self.values, self.where = values, where

    def _get(self, name: str, kind: type, what: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{self.where}: {name}: {str(value)[:40]!r} is not {what}")
        return value

    def text(self, name: str) -> str:
        return self._get(name, str, "a text")

    def list(self, name: str) -> list[Any]:
        return self._get(name, list, "a list")

    def texts(self, name: str) -> Iterable[str]:
        values = self.list(name)
        if not all(isinstance(value, str) and value.isprintable() for value in values):
            raise DataError(f"{self.where}: {name}: is not a list of printable texts")
        return values

    def fields(self, name: str) -> _Fields:
        return _Fields(self._get(name, dict, "an object"), self.where)

    def count(self, name: str) -> int:
        value = self._get(name, int, "a number")
        if not 0 <= value < 2**62:
            raise DataError(f"{self.where}: {name}: {str(value)[:40]} is out of range")
        return value

    def file(self, name: str) -> str:
        value = self.text(name)
        if not _NAME.fullmatch(value):
            raise DataError(
                f"{self.where}: {name}: {value[:80]!a} is refused; expected: the plain name of a file in it"
            )
        return value

    def sha256(self, name: str) -> str:
        value = self.text(name)
        if not _SHA256.fullmatch(value):
            raise DataError(f"{self.where}: {name}: {value[:80]!a} is not a SHA-256 of 64 hexadecimal digits")
        return value


def _sha256(data: bytes) -> str:
    from hashlib import sha256

    return sha256(data).hexdigest()
