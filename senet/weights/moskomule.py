"""The names of moskomule/senet.pytorch: torchvision's, and units of two linear layers without biases."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from senet.models.net import Preprocessing
from senet.weights.convention import Convention, Shape
from senet.weights.residual import infer_residual, layer_key

CIFAR = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), image_size=32, resize=32)


def _matches(shapes: Mapping[str, Shape]) -> bool:
    return "layer1.0.se.fc.0.weight" in shapes and "layer4.0.conv1.weight" in shapes


def _matches_cifar(shapes: Mapping[str, Shape]) -> bool:
    return "layer1.0.se.fc.0.weight" in shapes and "layer4.0.conv1.weight" not in shapes


_key = partial(layer_key, "moskomule", unit=("se.fc.0", "se.fc.2"))
_infer = partial(infer_residual, "moskomule", _key, bias=False, units=(True,))

RESIDUAL = Convention(name="moskomule", matches=_matches, key=_key, infer=_infer, conv_units=False)
CIFAR_RESIDUAL = Convention(
    name="moskomule", matches=_matches_cifar, key=_key, infer=_infer, preprocessing=CIFAR, conv_units=False
)
