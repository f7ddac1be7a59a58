"""The names of Cadene's pretrained-models.pytorch: the authors' Caffe weights in PyTorch, and timm's `legacy_*`.

Its networks pool without padding, rounded up, as Caffe does. The stride is where the authors have it: in the first 1x1
of SE-ResNets, in the 3x3 of SE-ResNeXts and SENet-154.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from senet.errors import CheckpointError
from senet.models.inception import BNInception
from senet.models.net import Net, Preprocessing, ResidualNet
from senet.weights.convention import Convention, Inferred, Shape, no_names, refusal
from senet.weights.inception_resnet import inception_resnet_key, infer_inception_resnet
from senet.weights.residual import infer_residual, layer_key

MEAN_OF_7X7 = "Cadene's own head is a 7x7 mean, the same as ours at 224 pixels only"


def layer0(shapes: Mapping[str, Shape]) -> bool:
    """Whether these are Cadene's names of an SE network, with or without a classifier."""
    return "layer0.conv1.weight" in shapes and "layer1.0.se_module.fc1.weight" in shapes


def _stem(kind: str, number: int, count: int) -> str:
    return f"layer0.{'conv' if kind == 'conv' else 'bn'}{number}"


def _matches(shapes: Mapping[str, Shape]) -> bool:
    return layer0(shapes) and "last_linear.weight" in shapes


key = partial(layer_key, "cadene", stem=_stem, unit=("se_module.fc1", "se_module.fc2"), head="last_linear")
"""The name of a parameter of a residual network."""


def infer(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    """The table of the authors' function.

    Raises:
        CheckpointError: For basic blocks, which have a ReLU before the unit there.
    """
    rows = net.stages if isinstance(net, ResidualNet) else ()
    if any(row.block == "basic" for row in rows):
        raise CheckpointError(
            "cadene: its basic blocks (timm's legacy_seresnet18 and -34) have a ReLU before the unit, "
            "which no table here can have"
        )
    stride_on = "3x3" if any(row.groups > 1 for row in rows) else "1x1"
    return infer_residual("cadene", key, net, shapes, pool="ceil", stride_on=stride_on, units=(True,))


def _infer(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    inferred, _ = infer(net, shapes)
    return inferred, (MEAN_OF_7X7,) if shapes else ()


INCEPTION_LAYERS = {
    "conv7x7": "7x7_s2",
    "conv1x1": "1x1",
    "conv3x3_reduce": "3x3_reduce",
    "conv3x3": "3x3",
    "double3x3_reduce": "double_3x3_reduce",
    "double3x3a": "double_3x3_1",
    "double3x3b": "double_3x3_2",
    "pool_proj": "pool_proj",
}


def _matches_bn_inception(shapes: Mapping[str, Shape]) -> bool:
    return "conv1_7x7_s2.weight" in shapes and "inception_3a_1x1_bn.weight" in shapes


def _key_bn_inception(name: str, net: Net) -> str:
    if not isinstance(net, BNInception):
        raise no_names("cadene", net)
    module, _, leaf = name.rpartition(".")
    if module == "classifier":
        return f"last_linear.{leaf}"
    if ".se." in name:
        return name
    _, block, layer, kind = module.rsplit(".", 3)
    if block == "stem":
        block = "conv1" if layer == "conv7x7" else "conv2"
    return f"{block}_{INCEPTION_LAYERS[layer]}{'_bn' if kind == 'norm' else ''}.{leaf}"


def _infer_bn_inception(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    if not isinstance(net, BNInception):
        raise no_names("cadene", net)
    if not shapes and net.se:
        raise refusal("cadene", "se", net.se, None)
    return replace(net, conv_bias="conv1_7x7_s2.bias" in shapes if shapes else True), (MEAN_OF_7X7,) if shapes else ()


def _permute_bn_inception(name: str, tensor: Tensor, inverse: bool) -> Tensor:
    """Its first convolution expects BGR."""
    return tensor.flip(1) if name == "features.stem.conv7x7.conv.weight" and tensor.shape[1] == 3 else tensor


def _matches_inception_resnet(shapes: Mapping[str, Shape]) -> bool:
    return "conv2d_1a.conv.weight" in shapes and "last_linear.weight" in shapes


def _infer_inception_resnet(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    notes = ("the first of its 1001 classes, the background, is left out",)
    is_longer = shapes.get("last_linear.bias") == (1001,)
    inferred, _ = infer_inception_resnet("cadene", net, shapes)
    return inferred, notes if is_longer else ()


def _permute_inception_resnet(name: str, tensor: Tensor, inverse: bool) -> Tensor:
    """Its file has 1,001 classes, of which the first is the background, as TensorFlow's."""
    return tensor[1:] if name.startswith("classifier.") and len(tensor) == 1001 and not inverse else tensor


BYTES_BGR = Preprocessing(mean=(128 / 255, 117 / 255, 104 / 255), std=(1 / 255, 1 / 255, 1 / 255))
HALVES = (0.5, 0.5, 0.5)
INCEPTION = Preprocessing(mean=HALVES, std=HALVES, image_size=299, resize=341)

RESIDUAL = Convention(name="cadene", matches=_matches, key=key, infer=_infer)
BN_INCEPTION = Convention(
    name="cadene",
    matches=_matches_bn_inception,
    key=_key_bn_inception,
    infer=_infer_bn_inception,
    preprocessing=BYTES_BGR,
    permute=_permute_bn_inception,
)
INCEPTION_RESNET = Convention(
    name="cadene",
    matches=_matches_inception_resnet,
    key=partial(inception_resnet_key, "cadene", head="last_linear"),
    infer=_infer_inception_resnet,
    preprocessing=INCEPTION,
    permute=_permute_inception_resnet,
)
