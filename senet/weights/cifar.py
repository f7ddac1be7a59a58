"""The names of the public CIFAR ResNets: akamaster's pytorch_resnet_cifar10 and chenyaofo's pytorch-cifar-models.

Both have three stages and basic blocks. akamaster's default shortcut is option A with half of the zero channels before
and half after; its classifier is `linear`, its projections (option B) are `shortcut`. chenyaofo, and bearpaw's
pytorch-classification under the same names, have projections, `downsample`, and the classifier `fc`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from senet.models.net import Preprocessing
from senet.weights.convention import Convention, Shape
from senet.weights.moskomule import CIFAR
from senet.weights.residual import infer_residual, layer_key


def _has(head: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether these are three stages without units, and a classifier of this name."""
    own = {f"{head}.weight", "conv1.weight", "layer3.0.conv1.weight"} <= shapes.keys()
    return own and "layer4.0.conv1.weight" not in shapes and not any(".se." in name for name in shapes)


_key_akamaster = partial(layer_key, "akamaster", head="linear", shortcut="shortcut")
_key_chenyaofo = partial(layer_key, "chenyaofo")
_SHORTCUTS = ("zero_pad_both", "projection")

AKAMASTER = Convention(
    name="akamaster",
    matches=lambda shapes: _has("linear", shapes),
    key=_key_akamaster,
    infer=partial(infer_residual, "akamaster", _key_akamaster, units=(False,), shortcuts=_SHORTCUTS),
    preprocessing=Preprocessing(image_size=32, resize=32),
)
CHENYAOFO = Convention(
    name="chenyaofo",
    matches=lambda shapes: _has("fc", shapes),
    key=_key_chenyaofo,
    infer=partial(infer_residual, "chenyaofo", _key_chenyaofo, units=(False,)),
    preprocessing=CIFAR,
)
