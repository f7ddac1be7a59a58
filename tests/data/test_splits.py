"""Order, augmentation and loading: everything is a function of (seed, epoch, index) and of nothing else."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import functional as tv

from senet.data import Batch, FileSplit, Order, Split, TensorSplit, load_image, open_data, splits
from senet.data.augment import draw_boxes
from senet.errors import DataError
from senet.initialization import stream
from senet.recipes.recipe import DataRecipe

MakeFolder = Callable[..., Path]
CPU = torch.device("cpu")
SMALL = DataRecipe(
    image_size=16,
    resize=20,
    crop="resized",
    flip=True,
    rotate=10.0,
    jitter=20.0,
    cutout=4,
    mean=(100 / 255, 110 / 255, 120 / 255),
    std=(50 / 255, 60 / 255, 70 / 255),
)


@pytest.fixture
def split(request: pytest.FixtureRequest, make_folder: MakeFolder) -> Split:
    """A training split of 11 images, of the kind that the test asks for."""
    kind, crop = request.param
    folder = make_folder({"train/a": 6, "train/b": 5, "val/a": 2, "val/b": 2})
    recipe = replace(SMALL, name=str(folder), crop=crop, in_memory="yes" if kind is TensorSplit else "no")
    split = open_data(recipe, seed=5).train
    assert type(split) is kind
    return split


BOTH = pytest.mark.parametrize(
    "split", [(k, c) for k in (TensorSplit, FileSplit) for c in ("pad", "resized")], indirect=True, ids=lambda p: f"{p}"
)


def batches(
    split: Split, epoch: int, batch_size: int, workers: int = 0, start: int = 0
) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    order = split.order(batch_size)
    order.set_epoch(epoch)
    keys = list(order)[start:]
    for batch in DataLoader(split, sampler=keys, batch_size=None, num_workers=workers):  # type: ignore[arg-type]
        yield batch, *split.prepare(batch, CPU)


def by_sample(split: Split, epoch: int, batch_size: int, workers: int = 0) -> tuple[Tensor, Tensor]:
    """The prepared images and targets of an epoch, sorted by index."""
    parts = list(batches(split, epoch, batch_size, workers))
    at = torch.cat([b.indices for b, _, _ in parts]).argsort()
    return torch.cat([x for _, x, _ in parts])[at], torch.cat([y for _, _, y in parts])[at]


def test_order_is_a_permutation_that_depends_on_seed_and_epoch_alone() -> None:
    def flat(n: int, batch_size: int, seed: int | None, epoch: int) -> list[int]:
        order = Order(n, batch_size, seed)
        order.set_epoch(epoch)
        keys = list(order)
        assert len(keys) == len(order) == -(-n // batch_size)
        assert all(e == epoch for e, _ in keys)
        assert [len(part) for _, part in keys[:-1]] == [batch_size] * (len(keys) - 1)
        return torch.cat([torch.as_tensor(part) for _, part in keys]).tolist()

    reference = flat(103, 10, seed=1, epoch=2)
    assert sorted(reference) == list(range(103)) != reference
    torch.manual_seed(99)
    assert flat(103, 7, 1, 2) == flat(103, 200, 1, 2) == reference
    assert len({tuple(flat(103, 10, s, e)) for s in (0, 1) for e in range(3)}) == 6
    assert flat(103, 10, None, 4) == list(range(103))


def consumed(n: int, batch_size: int, place: int, world: int, batches: int) -> tuple[list[int], list[int], int]:
    """What processes train on together from a place on: the images of all, the sizes of their shares, the place."""
    orders = [Order(n, batch_size, 7, rank=rank, world=world) for rank in range(world)]
    for order in orders:
        order.go_to(place)
    parts = [[part for _, part in keys] for keys in zip(*orders, strict=True)][:batches]
    images = [i for batch in parts for part in batch for i in part]
    return images, [len(part) for batch in parts for part in batch], place + len(images)


@pytest.mark.parametrize(("n", "batch_size"), [(103, 10), (64, 16), (7, 3), (5, 8)])
def test_an_epoch_goes_on_with_any_number_of_processes(n: int, batch_size: int) -> None:
    """Each image once, in the order of one process, though the place is at no batch of another batch size."""
    whole = Order(n, batch_size, 7).images().tolist()
    layouts = [(4, 2, batch_size), (2, 1, batch_size), (3, 3, 5), (1, n, batch_size)]
    place, seen = 0, []
    for world, batches, size in layouts:
        if place < n:
            images, sizes, place = consumed(n, size, place, world, batches)
            assert max(sizes) - min(sizes) <= 1 or place == n
            seen += images
    assert seen == whole
    assert place == n
    order = Order(n, batch_size, 7)
    order.go_to(place)
    assert order.epoch == 1
    assert sorted(i for _, part in order for i in part) == list(range(n))


def test_place_counts_the_images_of_whole_epochs_and_of_this_one() -> None:
    order = Order(10, 4, 0)
    assert [order.place(0, 0), order.place(0, 2), order.place(0, 3), order.place(2, 1)] == [0, 8, 10, 24]
    order.go_to(24)
    assert [len(part) for _, part in order] == [4, 2]
    # Lightning says again which epoch it is, and then which comes next.
    order.set_epoch(2)
    assert [len(part) for _, part in order] == [4, 2]
    order.set_epoch(3)
    assert [len(part) for _, part in order] == [4, 4, 2]


@BOTH
def test_samples_do_not_depend_on_batch_size_or_workers(split: Split) -> None:
    reference, targets = by_sample(split, epoch=1, batch_size=11)
    assert torch.equal(targets, split.targets)
    for batch_size, workers in ((3, 0), (4, 2)):
        images, found = by_sample(split, 1, batch_size, workers)
        assert torch.equal(images, reference)
        assert torch.equal(found, targets)
    # Every image differs from one epoch, and from one seed, to the next.
    assert (by_sample(split, 2, 11)[0] != reference).flatten(1).any(1).all()
    split.seed, split._held = 6, {}
    assert (by_sample(split, 1, 11)[0] != reference).flatten(1).any(1).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"mixup": 0.5, "cutmix": 1.0, "random_erasing": 0.5},
        {"auto_augment": "randaugment", "color_jitter": 0.4, "balanced": True, "crop": "resized"},
        {"auto_augment": "trivialaugment", "cutmix": 1.0, "balanced": True},
    ],
    ids=lambda fields: "-".join(fields),
)
@pytest.mark.parametrize("kind", [TensorSplit, FileSplit])
def test_fine_tuning_s_draws_do_not_depend_on_batches_or_workers(
    kind: type[Split], fields: dict[str, Any], make_folder: MakeFolder
) -> None:
    """Images and mixed targets of a whole epoch, in the epoch's order, from batches of any size."""
    folder = make_folder({"train/a": 7, "train/b": 4, "val/a": 2, "val/b": 2})
    recipe = replace(SMALL, name=str(folder), in_memory="yes" if kind is TensorSplit else "no", **fields)
    split = open_data(recipe, seed=5).train

    def epoch(number: int, batch_size: int, workers: int = 0) -> list[Tensor]:
        parts = list(batches(split, number, batch_size, workers))
        return [torch.cat([part[i] for part in parts]) for i in (1, 2)]

    reference = epoch(1, 11)
    assert len(reference[0]) == 11
    for batch_size, workers in ((1, 0), (3, 0), (4, 2)):
        found = epoch(1, batch_size, workers)
        assert all(torch.equal(a, b) for a, b in zip(found, reference, strict=True)), (batch_size, workers)
    assert not torch.equal(epoch(2, 11)[0], reference[0])
    split.seed, split._held = 6, {}
    assert not torch.equal(epoch(1, 11)[0], reference[0])


