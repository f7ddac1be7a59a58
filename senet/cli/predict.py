"""`senet predict`: classify image files."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli.checkpoint import add_checkpoint, add_classes, open_checkpoint
from senet.cli.output import check_free, print_json
from senet.cli.parse import Line, Parser, data_fields, with_data
from senet.errors import ConfigError, RunError
from senet.files import make_folder

if TYPE_CHECKING:
    from senet.evaluation.predictions import Prediction
    from senet.runs.checkpoint import Checkpoint

DESCRIPTION = """Print the most likely classes of each image with their probabilities, or write them to a CSV file.

Of a folder all images at any depth are taken. They are prepared as the checkpoint's recipe prepares test images. An
image that cannot be read is reported, and has a line in the CSV file; the others are classified, and the exit status
is 2. In names of files, bytes that are not UTF-8 and line breaks are written as escapes: \\xb9, \\n."""

EXAMPLES = (
    "senet predict runs/pair-digits/runs/se_resnet20-seed0 seven.png",
    "senet predict net.safetensors photos/*.jpg --top 3",
    "senet predict net.safetensors photos --csv answers.csv",
    "senet predict net.safetensors cat.jpg --json",
    "senet predict runs/fasterrcnn_se_resnet18_fpn-coco street.jpg --pictures found --score 0.3",
)

PREPARED = ("data.image_size", "data.resize", "data.keep_aspect", "data.interpolation", "data.mean", "data.std")
PREPARED += ("data.pixel_range", "data.background", "data.max_size")
"""Fields of the data recipe that say how an image is prepared."""


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("predict", "CHECKPOINT IMAGE...", DESCRIPTION, base=data_fields, examples=EXAMPLES, common=PREPARED)
    add_checkpoint(parser)
    parser.word("IMAGE", count="+", help="image files, or folders of them")
    parser.option("top", type=int, default=5, low=1, help="number of classes to print")
    parser.option("csv", metavar="FILE", help="write a row for each image: file, classes, probabilities, error")
    parser.option("score", type=float, low=0, high=1, default=0.5, help="of a detector: lowest score of a box")
    parser.option("nms", type=float, low=0, high=1, help="of a detector: overlap at which a box is left out")
    parser.option("pictures", metavar="FOLDER", help="of a detector: write each image with its boxes into this folder")
    parser.switch("force", help="overwrite the CSV file")
    add_classes(parser)
    parser.device()
    parser.json()
    line = parser.read(argv)
    for path in line.named:
        if path not in PREPARED:
            raise ConfigError(f"--{path}: has no effect on prediction; expected: {', '.join(PREPARED)}")
    path = Path(line["csv"]).expanduser() if line["csv"] else None
    if path is not None:
        check_free(path, line, "name another file with --csv")

    from senet.data.folders import printable
    from senet.device import pick_device
    from senet.evaluation.predictions import find_files, predict_files
    from senet.weights.ilsvrc import named

    checkpoint = open_checkpoint(line, detectors=True)
    files, notes = find_files(line["IMAGE"])
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if checkpoint.recipe.task.name == "detection":
        return _detect(checkpoint, files, line)
    line.refuse(("score", "nms", "pictures"), f"on {checkpoint.recipe.name}, which classifies")
    model, names = checkpoint.model.to(pick_device(line["device"], field="--device")), checkpoint.classes
    results: list[dict[str, Any]] = []
    top, failed = min(line["top"], len(names)), 0
    recipe = with_data(checkpoint.recipe, line).data
    answers = predict_files(model, files, recipe, top=top, progress=not line["json"])
    with _rows(path, top) as rows:
        for answer in answers:
            words = named(names[i] for i, _ in answer.classes)
            if answer.error:
                failed += 1
                print(f"senet predict: error: {answer.error}", file=sys.stderr)
            elif path is None and not line["json"]:
                both = zip(words, answer.classes, strict=True)
                shown = ", ".join(f"{word} ({100 * p:.1f} %)" for word, (_, p) in both)
                print(f"{printable(answer.file)}: {shown}", flush=True)
            if rows is not None:
                rows.writerow([printable(answer.file), *_cells(answer, words, top)])
            if line["json"]:
                classes = [{"class": names[i], "p": p} for i, p in answer.classes]
                found = {"error": answer.error} if answer.error else {"classes": classes}
                results.append({"image": printable(answer.file), **found})
    if line["json"]:
        print_json(results)
    elif path is not None:
        print(f"{path}: {len(files) - failed:,} images{f', {failed:,} that cannot be read' if failed else ''}")
    return 2 if failed else 0


def _detect(checkpoint: Checkpoint, files: Sequence[str], line: Line) -> int:
    """Print what a detector finds in files, and draw it."""
    from senet.data.folders import printable
    from senet.detection.build import set_thresholds_
    from senet.device import pick_device
    from senet.evaluation.objects import detect_files, draw_found
    from senet.plotting import COLOURS

    line.refuse(("top", "csv", "force"), f"on {checkpoint.recipe.name}, which is a detector")
    folder = make_folder(Path(line["pictures"]).expanduser()) if line["pictures"] else None
    set_thresholds_(checkpoint.model, line["score"], line["nms"])
    model, names = checkpoint.model.to(pick_device(line["device"], field="--device")), checkpoint.classes
    results: list[dict[str, Any]] = []
    failed, recipe = 0, with_data(checkpoint.recipe, line).data
    for answer, image in detect_files(model, files, recipe, progress=not line["json"]):
        if answer.found is None or image is None:
            failed += 1
            print(f"senet predict: error: {answer.error}", file=sys.stderr)
            results.append({"image": answer.file, "error": answer.error})
            continue
        f = answer.found
        rows = [
            {"class": names[k], "score": float(s), "box": [round(v, 2) for v in b.tolist()]}
            for b, s, k in zip(f.boxes, f.scores, f.classes, strict=True)
        ]
        result: dict[str, Any] = {"image": answer.file, "objects": rows}
        if folder is not None:
            drawn = folder / f"{Path(answer.file).stem}.png"
            draw_found(image, f, names, COLOURS[1:]).save(drawn)
            result["picture"] = str(drawn)
        results.append(result)
        if not line["json"]:
            counts = Counter(row["class"] for row in rows)
            found = ", ".join(f"{n} {name}" if n > 1 else name for name, n in counts.items()) or "nothing"
            print(f"{printable(answer.file)}: {found}{f' ({drawn})' if folder else ''}", flush=True)
    if line["json"]:
        print_json(results)
    return 2 if failed else 0


@contextmanager
def _rows(path: Path | None, top: int) -> Iterator[Any]:
    """A writer of rows to a CSV file, None without a path; RunError where it cannot be written."""
    if path is None:
        yield None
        return
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            ranks = [name for k in range(1, top + 1) for name in (f"class{k}", f"probability{k}")]
            writer.writerow(["file", *ranks, "error"])
            yield writer
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error


def _cells(answer: Prediction, words: tuple[str, ...], top: int) -> list[str]:
    both = zip(words, answer.classes, strict=True)
    cells = [cell for word, (_, p) in both for cell in (word, f"{p:.6f}")] or [""] * (2 * top)
    return [*cells, answer.error]
