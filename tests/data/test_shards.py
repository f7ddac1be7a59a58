"""Shards: what is written, what training reads of them, and every way in which they can be missing or damaged."""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.shard_faults import ON_DISK, one, prepare
from benchmarks.shard_server import FAULTS, ShardServer, serving
from senet.data import Data, open_data, open_part
from senet.data.duplicates import duplicates
from senet.data.shard_store import Cache, Store
from senet.data.shard_writer import WRITING, check_shards, scan, write_shards
from senet.data.shards import INDEX, ROW, ShardFiles, key_of, read_index, read_layout
from senet.data.sources import count_data, find_images, is_trained_on
from senet.data.splits import FileSplit
from senet.errors import ConfigError, DataError, RunError
from senet.recipes.recipe import DataRecipe, TrainedOn

MakeFolder = Callable[..., Path]
CPU = torch.device("cpu")
RECIPE = DataRecipe(
    image_size=16, resize=20, in_memory="no", crop="resized", flip=True, workers=0, mean=(0.5,) * 3, std=(0.5,) * 3
)
COUNTS = {"train/ape": 9, "train/bee": 7, "train/cat": 8, "val/ape": 3, "val/bee": 2, "val/cat": 4}


def sharded(folder: Path, shard_bytes: int = 8_000) -> Path:
    """The shards of a folder, in a folder beside it."""
    out = folder.with_name(f"{folder.name}-shards")
    write_shards(find_images(DataRecipe(name=str(folder))), out, shard_bytes=shard_bytes)
    return out


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    return make_folder(COUNTS)


@pytest.fixture
def shards(folder: Path) -> Path:
    return sharded(folder)


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    """A server of the shards, and a store that does not wait long between attempts."""
    monkeypatch.setattr(Store, "wait_s", 0.01)
    with serving(shards) as found:
        yield found


def opened(name: object, **fields: Any) -> Data:
    return open_data(replace(RECIPE, name=str(name), **fields), seed=3)


def batches(data: Data, epoch: int = 1) -> list[tuple[Tensor, Tensor]]:
    order = data.train.order(8)
    order.set_epoch(epoch)
    return [data.train.prepare(data.train[key], CPU) for key in order]