def test_images_are_mixed_with_their_neighbour_in_the_epoch_s_order() -> None:
    """One-hot images: a mixed image shows which two it is made of, and in which shares."""
    images = torch.zeros(7, 1, 4, 4, dtype=torch.uint8)
    for i in range(7):
        images[i].view(-1)[i] = 255
    recipe = DataRecipe(image_size=4, mean=(0.0,), std=(1.0,), mixup=1.0)
    split = TensorSplit(images, torch.arange(7), recipe, seed=3)
    order = split.order(7)
    ((_, indices),) = list(order)
    x, targets = split.prepare(split[0, indices], CPU)
    torch.testing.assert_close(x.flatten(1)[:, :7], targets)
    for i, index in enumerate(indices):
        mate = indices[i ^ 1] if i < 6 else index
        assert set(targets[i].nonzero()[:, 0].tolist()) <= {index, mate}
        assert targets[i].sum() == pytest.approx(1)
    # The last of an odd number has none.
    assert targets[6, indices[6]] == 1
    # A class that no training image has still has its column.
    split.classes = 9
    assert split.prepare(split[0, indices], CPU)[1].shape == (7, 9)


def test_an_image_whose_mate_cannot_be_read_stays_as_it_is(
    make_folder: MakeFolder, truncate: Callable[[Path], None]
) -> None:
    folder = make_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    truncate(folder / "train" / "a" / "00.png")
    recipe = replace(SMALL, name=str(folder), in_memory="no", on_bad_image="skip", mixup=1.0)
    train = open_data(recipe, seed=0).train
    parts = list(batches(train, 0, batch_size=1))
    assert sorted(len(x) for _, x, _ in parts) == [0, 1, 1, 1]
    (mate,) = (i for i in range(4) if train.mates(0)[i] == 0)
    targets = {int(b.indices[0]): y for b, _, y in parts if len(y)}
    assert targets[mate].max() == 1


