"""Small data sets with objects, made of rectangles, in COCO's and in YOLO's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}

Box = tuple[str, float, float, float, float]
"""Class, left, top, width and height."""


def picture(path: Path, width: int, height: int, boxes: Sequence[Box], seed: int = 0) -> None:
    """Rectangles on noise."""
    noise = np.random.default_rng(seed).integers(100, 130, (height, width, 3)).astype(np.uint8)
    for of, left, top, w, h in boxes:
        noise[int(top) : int(top + h), int(left) : int(left + w)] = COLOURS[of]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)


def scenes(count: int, seed: int = 0) -> list[tuple[int, int, list[Box]]]:
    """Width, height and boxes of some images: upright and wide ones, one to three objects each."""
    draw = np.random.default_rng(seed)
    found = []
    for i in range(count):
        width, height = ((96, 64), (64, 96))[i % 2]
        boxes: list[Box] = []
        for k in range(1 + i % 3):
            w, h = draw.integers(18, 34, 2).tolist()
            left, top = int(draw.integers(0, width - w)), int(draw.integers(0, height - h))
            boxes.append((list(COLOURS)[(i + k) % 3], left, top, w, h))
        found.append((width, height, boxes))
    return found


def coco(folder: Path, train: int = 6, val: int = 4, **changes: Any) -> Path:
    """A folder in COCO's format; `changes`: rows added to the lists of train.json."""
    for part, count, seed in (("train", train, 0), ("val", val, 1)):
        data = tables(folder / part, scenes(count, seed))
        if part == "train":
            for name, rows in changes.items():
                data[name] += rows
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / f"annotations/instances_{part}.json").write_text(json.dumps(data))
    return folder


def tables(images: Path, found: Sequence[tuple[int, int, list[Box]]]) -> dict[str, list[Any]]:
    """COCO's lists, with ids that count in steps of their own; writes the images."""
    data: dict[str, list[Any]] = {"images": [], "annotations": []}
    data["categories"] = [{"id": 7 * k + 3, "name": name} for k, name in enumerate(COLOURS)]
    ids = {row["name"]: row["id"] for row in data["categories"]}
    for i, (width, height, boxes) in enumerate(found):
        picture(images / f"{i:02}.png", width, height, boxes, i)
        data["images"].append({"id": 100 + i, "file_name": f"{i:02}.png", "width": width, "height": height})
        for of, left, top, w, h in boxes:
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": 100 + i,
                    "category_id": ids[of],
                    "bbox": [left, top, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[left, top, left + w, top, left + w, top + h, left, top + h]],
                }
            )
    return data


def yolo(folder: Path, train: int = 6, val: int = 4, names: Any = tuple(COLOURS)) -> Path:
    """The same images in YOLO's format."""
    for part, count, seed in (("train", train, 0), ("val", val, 1)):
        for i, (width, height, boxes) in enumerate(scenes(count, seed)):
            picture(folder / "images" / part / f"{i:02}.png", width, height, boxes, i)
            lines = [
                f"{list(COLOURS).index(of)} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
                for of, x, y, w, h in boxes
            ]
            (folder / "labels" / part).mkdir(parents=True, exist_ok=True)
            (folder / "labels" / part / f"{i:02}.txt").write_text("\n".join(lines))
    about = {"path": "/not/here", "train": "images/train", "val": "images/val", "names": names}
    (folder / "data.yaml").write_text(json.dumps(about))
    return folder
