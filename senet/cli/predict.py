"""`senet predict`: the most likely classes of image files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from senet.cli.parse import Parser
from senet.errors import ConfigError, DataError

DESCRIPTION = """Name what is in images: the most likely classes with their probabilities.

An image that cannot be read is named, the others are answered, and the exit status is 2. Images are prepared as the
checkpoint's recipe prepares test images."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("predict", "CHECKPOINT IMAGE...", DESCRIPTION)
    parser.word("CHECKPOINT", help="a run folder, a .safetensors of senet, or a last.ckpt")
    parser.word("IMAGE", count="+", help="image files")
    parser.option("top", type=int, default=5, help="number of classes to name")
    parser.switch("json", help="print JSON")
    parser.option("device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    found = parser.read(argv)
    if found["top"] < 1:
        raise ConfigError(f"--top: {found['top']} is too small; expected: 1 or more")

    from senet.data import load_image, normalise
    from senet.device import pick_device
    from senet.evaluation.accuracy import predict
    from senet.runs.checkpoint import load
    from senet.weights.ilsvrc import named

    checkpoint = load(Path(found["CHECKPOINT"]).expanduser())
    model = checkpoint.model.to(pick_device(found["device"], field="--device"))
    recipe = checkpoint.recipe.data
    results, failed = [], 0
    for name in found["IMAGE"]:
        try:
            image = normalise(load_image(Path(name).expanduser(), recipe)[None], recipe)
        except DataError as error:
            # The other images have nothing to do with this one.
            failed += 1
            results.append({"image": name, "error": str(error)})
            print(f"senet predict: error: {error}", file=sys.stderr)
            continue
        best = predict(model, image, found["top"])[0]
        results.append({"image": name, "classes": [{"class": checkpoint.classes[i], "p": p} for i, p in best]})
        if not found["json"]:
            names = named(checkpoint.classes[i] for i, _ in best)
            words = ", ".join(f"{name} {100 * p:.1f} %" for name, (_, p) in zip(names, best, strict=True))
            print(f"{name}: {words}", flush=True)
    if found["json"]:
        print(json.dumps(results, indent=2))
    return 2 if failed else 0