def test_balanced_epochs_show_all_classes_and_their_images_equally_often() -> None:
    targets = torch.tensor([0] * 50 + [1] * 9 + [2] * 2)
    split = TensorSplit(
        torch.zeros(61, 1, 4, 4, dtype=torch.uint8), targets, DataRecipe(image_size=4, balanced=True), 0
    )
    for epoch in range(3):
        drawn = split.images_in(epoch)
        assert sorted(targets[drawn].bincount().tolist()) == [20, 20, 21]
        times = drawn.bincount(minlength=61)
        for number, members in enumerate((times[:50], times[50:59], times[59:])):
            assert members.max() - members.min() <= 1, number
        found = torch.cat([y for _, _, y in batches(split, epoch, 16)])
        assert torch.equal(found.bincount(), targets[drawn].bincount())
    assert not torch.equal(split.images_in(0), split.images_in(1))
    # Evaluation takes every image once.
    val = TensorSplit(split.images, targets, split.recipe, None)
    assert torch.equal(torch.cat([y for _, _, y in batches(val, 0, 16)]), targets)


@BOTH
def test_the_rest_of_an_epoch_is_the_same_without_its_start(split: Split) -> None:
    whole = [x for _, x, _ in batches(split, 3, batch_size=4)]
    rest = [x for _, x, _ in batches(split, 3, batch_size=4, start=2)]
    assert len(rest) == 1
    assert torch.equal(whole[2], rest[0])


@BOTH
def test_global_random_state_is_neither_read_nor_touched(split: Split) -> None:
    states = []
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
        keys = list(split.order(4))
        results.append([split.prepare(split[key], CPU)[0] for key in keys])
        states.append((before, (torch.get_rng_state(), repr(np.random.get_state()), random.getstate())))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for before, after in states:
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]


