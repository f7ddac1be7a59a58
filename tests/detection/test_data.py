"""Images with objects: COCO's and YOLO's format, boxes that cannot be used, and what an epoch is a function of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from senet.data import open_data, open_part
from senet.data.objects import ObjectOrder, ObjectSplit
from senet.errors import ConfigError, DataError
from senet.recipes.recipe import DataRecipe
from tests.detection.data import coco, scenes, yolo

RECIPE = DataRecipe(labels="boxes", image_size=64, batch_size=2, mean=(0.5,) * 3, std=(0.5,) * 3)
CPU = torch.device("cpu")


def opened(folder: Path, seed: int = 0, **fields: Any) -> Any:
    return open_data(replace(RECIPE, name=str(folder), **fields), seed)


def item(split: ObjectSplit, index: int, epoch: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    images, targets = split.prepare(split[epoch, [index]], CPU)
    return images[0], targets[0]


def test_coco_and_yolo_are_the_same_objects(tmp_path: Path) -> None:
    one, two = opened(coco(tmp_path / "coco")), opened(yolo(tmp_path / "yolo"))
    assert one.classes == two.classes == ("red", "green", "blue")
    assert (len(one.train), len(one.val)) == (len(two.train), len(two.val)) == (6, 4)
    for i, (_, _, boxes) in enumerate(scenes(6)):
        (image, target), (same, other) = item(one.train, i), item(two.train, i)
        assert torch.equal(image, same)
        wanted = [[x, y, x + w, y + h] for _, x, y, w, h in boxes]
        assert torch.allclose(target["boxes"], torch.tensor(wanted, dtype=torch.float32))
        assert torch.allclose(other["boxes"], target["boxes"], atol=1e-4)
        assert target["labels"].tolist() == other["labels"].tolist() == [1 + (i + k) % 3 for k in range(1 + i % 3)]


def test_other_layouts(tmp_path: Path) -> None:
    """Roboflow's COCO, YOLO's without a data.yaml, and a single JSON file, of which a part is held out."""
    folder = coco(tmp_path / "a")
    flow = tmp_path / "flow"
    for part, name in (("train", "train"), ("val", "valid")):
        (folder / part).rename(flow.joinpath(name).parent.mkdir(exist_ok=True) or flow / name)
        (folder / f"annotations/instances_{part}.json").rename(flow / name / "_annotations.coco.json")
    assert len(opened(flow).val) == 4
    bare = yolo(tmp_path / "bare")
    (bare / "data.yaml").unlink()
    assert opened(bare).classes == ("0", "1", "2")
    single = coco(tmp_path / "single")
    (single / "annotations/instances_val.json").unlink()
    (single / "annotations/instances_train.json").rename(single / "objects.json")
    (single / "train").rename(single / "images")
    data = opened(single, val_fraction=0.34)
    assert (len(data.train), len(data.val)) == (4, 2)
    assert not {o.file for o in data.train.objects} & {o.file for o in data.val.objects}
    assert open_part(replace(RECIPE, name=str(single))).words.startswith("6 images of")


def test_scale_flip_and_their_boxes(tmp_path: Path) -> None:
    """A box is where its colour is, however its image was scaled and mirrored."""
    data = opened(coco(tmp_path), flip=True, scales=(48, 64, 80), max_size=100)
    seen = set()
    for epoch in range(8):
        image, target = item(data.train, 0, epoch)
        _, before = item(data.val, 0)
        assert before["boxes"].shape == (1, 4)
        left, top, right, bottom = (round(v) for v in target["boxes"][0].tolist())
        inside = image[:, top + 2 : bottom - 2, left + 2 : right - 2].mean((1, 2))
        assert inside.argmax() == target["labels"][0] - 1
        assert max(image.shape[1:]) <= 100
        seen.add((tuple(image.shape), left))
    assert len({shape for shape, _ in seen}) == 3
    assert len(seen) > 3


def test_an_epoch_is_a_function_of_seed_epoch_and_image(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    one, again, other = (opened(folder, seed, flip=True, scales=(48, 64)).train for seed in (0, 0, 1))

    def drawn(split: ObjectSplit, epoch: int) -> list[Any]:
        return [(tuple(i.shape), t["boxes"].tolist()) for i, t in (item(split, k, epoch) for k in range(len(split)))]

    assert drawn(one, 3) == drawn(again, 3)
    assert drawn(one, 3) != drawn(one, 4)
    assert drawn(one, 3) != drawn(other, 3)
    # An image's numbers do not depend on the others of its batch.
    images, _ = one.prepare(one[3, [4, 1]], CPU)
    assert torch.equal(images[1], item(one, 1, 3)[0])


def test_batches_are_upright_or_wide() -> None:
    wide = torch.arange(11) % 3 == 0
    order = ObjectOrder(wide, 3, seed=0)
    batches = [part for _, part in order]
    assert sorted(i for part in batches for i in part) == list(range(11))
    assert len(batches) == len(order) == 4
    assert sum(len({bool(wide[i]) for i in part}) == 1 for part in batches) >= 3
    order.set_epoch(1)
    assert [part for _, part in order] != batches


def test_boxes_that_cannot_be_used_are_named_and_counted(tmp_path: Path) -> None:
    def row(image: int, box: Any, **more: Any) -> dict[str, Any]:
        return {"image_id": image, "category_id": 3, "bbox": box, **more}

    rows = [
        row(100, [5, 5, 0, 9]),
        row(101, [5, 5, 9, -1]),
        row(102, [200, 5, 9, 9]),
        row(102, [5, float("nan"), 9, 9]),
        row(102, "5 5 9 9"),
        row(99, [5, 5, 9, 9]),
        row(100, [-5, -5, 20, 20]),
        row(100, [10, 10, 30, 30], iscrowd=1),
    ]
    data = opened(coco(tmp_path, annotations=rows))
    source = tmp_path / "annotations/instances_train.json"
    assert data.notes == (
        f"{source}: 1 box left out, of images that are not listed; the first: annotations[17], image_id 99",
        f"{source}: 2 boxes left out, without area; the first: 00.png, annotations[12]",
        f"{source}: 1 box left out, outside the image; the first: 02.png, annotations[14]",
        f"{source}: 2 boxes left out, with NaN or infinity; the first: 02.png, annotations[15]",
    )
    # A box over the edge is cut there; a crowd does not train.
    target = item(data.train, 0)[1]
    assert target["boxes"][-1].tolist() == [0, 0, 15, 15]
    assert target["crowd"].tolist() == [[10, 10, 40, 40]]


def test_images_without_objects_and_masks(tmp_path: Path) -> None:
    folder = coco(tmp_path, images=[{"id": 1, "file_name": "01.png", "width": 64, "height": 96}])
    path = folder / "annotations/instances_train.json"
    assert len(opened(folder).train) == 6
    assert opened(folder).notes == ("1 training image without an object left out; data.keep_empty keeps them",)
    assert len(opened(folder, keep_empty=True).train) == 7
    masks = item(opened(folder, labels="masks", flip=True).train, 1, epoch=2)[1]
    left, top, right, bottom = masks["boxes"][0].long().tolist()
    assert masks["masks"].shape == (2, 96, 64)
    assert masks["masks"][0, top:bottom, left:right].float().mean() == 1
    data = json.loads(path.read_text())
    del data["annotations"][0]["segmentation"]
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"00.png: has boxes and no masks"):
        item(opened(folder, labels="masks").train, 0)


def test_an_image_of_another_size_than_its_annotation(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(folder / "train/01.png")
    with pytest.raises(DataError, match=r"01.png: is of 20x10 pixels, and its annotation of 64x96"):
        item(opened(folder).train, 1)
    split = opened(folder, on_bad_image="skip").train
    images, targets = split.prepare(split[0, [0, 1]], CPU)
    assert (len(images), len(targets), len(split.skipped)) == (1, 1, 1)


def _text(folder: Path, text: str) -> None:
    (folder / "annotations/instances_train.json").write_text(text)


def _rows(folder: Path, name: str, *rows: Any) -> None:
    path = folder / "annotations/instances_train.json"
    data = json.loads(path.read_text())
    data[name] += rows
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: _text(f, "{"), "instances_train.json: cannot be read as JSON: Expecting"),
        (lambda f: _text(f, "[]"), "is a list; expected: COCO's format"),
        (lambda f: _text(f, "{}"), "has no list 'images'; expected: COCO's format"),
        (lambda f: _rows(f, "images", {"id": 5}), r"images\[6\] has no 'file_name'; expected: id, file_name"),
        (lambda f: _rows(f, "images", {"id": 5, "file_name": "no.png"}), "image 'no.png' is not in"),
        (lambda f: _rows(f, "images", {"id": 100, "file_name": "00.png"}), "two images have one id"),
        (lambda f: _rows(f, "categories", {"id": 77, "name": "red"}), "two categories are called 'red'"),
        (lambda f: _rows(f, "categories", {"id": 3, "name": "odd"}), "two categories have one id"),
        (
            lambda f: _rows(f, "annotations", {"image_id": 100, "category_id": 8, "bbox": [1, 1, 2, 2]}),
            r"annotations\[12\] has the category 8, which is not listed",
        ),
        (
            lambda f: (f / "annotations/instances_train.json").rename(f / "annotations/a.json"),
            "its name does not tell its part",
        ),
        (lambda f: (f / "annotations/instances_train.json").rename(f / "annotations/val2.json"), "is a second"),
    ],
)
def test_coco_files_that_cannot_be_used(tmp_path: Path, spoil: Any, message: str) -> None:
    folder = coco(tmp_path)
    spoil(folder)
    with pytest.raises(DataError, match=message):
        opened(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels/train/01.txt", "1 0.5 0.5", "01.txt, line 1: '1 0.5 0.5'; expected: class x y width height"),
        ("labels/train/01.txt", "\n1 a b c d", "01.txt, line 2: '1 a b c d'; expected"),
        ("labels/train/01.txt", "7 0.5 0.5 0.1 0.1", "01.txt, line 1: class 7; expected: 0, 1, 2"),
        ("data.yaml", "train: images/train", "data.yaml: has no 'names'"),
        ("data.yaml", "a: [", "data.yaml: cannot be read as YAML"),
        ("data.yaml", "{names: [a], train: nowhere}", "train: no folder 'nowhere'"),
        ("other.yaml", "", "has 2 YAML files; expected: one"),
    ],
)
def test_yolo_folders_that_cannot_be_used(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = yolo(tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message):
        opened(folder)


def test_folders_without_annotations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder; expected: annotations/\*.json"):
        opened(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no annotations of objects; expected: annotations/\*.json"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match=r"data.val_fraction: 0.5 has no effect on"):
        opened(coco(tmp_path), val_fraction=0.5)
    with pytest.raises(DataError, match="part: 'test' is not known; its parts: train, val"):
        open_part(replace(RECIPE, name=str(tmp_path)), "test")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scales": (0,)}, r"scales: \(0,\) are not sides of images; expected: 1 to 65,535 pixels"),
        ({"max_size": -1}, "max_size: -1 is too small; expected: 0 or more"),
        ({"labels": "points"}, "labels: 'points' is not known"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(RECIPE, **fields)
