"""Does fine-tuning beat training from scratch? One network on one folder, rows by what they start from, paired.

python -m benchmarks.fine_tune timm:resnet10t photos/ weights.pth OUT --size 64 --epochs 5 --seeds 3

The rows have equal epochs, images, order and augmentation: from scratch with the recipe of a folder, from weights with
the recipe `finetune`, and that with one field changed each: frozen trunk, layer decay, MixUp, SGD.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from senet.cli.training import print_result
from senet.config import override
from senet.experiments.experiment import Experiment, Row
from senet.experiments.runner import run
from senet.recipes.recipe import Recipe
from senet.recipes.registry import recipe_for
from senet.report.folder import write_page
from senet.training.weights import with_weights

CHANGES = {
    "weights": (),
    "weights, frozen trunk": ("train.freeze_epochs={epochs}", "optim.lr=0.005"),
    "weights, layer decay 0.7": ("optim.layer_decay=0.7",),
    "weights, MixUp 0.2": ("data.mixup=0.2",),
    "weights, SGD": ("optim.kind=sgd", "optim.lr=0.01", "optim.nesterov=true", "optim.weight_decay=1e-4"),
}


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("data")
    parser.add_argument("weights")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    common = (f"data.image_size={args.size}", f"train.epochs={args.epochs}", "data.batch_size=32", "train.threads=1")
    tuned = override(recipe_for(args.data, model=args.network, weights=args.weights), *common)
    tuned = with_weights(override(tuned, f"train.weights={args.weights}"), ("data.image_size",))
    scratch = override(recipe_for(args.data, model=args.network), *common)
    # The same pictures, augmented alike, for both.
    scratch = replace(scratch, data=tuned.data)
    rows: list[tuple[str, Recipe]] = [("scratch", scratch)]
    for name, changes in CHANGES.items():
        rows.append((name, override(tuned, *(text.format(epochs=args.epochs) for text in changes))))
    experiment = Experiment(
        name="fine-tuning",
        title=f"{args.network} from scratch and from weights",
        rows=tuple(Row(name=name, recipe=r, minus="" if r is scratch else "scratch") for name, r in rows),
        seeds=tuple(range(args.seeds)),
    )
    (result,) = run([experiment], args.out, jobs=args.jobs)
    print_result(result, args.out)
    print(write_page(args.out))


if __name__ == "__main__":
    main()
