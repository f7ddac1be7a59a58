"""Average precision: equal to pycocotools in its whole arrays, and to hand arithmetic."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from senet.data.annotations import read_coco
from senet.data.objects import Objects
from senet.evaluation.detection import APTally, Found, by_class, evaluate_found, figures, found_in, run_lengths

SIDE = 400


def objects_of(boxes: np.ndarray, classes: Any, crowd: Any, masks: tuple[Any, ...] = ()) -> Objects:
    k = len(boxes)
    areas = boxes[:, 2] * boxes[:, 3] * 0.8 if k else np.zeros(0)
    return Objects("x", SIDE, SIDE, boxes, np.asarray(classes, np.int64), np.asarray(crowd, bool), areas, masks)


def mask_of(box: np.ndarray) -> Any:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    left, top, width, height = (round(v) for v in box)
    mask[max(top, 0) : top + height, max(left, 0) : left + width] = 1
    return run_lengths(mask)


def made_up(images: int, masks: bool) -> tuple[list[Objects], dict[int, Found]]:
    """Crowds, images without objects or without detections, equal scores, and more than 100 detections of an image."""
    draw = np.random.default_rng(3)
    objects, found = [], {}
    for i in range(images):
        k = int(draw.integers(1, 9)) if i % 5 else 0
        n = int(draw.integers(1, 40 if masks else 180)) if i % 7 != 1 else 0
        n = 130 if i == 3 else n
        boxes, others = (
            np.concatenate([draw.uniform(0, 200, (m, 2)), draw.uniform(5, 190, (m, 2))], 1) for m in (k, n)
        )
        near = min(k, n)
        others[:near] = (boxes[:near] + draw.normal(0, 5, (near, 4))).clip(1)
        classes = draw.integers(0, 4, k)
        answers = draw.integers(0, 4, n)
        answers[:near] = np.where(draw.random(near) < 0.8, classes[:near], answers[:near])
        truth_masks = tuple(map(mask_of, boxes)) if masks else ()
        objects.append(objects_of(boxes, classes, draw.random(k) < 0.2, truth_masks))
        found[i] = Found(others, draw.random(n).round(2), answers, tuple(map(mask_of, others)) if masks else ())
    return objects, found


def arrays(evaluator: Any) -> dict[str, np.ndarray]:
    return {name: evaluator.eval[name] for name in ("precision", "recall", "scores")}


def assert_same(one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray]) -> None:
    """Recall and scores to the last bit.

    Precision too, but for its last bit: pycocotools adds `np.spacing(1)` to the number of detections, which changes the
    quotient where that number is 1, and faster-coco-eval does not.
    """
    assert np.array_equal(one["recall"], two["recall"])
    assert np.array_equal(one["scores"], two["scores"])
    assert np.abs(one["precision"] - two["precision"]).max() <= np.spacing(1)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equal_to_pycocotools(kind: str) -> None:
    objects, found = made_up(12 if kind == "segm" else 64, kind == "segm")
    assert max(len(f.scores) for f in found.values()) > 100
    assert any(o.crowd.any() for o in objects)
    ours = evaluate_found(objects, found, 5, kind=kind)
    theirs = evaluate_found(objects, found, 5, kind=kind, library=(COCO, COCOeval))
    assert_same(arrays(ours), arrays(theirs))
    with redirect_stdout(io.StringIO()):
        theirs.summarize()
    wanted = [None if s < 0 else 100 * s for s in theirs.stats[:6]]
    assert list(figures(ours).values()) == pytest.approx(wanted, abs=1e-12)
    # The fifth class is in no image.
    assert by_class(ours)[4] is None


def test_equal_to_pycocotools_on_a_json_file_read_by_itself(tmp_path: Path) -> None:
    """Not only by the same function: the annotations as pycocotools reads them, and a list of results."""
    draw = np.random.default_rng(0)
    images = [{"id": 7 * i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in range(20)]
    for image in images:
        (tmp_path / str(image["file_name"])).touch()
    categories = [{"id": 10 * k + 5, "name": str(k)} for k in range(3)]
    rows, results, found = [], [], {}
    for i, image in enumerate(images):
        boxes = np.concatenate([draw.uniform(0, 200, (6, 2)), draw.uniform(5, 190, (6, 2))], 1).round(2)
        classes = draw.integers(0, 3, 6)
        for box, k in zip(boxes.tolist(), classes.tolist(), strict=True):
            crowd = int(draw.random() < 0.2)
            row = {"id": len(rows) + 1, "image_id": image["id"], "category_id": 10 * k + 5, "bbox": box}
            rows.append(row | {"area": box[2] * box[3], "iscrowd": crowd})
        near = boxes + draw.normal(0, 6, boxes.shape)
        scores = draw.random(6)
        found[i] = Found(near, scores, classes)
        for box, k, s in zip(near.tolist(), classes.tolist(), scores.tolist(), strict=True):
            results.append({"image_id": image["id"], "category_id": 10 * k + 5, "bbox": box, "score": s})
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    listing = read_coco(path, tmp_path)
    order = [int(Path(o.file).stem) for o in listing.objects]
    ours = evaluate_found(listing.objects, {k: found[i] for k, i in enumerate(order)}, 3)
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        theirs = COCOeval(truth, truth.loadRes(results), "bbox")
        theirs.evaluate()
        theirs.accumulate()
    for name, array in arrays(ours).items():
        assert np.allclose(array, theirs.eval[name], atol=1e-12), name


def test_by_hand() -> None:
    """Two objects; the surer detection is right, the second wrong, the third right at an overlap of 0.6."""
    objects = [objects_of(np.array([[0.0, 0, 100, 100], [200, 200, 100, 100]]), [0, 0], [False, False])]
    boxes = np.array([[0.0, 0, 100, 100], [100, 0, 50, 50], [225, 200, 100, 100]])
    found = {0: Found(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, np.int64))}
    measured = figures(evaluate_found(objects, found, 1))
    # Recall 0.5 with precision 1 (51 of 101 points), then recall 1 with precision 2/3 up to an overlap of 0.6.
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert measured["ap50"] == pytest.approx(100 * low)
    assert measured["ap75"] == pytest.approx(100 * high)
    assert measured["ap"] == pytest.approx(100 * (3 * low + 7 * high) / 10)
    assert measured["ap_small"] is None


def test_nothing_found_and_nothing_annotated() -> None:
    objects = [objects_of(np.array([[0.0, 0, 9, 9]]), [0], [False]), objects_of(np.zeros((0, 4)), [], [])]
    nothing = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    assert figures(evaluate_found(objects, {0: nothing, 1: nothing}, 1))["ap"] == 0
    assert figures(evaluate_found(objects, {1: nothing}, 1))["ap"] is None
    assert APTally(objects, ["a"]).read() == {"images": 0, **dict.fromkeys(figures(evaluate_found(objects, {}, 1)))}


def test_detections_go_back_to_the_files_pixels() -> None:
    output = {"boxes": torch.tensor([[10.0, 20, 30, 60]]), "scores": torch.tensor([0.5]), "labels": torch.tensor([2])}
    found = found_in(output, (200, 100), (100, 50))
    assert found.boxes.tolist() == [[20, 40, 40, 80]]
    assert found.classes.tolist() == [1]
    masks = torch.zeros(1, 1, 100, 50)
    masks[..., 20:60, 10:30] = 1
    assert found_in(output | {"masks": masks}, (100, 50), (100, 50)).masks[0] == run_lengths(masks[0, 0].numpy())


@pytest.mark.slow
def test_a_real_detector() -> None:
    """PicoDet-S, trained by others, on the 64 validation images: AP between 0.15 and 0.45, equal by pycocotools."""
    nets, images = os.environ.get("SENET_TEST_NETS", ""), os.environ.get("SENET_TEST_DATA", "")
    net = Path(nets) / "picodet_s_320_coco.onnx"
    if not nets or not net.is_file():
        pytest.skip(f"needs {net.name} in the folder that SENET_TEST_NETS names")
    if not images or not (Path(images) / "coco-mini").is_dir():
        pytest.skip("needs coco-mini/ in the folder that SENET_TEST_DATA names")
    folder = Path(images) / "coco-mini"
    listing = read_coco(folder / "annotations/instances_val2017.json", folder)
    found = picodet(net, listing.objects)
    ours = evaluate_found(listing.objects, found, len(listing.classes))
    theirs = evaluate_found(listing.objects, found, len(listing.classes), library=(COCO, COCOeval))
    assert_same(arrays(ours), arrays(theirs))
    measured = figures(ours)
    print({name: round(value, 2) for name, value in measured.items() if value is not None})
    assert measured["ap"] is not None
    assert 15 < measured["ap"] < 45


def picodet(file: Path, objects: list[Objects]) -> dict[int, Found]:
    """Detections of the ONNX file: scores and box distributions of four levels, as its authors decode them."""
    import onnxruntime
    from PIL import Image
    from torchvision.ops import batched_nms

    # It warns of each of its weights.
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = {}
    for i, o in enumerate(objects):
        image = Image.open(o.file).convert("RGB").resize((320, 320), Image.Resampling.BICUBIC)
        x = (np.asarray(image, np.float32)[:, :, ::-1] - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395]
        outputs = session.run(None, {session.get_inputs()[0].name: x.transpose(2, 0, 1)[None].astype(np.float32)})
        scores = [y[0] for y in outputs if y.shape[-1] == 80]
        sides = [y[0] for y in outputs if y.shape[-1] == 32]
        assert len(scores) == len(sides) == 4
        boxes, sure = [], []
        for stride, score, side in zip((8, 16, 32, 64), scores, sides, strict=True):
            n = -(-320 // stride)
            y, x0 = np.divmod(np.arange(n * n), n)
            centre = (np.stack([x0, y], 1) + 0.5) * stride
            weights = torch.tensor(side).view(-1, 4, 8).softmax(2).numpy() @ np.arange(8) * stride
            boxes.append(np.concatenate([centre - weights[:, :2], centre + weights[:, 2:]], 1))
            sure.append(score)
        box, score = torch.tensor(np.concatenate(boxes)), torch.tensor(np.concatenate(sure))
        at, label = (score > 0.025).nonzero(as_tuple=True)
        kept = batched_nms(box[at].float(), score[at, label], label, 0.6)[:100]
        output = {"boxes": box[at][kept].clamp(0, 320), "scores": score[at, label][kept], "labels": label[kept] + 1}
        found[i] = found_in(output, (o.height, o.width), (320, 320))
    return found
