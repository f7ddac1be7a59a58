"""Every loss term of one step, by slow direct computation in float64 from what the layers gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from senet import create_model, get_net

Box = Sequence[float]
SIDES = ((64, 96), (90, 70))
"""Height and width of the two images; a batch is padded to 96 x 96."""


def targets_of(masks: bool) -> list[dict[str, Tensor]]:
    first = torch.tensor([[8.0, 8.0, 50.0, 40.0], [30.0, 2.0, 90.0, 60.0], [60.0, 30.0, 80.0, 44.0]])
    targets: list[dict[str, Tensor]] = [
        {"boxes": first, "labels": torch.tensor([1, 3, 2]), "crowd": torch.tensor([[0.0, 0.0, 30.0, 64.0]])},
        {"boxes": torch.tensor([[5.0, 40.0, 66.0, 88.0]]), "labels": torch.tensor([2]), "crowd": torch.zeros(0, 4)},
    ]
    for (height, width), t in zip(SIDES, targets if masks else [], strict=False):
        t["masks"] = torch.zeros(len(t["boxes"]), height, width, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(t["masks"], t["boxes"].int().tolist(), strict=True):
            # A triangle.
            for y in range(y0, y1):
                mask[y, x0 : x0 + (x1 - x0) * (y - y0) // (y1 - y0)] = 1
    return targets


class Watched:
    """One training step of a detector, and what went into and came out of its parts."""

    def __init__(self, name: str, **fields: Any) -> None:
        few: dict[str, Any] = {} if name.startswith("retina") else {"rois": 16, "proposals": (30, 30)}
        net = replace(get_net(name), num_classes=3, **{"protocol": "torchvision", **few, **fields})
        self.detector: Any = create_model(net, seed=4).train()
        # As drawn, all boxes of one level are equally sure and hardly moved.
        generator = torch.Generator().manual_seed(0)
        for part, weight in self.detector.named_parameters():
            if part.endswith(("cls_logits.weight", "bbox_pred.weight", "cls_score.weight", "bbox_reg.weight")):
                weight.data = 0.005 * torch.randn(weight.shape, generator=generator)
        self.targets = targets_of(net.head == "maskrcnn")
        self.outputs: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}
        for part, module in self.detector.named_modules():
            module.register_forward_hook(lambda _m, inputs, output, part=part: self.note(part, inputs, output))
        self.sampled: list[Any] = []
        if net.head != "retinanet":
            choose = self.detector.rpn.fg_bg_sampler
            self.detector.rpn.fg_bg_sampler = lambda labels: self.sampled.append(choose(labels)) or self.sampled[-1]
        images = [torch.randn(3, *side, generator=generator) for side in SIDES]
        torch.manual_seed(3)
        self.losses = {k: v.item() for k, v in self.detector(images, self.targets).items()}

    def note(self, part: str, inputs: Any, output: Any) -> None:
        self.inputs[part], self.outputs[part] = inputs, output

    def boxes(self, image: int) -> list[Box]:
        return self.targets[image]["boxes"].double().tolist()


def anchors_of(grids: Sequence[tuple[int, int]], sizes: Sequence[Sequence[int]]) -> list[list[Box]]:
    """The anchors of each level: for each place, sizes of each ratio of height to width."""
    found = []
    for (rows, columns), of_level in zip(grids, sizes, strict=True):
        level = []
        for y in range(rows):
            for x in range(columns):
                for ratio in (0.5, 1.0, 2.0):
                    for size in of_level:
                        half_h, half_w = round(size * ratio**0.5 / 2), round(size / ratio**0.5 / 2)
                        at_x, at_y = x * (96 // columns), y * (96 // rows)
                        level.append([at_x - half_w, at_y - half_h, at_x + half_w, at_y + half_h])
        found.append(level)
    return found


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def matched(boxes: Sequence[Box], objects: Sequence[Box], low: float, high: float, *, best_too: bool) -> list[int]:
    """For each box the number of its object, -1 for none, and -2 for one that is neither.

    With `best_too`, the box that is nearest to an object has one even below `high`.
    """
    table = [[overlap(box, o) for o in objects] for box in boxes]
    most = [max(row[k] for row in table) for k in range(len(objects))]
    found = []
    for row in table:
        best = max(range(len(objects)), key=lambda k: row[k])
        # In float32 the nearest boxes of an object may be two, which are equal by symmetry.
        is_nearest = best_too and any(row[k] > most[k] - 1e-9 for k in range(len(objects)))
        found.append(best if row[best] >= high or is_nearest else -1 if row[best] < low else -2)
    return found


def as_deltas(box: Box, of: Box, weights: Sequence[float]) -> list[float]:
    """What must be predicted for a box to become the box of an object."""
    width, height = box[2] - box[0], box[3] - box[1]
    return [
        weights[0] * ((of[0] + of[2]) / 2 - (box[0] + box[2]) / 2) / width,
        weights[1] * ((of[1] + of[3]) / 2 - (box[1] + box[3]) / 2) / height,
        weights[2] * math.log((of[2] - of[0]) / width),
        weights[3] * math.log((of[3] - of[1]) / height),
    ]


def moved_by(box: Box, deltas: Sequence[float], height: int, width: int) -> list[float]:
    """The box that deltas of weight one make, cut at the edges of the image."""
    w, h = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + w / 2 + deltas[0] * w, box[1] + h / 2 + deltas[1] * h
    w, h = w * math.exp(min(deltas[2], math.log(1000 / 16))), h * math.exp(min(deltas[3], math.log(1000 / 16)))
    edges = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return [min(max(e, 0.0), float(limit)) for e, limit in zip(edges, (width, height) * 2, strict=True)]


def smooth_l1(a: float, b: float, beta: float) -> float:
    d = abs(a - b)
    return d * d / (2 * beta) if d < beta else d - beta / 2


def cross_entropy(logit: float, is_so: float) -> float:
    """Of one yes-no question."""
    return math.log1p(math.exp(-abs(logit))) + max(logit, 0.0) - logit * is_so


def per_anchor(maps: Sequence[Tensor], image: int, values: int) -> list[list[list[float]]]:
    """Outputs (N, A * values, H, W) of each level as rows, in the order of the anchors."""
    found = []
    for u in maps:
        v = u[image].detach().double()
        v = v.view(-1, values, *v.shape[1:]).permute(2, 3, 0, 1)
        found.append(v.reshape(-1, values).tolist())
    return found


RPN_SIZES = [(2**k,) for k in range(5, 10)]


def test_first_stage() -> None:
    step = Watched("fasterrcnn_se_resnet18_fpn")
    scores, deltas = step.outputs["rpn.head"]
    levels = anchors_of([u.shape[2:] for u in scores], RPN_SIZES)
    anchors = [box for level in levels for box in level]
    objectness, box, count, positives = 0.0, 0.0, 0, 0
    for image in range(2):
        of = matched(anchors, step.boxes(image), 0.3, 0.7, best_too=True)
        logits = [row[0] for level in per_anchor(scores, image, 1) for row in level]
        moves = [row for level in per_anchor(deltas, image, 4) for row in level]
        (is_positive, is_negative) = (chosen[image].bool().tolist() for chosen in step.sampled[0])
        assert sum(is_positive) + sum(is_negative) == 256
        # Fewer than half of them are near an object here, so all of these are taken.
        assert [k >= 0 for k in of] == is_positive
        for i in range(len(anchors)):
            assert not is_negative[i] or of[i] == -1
            if is_positive[i] or is_negative[i]:
                objectness += cross_entropy(logits[i], float(is_positive[i]))
            if is_positive[i]:
                wanted = as_deltas(anchors[i], step.boxes(image)[of[i]], (1, 1, 1, 1))
                box += sum(smooth_l1(a, b, 1 / 9) for a, b in zip(moves[i], wanted, strict=True))
        count += sum(is_positive) + sum(is_negative)
        positives += sum(is_positive)
    assert positives > 8
    assert step.losses["loss_objectness"] == pytest.approx(objectness / count, rel=1e-5)
    assert step.losses["loss_rpn_box_reg"] == pytest.approx(box / count, rel=1e-5)


@pytest.mark.parametrize("protocol", ["detectron", "torchvision"])
def test_second_stage(protocol: str) -> None:
    step = Watched("fasterrcnn_se_resnet18_fpn", protocol=protocol)
    chosen = [boxes.double().tolist() for boxes in step.inputs["roi_heads.box_roi_pool"][1]]
    logits, moves = (t.detach().double().tolist() for t in step.outputs["roi_heads.box_predictor"])
    beta = 1.0 if protocol == "detectron" else 1 / 9
    classes, box, row, objects = 0.0, 0.0, 0, 0
    for image, boxes in enumerate(chosen):
        of = matched(boxes, step.boxes(image), 0.5, 0.5, best_too=False)
        assert len(boxes) <= 16
        assert sum(k >= 0 for k in of) <= 4
        for roi, k in zip(boxes, of, strict=True):
            label = int(step.targets[image]["labels"][k]) if k >= 0 else 0
            largest = max(logits[row])
            classes += largest + math.log(sum(math.exp(v - largest) for v in logits[row])) - logits[row][label]
            if label:
                wanted = as_deltas(roi, step.boxes(image)[k], (10, 10, 5, 5))
                own = moves[row][4 * label : 4 * label + 4]
                box += sum(smooth_l1(a, b, beta) for a, b in zip(own, wanted, strict=True))
                objects += 1
            row += 1
    assert row > 10
    assert objects >= 4
    assert step.losses["loss_classifier"] == pytest.approx(classes / row, rel=1e-5)
    assert step.losses["loss_box_reg"] == pytest.approx(box / row, rel=1e-5)


@pytest.mark.parametrize("protocol", ["detectron", "torchvision"])
def test_proposals(protocol: str) -> None:
    """The best of each level, then without those that overlap by 0.7, then the best of an image or of both images."""
    step = Watched("fasterrcnn_resnet18_fpn", protocol=protocol)
    scores, deltas = step.outputs["rpn.head"]
    levels = anchors_of([u.shape[2:] for u in scores], RPN_SIZES)
    kept: list[list[tuple[float, Box]]] = []
    for image, (height, width) in enumerate(SIDES):
        found = []
        of_image = zip(levels, per_anchor(scores, image, 1), per_anchor(deltas, image, 4), strict=True)
        for anchors, logits, moves in of_image:
            order = sorted(range(len(anchors)), key=lambda i: -logits[i][0])[:30]
            boxes = [(logits[i][0], moved_by(anchors[i], moves[i], height, width)) for i in order]
            alone: list[tuple[float, Box]] = []
            for score, box in boxes:
                large = box[2] - box[0] >= 1e-3 and box[3] - box[1] >= 1e-3
                if large and all(overlap(box, other) <= 0.7 for _, other in alone):
                    alone.append((score, box))
            found += alone
        kept.append(sorted(found, key=lambda pair: -pair[0])[:30])
    if protocol == "detectron":
        limit = sorted((score for boxes in kept for score, _ in boxes), reverse=True)[:30][-1]
        kept = [[pair for pair in boxes if pair[0] >= limit] for boxes in kept]
        assert sum(map(len, kept)) == 30
        assert len(kept[0]) != len(kept[1])
    for image, boxes in enumerate(step.outputs["rpn"][0]):
        np.testing.assert_allclose(boxes.detach().numpy(), [box for _, box in kept[image]], atol=1e-3)
    # What trains is among them or an object, and with Detectron's rules not inside a crowd.
    for image, boxes in enumerate(step.inputs["roi_heads.box_roi_pool"][1]):
        known = np.array([*(box for _, box in kept[image]), *step.boxes(image)])
        for roi in boxes.detach().numpy():
            assert abs(known - roi).max(1).min() < 1e-3
            for x0, y0, x1, y1 in step.targets[image]["crowd"].tolist():
                inside = max(0, min(roi[2], x1) - max(roi[0], x0)) * max(0, min(roi[3], y1) - max(roi[1], y0))
                is_object = abs(np.array(step.boxes(image)) - roi).max(1).min() < 1e-3
                share = inside / ((roi[2] - roi[0]) * (roi[3] - roi[1]))
                assert protocol == "torchvision" or is_object or share <= 0.7


def sampled(mask: list[list[int]], box: Box, rows: int) -> list[list[float]]:
    """A mask in a box as `rows` x `rows` values: each is the mean over points a pixel or less apart, interpolated."""
    height, width = max(box[3] - box[1], 1.0), max(box[2] - box[0], 1.0)
    down, across = math.ceil(height / rows), math.ceil(width / rows)

    def value(y: float, x: float) -> float:
        if not (-1 <= y <= len(mask) and -1 <= x <= len(mask[0])):
            return 0.0
        y, x = min(max(y, 0.0), len(mask) - 1), min(max(x, 0.0), len(mask[0]) - 1)
        top, left = int(y), int(x)
        low, right = min(top + 1, len(mask) - 1), min(left + 1, len(mask[0]) - 1)
        upper = mask[top][left] * (1 - x + left) + mask[top][right] * (x - left)
        return upper * (1 - y + top) + (mask[low][left] * (1 - x + left) + mask[low][right] * (x - left)) * (y - top)

    return [
        [
            sum(
                value(box[1] + height / rows * (i + (k + 0.5) / down), box[0] + width / rows * (j + (m + 0.5) / across))
                for k in range(down)
                for m in range(across)
            )
            / (down * across)
            for j in range(rows)
        ]
        for i in range(rows)
    ]


def test_masks() -> None:
    step = Watched("maskrcnn_resnet18_fpn", protocol="detectron")
    chosen = [boxes.double().tolist() for boxes in step.inputs["roi_heads.mask_roi_pool"][1]]
    logits = step.outputs["roi_heads.mask_predictor"].detach().double()
    total, row = 0.0, 0
    for image, boxes in enumerate(chosen):
        of = matched(boxes, step.boxes(image), 0.5, 0.5, best_too=False)
        for roi, k in zip(boxes, of, strict=True):
            assert k >= 0
            wanted = sampled(step.targets[image]["masks"][k].tolist(), roi, 28)
            own = logits[row, int(step.targets[image]["labels"][k])].tolist()
            total += sum(cross_entropy(own[i][j], wanted[i][j]) for i in range(28) for j in range(28))
            row += 1
    assert row >= 4
    assert step.losses["loss_mask"] == pytest.approx(total / (row * 28 * 28), rel=1e-5)


def test_retinanet() -> None:
    step = Watched("retinanet_se_resnet18_fpn")
    out = step.outputs["head"]
    grids = [u.shape[2:] for u in step.outputs["backbone"].values()]
    sizes = [[int(2**k * 2 ** (j / 3)) for j in range(3)] for k in range(5, 10)]
    anchors = [box for level in anchors_of(grids, sizes) for box in level]
    classes, boxes = 0.0, 0.0
    for image in range(2):
        of = matched(anchors, step.boxes(image), 0.4, 0.5, best_too=True)
        logits = out["cls_logits"][image].detach().double().tolist()
        moves = out["bbox_regression"][image].detach().double().tolist()
        count = sum(k >= 0 for k in of)
        assert count > 3
        for i, k in enumerate(of):
            if k == -2:
                continue
            label = int(step.targets[image]["labels"][k]) if k >= 0 else 0
            for c, logit in enumerate(logits[i]):
                is_so = float(bool(label) and c == label)
                p = 1 / (1 + math.exp(-logit))
                wrong, weight = (1 - p, 0.25) if is_so else (p, 0.75)
                classes += weight * wrong**2 * cross_entropy(logit, is_so) / count / 2
            if k >= 0:
                wanted = as_deltas(anchors[i], step.boxes(image)[k], (1, 1, 1, 1))
                boxes += sum(abs(a - b) for a, b in zip(moves[i], wanted, strict=True)) / count / 2
    assert step.losses["classification"] == pytest.approx(classes, rel=1e-5)
    assert step.losses["bbox_regression"] == pytest.approx(boxes, rel=1e-5)
