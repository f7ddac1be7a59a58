"""The names of torchvision: ResNet, ResNeXt and VGG with batch norm. timm's plain ResNets are the same networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from senet.models.net import Net
from senet.models.vgg import VGGNet
from senet.weights.convention import Convention, Inferred, Shape, no_names, refusal
from senet.weights.residual import infer_residual, layer_key, refuse_blur


def _matches(shapes: Mapping[str, Shape]) -> bool:
    plain = not any(".se." in name for name in shapes)
    return plain and "conv1.weight" in shapes and "layer4.0.conv1.weight" in shapes


_key = partial(layer_key, "torchvision")


def _matches_vgg(shapes: Mapping[str, Shape]) -> bool:
    return "features.1.running_mean" in shapes and "classifier.6.weight" in shapes


def features(module: str, net: VGGNet) -> str:
    """ "features.stage1.block2.norm" -> "features.4": convolution, batch norm, ReLU, and a pooling after each stage."""
    _, stage, block, layer = module.split(".")
    stages, blocks = int(stage.removeprefix("stage")) - 1, int(block.removeprefix("block")) - 1
    before = sum(3 * row.depth + 1 for row in net.stages[:stages])
    return f"features.{before + 3 * blocks + (layer == 'norm')}"


def vgg_key(convention: str, name: str, net: Net, *, head: tuple[str, str, str]) -> str:
    """The name of a parameter of VGG with batch norm in torchvision and timm, which have no units in it.

    Args:
        convention: The library.
        name: Our name.
        net: Our table.
        head: The library's names of the three fully connected layers.

    Raises:
        CheckpointError: For another network.
    """
    if not isinstance(net, VGGNet):
        raise no_names(convention, net)
    module, _, leaf = name.rpartition(".")
    if ".se." in name:
        return name
    names = ("head.fc1", "head.fc2", "classifier")
    return f"{head[names.index(module)] if module in names else features(module, net)}.{leaf}"


def infer_vgg(convention: str, net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    """The table with biases on the convolutions if the shapes have them; without shapes, as the libraries build it.

    Raises:
        CheckpointError: For another network, and without shapes for units, which the libraries do not build.
    """
    if not isinstance(net, VGGNet):
        raise no_names(convention, net)
    if not shapes and net.se:
        raise refusal(convention, "se", net.se, None)
    return replace(net, conv_bias="features.0.bias" in shapes if shapes else True), ()


RESIDUAL = Convention(
    name="torchvision",
    matches=_matches,
    key=_key,
    infer=partial(infer_residual, "torchvision", _key, units=(False,)),
    images_vary="these images are those of torchvision's V1 weights; V2 weights resize to 232 pixels, timm's vary",
    infer_from_name=refuse_blur,
)
VGG = Convention(
    name="torchvision",
    matches=_matches_vgg,
    key=partial(vgg_key, "torchvision", head=("classifier.0", "classifier.3", "classifier.6")),
    infer=partial(infer_vgg, "torchvision"),
)
