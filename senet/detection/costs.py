"""Parameters and multiply-adds of the detector of `faster_rcnn.py`, by arithmetic. Loads no torch.

The paper gives no complexity for it; its baselines' AP are those of Detectron's FPN networks, which this follows:
a pyramid of 256 channels on stages 2 to 5, three anchors per position, two hidden layers of 1024 in the box head.
"""

from __future__ import annotations

from dataclasses import replace

from senet.blocks.cost import Cost, Shape
from senet.models.describe import Description, Row, describe
from senet.models.net import Net

WIDTH = 256
"""Channels of every feature map of the pyramid."""

STAGES = 4
"""The pyramid is built on so many last stages."""

ANCHORS = 3
"""Anchors per position, one for each aspect ratio."""

HIDDEN = 1024
"""Width of the two hidden layers of the box head."""

ROI_SIZE = 7
"""Each box is pooled to 7x7."""

ROIS = 1000
"""Boxes per image in the second stage."""


def describe_detector(net: Net, image_size: tuple[int, int] = (800, 1344), num_classes: int = 81) -> Description:
    """Count the detector's parameters and multiply-adds, with 1000 boxes in the second stage.

    Args:
        net: The table of the trunk.
        image_size: Height and width in pixels.
        num_classes: Classes, including the background.

    Raises:
        ConfigError: If the image is too small for the trunk.
    """
    network = describe(replace(net, num_classes=0), image_size)
    rows = {row.part: row for row in network.rows}
    # The trunk ends with its last stage.
    unused = [rows[part] for part in ("last", "head") if part in rows]
    levels = [rows[f"stage{number}"] for number in net.stage_numbers[-STAGES:]]

    fpn = Cost()
    pyramid = []
    for level in levels:
        shape = Shape(level.channels, level.height, level.width)
        inner = fpn.conv(shape, WIDTH, 1, bias=True)
        pyramid.append(fpn.conv(inner, WIDTH, 3, bias=True))
    # The coarsest level is every second pixel of the one before.
    pyramid.append(fpn.pool(pyramid[-1], 1, 2))

    # One head for all levels: its multiply-adds are those of every level, its parameters count once.
    per_level = [_rpn_head(shape) for shape in pyramid]
    rpn = replace(per_level[0], macs=sum(cost.macs for cost in per_level))

    per_box = Cost()
    hidden = per_box.linear(per_box.linear(WIDTH * ROI_SIZE**2, HIDDEN), HIDDEN)
    for outputs in (num_classes, 4 * num_classes):
        per_box.linear(hidden, outputs)
    boxes = replace(per_box, macs=ROIS * per_box.macs)

    finest = pyramid[0]
    fc = f"fc {HIDDEN}, fc {HIDDEN}, fc {num_classes}, fc {4 * num_classes}"
    rpn_layers = f"3x3 {WIDTH}, 1x1 {ANCHORS}, 1x1 {4 * ANCHORS}"
    detector_rows = (
        Row.of("fpn", f"1x1 {WIDTH}, 3x3 {WIDTH}", finest, fpn),
        Row.of("rpn", rpn_layers, finest._replace(channels=5 * ANCHORS), rpn),
        Row.of("boxes", fc, Shape(5 * num_classes, 1, 1), boxes),
    )
    params = sum(row.params for row in detector_rows) - sum(row.params for row in unused)
    macs = sum(row.macs for row in detector_rows) - sum(row.macs for row in unused)
    trunk_rows = [row for row in network.rows if row not in unused]
    return replace(
        network,
        rows=(*trunk_rows, *detector_rows),
        params=network.params + params,
        params_se_bias_true=network.params_se_bias_true + params,
        params_se_bias_false=network.params_se_bias_false + params,
        params_without_se=network.params_without_se + params,
        macs=network.macs + macs,
        macs_without_se=network.macs_without_se + macs,
    )


def _rpn_head(shape: Shape) -> Cost:
    cost = Cost()
    hidden = cost.conv(shape, WIDTH, 3, bias=True)
    cost.conv(hidden, ANCHORS, 1, bias=True)
    cost.conv(hidden, 4 * ANCHORS, 1, bias=True)
    return cost