def same(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> bool:
    return all(
        torch.equal(one, other)
        for mine, others in zip(ours, theirs, strict=True)
        for one, other in zip(mine, others, strict=True)
    )


def test_any_reader_of_tars_reads_them(folder: Path, shards: Path) -> None:
    files = sorted(folder.glob("train/*/*"))
    found = {}
    for shard in sorted(shards.glob("train-*.tar")):
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            # The members of a sample follow each other, as WebDataset needs it.
            assert [name.partition(".")[0] for name in names[::2]] == [name.partition(".")[0] for name in names[1::2]]
            found |= {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert len(found) == 2 * len(files)
    for row, file in enumerate(files):
        assert found[f"{row:09d}.png"] == file.read_bytes()
        assert found[f"{row:09d}.cls"] == str(["ape", "bee", "cat"].index(file.parent.name)).encode()
    assert (shards / "train.names").read_text().splitlines() == [str(file.relative_to(folder)) for file in files]


def test_shards_are_shuffled_for_readers_that_stream_them(shards: Path) -> None:
    rows = np.frombuffer((shards / "train.index").read_bytes(), ROW)
    labels = rows["label"][np.lexsort((rows["offset"], rows["shard"]))].tolist()
    assert labels != sorted(labels)
    val = np.frombuffer((shards / "val.index").read_bytes(), ROW)
    assert val["shard"].tolist() == sorted(val["shard"])


@pytest.mark.parametrize("counts", [COUNTS, {"ape": 9, "bee": 7}, {"train/a": 5, "train/b": 5, "test/a": 2}])
@pytest.mark.parametrize("fields", [{}, {"in_memory": "yes", "resize": 0}, {"train_fraction": 0.5, "balanced": True}])
def test_training_is_as_on_the_folder(make_folder: MakeFolder, counts: dict[str, int], fields: dict[str, Any]) -> None:
    """Same classes, parts, held-out images, order, crops; and each knows the other's images."""
    folder = make_folder(counts)
    ours, theirs = opened(sharded(folder), **fields), opened(folder, **fields)
    assert ours.classes == theirs.classes
    assert {name: len(part) for name, part in ours.parts.items()} == {n: len(p) for n, p in theirs.parts.items()}
    assert same(batches(ours), batches(theirs))
    key = (0, list(range(len(ours.measured))))
    assert same([ours.measured.prepare(ours.measured[key], CPU)], [theirs.measured.prepare(theirs.measured[key], CPU)])
    assert ours.digest == theirs.digest != ""


def test_what_else_reads_the_data(folder: Path, shards: Path) -> None:
    recipe = replace(RECIPE, name=str(shards))
    assert count_data(recipe).train == 24
    part = open_part(recipe, "val")
    assert part.words == f"9 images in {shards / 'val'}"
    assert part.split.fingerprint() == open_part(recipe, "val").split.fingerprint()
    assert part.split.fingerprint() != open_part(recipe, "train").split.fingerprint()
    layout = read_layout(recipe)
    found, said = is_trained_on(TrainedOn(str(folder), opened(folder).digest), recipe, layout)
    assert found
    assert said == f"these are the files of {folder}, which the network was trained on"


def test_duplicates_are_found(folder: Path) -> None:
    (folder / "val/ape/00.png").write_bytes((folder / "train/ape/04.png").read_bytes())
    assert duplicates(opened(sharded(folder))) == ["1 of 9 validation images is among the training images too"]


def test_a_stopped_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = find_images(DataRecipe(name=str(folder)))
    whole = sharded(folder)
    out = folder.with_name("stopped")
    import senet.data.shard_writer as module

    real, count = module._write_tar, iter(range(100))

    def stopping(*args: Any) -> Any:
        if next(count) >= 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "_write_tar", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_shards(layout, out, shard_bytes=8_000)
    assert not (out / INDEX).exists()
    monkeypatch.setattr(module, "_write_tar", real)
    damaged = out / "train-000000.tar"
    data = bytearray(damaged.read_bytes())
    data[700] ^= 1
    damaged.write_bytes(data)
    kept = write_shards(layout, out, shard_bytes=8_000).kept
    # Two were finished; one of them was damaged since.
    assert kept == 1
    visible = [path.name for path in whole.iterdir() if path.is_file()]
    assert sorted(visible) == sorted(path.name for path in out.iterdir() if path.is_file())
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in visible)
    assert write_shards(layout, out, shard_bytes=8_000).kept == len(list(out.glob("*.tar")))


def test_other_images_are_not_added(folder: Path, shards: Path, save_image: Callable[..., None]) -> None:
    with pytest.raises(RunError, match="holds shards of other images, or of another size of shards"):
        sharded(folder, shard_bytes=30_000)
    save_image(folder / "train/ape/new.png", 40, 30, 77)
    with pytest.raises(RunError, match="holds shards of other images"):
        sharded(folder)
    other = folder.with_name("other")
    other.mkdir()
    (other / "thesis.txt").write_text("a year of work")
    with pytest.raises(RunError, match=r"is not empty \(it has thesis.txt\); expected: a new folder"):
        write_shards(find_images(DataRecipe(name=str(folder))), other)
    assert (other / "thesis.txt").read_text() == "a year of work"


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    layout = find_images(DataRecipe(name=str(folder)))
    (folder / "train/bee/03.png").unlink()
    with pytest.raises(DataError, match=r"train/bee/03\.png: cannot be read \(No such file or directory\)"):
        write_shards(layout, folder.with_name("out"))


def test_check_names_every_fault(shards: Path) -> None:
    assert check_shards(Store(str(shards)))[1] == []
    rows = np.frombuffer((shards / "train.index").read_bytes(), ROW)
    for row in (2, 11):
        shard = shards / f"train-{rows['shard'][row]:06d}.tar"
        data = bytearray(shard.read_bytes())
        data[rows["offset"][row] + 5] ^= 8
        shard.write_bytes(data)
    _, faults = check_shards(Store(str(shards)), jobs=2)
    assert len(faults) == 2
    for row, fault in zip((2, 11), sorted(faults, key=lambda f: f.partition("(")[2]), strict=True):
        name = (shards / "train.names").read_text().splitlines()[row]
        assert fault == (
            f"{shards}/train-{rows['shard'][row]:06d}.tar, byte {rows['offset'][row]:,}: its digest is wrong: the "
            f"bytes are damaged ({row:09d}, {name})"
        )


def test_check_finds_a_byte_between_the_images(shards: Path) -> None:
    shard = shards / "val-000000.tar"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    assert check_shards(Store(str(shards)))[1] == [f"{shard}: its digest is wrong, and those of its images are not"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../000000000.png", "a/../../b.png", "C:\\b.png", "\\\\host\\b.png"])
def test_members_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for member in (name, "000000000.cls"):
            tar.addfile(tarfile.TarInfo(member))
    with pytest.raises(DataError, match=r"its member .* is refused: an absolute path, or one with '\.\.'"):
        scan(tmp_path / "x.tar", [0], [0])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_members_that_are_no_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("000000000.png", "000000000.cls"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(DataError, match="is refused: it is no plain file"):
        scan(tmp_path / "x.tar", [0], [0])


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    head = json.loads(path.read_text())
    change(head)
    path.write_text(json.dumps(head))


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "format": (
        lambda h: h.update(format="senet shards 2"),
        "has the format 'senet shards 2'; expected: 'senet shards 1'",
    ),
    "no format": (lambda h: h.pop("format"), "format: 'None' is not a text"),
    "classes": (lambda h: h.update(classes=["a", "a", "b"]), "classes: are named twice"),
    "escape": (lambda h: h.update(classes=["a", "\x1b[2J", "b"]), "classes: is not a list of printable texts"),
    "a part": (lambda h: h["parts"].update(extra={}), r"parts: are \['train', 'val', 'extra'\]; expected: some of all"),
    "a path": (lambda h: h["parts"]["train"]["shards"][0].update(file="/etc/passwd"), "file: '/etc/passwd' is refused"),
    "dots": (
        lambda h: h["parts"]["train"]["index"].update(file="../train.index"),
        r"file: '\.\./train.index' is refused",
    ),
    "a class": (lambda h: h.update(classes=["a", "b"]), "shards or classes that index.json has not"),
    "size": (lambda h: h["parts"]["train"]["shards"][0].update(bytes=900), "an image beyond the end of its shard"),
    "samples": (lambda h: h["parts"]["train"]["shards"][0].update(samples=1), "other numbers of images in the shards"),
    "count": (lambda h: h["parts"]["val"].update(samples=8), "has 324 bytes; expected: 36 for each of 8 images"),
    "negative": (lambda h: h["parts"]["val"].update(samples=-8), "samples: -8 is out of range"),
    "digest": (lambda h: h["parts"]["val"]["index"].update(digest="0" * 64), "its digest is not that of index.json"),
    "hex": (lambda h: h["parts"]["val"]["index"].update(digest="x"), "digest: 'x' is not a SHA-256"),
    "truth": (lambda h: h["parts"]["val"].update(samples=True), "samples: 'True' is not a number"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_index_is_refused(shards: Path, wrong: str) -> None:
    change, message = WRONG[wrong]
    changed(shards / INDEX, change)
    with pytest.raises(DataError, match=message) as caught:
        read_index(Store(str(shards)))
    assert str(caught.value).startswith(str(shards))


@pytest.mark.parametrize("text", ["", "{", "[]", "nul", "[" * 100_000, '{"format": ' + "1" * 5000 + "}", "\xff"])
def test_what_is_no_index_is_refused(shards: Path, text: str) -> None:
    (shards / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"is not JSON|is not an object of JSON"):
        read_index(Store(str(shards)))


@pytest.mark.parametrize("part", ["train.index", INDEX])
def test_an_index_that_is_missing_is_named(shards: Path, part: str) -> None:
    (shards / part).unlink()
    with pytest.raises(DataError, match=f"{part}: no such file"):
        read_index(Store(str(shards)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shuffle_window": 2}, "data.shuffle_window: 2 has no effect on .*, which has no shards"),
        ({"shard_cache_gb": 2.0}, r"data.shard_cache_gb: 2\.0 has no effect on .*, which has no shards"),
        ({"shard_cache": "x"}, "data.shard_cache: 'x' has no effect on .*, which has no shards"),
    ],
)
def test_fields_of_shards_on_a_folder(folder: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(folder, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shard_cache_gb": 2.0}, r"data.shard_cache_gb: 2\.0 has no effect on a folder"),
        ({"shard_cache": "x"}, "data.shard_cache: 'x' has no effect with data.shard_cache_gb=0"),
    ],
)
def test_a_cache_of_shards_on_the_disk(shards: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(shards, **fields)


@pytest.mark.parametrize("cached", [False, True])
def test_over_http_as_on_the_disk(shards: Path, server: ShardServer, tmp_path: Path, cached: bool) -> None:
    fields = {"shard_cache_gb": 1.0, "shard_cache": str(tmp_path / "cache")} if cached else {}
    ours = opened(server.url, **fields)
    assert ours.source == f"33 images in {server.url} (train/, val/)"
    assert not (tmp_path / "cache").exists()
    server.requests.clear()
    assert same(batches(ours), batches(opened(shards)))
    tars = [shard.name for shard in shards.glob("train-*.tar")]
    assert len(tars) > 2
    if cached:
        assert [server.requests[tar] for tar in tars] == [1] * len(tars)
    sizes = sum(path.stat().st_size for path in shards.glob("train-*.tar"))
    server.sent = 0
    batches(ours)
    # Without a cache no more than the images; with one nothing.
    assert (server.sent == 0) if cached else (0 < server.sent < sizes)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_not_trained_on(
    shards: Path, server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, cached: bool
) -> None:
    if fault == "stalled":
        monkeypatch.setattr(Store, "timeout_s", 0.2)
    if (fault, cached) == ("whole", True):
        return  # A whole shard was asked for.
    fields = {"shard_cache_gb": 1.0, "shard_cache": str(tmp_path / "cache")} if cached else {}
    data = opened(server.url, **fields)
    rows = np.frombuffer((shards / "train.index").read_bytes(), ROW)
    within = np.flatnonzero(rows["shard"] == 1).tolist()
    server.faults["train-000001.tar"] = fault, -1
    with pytest.raises(DataError) as caught:
        batches(data)
    assert str(caught.value).startswith(f"{server.url}/train-000001.tar, byte ")
    named = [row for row in within if f"byte {rows['offset'][row]:,}: " in str(caught.value)]
    assert f"({key_of(named[0])}, train/" in str(caught.value)
    assert "\n" not in str(caught.value)
    data.train.recipe = replace(data.train.recipe, on_bad_image="skip")
    server.requests.clear()
    seen = [index for key in data.train.order(24) for index in data.train[key].indices.tolist()]
    assert sorted([*seen, *within]) == list(range(24))
    # What another attempt cannot mend is asked for once; aiohttp makes attempts of its own.
    requests, count = server.requests["train-000001.tar"], 1 if cached else len(within)
    assert requests < 2 * count if fault in ("missing", "refused", "whole") else requests >= count * Store.tries


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("fault", ["busy", "broken", "truncated", "closed", "damaged", "stalled"])
def test_what_passes_costs_no_image(
    shards: Path, server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, cached: bool
) -> None:
    if fault == "stalled":
        monkeypatch.setattr(Store, "timeout_s", 0.5)
    fields = {"shard_cache_gb": 1.0, "shard_cache": str(tmp_path / "cache")} if cached else {}
    data = opened(server.url, **fields)
    server.faults["train-000001.tar"] = fault, 2
    assert same(batches(data), batches(opened(shards)))
    assert server.faults["train-000001.tar"][1] == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/x", r"http://127\.0\.0\.1:9/x/index\.json: "),
        ("carrier-pigeon://x", "Protocol not known: carrier-pigeon; expected: https://, s3://"),
        ("gs://bucket/x", "gcsfs"),
    ],
)
def test_a_place_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    monkeypatch.setattr(Store, "wait_s", 0.001)
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        opened(url)
    assert "\n" not in str(caught.value)


def test_the_cache_is_bounded_and_keeps_what_was_used_last(shards: Path, server: ShardServer, tmp_path: Path) -> None:
    index = read_index(Store(str(shards)))
    train = index.parts["train"]
    sizes = [shard.bytes for shard in train.shards]
    room = max(sizes) * 2
    # What is not ours stays.
    others = [tmp_path / "cache" / name for name in ("thesis.tar", "film.part", f"{'a' * 63}.tar")]
    (tmp_path / "cache").mkdir()
    for other in others:
        other.write_bytes(bytes(100))
    store = Store(server.url, Cache(tmp_path / "cache", room))
    files = ShardFiles(store, "train", train.shards, train.rows)
    first = {number: int(np.flatnonzero(train.rows["shard"] == number)[0]) for number in range(len(sizes))}
    for number in first:
        # The bytes are those of the folder although shards come and go.
        files[first[number]].read_bytes()
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("?" * 64 + ".tar")) <= room
    assert all(other.exists() for other in others)
    kept = {path.stem for path in (tmp_path / "cache").glob("*.tar")}
    assert train.shards[len(sizes) - 1].digest in kept
    assert train.shards[0].digest not in kept


def test_windows_of_shards(folder: Path) -> None:
    """The order is a function of seed and epoch; each window has two shards, all of their images, shuffled."""
    shards = sharded(folder, shard_bytes=20_000)
    data = opened(shards, shuffle_window=2)
    shard_of = data.train.files.shard_numbers()  # type: ignore[attr-defined]
    orders = []
    for epoch in (0, 1):
        order = data.train.order(5)
        order.set_epoch(epoch)
        images = order.images().tolist()
        assert sorted(images) == list(range(24))
        assert images == [image for _, batch in order for image in batch]
        found = [shard_of[image] for image in images]
        start = 0
        while start < len(found):
            window = found[start : start + int(np.isin(shard_of, list(dict.fromkeys(found[start:]))[:2]).sum())]
            assert len({*window}) <= 2
            assert not {*window} & {*found[start + len(window) :]}
            assert len({*window}) == 1 or window != sorted(window)
            start += len(window)
        again = opened(shards, shuffle_window=2).train.order(5)
        again.set_epoch(epoch)
        assert again.images().tolist() == images
        orders.append(images)
    assert orders[0] != orders[1]


def test_windows_need_a_small_cache_and_each_shard_once(shards: Path, server: ShardServer, tmp_path: Path) -> None:
    train = read_index(Store(str(shards))).parts["train"]
    room = 4 * max(shard.bytes for shard in train.shards)
    assert room < sum(shard.bytes for shard in train.shards)
    fields = {"shuffle_window": 2, "shard_cache_gb": room / 1e9, "shard_cache": str(tmp_path / "cache")}
    with pytest.raises(ConfigError, match=r"is too small for data.shuffle_window=0"):
        opened(server.url, **(fields | {"shuffle_window": 0}))
    data = opened(server.url, **fields)
    server.requests.clear()
    assert same(batches(data), batches(opened(shards, shuffle_window=2)))
    assert [server.requests[shard.file] for shard in train.shards] == [1] * len(train.shards)
    # Mates are in one window too.
    mixed = opened(server.url, **fields, mixup=0.2)
    windows, mates = mixed.train.windows(0), mixed.train.mates(0)
    assert windows is not None
    assert (windows == windows[mates]).float().mean() > 0.8


def test_a_cache_without_room(shards: Path, server: ShardServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.shard_cache_gb: 1e-05 is too small for data.shuffle_window=0"):
        opened(server.url, shard_cache_gb=1e-5, shard_cache=str(tmp_path / "cache"))
    train = read_index(Store(str(shards))).parts["train"]
    files = ShardFiles(Store(server.url, Cache(tmp_path / "cache", 10_000)), "train", train.shards, train.rows)
    with pytest.raises(DataError, match=r"the cache .* has no room for its .* expected: more data.shard_cache_gb"):
        files[0].read_bytes()


def test_a_damaged_copy_in_the_cache_is_fetched_again(shards: Path, server: ShardServer, tmp_path: Path) -> None:
    data = opened(server.url, shard_cache_gb=1.0, shard_cache=str(tmp_path / "cache"))
    batches(data)
    # What a process left that was killed while it fetched.
    (tmp_path / "cache" / f"{'0' * 64}-5000.part").write_bytes(b"half")
    for file in (tmp_path / "cache").glob("*.tar"):
        content = bytearray(file.read_bytes())
        content[1000:1100] = bytes(100)
        file.write_bytes(content)
    assert same(batches(data), batches(opened(shards)))
    assert not list((tmp_path / "cache").glob("*.part"))


def test_processes_share_a_cache(shards: Path, server: ShardServer, tmp_path: Path) -> None:
    """Two loaders' processes at once: each shard is fetched once."""
    data = opened(server.url, shard_cache_gb=1.0, shard_cache=str(tmp_path / "cache"))
    server.requests.clear()
    keys = list(data.train.order(4))
    loaders = [torch.utils.data.DataLoader(data.train, sampler=k, batch_size=None, num_workers=1) for k in (keys, keys)]  # type: ignore[arg-type]
    for ours, theirs in zip(*loaders, strict=True):
        assert torch.equal(ours.images, theirs.images)
    tars = [shard.name for shard in shards.glob("train-*.tar")]
    assert [server.requests[tar] for tar in tars] == [1] * len(tars)


def test_an_image_that_is_none_is_named_by_the_file_it_came_from(folder: Path) -> None:
    (folder / "train/bee/02.png").write_bytes(b"not an image")
    data = opened(sharded(folder))
    assert isinstance(data.train, FileSplit)
    with pytest.raises(DataError, match=r"as an image \(no format of images\) \(.*, train/bee/02\.png\)"):
        batches(data)


def test_a_decompression_bomb_is_refused(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow's own is 89 million.
    with pytest.raises(DataError, match=r"it has more than 1,000 pixels, Pillow's limit"):
        batches(opened(shards))


def test_the_folder_of_the_plan_says_what_was_written(shards: Path) -> None:
    names = {path.name for path in (shards / WRITING).iterdir()}
    assert names == {"plan", *(path.name for path in shards.glob("*.tar"))}


def test_faults_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of those that `python -m benchmarks.shard_faults` injects."""
    monkeypatch.setattr(Store, "wait_s", 0.001)
    prepared = prepare(tmp_path, per_class=12, shard_bytes=15_000)
    for seed, kind in enumerate((*ON_DISK, "broken", "damaged", "closed", "truncated")):
        assert one(random.Random(seed), prepared, tmp_path, kind)[1] in ("named", "named by --check", "harmless")
