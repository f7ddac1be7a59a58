"""timm's names: ResNet, ResNeXt, their SE networks and SENet-154; VGG; Inception-ResNet-v2.

timm's residual networks pool with padding, have the stride in the 3x3 convolution, and round the hidden widths of their
units to a multiple of 8. Its `legacy_*` networks are Cadene's and have Cadene's names (`cadene.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from senet.config import from_dict
from senet.errors import CheckpointError
from senet.models.net import Net, Preprocessing, ResidualNet
from senet.models.vgg import GRID
from senet.weights.convention import Convention, Inferred, Shape
from senet.weights.inception_resnet import inception_resnet_key, infer_inception_resnet
from senet.weights.residual import infer_residual, layer_key, refuse_blur
from senet.weights.torchvision import infer_vgg, vgg_key

BICUBIC = Preprocessing(interpolation="bicubic")


def read_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """Read how images are prepared from timm's `pretrained_cfg`.

    `resize` is the side of the crop divided by `crop_pct`, rounded down.

    Raises:
        ConfigError: For a value that `Preprocessing` does not take, such as interpolation "lanczos".
        KeyError: If a field is missing.
    """
    size = config["input_size"][-1]
    fields = {
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "image_size": size,
        "resize": int(size / config["crop_pct"]),
        "interpolation": config["interpolation"],
    }
    return from_dict(Preprocessing, fields)


def _stem(kind: str, number: int, count: int) -> str:
    if kind == "norm" and number == count:
        return "bn1"
    # The stem is one sequence of (convolution, batch norm, ReLU), repeated.
    return f"conv1.{3 * (number - 1) + (kind == 'norm')}" if count > 1 else "conv1"


def _matches(shapes: Mapping[str, Shape]) -> bool:
    stem = "conv1.weight" in shapes or "conv1.0.weight" in shapes
    return stem and "layer4.0.conv1.weight" in shapes and "layer1.0.se.fc.0.weight" not in shapes


_key = partial(layer_key, "timm", stem=_stem)


def _infer(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    if any(len(shape) == 4 for name, shape in shapes.items() if name.endswith(".downsample.1.weight")):
        raise CheckpointError(
            "timm: averages in the shortcuts (its networks named *d and *t), which no table here can have"
        )
    if isinstance(net, ResidualNet) and "conv1.0.weight" in shapes and not net.stem.before:
        raise CheckpointError("timm: three 3x3 convolutions in the stem, and one in this network: stem.before is ()")
    return infer_residual("timm", _key, net, shapes, round_to=8)


def _matches_vgg(shapes: Mapping[str, Shape]) -> bool:
    return "pre_logits.fc1.weight" in shapes and "features.1.running_mean" in shapes


def _infer_vgg(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    note = "timm's hidden layers are convolutions: the same as ours up to 224 pixels"
    return infer_vgg("timm", net, shapes)[0], (note,) if shapes else ()


def _permute_vgg(name: str, tensor: Tensor, inverse: bool) -> Tensor:
    """Reshape the two hidden layers, which are 7x7 and 1x1 convolutions in timm."""
    if name not in ("head.fc1.weight", "head.fc2.weight"):
        return tensor
    if not inverse:
        return tensor.flatten(1)
    grid = GRID if name == "head.fc1.weight" else 1
    return tensor.reshape(len(tensor), -1, grid, grid)


def _matches_inception(shapes: Mapping[str, Shape]) -> bool:
    return "conv2d_1a.conv.weight" in shapes and "classif.weight" in shapes


HALVES = (0.5, 0.5, 0.5)
INCEPTION = Preprocessing(mean=HALVES, std=HALVES, image_size=299, resize=333, interpolation="bicubic")

RESIDUAL = Convention(
    name="timm",
    matches=_matches,
    key=_key,
    infer=_infer,
    preprocessing=BICUBIC,
    images_vary="size, crop and interpolation of the images vary among timm's weights: these are the usual ones",
    infer_from_name=refuse_blur,
)
VGG = Convention(
    name="timm",
    matches=_matches_vgg,
    key=partial(vgg_key, "timm", head=("pre_logits.fc1", "pre_logits.fc2", "head.fc")),
    infer=_infer_vgg,
    permute=_permute_vgg,
)
INCEPTION_RESNET = Convention(
    name="timm",
    matches=_matches_inception,
    key=partial(inception_resnet_key, "timm", head="classif"),
    infer=partial(infer_inception_resnet, "timm"),
    preprocessing=INCEPTION,
)
