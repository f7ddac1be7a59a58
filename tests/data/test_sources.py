"""Where images come from: the digits, CIFAR from a local server, folders; and every way in which they can be wrong."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import socket
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

import senet.data
from senet.data import Counts, Data, FileSplit, TensorSplit, count_data, open_data
from senet.data.sources import hold_out
from senet.errors import ConfigError, DataError
from senet.recipes.recipe import DataRecipe

MakeFolder = Callable[..., Path]
RGB: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def pixels_of(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and classes of the training and the measured part."""
    assert isinstance(data.train, TensorSplit)
    assert isinstance(data.measured, TensorSplit)
    both = (data.train, data.measured)
    return torch.cat([split.images for split in both]), torch.cat([split.targets for split in both])


def test_digits_are_scikit_learns() -> None:
    theirs: Any = load_digits()
    recipe = DataRecipe(image_size=8)
    data = open_data(recipe, seed=0)
    assert data.classes == tuple("0123456789")
    assert data.channels == 1
    assert "real handwritten digits" in data.source
    assert data.held_out == "359 held-out digits"
    where = torch.cat(hold_out(torch.from_numpy(theirs.target), data.classes, 0.2, 0))
    images, targets = pixels_of(data)
    assert sorted(where.tolist()) == list(range(1797))
    assert np.array_equal(targets.numpy(), theirs.target[where])
    assert np.array_equal(images[:, 0].numpy(), np.rint(theirs.images[where] * 255 / 16))


def test_digits_are_scaled_bilinearly() -> None:
    small, _ = pixels_of(open_data(DataRecipe(image_size=8), 0))
    large, _ = pixels_of(open_data(DataRecipe(image_size=32), 0))
    assert large.shape == (1797, 1, 32, 32)
    assert large.dtype == torch.uint8
    assert large.max() == 255
    for y, x in ((0, 0), (5, 9), (13, 31), (30, 18)):
        sy, sx = (min(max((v + 0.5) / 4 - 0.5, 0), 7) for v in (y, x))
        y0, x0 = int(sy), int(sx)
        y1, x1 = min(y0 + 1, 7), min(x0 + 1, 7)
        a, b = sy - y0, sx - x0
        s = small[:, 0].double()
        top, bottom = s[:, y0, x0] * (1 - b) + s[:, y0, x1] * b, s[:, y1, x0] * (1 - b) + s[:, y1, x1] * b
        # Both sides are rounded once.
        assert (large[:, 0, y, x] - (top * (1 - a) + bottom * a)).abs().max() <= 1.01
    colour, _ = pixels_of(open_data(DataRecipe(image_size=32, **RGB), 0))
    assert torch.equal(colour, large.expand(-1, 3, -1, -1))


def test_digits_come_with_their_attribution() -> None:
    text = (Path(senet.data.__file__).parent / "digits.txt").read_text()
    assert all(word in text for word in ("Alpaydin", "Kaynak", "10.24432/C50P49", "CC BY 4.0"))


def test_hold_out_takes_a_part_of_every_class() -> None:
    targets = torch.tensor([0] * 50 + [1] * 10 + [2] * 2)[
        torch.randperm(62, generator=torch.Generator().manual_seed(0))
    ]
    train, val = hold_out(targets, "abc", 0.2, 0)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(62))
    assert train.tolist() == sorted(train.tolist())
    assert val.tolist() == sorted(val.tolist())
    assert targets[val].bincount().tolist() == [10, 2, 1]
    assert targets[hold_out(targets, "abc", 0.99, 0)[0]].bincount().tolist() == [1, 1, 1]
    assert hold_out(targets, "abc", 0.2, 0)[1].tolist() == val.tolist()
    assert hold_out(targets, "abc", 0.2, 1)[1].tolist() != val.tolist()


