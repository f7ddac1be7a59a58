"""`senet predict`: classify image files."""

from __future__ import annotations

import sys
from pathlib import Path

from senet.cli.output import print_json
from senet.cli.parse import Parser
from senet.errors import DataError

DESCRIPTION = """Print the most likely classes of each image with their probabilities.

Images are prepared as the checkpoint's recipe prepares test images. An image that cannot be read is reported; the
others are classified, and the exit status is 2."""

EXAMPLES = (
    "senet predict runs/pair-digits/runs/se_resnet20-seed0 seven.png",
    "senet predict net.safetensors photos/*.jpg --top 3",
    "senet predict net.safetensors cat.jpg --json",
)


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("predict", "CHECKPOINT IMAGE...", DESCRIPTION, examples=EXAMPLES)
    parser.checkpoint()
    parser.word("IMAGE", count="+", help="image files")
    parser.option("top", type=int, default=5, low=1, help="number of classes to print")
    parser.device()
    parser.json()
    line = parser.read(argv)

    from senet.data import load_image, normalise
    from senet.device import pick_device
    from senet.evaluation.accuracy import predict
    from senet.runs.checkpoint import load
    from senet.weights.ilsvrc import named

    checkpoint = load(Path(line["CHECKPOINT"]).expanduser())
    model = checkpoint.model.to(pick_device(line["device"], field="--device"))
    recipe = checkpoint.recipe.data
    results, failed = [], False
    for file in line["IMAGE"]:
        try:
            image = normalise(load_image(Path(file).expanduser(), recipe)[None], recipe)
        except DataError as error:
            failed = True
            results.append({"image": file, "error": str(error)})
            print(f"senet predict: error: {error}", file=sys.stderr)
            continue
        best = predict(model, image, line["top"])[0]
        results.append({"image": file, "classes": [{"class": checkpoint.classes[i], "p": p} for i, p in best]})
        if not line["json"]:
            words = named(checkpoint.classes[i] for i, _ in best)
            answers = (f"{word} {100 * p:.1f} %" for word, (_, p) in zip(words, best, strict=True))
            print(f"{file}: {', '.join(answers)}", flush=True)
    if line["json"]:
        print_json(results)
    return 2 if failed else 0
