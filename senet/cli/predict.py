"""`senet predict`: the most likely classes of image files."""

from __future__ import annotations

import json

from senet.cli import options
from senet.errors import ConfigError

DESCRIPTION = """Name what is in images: the most likely classes with their probabilities.

Images are prepared as the checkpoint's recipe prepares test images."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = options.Parser("predict", "CHECKPOINT IMAGE...", DESCRIPTION)
    parser.add_argument("CHECKPOINT", help="a run folder, a .safetensors of senet, or a last.ckpt")
    parser.add_argument("IMAGE", nargs="+", help="image files")
    parser.option("top", type=int, default=5, help="number of classes to name")
    parser.option("json", action="store_true", help="print JSON")
    found = parser.read(argv)
    if found["top"] < 1:
        raise ConfigError(f"--top: {found['top']} is too small; legal values: 1 or more")

    import torch

    from senet.checkpoint import load
    from senet.data import load_image, normalise
    from senet.evaluation.accuracy import predict

    checkpoint = load(found["CHECKPOINT"])
    recipe = checkpoint.recipe.data
    results = []
    for name in found["IMAGE"]:
        image = normalise(load_image(name, recipe)[None], recipe)
        best = predict(checkpoint.model, image.to(memory_format=torch.channels_last), found["top"])[0]
        results.append({"image": name, "classes": [{"class": checkpoint.classes[i], "p": p} for i, p in best]})
        if not found["json"]:
            words = ", ".join(f"{c['class']} {100 * c['p']:.1f} %" for c in results[-1]["classes"])
            print(f"{name}: {words}", flush=True)
    if found["json"]:
        print(json.dumps(results, indent=2))
    return 0
