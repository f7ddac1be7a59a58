"""Average precision of detections, as COCO measures it, by faster-coco-eval or any module that is like pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from senet.data.objects import SIZES, Objects
from senet.errors import MissingExtraError
from senet.processes import gathered
from senet.recipes.task import DETECTION

MOST = (1, 10, 100)
"""Detections of an image that count, as COCO has them."""


@dataclass(frozen=True)
class Found:
    """The detections in one image, in pixels of its file.

    Attributes:
        boxes: (n, 4) float64, left, top, width and height.
        scores: (n,) float64.
        classes: (n,) int64, from 0.
        masks: Run lengths of each, as COCO has them; () for boxes alone.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: tuple[Any, ...] = ()


def found_in(output: Mapping[str, Tensor], size: tuple[int, int], scaled: tuple[int, int]) -> Found:
    """A detector's output for an image that was scaled, in pixels of its file.

    Args:
        output: `boxes`, `labels` from 1, `scores`, and `masks` (n, 1, h, w) of probabilities.
        size: Height and width in the file.
        scaled: Height and width that the detector saw.
    """
    boxes = output["boxes"].double().cpu().numpy()
    boxes = boxes * np.array([size[1] / scaled[1], size[0] / scaled[0]] * 2)
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    masks: tuple[Any, ...] = ()
    if "masks" in output:
        masks = tuple(map(run_lengths, _masks(output["masks"], size)))
    return Found(sides, output["scores"].double().cpu().numpy(), output["labels"].cpu().numpy() - 1, masks)


def _masks(probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
    if not len(probabilities):
        return np.zeros((0, *size), np.uint8)
    whole = F.interpolate(probabilities.float(), size, mode="bilinear", align_corners=False)
    return (whole[:, 0] > 0.5).byte().cpu().numpy()


def run_lengths(mask: np.ndarray) -> Any:
    """A mask (h, w) of zeros and ones as COCO writes it."""
    return _library()[2].encode(np.asfortranarray(mask.astype(np.uint8)))


def _library() -> tuple[Any, Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise MissingExtraError("average precision", "detection") from error
    return COCO, COCOeval_faster, mask


def evaluate_found(
    objects: Sequence[Objects],
    found: Mapping[int, Found],
    classes: int,
    *,
    kind: str = "bbox",
    library: tuple[Any, Any] | None = None,
) -> Any:
    """Compare detections with what is annotated; returns the library's evaluator after `accumulate`.

    Its `eval["precision"]` is (10 overlaps, 101 recalls, classes, 4 sizes, 3 numbers of detections), `eval["recall"]`
    the same without recalls; -1 where nothing is annotated.

    Args:
        objects: What is annotated, of all images.
        found: Number of an image -> its detections; the images that are evaluated.
        classes: How many there are.
        kind: Compare "bbox" (boxes) or "segm" (masks).
        library: The classes `COCO` and `COCOeval` of a module like pycocotools; None for those of faster-coco-eval.
    """
    make, compare = library or _library()[:2]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, answers = make(), make()
        truth.dataset = _truth({i: objects[i] for i in found}, classes)
        answers.dataset = {**truth.dataset, "annotations": _answers(found, kind)}
        truth.createIndex()
        answers.createIndex()
        evaluator = compare(truth, answers, kind)
        evaluator.params.maxDets = [*MOST]
        evaluator.params.areaRng = [[0, 1e10], *([*limits] for limits in SIZES.values())]
        evaluator.params.areaRngLbl = ["all", *SIZES]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _truth(objects: Mapping[int, Objects], classes: int) -> dict[str, Any]:
    rows = []
    for i, o in objects.items():
        for k in range(len(o.boxes)):
            row = {"id": len(rows) + 1, "image_id": i, "category_id": int(o.classes[k]), "bbox": o.boxes[k].tolist()}
            row |= {"area": float(o.areas[k]), "iscrowd": int(o.crowd[k])}
            rows.append(row | ({"segmentation": o.masks[k]} if o.masks else {}))
    images = [{"id": i, "height": o.height, "width": o.width} for i, o in objects.items()]
    return {"images": images, "annotations": rows, "categories": [{"id": k, "name": str(k)} for k in range(classes)]}


def _answers(found: Mapping[int, Found], kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i, f in found.items():
        for k in range(len(f.boxes)):
            box = f.boxes[k].tolist()
            row = {"id": len(rows) + 1, "image_id": i, "category_id": int(f.classes[k]), "score": float(f.scores[k])}
            row |= {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            if kind == "segm":
                # The area of a mask is what says whether it is small.
                row |= {"segmentation": f.masks[k], "area": float(_library()[2].area(f.masks[k]))}
            rows.append(row)
    return rows


def figures(evaluator: Any) -> dict[str, float | None]:
    """The figures of `DETECTION.measures` in percent; None where nothing is annotated."""
    p = evaluator.eval["precision"]
    values = (p[:, :, :, 0, -1], p[0, :, :, 0, -1], p[5, :, :, 0, -1], *(p[:, :, :, a, -1] for a in (1, 2, 3)))
    return dict(zip(DETECTION.measures, map(_mean, values), strict=True))


def by_class(evaluator: Any) -> list[float | None]:
    """AP of each class in percent; None where nothing is annotated."""
    p = evaluator.eval["precision"]
    return [_mean(p[:, :, k, 0, -1]) for k in range(p.shape[2])]


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return 100 * float(known.mean()) if known.size else None


class APTally:
    """Collects detections over batches, and measures average precision at the end.

    Args:
        objects: What is annotated, of all images of the data set.
        classes: Names of the classes.
        kind: See `evaluate_found`.
    """

    def __init__(self, objects: Sequence[Objects], classes: Sequence[str], *, kind: str = "bbox") -> None:
        self.objects, self.classes, self.kind = objects, classes, kind
        self.found: dict[int, Found] = {}

    @property
    def count(self) -> int:
        """Images so far."""
        return len(self.found)

    @torch.no_grad()
    def add(self, outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Add the detections in a batch of images."""
        for output, target in zip(outputs, targets, strict=True):
            size, scaled = (tuple(map(int, target[name].tolist())) for name in ("size", "scaled"))
            self.found[int(target["index"])] = found_in(output, size, scaled)  # type: ignore[arg-type]

    def gather_(self) -> None:
        """Have the detections of all processes; each must call this."""
        self.found = {i: found for part in gathered(self.found) for i, found in part.items()}

    def evaluator(self) -> Any:
        """The library's evaluator of all images so far."""
        return evaluate_found(self.objects, self.found, len(self.classes), kind=self.kind)

    def read(self) -> dict[str, Any]:
        """The number of `images`, and the figures of `DETECTION.measures` in percent."""
        if not self.found:
            return {"images": 0, **dict.fromkeys(DETECTION.measures)}
        return {"images": self.count, **figures(self.evaluator())}

    def read_classes(self) -> list[tuple[int, int, int]]:
        """None; AP by class is measured by `senet.evaluation.objects`."""
        return []
