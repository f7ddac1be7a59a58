"""Over-fit a detector and its plain twin to a few images, by `senet.training`: AP50 is high if all of it works.

    python -m benchmarks.overfit_detector COCO_FOLDER [--image-size 128] [--epochs 6]

Takes the training images with the fewest objects, trains on them from drawn weights and measures AP on the same images.
An epoch has each of them several times, so that less time is spent on measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from senet.data import open_data
from senet.recipes.recipe import OptimRecipe, Recipe, ScheduleRecipe
from senet.recipes.registry import recipe_for
from senet.training.run import train


def few_images(source: Path, folder: Path, count: int, repeats: int) -> None:
    """A data set of some images that are both its training images, several times, and its validation images."""
    data = json.loads((source / "annotations/instances_train2017.json").read_text())
    of: dict[int, list[dict]] = {image["id"]: [] for image in data["images"]}
    for row in data["annotations"]:
        of[row["image_id"]].append(row)
    chosen = [i for i in sorted(of, key=lambda i: (len(of[i]), i)) if of[i]][:count]
    images = [image for image in data["images"] if image["id"] in chosen]
    rows = [row for i in chosen for row in of[i]]
    used = {row["category_id"] for row in rows}
    categories = [c for c in data["categories"] if c["id"] in used]
    (folder / "annotations").mkdir(parents=True)
    for part, times in (("train", repeats), ("val", 1)):
        found = {
            "images": [image | {"id": f"{image['id']}-{k}"} for k in range(times) for image in images],
            "annotations": [row | {"image_id": f"{row['image_id']}-{k}"} for k in range(times) for row in rows],
            "categories": categories,
        }
        (folder / f"annotations/instances_{part}.json").write_text(json.dumps(found))
    os.symlink(source / "train2017", folder / "images")
    print(f"{len(images)} images, {len(rows)} objects of {len(categories)} classes")


def recipe_of(name: str, folder: Path, args: argparse.Namespace) -> Recipe:
    recipe = recipe_for(str(folder), model=name)
    return replace(
        recipe,
        model=replace(recipe.model, rois=64, proposals=(200, 100)),
        data=replace(
            recipe.data,
            image_size=args.image_size,
            batch_size=args.batch_size,
            eval_batch_size=1,
            flip=False,
            workers=0,
        ),
        optim=OptimRecipe(kind="adamw", lr=args.lr, weight_decay=0.0),
        schedule=ScheduleRecipe(kind="cosine", warmup_epochs=0.2),
        train=replace(recipe.train, epochs=args.epochs, device="cpu", seed=args.seed),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["fasterrcnn_resnet18_fpn", "fasterrcnn_se_resnet18_fpn"])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=8, help="how often an epoch has each image")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "few"
        few_images(args.folder.resolve(), folder, args.images, args.repeats)
        for name in args.models:
            recipe, start, cpu = recipe_of(name, folder, args), time.perf_counter(), time.process_time()
            run = train(recipe, open_data(recipe.data, args.seed), Path(place) / name)
            m, seconds = run.summary.measured, time.perf_counter() - start
            print(f"{name}: AP {m['ap']:.1f}, AP50 {m['ap50']:.1f}, AP75 {m['ap75']:.1f}")
            print(f"{seconds:.0f} s, {time.process_time() - cpu:.0f} s of processor time")


if __name__ == "__main__":
    main()
