"""Export a detector to one ONNX file: torchvision's operations, checked in ONNX Runtime on images of other sizes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from senet import __version__
from senet.deploy.onnx import Exported, check_exportable, metadata, session
from senet.errors import ConfigError, MissingExtraError, RunError, unknown
from senet.files import write_atomically
from senet.tracing import evaluating

OPSETS = range(18, 21)
"""Those of torch's older exporter. Its newer one does not take the choice of boxes, whose number is the image's."""

TOLERANCE = 1e-3
"""Largest distance of a detection from the network's, see `farthest`."""


class OneImage(nn.Module):
    """A detector of one image (1, C, H, W): boxes (n, 4), scores (n,), labels (n,) from 0, and masks (n, 1, H, W)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the detections, the surest first."""
        found = self.detector([image[0]])[0]
        masks = (found["masks"],) if "masks" in found else ()
        return found["boxes"], found["scores"], found["labels"] - 1, *masks


def export_detector(
    model: nn.Module,
    path: str | Path,
    images: Sequence[Tensor],
    *,
    opset: int = 18,
    verify: bool = True,
    classes: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
) -> tuple[Exported, int]:
    """Export a detector in inference to one ONNX file, for one image of any size at a time.

    The input `image` is (1, C, H, W), scaled and normalised. The outputs are `boxes` (n, 4), left, top, right and
    bottom in its pixels, `scores` (n,), `labels` (n,) from 0, and `masks` (n, 1, H, W) of a Mask R-CNN, at most 100 and
    the surest first. Limits of score and overlap are those of the network. An existing file is replaced only when the
    new one is complete and verified.

    Args:
        model: float32, on the CPU.
        path: the file to write.
        images: float32 images (C, H, W) on the CPU, one or more, of other sizes; the file is compared on all.
        opset: version of the ONNX operators.
        verify: compare with the network, if ONNX Runtime is installed.
        classes: names of the classes.
        about: further metadata, such as {"model": "fasterrcnn_se_resnet50_fpn"}.

    Returns:
        The file, and how many detections were compared: with none in any image the comparison says little.

    Raises:
        ConfigError: for another opset, or no images.
        RunError: the file cannot be written, or its detections are others.
        MissingExtraError: onnx is not installed.
    """
    if find_spec("onnx") is None:
        raise MissingExtraError("ONNX files", "export")
    if opset not in OPSETS:
        raise unknown("opset", opset, OPSETS)
    if not images:
        raise ConfigError("images: none; expected: one or more (C, H, W)")
    check_exportable(model, path, tuple(image[None] for image in images))
    one = OneImage(model).eval()
    names = ["boxes", "scores", "labels", "masks"]
    with evaluating(one), torch.no_grad():
        names = names[: len(one(images[0][None]))]
        data = _to_onnx(one, images[0][None], names, opset, metadata(model, None, classes, (), about or {}))
        deviation, count = None, 0
        if verify and find_spec("onnxruntime") is not None:
            run, deviation = session(data), 0.0
            for image in images:
                wanted = [t.numpy() for t in one(image[None])]
                deviation = max(deviation, farthest(run(names, {"image": image[None].numpy()}), wanted))
                count += len(wanted[0])
            if not deviation <= TOLERANCE:
                raise RunError(
                    f"the file's detections are {deviation:.1e} from the network's; expected: {TOLERANCE:.0e} or less"
                )
    path = Path(path)
    write_atomically(path, lambda file: file.write(data))
    return Exported(path, len(data), None, deviation, any_batch=False, smallest=()), count


def _to_onnx(one: nn.Module, image: Tensor, names: list[str], opset: int, about: Mapping[str, str]) -> bytes:
    import onnx

    file, said = BytesIO(), logging.getLogger("torch.onnx")
    with warnings.catch_warnings():
        # Of constants, which are those of the network, and of the exporter's age.
        warnings.simplefilter("ignore")
        level = said.level
        said.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                one,
                (image,),
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=opset,
                input_names=["image"],
                output_names=names,
                dynamic_axes={"image": {2: "height", 3: "width"}, **{name: {0: "n"} for name in names}},
            )
        finally:
            said.setLevel(level)
    proto = onnx.load_model_from_string(file.getvalue())
    for node in proto.graph.node:
        # It names files of this machine.
        node.doc_string = ""
    proto.producer_name, proto.producer_version = "senet", __version__
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def farthest(one: Sequence[Any], two: Sequence[Any]) -> float:
    """Largest distance of a detection of either side from the nearest one of the same class of the other side.

    The distance of two is the largest difference of scores, of masks, or of edges of the boxes as a share of the
    largest coordinate. Their order does not count, which rounding may change. 0 where both sides are empty.
    """
    scale = max([1.0, *(float(np.abs(side[0]).max(initial=0)) for side in (one, two))])
    worst = 0.0
    for a, b in ((one, two), (two, one)):
        for k in range(len(a[0])):
            same = np.flatnonzero(b[2] == a[2][k])
            if not len(same):
                return float("inf")
            apart = np.abs(b[0][same] - a[0][k]).max(1) / scale
            apart = np.maximum(apart, np.abs(b[1][same] - a[1][k]))
            for m, n in zip(a[3:], b[3:], strict=True):
                # The mean: a pixel of an edge may be on either side of it.
                apart = np.maximum(apart, np.abs(n[same] - m[k]).mean((1, 2, 3)))
            worst = max(worst, float(apart.min()))
    return worst
