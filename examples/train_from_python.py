"""From a recipe to a trained network and its predictions, in Python: what `senet train` and `senet predict` do.

    python examples/train_from_python.py [FOLDER]

Two batches of one epoch, so it ends in seconds and knows nothing; take out `limit_batches` to train in earnest.
"""

import sys
import tempfile
from pathlib import Path

import torch

import senet
from senet.data import open_data
from senet.evaluation.accuracy import evaluate, predict
from senet.recipes.registry import get_recipe
from senet.training.run import train

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "run"

recipe = get_recipe("digits")
for assignment in ("train.epochs=1", "train.limit_batches=2", "schedule.warmup_epochs=0", "model.se.reduction=8"):
    recipe = senet.override(recipe, assignment)

data = open_data(recipe.data, seed=recipe.train.seed)
result = train(recipe, data, folder, quiet=True)
print("wrote", ", ".join(sorted(f.name for f in folder.iterdir())))

checkpoint = senet.load(folder)
measured = evaluate(checkpoint.model, data.measured)
print(f"top-1 error {measured.top1_error:.2f} % of {measured.images} images")

images, targets = data.measured.prepare(data.measured[0, [0, 1, 2]], torch.device("cpu"))
for target, best in zip(targets.tolist(), predict(checkpoint.model, images, top=2), strict=True):
    words = ", ".join(f"{checkpoint.classes[i]} {100 * p:.1f} %" for i, p in best)
    print(f"a {checkpoint.classes[target]}: {words}")
