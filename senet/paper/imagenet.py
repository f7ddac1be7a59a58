"""Tables 2 and 8 of arXiv:1709.01507v4: ImageNet, a single crop. Errors of re-implementations are the authors' own.

Beside each comparison stands what the network's original reports, as the paper quotes it.
"""

from dataclasses import replace

from senet.experiments.experiment import TOP1, TOP5, Experiment, Row
from senet.models.registry import get_net
from senet.recipes import imagenet, senet154
from senet.recipes.recipe import Recipe

PAPER_RUN = "100 epochs of ImageNet on 32 GPUs (hujie-frank/SENet, README; hours are not given)"

LARGE = 320
"""Pixels of Table 8's second crop."""
TOP1_LARGE, TOP5_LARGE = f"{TOP1}_{LARGE}", f"{TOP5}_{LARGE}"


def pair(
    title: str, network: str, recipe: Recipe, plain: tuple[float, float], se: tuple[float, float], note: str = ""
) -> tuple[Row, Row]:
    """A network and its SE twin, with their top-1 and top-5 errors."""
    return (
        row(title, network, recipe, *plain, note=note),
        row(f"SE-{title}", f"se_{network}", recipe, *se, minus=title, note=note),
    )


def row(title: str, network: str, recipe: Recipe, top1: float, top5: float, *, minus: str = "", note: str = "") -> Row:
    """A network trained by a recipe."""
    own = replace(recipe, name=network, model=get_net(network))
    return Row(name=title, recipe=own, minus=minus, printed={TOP1: top1, TOP5: top5}, note=note)


def quoted(title: str, top1: float, top5: float | None = None, note: str = "its original's figures") -> Row:
    """Somebody else's result, as the paper quotes it."""
    return Row(name=title, printed={TOP1: top1} if top5 is None else {TOP1: top1, TOP5: top5}, note=note)


_paper = imagenet.imagenet
_inception = replace(_paper, optim=replace(_paper.optim, weight_decay=2e-4))
_blacklist = "its original's figures, without the validation images that were withdrawn"

table2 = Experiment(
    name="table2",
    title="networks and their SE twins on ImageNet",
    rows=(
        quoted("ResNet-50, original", 24.7, 7.8),
        *pair("ResNet-50", "resnet50", _paper, (24.80, 7.48), (23.29, 6.62)),
        quoted("ResNet-101, original", 23.6, 7.1),
        *pair("ResNet-101", "resnet101", _paper, (23.17, 6.52), (22.38, 6.07)),
        quoted("ResNet-152, original", 23.0, 6.7),
        *pair("ResNet-152", "resnet152", _paper, (22.42, 6.34), (21.57, 5.73)),
        quoted("ResNeXt-50, original", 22.2),
        *pair("ResNeXt-50", "resnext50_32x4d", _paper, (22.11, 5.90), (21.10, 5.49)),
        quoted("ResNeXt-101, original", 21.2, 5.6),
        *pair("ResNeXt-101", "resnext101_32x4d", _paper, (21.18, 5.57), (20.70, 5.01)),
        *pair("VGG-16", "vgg16_bn", _paper, (27.02, 8.81), (25.22, 7.70)),
        quoted("BN-Inception, original", 25.2, 7.82),
        *pair("BN-Inception", "bn_inception", _inception, (25.38, 7.89), (24.23, 7.14)),
        quoted("Inception-ResNet-v2, original", 19.9, 4.9, _blacklist),
        *pair("Inception-ResNet-v2", "inception_resnet_v2", imagenet.imagenet299, (20.37, 5.21), (19.80, 4.79)),
    ),
    paper_run=PAPER_RUN,
)


def _larger(title: str, at_224: tuple[float, float] | None, at_320: tuple[float, float] | None, note: str = "") -> Row:
    printed = dict(zip((TOP1, TOP5), at_224 or (), strict=False))
    return Row(name=title, printed=printed | dict(zip((TOP1_LARGE, TOP5_LARGE), at_320 or (), strict=False)), note=note)


_senet = _larger("SENet-154", (18.68, 4.47), (17.28, 3.79))

table8 = Experiment(
    name="table8",
    title="SENet-154 and others on ImageNet, crops of 224 and 320 pixels",
    rows=(
        _larger("ResNet-152", (23.0, 6.7), (21.3, 5.5)),
        _larger("ResNet-200", (21.7, 5.8), (20.1, 4.8)),
        _larger("Inception-v3", None, (21.2, 5.6), "crop of 299"),
        _larger("Inception-v4", None, (20.0, 5.0), "crop of 299"),
        _larger("Inception-ResNet-v2", None, (19.9, 4.9), "crop of 299"),
        _larger("ResNeXt-101 (64x4d)", (20.4, 5.3), (19.1, 4.4)),
        _larger("DenseNet-264", (22.15, 6.12), None),
        _larger("Attention-92", None, (19.5, 4.8)),
        _larger("PyramidNet-200", (20.1, 5.4), (19.2, 4.7)),
        _larger("DPN-131", (19.93, 5.12), (18.55, 4.16)),
        replace(_senet, recipe=senet154.senet154, note="the resizing before the 320 crop is not stated"),
    ),
    paper_run="ImageNet on 64 GPUs, batches of 2048 (appendix; neither epochs nor hours are given)",
    crops=(LARGE,),
)
