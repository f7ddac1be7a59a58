"""Find objects in images with a detector: a data set for its figures, or single files."""

from __future__ import annotations

import io
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from senet.data import Part
from senet.data.images import normalise, pixels, read, scaled
from senet.data.objects import Objects, ObjectSplit, fitted_size
from senet.errors import DataError
from senet.evaluation.classes import match_classes
from senet.evaluation.detection import APTally, Found, by_class, figures, found_in
from senet.processes import merged
from senet.recipes.recipe import DataRecipe
from senet.runs.detection import ClassAP, DetectionEvaluation, Example, Labelled

EXAMPLES, SIDE = 12, 360
"""How many images a page shows, and the longest side of each in pixels."""

SHOWN = 0.5
"""Score from which a detection is drawn."""


@dataclass(frozen=True)
class Detected:
    """What was found in one file.

    Attributes:
        file: Its path.
        found: In pixels of the image; None for a file that cannot be read.
        error: Why it cannot be read, or "".
    """

    file: str
    found: Found | None = None
    error: str = ""


@torch.no_grad()
def evaluate_detector(
    model: nn.Module,
    part: Part,
    classes: Sequence[str],
    *,
    batch_size: int = 1,
    device: str | torch.device = "cpu",
    examples: int = 0,
    progress: bool = False,
) -> tuple[DetectionEvaluation, float]:
    """Measure a detector on all images of a part.

    Args:
        model: The detector.
        part: The images.
        classes: Names of its classes, in order; those of the images are matched by name.
        batch_size: Images in a forward pass; they are padded to one size, which moves the figures a little.
        device: Where to compute.
        examples: How many images to return with their boxes.
        progress: Whether to show a bar.

    Returns:
        The evaluation, and images per second without reading.

    Raises:
        DataError: No image can be read, or they have a class that the detector does not know.
    """
    split, device = part.split, torch.device(device)
    assert isinstance(split, ObjectSplit)
    number = match_classes(classes, part.classes, "data.name")
    objects = [_renumbered(o, number) for o in split.objects]
    kind = "segm" if split.recipe.labels == "masks" else "bbox"
    tally, spent = APTally(objects, classes, kind=kind), 0.0
    model = model.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = DataLoader(split, sampler=split.order(batch_size), batch_size=None, num_workers=split.workers)  # type: ignore[arg-type]
    for batch in tqdm(batches, desc="evaluating", unit="batch", leave=False, disable=None if progress else True):
        images, targets = split.prepare(batch, device)
        if images:
            start = time.perf_counter()
            outputs = model(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent += time.perf_counter() - start
            tally.add(outputs, targets)
    tally.gather_()
    if not tally.count:
        raise DataError(f"none of the {len(split):,} images can be read")
    evaluator = tally.evaluator()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    at50 = [None if (p := precision[0, :, k, 0, -1]).min() < 0 else 100 * float(p.mean()) for k in range(len(classes))]
    counts = ObjectSplit(objects, split.recipe, None).counts(len(classes))
    known = [k for k in range(len(classes)) if precision[0, 0, k, 0, -1] > -1]
    found = DetectionEvaluation(
        images=tally.count,
        objects=sum(counts),
        measured=figures(evaluator),
        recall=tuple(_percent(recall[:, :, 0, m]) for m in range(3)),
        per_class=tuple(
            ClassAP(name=name, objects=counts[k], ap=ap, ap50=at50[k])
            for k, (name, ap) in enumerate(zip(classes, by_class(evaluator), strict=True))
        ),
        curves={
            f"{overlap:.2f}": tuple(round(float(v), 4) for v in precision[t][:, known, 0, -1].mean(1))
            for t, overlap in enumerate(evaluator.params.iouThrs)
            if t in (0, 5, 9) and known
        },
        examples=tuple(
            example(objects[i], f, classes, split.recipe) for i, f in _spread(tally.found, examples).items()
        ),
        skipped_images=tuple(merged(split.skipped)),
        part=part.name,
    )
    return found, tally.count / spent


def _renumbered(o: Objects, number: Sequence[int]) -> Objects:
    classes = torch.tensor(list(number), device="cpu").numpy()[o.classes] if len(o.classes) else o.classes
    return Objects(o.file, o.width, o.height, o.boxes, classes, o.crowd, o.areas, o.masks)


def _percent(values: Any) -> float | None:
    known = values[values > -1]
    return 100 * float(known.mean()) if known.size else None


def _spread(found: Mapping[int, Found], count: int) -> dict[int, Found]:
    """`count` images evenly spread over all."""
    indices = list(found)
    at = torch.linspace(0, len(indices) - 1, min(count, len(indices)), device="cpu").long().unique().tolist()
    return {indices[k]: found[indices[k]] for k in at}


def example(o: Objects, found: Found, classes: Sequence[str], recipe: DataRecipe) -> Example:
    """An image with what is annotated and what was found, for a page."""
    picture = read(o.file, recipe)
    picture.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    truth = [Labelled(box=_shares(b, o), name=classes[int(k)]) for b, k in zip(o.boxes, o.classes, strict=True)]
    sure = [k for k in range(len(found.scores)) if found.scores[k] >= SHOWN]
    return Example(
        file=Path(o.file).name,
        picture=f"data:image/jpeg;base64,{b64encode(data.getvalue()).decode()}",
        width=picture.width,
        height=picture.height,
        truth=tuple(truth),
        found=tuple(
            Labelled(box=_shares(found.boxes[k], o), name=classes[int(found.classes[k])], score=float(found.scores[k]))
            for k in sure
        ),
    )


def _shares(box: Any, o: Objects) -> tuple[float, float, float, float]:
    left, top, width, height = (float(v) for v in box)
    return left / o.width, top / o.height, width / o.width, height / o.height


@torch.no_grad()
def detect_files(
    model: nn.Module, files: Sequence[str], recipe: DataRecipe, *, progress: bool = False
) -> Iterator[tuple[Detected, Image.Image | None]]:
    """Yield what a detector finds in each file, in order, with the image."""
    device = next(model.parameters()).device
    for file in tqdm(files, unit="image", delay=2, leave=False, disable=None if progress else True):
        try:
            image = read(str(Path(file).expanduser()), recipe)
        except DataError as error:
            yield Detected(file, error=str(error)), None
            continue
        height, width = fitted_size(image.height, image.width, recipe.image_size, recipe.max_size)
        output = model.eval()([prepared(image, (height, width), recipe, device)])[0]
        yield Detected(file, found_in(output, (image.height, image.width), (height, width))), image


def prepared(image: Image.Image, size: tuple[int, int], recipe: DataRecipe, device: torch.device) -> Tensor:
    """An image scaled to height and width and normalised, (3, h, w)."""
    whole = torch.from_numpy(pixels(scaled(image, size, recipe))).permute(2, 0, 1)
    return normalise(whole.to(device), recipe)


def draw_found(image: Image.Image, found: Found, classes: Sequence[str], colours: Sequence[str]) -> Image.Image:
    """A copy of an image with boxes, classes and scores."""
    picture = image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    line = max(2, round(max(image.size) / 300))
    # The surest last, over the others.
    for i in np.argsort(found.scores, kind="stable").tolist():
        (left, top, width, height), score, k = found.boxes[i].tolist(), found.scores[i], int(found.classes[i])
        colour = colours[k % len(colours)]
        draw.rectangle((left, top, left + width, top + height), outline=colour, width=line)
        words = f"{classes[k]} {100 * score:.0f} %"
        size = max(11, round(max(image.size) / 50))
        low = max(top - size - 4, 0)
        end = draw.textbbox((left + 3, low + 1), words, font_size=size)[2]
        draw.rectangle((left, low, end + 3, low + size + 4), fill=colour)
        draw.text((left + 3, low + 1), words, fill="white", font_size=size)
    return picture