def test_what_is_held_out_does_not_depend_on_the_seed_of_the_run() -> None:
    first, second = pixels_of(open_data(DataRecipe(), seed=0)), pixels_of(open_data(DataRecipe(), seed=1))
    other = pixels_of(open_data(DataRecipe(split_seed=1), seed=0))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.01])
def test_a_part_of_the_training_images(fraction: float, make_folder: MakeFolder) -> None:
    counts = {"train/a": 8, "train/b": 4, "train/c": 1, "val/a": 2, "val/b": 2, "val/c": 2}
    recipe = DataRecipe(name=str(make_folder(counts)), image_size=16, **RGB)
    whole, half, part = (open_data(replace(recipe, train_fraction=f), seed=0) for f in (1.0, 0.5, fraction))
    assert part.train.targets.bincount().tolist() == [max(round(n * fraction), 1) for n in (8, 4, 1)]
    assert part.source == f"{whole.source}; {len(part.train)} of 13 training images"
    assert torch.equal(pixels_of(part)[0][-6:], pixels_of(whole)[0][-6:]), "validation stays whole"
    here, among = (pixels_of(data)[0][:-6] for data in (part, half))
    assert all((image == among).flatten(1).all(1).any() for image in here), "a smaller part lies within a larger one"
    # Decoded when their turn comes, the same ones; with another split_seed, others.
    late = open_data(replace(recipe, in_memory="no", resize=16, train_fraction=fraction), seed=7).train
    batch = late[0, range(len(late))]
    assert torch.equal(late.targets, part.train.targets)
    assert batch.images is not None
    assert torch.equal(batch.images, here)
    other = open_data(replace(recipe, train_fraction=fraction, split_seed=1), seed=0)
    assert not torch.equal(pixels_of(other)[0][:-6], here)


def test_a_part_of_the_digits_leaves_the_held_out_ones_alone() -> None:
    whole, part = (open_data(DataRecipe(image_size=8, train_fraction=f), seed=0) for f in (1.0, 0.1))
    assert torch.equal(pixels_of(whole)[0][-359:], pixels_of(part)[0][-359:])
    assert len(part.train) == sum(round(n * 0.1) for n in whole.train.targets.bincount().tolist())
    assert part.source.endswith(f", in the package; {len(part.train)} of 1,438 training images")


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_built_in_sets_are_always_in_memory(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.in_memory: 'no' has no effect on '{name}'"):
        open_data(DataRecipe(name=name, in_memory="no"), seed=0)


# CIFAR


class Quiet(SimpleHTTPRequestHandler):
    """A web server of a folder that prints nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Cifar:
    """What is in the archive, as (n, 3, 32, 32) uint8, and the archive."""

    train: np.ndarray
    val: np.ndarray
    archive: Path


@pytest.fixture
def cifar(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cifar]:
    """A small archive in CIFAR's format on a web server in this process; torchvision takes it for the real one."""
    name = request.param
    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    rng = np.random.default_rng(0)
    label, names_key, train, test, meta = {
        "cifar10": ("labels", "label_names", ["data_batch_1", "data_batch_2"], "test_batch", "batches.meta"),
        "cifar100": ("fine_labels", "fine_label_names", ["train"], "test", "meta"),
    }[name]
    parts = {
        part: {"data": rng.integers(0, 256, (6, 3072), dtype=np.uint8), label: [0, 1, 2, 0, 1, 2]}
        for part in (*train, test)
    }
    archive = tmp_path / "server" / cls.filename
    archive.parent.mkdir()
    sums = {}
    with tarfile.open(archive, "w:gz") as tar:
        for part, content in {**parts, meta: {names_key: ["ant", "bee", "cat"]}}.items():
            raw = pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(f"{cls.base_folder}/{part}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
            sums[part] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(cls, "train_list", [[part, sums[part]] for part in train])
    monkeypatch.setattr(cls, "test_list", [[test, sums[test]]])
    monkeypatch.setattr(cls, "meta", {"filename": meta, "key": names_key, "md5": sums[meta]})
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(archive.parent))) as server:
        # torchvision hangs up after asking where the address leads to.
        server.handle_error = lambda request, client_address: None
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(cls, "url", f"http://127.0.0.1:{server.server_port}/{cls.filename}")
        yield Cifar(
            train=np.concatenate([parts[part]["data"] for part in train]).reshape(-1, 3, 32, 32),
            val=parts[test]["data"].reshape(-1, 3, 32, 32),
            archive=archive,
        )
        server.shutdown()
        thread.join()


