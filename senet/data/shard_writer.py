"""Write a folder of images as shards: WebDataset tars with an index, see `shards`.

The bytes of each tar are a function of the folder's images and of the size of a shard. A stopped run continues:
`.writing/` has the digest of each finished shard; those that still have it are kept, and the others written.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from senet.data.folders import Layout, Listing, PartName, digest, printable
from senet.data.shard_store import Shard, Store, digest_of, file_digest
from senet.data.shards import INDEX, ROW, Index, PartIndex, ShardFiles, index_json, key_of, read_index
from senet.errors import DataError, RunError
from senet.files import held, write_atomically
from senet.initialization import stream
from senet.progress import Bar

WRITING = ".writing"
"""A folder beside the shards: in `plan` the digest of what is written, in others the digest of each finished shard."""

_ENDINGS = {".jpeg": ".jpg", ".jfif": ".jpg"}
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class _Plan:
    """One shard: its name, and the rows, files and labels of the images in it."""

    name: str
    rows: tuple[int, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """What `write_shards` did.

    Attributes:
        index: The index of all shards.
        kept: Number of shards that were there already, and whole.
    """

    index: Index
    kept: int


def write_shards(
    layout: Layout, out: Path, *, shard_bytes: int = 256 * 10**6, jobs: int = 1, progress: bool = False
) -> Written:
    """Write the images of a folder as shards, and read each back to check it.

    Args:
        layout: The folder's images.
        out: A new folder, or one in which this was begun.
        shard_bytes: Size of a shard; one image may be larger.
        jobs: Threads.
        progress: Whether to show a bar.

    Raises:
        DataError: An image cannot be read, or changes while it is.
        RunError: The folder holds something else, is in use, or cannot be written.
    """
    plans: dict[PartName, list[_Plan]] = {name: _plan(name, part, shard_bytes) for name, part in layout.parts.items()}
    with held(out):
        _begin(out, layout, plans)
        total = sum(len(plan.rows) for some in plans.values() for plan in some)
        found: dict[PartName, PartIndex] = {}
        kept = 0
        with Bar(total=total, unit="image", show=progress) as bar:
            for name, some in plans.items():
                rows = np.empty(sum(len(plan.rows) for plan in some), ROW)
                shards = []
                with ThreadPoolExecutor(jobs) as pool:
                    try:
                        for plan, (shard, of_shard, is_kept) in zip(
                            some, pool.map(lambda plan: _shard(out, plan), some), strict=True
                        ):
                            of_shard["shard"] = len(shards)
                            rows[list(plan.rows)] = of_shard
                            shards.append(shard)
                            kept += is_kept
                            bar.update(len(plan.rows))
                    except BaseException:
                        pool.shutdown(cancel_futures=True)
                        raise
                found[name] = PartIndex(tuple(shards), rows)
        index = Index(layout.classes, digest(layout), found)
        for name, part in found.items():
            names = "\n".join(_told(layout, file) for file in layout.parts[name].files)
            write_atomically(out / f"{name}.names", lambda file, names=names: file.write(names.encode()))
            write_atomically(out / f"{name}.index", lambda file, part=part: file.write(part.rows.tobytes()))
        write_atomically(out / INDEX, lambda file: file.write(index_json(index)))
        read_index(Store(str(out)))
    return Written(index, kept)


def check_shards(store: Store, *, jobs: int = 1, progress: bool = False) -> tuple[Index, list[str]]:
    """Read every image of a data set of shards and compare it with its digest; of a folder also every whole shard.

    Returns:
        The index, and a line for each image or shard that is missing or damaged.

    Raises:
        DataError: The index cannot be read.
    """
    index = read_index(store)
    faults: list[str] = []
    with Bar(total=sum(len(p.rows) for p in index.parts.values()), unit="image", show=progress) as bar:
        for name, part in index.parts.items():
            files = ShardFiles(store, name, part.shards, part.rows)
            # In the order of the bytes.
            order = np.lexsort((part.rows["offset"], part.rows["shard"]))
            chunks = [order[start : start + 64].tolist() for start in range(0, len(order), 64)]
            with ThreadPoolExecutor(jobs) as pool:
                for found in pool.map(lambda chunk, files=files: _faults(files, chunk), chunks):
                    faults += found
                    bar.update(min(64, bar.total - bar.n))
            if not store.is_remote and not faults:
                faults += [
                    f"{store.where(shard.file)}: its digest is wrong, and those of its images are not"
                    for shard in part.shards
                    if file_digest(Path(store.where(shard.file))) != shard.digest
                ]
    return index, faults


def _faults(files: ShardFiles, rows: Sequence[int]) -> Iterator[str]:
    for path in files.fetched(rows):
        try:
            path.read_bytes()
        except DataError as error:
            yield str(error)


def _plan(part: PartName, listing: Listing, most: int) -> list[_Plan]:
    """Which images are in which shard."""
    sizes = [_stat(file).st_size for file in listing.files]
    # Those of validation in order, as evaluation reads them, so that it needs one shard after the other.
    is_shuffled = part in ("train", "all")
    order = torch.randperm(len(sizes), generator=stream(0, "shards"), device="cpu").tolist() if is_shuffled else None
    groups: list[list[int]] = [[]]
    filled = 0
    for row in order or range(len(sizes)):
        # An image, its class, and a header of each.
        size = 3 * _BLOCK + -(-sizes[row] // _BLOCK) * _BLOCK
        if groups[-1] and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(row)
        filled += size
    return [
        _Plan(
            f"{part}-{number:06d}.tar",
            tuple(rows),
            tuple(listing.files[row] for row in rows),
            tuple(int(listing.targets[row]) for row in rows),
            tuple(sizes[row] for row in rows),
        )
        for number, rows in enumerate(groups)
    ]


def _begin(out: Path, layout: Layout, plans: dict[PartName, list[_Plan]]) -> None:
    """Check that the folder is empty, or that the same was begun in it."""
    hashed = blake2b(json.dumps(layout.classes).encode(), digest_size=16)
    for some in plans.values():
        for plan in some:
            stamps = [_stat(file).st_mtime_ns for file in plan.files]
            told = [_told(layout, file) for file in plan.files]
            hashed.update(json.dumps([plan.name, plan.rows, plan.labels, plan.sizes, stamps, told]).encode())
    (out / WRITING).mkdir(exist_ok=True)
    wanted, path = hashed.hexdigest(), out / WRITING / "plan"
    if path.is_file():
        if path.read_text(errors="replace") != wanted:
            raise RunError(
                f"{out}: holds shards of other images, or of another size of shards; expected: an empty folder, or the "
                "same images, none changed since, and the same --shard-mb"
            )
    elif there := [entry.name for entry in out.iterdir() if not entry.name.startswith(".")]:
        raise RunError(f"{out}: is not empty (it has {printable(there[0])}); expected: a new folder")
    else:
        write_atomically(path, lambda file: file.write(wanted.encode()))


def _shard(out: Path, plan: _Plan) -> tuple[Shard, np.ndarray, bool]:
    """Write a shard, or keep the one that is there; return it, its rows of the index, and whether it was kept."""
    path, note = out / plan.name, out / WRITING / plan.name
    if path.is_file() and note.is_file():
        shard = _described(path, plan)
        if note.read_text(errors="replace") == shard.digest:
            return shard, scan(path, plan.rows, plan.labels), True
    expected = np.empty(0, ROW)

    def write(file: io.BufferedIOBase) -> None:
        nonlocal expected
        expected = _write_tar(file, plan)

    write_atomically(path, write)  # type: ignore[arg-type]
    rows = scan(path, plan.rows, plan.labels)
    if rows.tobytes() != expected.tobytes():
        raise RunError(f"{path}: reads otherwise than it was written; is the disk sound?")
    shard = _described(path, plan)
    write_atomically(note, lambda file: file.write(shard.digest.encode()))
    return shard, rows, False


def _described(path: Path, plan: _Plan) -> Shard:
    return Shard(path.name, len(plan.rows), path.stat().st_size, file_digest(path))


def _write_tar(file: io.BufferedIOBase, plan: _Plan) -> np.ndarray:
    rows = np.zeros(len(plan.rows), ROW)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
        for i, (row, name, label, size) in enumerate(zip(plan.rows, plan.files, plan.labels, plan.sizes, strict=True)):
            try:
                data = Path(name).read_bytes()
            except OSError as error:
                raise DataError(f"{printable(name)}: cannot be read ({error.strerror})") from error
            if len(data) != size:
                raise DataError(f"{printable(name)}: has changed while it was read")
            ending = os.path.splitext(name)[1].lower()
            rows[i]["offset"] = tar.offset + _BLOCK
            rows[i]["length"], rows[i]["label"] = size, label
            rows[i]["digest"] = np.frombuffer(digest_of(data), rows.dtype["digest"])[0]
            _add(tar, key_of(row) + _ENDINGS.get(ending, ending), data)
            _add(tar, f"{key_of(row)}.cls", str(label).encode())
    return rows


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Owner, time and mode are the same for all, so that the bytes of a shard depend on the images alone.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def scan(path: Path, expected: Sequence[int], labels: Sequence[int]) -> np.ndarray:
    """Read a shard and return its rows of the index.

    Args:
        path: The tar.
        expected: The rows, and so the keys, of the images that must be in it, in order.
        labels: Their classes.

    Raises:
        DataError: It is not a tar of these members, each image with its class; names the first that is not.
    """
    rows = np.zeros(len(expected), ROW)
    try:
        with tarfile.open(path, "r:") as tar:
            members = iter(tar)
            for i, (row, label) in enumerate(zip(expected, labels, strict=True)):
                image, target = next(members, None), next(members, None)
                if image is None or target is None:
                    raise DataError(f"{path}: ends before {key_of(row)}")
                for member in (image, target):
                    check_member(path, member)
                if image.name.partition(".")[0] != key_of(row) or target.name != f"{key_of(row)}.cls":
                    raise DataError(f"{path}: has {image.name!a} and {target.name!a} in place of {key_of(row)}")
                data, text = _content(tar, image), _content(tar, target)
                if text != str(label).encode():
                    raise DataError(f"{path}: {target.name} is {text[:20]!r}; expected: {label}")
                rows[i]["offset"], rows[i]["length"], rows[i]["label"] = image.offset_data, len(data), label
                rows[i]["digest"] = np.frombuffer(digest_of(data), rows.dtype["digest"])[0]
            if (more := next(members, None)) is not None:
                raise DataError(f"{path}: has {more.name!a} behind its last image")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a tar ({' '.join(str(error).split())})") from error
    return rows


def check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Raise DataError for a member that is no plain file, or whose name leads out of the folder it is unpacked to."""
    name = member.name.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
        raise DataError(f"{path}: its member {member.name!a} is refused: an absolute path, or one with '..'")
    if not member.isreg() or member.issparse():
        raise DataError(f"{path}: its member {member.name!a} is refused: it is no plain file")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise DataError(f"{tar.name}: {member.name} is cut off")
    return data


def _told(layout: Layout, file: str) -> str:
    """The name of an image: its path from the folder."""
    folder = layout.folder if os.path.isdir(layout.folder) else os.path.dirname(layout.folder)
    return printable(os.path.relpath(file, folder or "."))


def _stat(file: str) -> os.stat_result:
    try:
        return os.stat(file)
    except OSError as error:
        raise DataError(f"{printable(file)}: cannot be read ({error.strerror})") from error
