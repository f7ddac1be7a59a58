"""Table 7 of arXiv:1709.01507v4: Faster R-CNN on COCO with ResNets and SE-ResNets as trunks."""

from dataclasses import replace

from senet.experiments.experiment import AP, AP50, Experiment, Row
from senet.models.registry import get_net
from senet.recipes.coco import coco

PRINTED = {
    "resnet50": (57.9, 38.0),
    "se_resnet50": (61.0, 40.4),
    "resnet101": (60.1, 39.9),
    "se_resnet101": (62.7, 41.9),
}
"""AP50 and AP of each trunk, on minival."""


def _row(title: str, trunk: str, minus: str = "") -> Row:
    name = f"fasterrcnn_{trunk}_fpn"
    ap50, ap = PRINTED[trunk]
    own = replace(coco, name=name, model=get_net(name))
    return Row(name=title, recipe=own, minus=minus, printed={AP: ap, AP50: ap50})


table7 = Experiment(
    name="table7",
    title="Faster R-CNN on COCO, ResNets and SE-ResNets as trunks",
    rows=(
        _row("ResNet-50", "resnet50"),
        _row("SE-ResNet-50", "se_resnet50", minus="ResNet-50"),
        _row("ResNet-101", "resnet101"),
        _row("SE-ResNet-101", "se_resnet101", minus="ResNet-101"),
    ),
    paper_run="Detectron, end to end, from ImageNet weights (section 5.4; neither hardware nor hours are given)",
)