@BOTH
def test_what_prepare_gives(split: Split) -> None:
    images, targets = split.prepare(split[0, [10, 0, 3]], CPU)
    assert images.shape == (3, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert targets.dtype == torch.int64
    assert targets.tolist() == [1, 0, 0]
    # A key may hold a tensor too.
    assert torch.equal(split.prepare(split[0, torch.tensor([10, 0, 3])], CPU)[0], images)


@BOTH
def test_a_split_survives_pickling_without_its_copies_on_the_device(split: Split) -> None:
    expected = split.prepare(split[0, [4, 2]], CPU)[0]
    twin = pickle.loads(pickle.dumps(split))
    assert split._held
    assert not twin._held
    assert torch.equal(twin.prepare(twin[0, [4, 2]], CPU)[0], expected)


@BOTH
def test_images_prepared_without_gradients_can_be_trained_on(split: Split) -> None:
    with torch.inference_mode():
        split.prepare(split[0, [0, 1]], CPU)
    images, _ = split.prepare(split[0, [0, 1]], CPU)
    weight = torch.ones(4, 3, 3, 3, requires_grad=True)
    torch.nn.functional.conv2d(images, weight).sum().backward()
    assert weight.grad is not None


def test_the_store_moves_to_a_device_once() -> None:
    split = TensorSplit(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.arange(4), SMALL, seed=0)
    meta = torch.device("meta")
    images, targets = split.prepare(split[0, [1, 2]], meta)
    assert images.device.type == targets.device.type == "meta"
    assert images.shape == (2, 3, 16, 16)
    held = {name: value for name, (_, value) in split._held.items()}
    split.prepare(split[0, [3]], meta)
    assert {name: value for name, (_, value) in split._held.items()} == held.copy()
    assert all(split._held[name][1] is held[name] for name in ("images", "targets", "draws"))
    split.prepare(split[1, [3]], meta)
    assert split._held["images"][1] is held["images"]
    assert split._held["draws"][1] is not held["draws"]


def test_boxes_depend_on_seed_epoch_and_index(make_folder: MakeFolder) -> None:
    images, targets = torch.zeros(9, 3, 16, 16, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64)
    drawn = [TensorSplit(images, targets, SMALL, seed).draws(epoch).box for seed in (0, 1) for epoch in (0, 1)]
    boxes = {tuple(box) for one in drawn if one is not None for box in one.tolist()}
    assert len(boxes) > 30  # of 36; small images leave few sizes
    data = open_data(replace(SMALL, name=str(make_folder({"a": 2, "b": 2}, size=(200, 200))), in_memory="no"), 0)
    assert data.train.draws(0).box is None


def test_workers_pay_off_only_for_files(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder({"a": 4, "b": 4})
    recipe = replace(SMALL, name=str(folder), workers=3)
    for processors, workers in ((8, 3), (2, 2)):
        monkeypatch.setattr(splits, "cpus", lambda n=processors: n)
        assert [open_data(replace(recipe, in_memory=m), 0).train.workers for m in ("yes", "no")] == [0, workers]


def test_evaluation_is_in_order_and_not_augmented(make_folder: MakeFolder) -> None:
    folder = make_folder({"train/a": 2, "train/b": 2, "val/a": 3, "val/b": 2})
    files = sorted(folder.glob("val/*/*.png"))
    for in_memory in ("yes", "no"):
        recipe = replace(SMALL, name=str(folder), in_memory=in_memory)
        data = open_data(recipe, seed=0)
        images, targets = by_sample(data.val, epoch=7, batch_size=2)
        assert [i for _, part in data.val.order(2) for i in part] == list(range(5))
        assert targets.tolist() == [0, 0, 0, 1, 1]
        mean, std = torch.tensor(SMALL.mean).view(3, 1, 1), torch.tensor(SMALL.std).view(3, 1, 1)
        expected = torch.stack([(load_image(file, recipe) / 255 - mean) / std for file in files])
        torch.testing.assert_close(images, expected)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_file_crops_equal_torchvision(make_folder: MakeFolder) -> None:
    folder = make_folder({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1}, size=(90, 70))
    data = open_data(replace(SMALL, name=str(folder), in_memory="no"), seed=4)
    batch = data.train[2, [5, 1]]
    assert batch.images is not None
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (2, 3, 16, 16)
    for row, index in enumerate((5, 1)):
        with Image.open(sorted(folder.glob("train/*/*.png"))[index]) as image:
            box = draw_boxes(data.train.recipe, image.height, image.width, 1, stream(4, "box", 2, index))[0].tolist()
            expected = tv.pil_to_tensor(tv.resized_crop(image, *box, [16, 16]))  # type: ignore[arg-type]
        assert torch.equal(batch.images[row], expected)


@pytest.fixture
def spoiled(make_folder: MakeFolder, truncate: Callable[[Path], None]) -> tuple[DataRecipe, list[str]]:
    """A folder with two bad ones among its 8 training images, and their names."""
    folder = make_folder({"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2}, suffix=".jpg")
    bad = [folder / "train/a/01.jpg", folder / "train/b/02.jpg"]
    truncate(bad[0])
    bad[1].write_text("no image")
    return replace(SMALL, name=str(folder)), [str(path) for path in bad]


def test_a_bad_image_in_memory(spoiled: tuple[DataRecipe, list[str]]) -> None:
    recipe, bad = spoiled
    with pytest.raises(DataError, match=r"train/a/01\.jpg: cannot be read as an image \(.*truncated"):
        open_data(recipe, seed=0)
    train = open_data(replace(recipe, on_bad_image="skip"), seed=0).train
    assert isinstance(train, TensorSplit)
    kept = [p for p in sorted(Path(recipe.name).glob("train/*/*")) if str(p) not in bad]
    assert torch.equal(train.images, torch.stack([load_image(p, recipe) for p in kept]))
    assert len(train) == 6
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert [line.partition(": ")[0] for line in train.skipped] == bad
    assert sorted(i for _, part in train.order(4) for i in part) == list(range(6))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_among_files(spoiled: tuple[DataRecipe, list[str]], workers: int) -> None:
    recipe, bad = replace(spoiled[0], in_memory="no"), spoiled[1]
    train = open_data(recipe, seed=0).train
    with pytest.raises(DataError, match=r"(a/01|b/02)\.jpg: cannot be read as an image \(") as caught:
        list(batches(train, 0, 4, workers))
    assert "\n" not in str(caught.value)
    train = open_data(replace(recipe, on_bad_image="skip"), seed=0).train
    parts = list(batches(train, 0, 8, workers))
    assert sum(len(x) for _, x, _ in parts) == 6
    (batch, images, targets) = parts[0]
    assert sorted(line.partition(": ")[0] for line in batch.skipped) == bad
    # Its neighbours keep their labels and their augmentation.
    assert torch.equal(targets, train.targets[batch.indices])
    alone = [train.prepare(train[0, [i]], CPU)[0] for i in batch.indices.tolist()]
    assert torch.equal(images, torch.cat(alone))
    # Counted once, however often it is met.
    assert sorted(line.partition(": ")[0] for line in train.skipped) == bad
    list(batches(train, 1, 3, workers))
    assert len(train.skipped) == 2
    # A batch of which nothing is left is empty; who counts its images decides what that means.
    images, targets = train.prepare(train[0, [1, 6]], CPU)
    assert (images.shape, targets.shape) == ((0, *parts[0][1].shape[1:]), (0,))


def test_nothing_but_bad_images(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 2, "b": 2})
    for path in folder.glob("*/*"):
        path.write_text("no image")
    with pytest.raises(DataError, match=r"none of the 2 images can be read; the first: .*cannot be read as an image"):
        open_data(replace(SMALL, name=str(folder), on_bad_image="skip", val_fraction=0.5), seed=0)


def test_classes_take_turns_where_few_batches_are_used() -> None:
    """The first batches have all classes alike, whatever their numbers; and all images come once."""
    targets = torch.tensor([0] * 50 + [1] * 7 + [2] * 3)
    for seed in (None, 0, 1):
        order = Order(60, 9, seed, targets)
        batches = [part for _, part in order]
        assert sorted(i for part in batches for i in part) == list(range(60))
        assert targets[batches[0]].bincount().tolist() == [3, 3, 3]
        assert targets[batches[1]].bincount(minlength=3).tolist()[2] == 0
    first = list(Order(60, 9, 0, targets))
    assert first == list(Order(60, 9, 0, targets)) != list(Order(60, 9, 1, targets))
