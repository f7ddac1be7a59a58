"""The names of Inception-ResNet-v2 that timm and Cadene share: `mixed_5b.branch1.0`, `repeat_1.3`, `block8`."""

from __future__ import annotations

from collections.abc import Mapping

from senet.models.inception_resnet import InceptionResNet
from senet.models.net import Net
from senet.weights.convention import Inferred, Shape, no_names, refusal

LAYERS = {
    "features.stem.layer1": "conv2d_1a",
    "features.stem.layer2": "conv2d_2a",
    "features.stem.layer3": "conv2d_2b",
    "features.stem.layer5": "conv2d_3b",
    "features.stem.layer6": "conv2d_4a",
    "features.last.layer1": "conv2d_7b",
    "features.stage2.mixed": "mixed_5b",
    "features.stage3.mixed": "mixed_6a",
    "features.stage4.mixed": "mixed_7a",
    "features.stage4.block10": "block8",
}
REPEATS = {"stage2": "repeat", "stage3": "repeat_1", "stage4": "repeat_2"}


def inception_resnet_key(convention: str, name: str, net: Net, *, head: str) -> str:
    """The name of a parameter of Inception-ResNet-v2; neither library has units in it.

    Args:
        convention: The library.
        name: Our name.
        net: Our table.
        head: The library's name of the classifier.

    Raises:
        CheckpointError: For another network, and for the layout that TF-slim did not release.
    """
    if not isinstance(net, InceptionResNet) or net.layout != "slim":
        raise no_names(convention, net)
    module, _, leaf = name.rpartition(".")
    if module == "classifier":
        return f"{head}.{leaf}"
    if ".se." in name:
        return name
    where, inner = ".".join(module.split(".")[:3]), module.split(".")[3:]
    _, part, block = where.split(".")
    theirs = LAYERS.get(where) or f"{REPEATS[part]}.{int(block.removeprefix('block')) - 1}"
    if inner == ["conv"] and block.startswith("block"):
        return f"{theirs}.conv2d.{leaf}"
    layer = {"conv": "conv", "norm": "bn"}[inner[-1]]
    if len(inner) == 1:
        return f"{theirs}.{layer}.{leaf}"
    branch, number = int(inner[-3]), int(inner[-2].removeprefix("layer"))
    row = net.table.stages[net.stage_numbers.index(int(part.removeprefix("stage")))]
    join = row.mixed if block == "mixed" and row.mixed else row.block
    place = f".{number - 1}" if len(join.branches[branch]) > 1 else ""
    return f"{theirs}.branch{branch}{place}.{layer}.{leaf}"


def infer_inception_resnet(convention: str, net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    """The table as it is, since there is one such network; no notes.

    Raises:
        CheckpointError: For another network, and without shapes for units, which the libraries do not build.
    """
    if not isinstance(net, InceptionResNet):
        raise no_names(convention, net)
    if net.layout != "slim":
        raise refusal(convention, "layout", net.layout, "slim")
    if not shapes and net.se:
        raise refusal(convention, "se", net.se, None)
    return net, ()