def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: nobody listens on port 9."""
    for cls in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(cls, "url", f"http://127.0.0.1:9/{cls.filename}")


@pytest.mark.parametrize("cifar", ["cifar10", "cifar100"], indirect=True)
def test_cifar_is_downloaded_once(
    request: pytest.FixtureRequest, cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = request.node.callspec.params["cifar"]
    recipe = DataRecipe(name=name, root=str(tmp_path / "data"), **RGB)
    for attempt in range(2):
        data = open_data(recipe, seed=0)
        assert data.name == name
        assert data.classes == ("ant", "bee", "cat")
        assert data.channels == 3
        assert isinstance(data.train, TensorSplit)
        assert isinstance(data.test, TensorSplit)
        assert data.val is None, "test images choose nothing"
        assert np.array_equal(data.train.images.numpy(), cifar.train)
        assert np.array_equal(data.test.images.numpy(), cifar.val)
        assert data.train.targets.tolist() == [0, 1, 2] * (len(cifar.train) // 3)
        assert data.train.seed == 0
        assert data.test.seed is None
        assert f"{len(cifar.train)} training and 6 test images" in data.source
        assert data.held_out == "6 test images of CIFAR-3"
        if not attempt:
            cut_off(monkeypatch)
    part = open_data(replace(recipe, train_fraction=0.5), seed=0)
    n = len(cifar.train)
    assert part.train.targets.bincount().tolist() == [n // 6] * 3
    found = pixels_of(part)[0][:-6].numpy()
    at = [(cifar.train == image).all((1, 2, 3)).argmax().item() for image in found]
    assert np.array_equal(cifar.train[at], found)
    assert part.train.targets.tolist() == [i % 3 for i in at]
    assert part.source == f"{data.source}; {n // 2} of {n} training images"
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
@pytest.mark.parametrize("size", [32, 48])
def test_cifar_in_another_size_and_in_grey(cifar: Cifar, tmp_path: Path, size: int) -> None:
    recipe = DataRecipe(name="cifar10", root=str(tmp_path / "data"), image_size=size)
    images, _ = pixels_of(open_data(recipe, seed=0))
    assert images.shape == (18, 1, size, size)
    first = (
        Image.fromarray(cifar.train[0].transpose(1, 2, 0)).convert("L").resize((size, size), Image.Resampling.BILINEAR)
    )
    assert np.array_equal(images[0, 0].numpy(), np.asarray(first))


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
def test_counting_reads_and_downloads_nothing(cifar: Cifar, tmp_path: Path, make_folder: MakeFolder) -> None:
    root = tmp_path / "data"
    recipe = DataRecipe(name="cifar10", root=str(root), **RGB)
    assert count_data(recipe) == Counts(10, 50_000, 10_000)
    assert count_data(replace(recipe, name="cifar100", train_fraction=0.123)) == Counts(100, 6_200, 10_000)
    assert not root.exists()
    digits = DataRecipe(name="digits", train_fraction=0.5)
    data = open_data(digits, seed=0)
    assert count_data(digits) == Counts(10, len(data.train), 359)
    folder = make_folder({"train/a": 3, "train/b": 4, "val/a": 1, "val/b": 2})
    next((folder / "train" / "a").iterdir()).write_bytes(b"no image")
    assert count_data(DataRecipe(name=str(folder), crop="resized", **RGB)) == Counts(2, 7, 3)


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
def test_cifar_without_a_network(cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = DataRecipe(name="cifar10", root=str(tmp_path / "data"), **RGB)
    cut_off(monkeypatch)
    with pytest.raises(
        DataError, match=r"cifar10 is not in .*data and could not be downloaded \(.*refused.*\); put "
    ) as caught:
        open_data(recipe, seed=0)
    assert "\n" not in str(caught.value)
    assert "cifar-10-python.tar.gz" in str(caught.value)
    # What the message says to do works.
    shutil.copy(cifar.archive, tmp_path / "data")
    assert len(open_data(recipe, seed=0).train) == 12


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
def test_a_damaged_cifar_archive(cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = DataRecipe(name="cifar10", root=str(tmp_path / "data"), **RGB)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is damaged .*delete it and try again") as caught:
        open_data(recipe, seed=0)
    assert "\n" not in str(caught.value)
    cut_off(monkeypatch)
    with pytest.raises(DataError, match=r"is damaged .*could not be downloaded again \(.*refused"):
        open_data(recipe, seed=0)


# Folders


def test_a_folder_with_train_and_test(make_folder: MakeFolder) -> None:
    folder = make_folder({"train/b": 3, "train/a": 2, "test/a": 1, "test/b": 2})
    recipe = DataRecipe(name=str(folder), image_size=16, **RGB)
    for in_memory, kind in (("yes", TensorSplit), ("no", FileSplit), ("auto", TensorSplit)):
        data = open_data(replace(recipe, in_memory=in_memory, resize=16), seed=0)
        assert data.val is None
        assert data.test is data.measured
        assert type(data.train) is type(data.test) is kind
        assert data.name == "images"
        assert data.classes == ("a", "b")
        assert data.train.targets.tolist() == [0, 0, 1, 1, 1]
        assert data.test.targets.tolist() == [0, 1, 1]
        assert data.source == f"8 images in {folder} (train/, test/)"
        assert data.held_out == f"3 images in {folder / 'test'}"
    assert type(open_data(replace(recipe, image_size=65), 0).train) is FileSplit


def test_a_link_to_nowhere_is_a_bad_image(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 2, "b": 2})
    (folder / "a" / "00.jpg").symlink_to(folder / "absent.jpg")
    recipe = DataRecipe(name=str(folder), **RGB)
    with pytest.raises(DataError, match=r"a/00\.jpg: no such file$"):
        open_data(recipe, seed=0)
    data = open_data(replace(recipe, on_bad_image="skip", val_fraction=0.01), seed=0)
    assert len(data.train) + len(data.val) == 4


def test_val_goes_before_test(make_folder: MakeFolder) -> None:
    folder = make_folder({f"{part}/{c}": n for n, part in enumerate(("train", "val", "test"), 1) for c in "ab"})
    assert len(open_data(DataRecipe(name=str(folder), **RGB), 0).val) == 4


def test_names_not_the_disk_give_the_order(
    make_folder: MakeFolder, save_image: Callable[[Path, int, int, int], None]
) -> None:
    folder = make_folder({"b": 2, "a": 2})
    for name in ("z.JPEG", "10.Jpg", "9.webp"):
        save_image(folder / "a" / name, 8, 8, 0)
    for name in (".hidden.jpg", "._00.png", "notes.txt", "c.png/inner.txt"):
        (folder / "a" / name).parent.mkdir(exist_ok=True)
        (folder / "a" / name).write_text("")
    (folder / ".cache").mkdir()
    (folder / "README.md").write_text("")
    data = open_data(DataRecipe(name=str(folder), in_memory="no", resize=32, val_fraction=0.01, **RGB), seed=0)
    assert isinstance(data.train, FileSplit)
    assert isinstance(data.val, FileSplit)
    names = sorted([*data.train.files, *data.val.files])
    assert [n[len(str(folder)) + 1 :] for n in names] == [
        *("a/00.png", "a/01.png", "a/10.Jpg", "a/9.webp", "a/z.JPEG"),
        *("b/00.png", "b/01.png"),
    ]
    assert list(data.train.files) == sorted(data.train.files)


def test_an_unsplit_folder_is_split_by_class(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 10, "b": 5, "train": 5})
    recipe = DataRecipe(name=str(folder), in_memory="no", resize=32, val_fraction=0.2, **RGB)
    data = open_data(recipe, seed=0)
    assert isinstance(data.train, FileSplit)
    assert isinstance(data.val, FileSplit)
    assert data.classes == ("a", "b", "train")
    assert data.train.targets.bincount().tolist() == [8, 4, 4]
    assert data.val.targets.bincount().tolist() == [2, 1, 1]
    assert len({*data.train.files, *data.val.files}) == 20
    assert all(data.classes[t] in f for t, f in zip(data.val.targets.tolist(), data.val.files, strict=True))
    assert "20% held out" in data.source
    assert data.held_out == f"{len(data.val)} held-out images of {folder} (split_seed 0)"
    again, other = open_data(recipe, seed=9).val, open_data(replace(recipe, split_seed=1), seed=0).val
    assert isinstance(again, FileSplit)
    assert isinstance(other, FileSplit)
    assert again.files == data.val.files != other.files


def test_grey_images(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 2, "b": 2})
    assert pixels_of(open_data(DataRecipe(name=str(folder)), 0))[0].shape == (4, 1, 32, 32)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, r"images: no class folders; expected: train/ and val/ or test/ .* or one folder per class"),
        ({"only": 3}, r"images: has only one class folder, 'only'"),
        (
            {"a": 2, "b": 0},
            r"images/b: has no images; expected: files ending in \.jpg, \.png or another of Pillow's \d+$",
        ),
        ({"a": 2, "b": 1}, r"images: class 'b' has 1 image; expected: 2 or more"),
        ({"test/a": 2, "test/b": 2}, r"images: has no training images; expected: train/"),
        ({"train/a": 2, "train/b": 2, "val": 0}, r"images/val: no class folders"),
        ({"train/a": 2, "train/b": 0, "val/a": 1, "val/b": 1}, r"images/train/b: has no images"),
        ({"train/a": 2, "train/b": 2, "val/a": 0, "val/b": 0}, r"images/val: no images in its class folders"),
        (
            {"train/a": 2, "train/b": 2, **{f"val/{c}": 1 for c in "abcd"}},
            r"images/val: has class folders that .*images/train lacks \(c, d\)",
        ),
    ],
)
def test_a_folder_that_cannot_be_used(make_folder: MakeFolder, counts: dict[str, int], message: str) -> None:
    folder = make_folder(counts)
    with pytest.raises(DataError, match=message) as caught:
        open_data(DataRecipe(name=str(folder)), seed=0)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_data(DataRecipe(name="xyz"), seed=0)
    assert str(caught.value) == (
        f"data.name: 'xyz' is neither a known data set nor a folder in {Path.cwd()}; "
        "expected: digits, cifar10, cifar100, or the path of an image folder or of a CSV file; --data names another"
    )
    (tmp_path / "a.zip").write_text("")
    with pytest.raises(DataError, match=r"a\.zip: is a file; expected: train/"):
        open_data(DataRecipe(name=str(tmp_path / "a.zip")), seed=0)


def test_a_crop_that_does_not_fit_is_refused_at_opening(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 2, "b": 2})
    with pytest.raises(ConfigError, match=r"data\.resize: 200 is smaller than data\.image_size"):
        open_data(DataRecipe(name=str(folder), image_size=224, resize=200), seed=0)


def test_opening_a_folder_warns_of_nothing_and_leaves_the_random_state(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 3, "b": 3})
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_data(DataRecipe(name=str(folder)), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
