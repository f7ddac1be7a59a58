"""Caffe: `.caffemodel` files read and written without Caffe, and the names of the authors' released networks.

Sources: the prototxts of hujie-frank/SENet (layer names, pooling, strides, mean 104/117/123 in BGR order, no division)
and BVLC's caffe.proto (field numbers). The networks take BGR images, and their classes have ILSVRC-2017's order;
`permute` changes both to ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet.errors import CheckpointError, MissingExtraError
from senet.files import write_atomically
from senet.models.inception import BNInception
from senet.models.net import Net, Preprocessing, ResidualNet
from senet.weights.convention import Convention, Inferred, Shape, no_names
from senet.weights.ilsvrc import ilsvrc2017_order
from senet.weights.residual import infer_residual, infer_unit, stem_layer

MESSAGES = {
    "Shape": {"dim": (1, "dims")},
    # Packed numbers are encoded like bytes. Read as bytes, they do not become Python numbers one by one.
    "Blob": {
        "num": (1, "int"),
        "channels": (2, "int"),
        "height": (3, "int"),
        "width": (4, "int"),
        "data": (5, "pieces"),
        "shape": (7, "Shape"),
        "double_data": (8, "pieces"),
    },
    "Layer": {"name": (1, "string"), "type": (2, "string"), "blobs": (7, "Blob")},
    "Net": {"name": (1, "string"), "layers": (2, "pieces"), "layer": (100, "Layer")},
}
"""The messages of caffe.proto that hold weights, with their field numbers; protobuf skips the other fields."""


@cache
def _net_message() -> type[Any]:
    """The class of the outermost message; MissingExtraError without protobuf."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise MissingExtraError("files of Caffe", "caffe") from error
    types = descriptor_pb2.FieldDescriptorProto
    kinds = {"int": types.TYPE_INT32, "dims": types.TYPE_INT64, "pieces": types.TYPE_BYTES, "string": types.TYPE_STRING}
    # Declared as proto3, where numbers are packed and names must be text; the encoding is the same as proto2's.
    file = descriptor_pb2.FileDescriptorProto(name="senet/caffe.proto", package="senet.caffe", syntax="proto3")
    for message, fields in MESSAGES.items():
        descriptor = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            is_one = kind in ("int", "string", "Shape")
            label = types.LABEL_OPTIONAL if is_one else types.LABEL_REPEATED
            field = descriptor.field.add(name=name, number=number, label=label)
            field.type = kinds.get(kind, types.TYPE_MESSAGE)
            if kind not in kinds:
                field.type_name = f".senet.caffe.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("senet.caffe.Net"))


def read(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a `.caffemodel` by layer: "conv1/7x7_s2.weight", "classifier.bias".

    BatchNorm and Scale become one batch norm: "conv1/7x7_s2/bn.running_mean", ".running_var", ".weight", ".bias". Caffe
    stores mean and variance as sums, with a factor by which they are divided here; a factor of 0 gives zeros, as there.

    Raises:
        CheckpointError: For a file that is absent, damaged, cut off, or in the format before 2014 (V1, `layers`).
        MissingExtraError: Without protobuf.
    """
    message = _net_message()()
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(Path(path).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (DecodeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, or not a .caffemodel: {error}") from error
    if message.layers:
        raise CheckpointError(f"{path}: has V1 layers (`layers`); Caffe's upgrade_net_proto_binary makes it a new one")
    tensors: dict[str, Tensor] = {}
    for layer in message.layer:
        blobs = [_tensor(blob, layer, i, path) for i, blob in enumerate(layer.blobs)]
        for name, tensor in _named(layer, blobs, path).items():
            if name in tensors:
                raise CheckpointError(f"{path}: two layers have a {name!r}")
            tensors[name] = tensor
    if not tensors:
        raise CheckpointError(f"{path}: holds no weights, so it is damaged or not a .caffemodel")
    return tensors


def _tensor(blob: Any, layer: Any, index: int, path: str | Path) -> Tensor:
    shape = tuple(blob.shape.dim)
    if not blob.HasField("shape"):
        # Before Caffe had shapes, everything had four dimensions.
        shape = (blob.num, blob.channels, blob.height, blob.width)
        while len(shape) > 1 and shape[0] == 1 and (layer.type != "Convolution" or index > 0):
            shape = shape[1:]
    dtype, pieces = (torch.float32, blob.data) if blob.data else (torch.float64, blob.double_data)
    data = bytearray(b"".join(pieces))
    if min(shape, default=0) < 0 or len(data) != prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{path}: damaged: blob {index} of the layer {layer.name!r} is not {shape} numbers")
    return (
        torch.frombuffer(data, dtype=dtype).reshape(shape).float()
        if data
        else torch.empty(shape, dtype=torch.float32, device="cpu")
    )


def _named(layer: Any, blobs: list[Tensor], path: str | Path) -> dict[str, Tensor]:
    name, leaves = layer.name, ("weight", "bias")
    if layer.type == "BatchNorm":
        if len(blobs) != 3 or blobs[2].numel() != 1:
            raise CheckpointError(f"{path}: the BatchNorm {name!r} is not a mean, a variance and a factor")
        factor = blobs.pop().item()
        blobs = [b / factor if factor else torch.zeros_like(b) for b in blobs]
        leaves = ("running_mean", "running_var")
    elif layer.type == "Scale":
        name = name.removesuffix("/scale")
    if len(blobs) > len(leaves):
        raise CheckpointError(f"{path}: the layer {name!r} of type {layer.type} has {len(blobs)} blobs")
    return {f"{name}.{leaf}": blob for leaf, blob in zip(leaves, blobs, strict=False)}


def write(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a `.caffemodel`, from which Caffe copies weights layer by layer; the inverse of `read`.

    Raises:
        RunError: If it cannot be written.
        MissingExtraError: Without protobuf.
    """
    message = _net_message()(name="senet")
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, leaf = key.rpartition(".")
        layers.setdefault(name, {})[leaf] = tensor

    def add(name: str, type: str, *blobs: Tensor | None) -> None:
        layer = message.layer.add(name=name, type=type)
        for blob in blobs:
            if blob is not None:
                data = blob.detach().cpu().float().numpy().tobytes()
                layer.blobs.add(data=[data]).shape.dim.extend(blob.shape)

    for name, of in layers.items():
        if "running_mean" in of:
            add(
                name,
                "BatchNorm",
                of["running_mean"],
                of["running_var"],
                torch.ones(1, dtype=torch.float32, device="cpu"),
            )
            add(f"{name}/scale", "Scale", of["weight"], of["bias"])
        else:
            kind = "Convolution" if of["weight"].ndim == 4 else "InnerProduct"
            add(name, kind, of["weight"], of.get("bias"))
    write_atomically(Path(path), lambda file: file.write(message.SerializeToString()))


def matches(shapes: Mapping[str, Shape]) -> bool:
    """Whether the first convolution has its name in the authors' prototxts."""
    return bool({"conv1/7x7_s2.weight", "conv1_1/3x3_s2.weight"} & set(shapes))


LAYERS = {
    "conv1": "1x1_reduce",
    "norm1": "1x1_reduce/bn",
    "conv2": "3x3",
    "norm2": "3x3/bn",
    "conv3": "1x1_increase",
    "norm": "1x1_increase/bn",
    "shortcut.conv": "1x1_proj",
    "shortcut.norm": "1x1_proj/bn",
    "se.fc1": "1x1_down",
    "se.fc2": "1x1_up",
}
"""Our layer of a bottleneck or unit -> what follows the block's name in Caffe: "conv2_1_1x1_reduce"."""


def key(name: str, net: Net) -> str:
    """Our name -> theirs: "features.stage2.block1.conv3.weight" -> "conv2_1_1x1_increase.weight"."""
    module, _, leaf = name.rpartition(".")
    if module == "classifier":
        return name
    if isinstance(net, ResidualNet):
        return f"{_residual_layer(net, module)}.{leaf}"
    if isinstance(net, BNInception):
        return f"{_inception_layer(module)}.{leaf}"
    raise no_names("caffe", net)


def _residual_layer(net: ResidualNet, module: str) -> str:
    _, part, inner = module.split(".", 2)
    if part == "stem":
        kind, number, count = stem_layer(inner, net)
        stride = f"_s{net.stem.stride}" if number == 1 else ""
        layer = f"conv1{f'_{number}' if count > 1 else ''}/{net.stem.kernel}x{net.stem.kernel}{stride}"
        return f"{layer}/bn" if kind == "norm" else layer
    block, _, layer = inner.partition(".")
    if layer not in LAYERS:
        raise no_names("caffe", net)
    return f"conv{part.removeprefix('stage')}_{block.removeprefix('block')}_{LAYERS[layer]}"


def _inception_layer(module: str) -> str:
    """Caffe's name of a layer of BN-Inception: "features.stage3.inception_3a.conv3x3.norm" -> "inception_3a/3x3/bn"."""
    *_, block, layer, kind = module.split(".")
    if layer == "se":
        return f"{block}_{LAYERS[f'se.{kind}']}"
    bn = "/bn" if kind == "norm" else ""
    if block == "stem":
        return ("conv1/7x7_s2" if layer == "conv7x7" else f"conv2/{layer.removeprefix('conv')}") + bn
    return f"{block}/{layer.removeprefix('conv')}{bn}"


def infer(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    """Infer the table: ceil pooling; the stride in the first 1x1, or in a grouped 3x3 (ResNeXt, SENet-154)."""
    if isinstance(net, BNInception):
        return replace(net, se=infer_unit("caffe", key, net, shapes), conv_bias="conv1/7x7_s2.bias" in shapes), ()
    if not isinstance(net, ResidualNet) or any(row.block != "bottleneck" for row in net.stages):
        raise no_names("caffe", net)
    is_grouped = any(row.groups > 1 for row in net.stages)
    return infer_residual("caffe", key, net, shapes, pool="ceil", stride_on="3x3" if is_grouped else "1x1")


def permute(name: str, tensor: Tensor, inverse: bool) -> Tensor:
    """Reorder the first convolution's channels from BGR, the classifier's rows from ILSVRC-2017's; or back."""
    if name.startswith("features.stem.") and tensor.ndim == 4 and tensor.shape[1] == 3:
        return tensor.flip(1)
    if name.startswith("classifier.") and len(tensor) == 1000:
        order = torch.tensor(ilsvrc2017_order(), device=tensor.device)
        return tensor[order.argsort() if inverse else order]
    return tensor


CONVENTION = Convention(
    name="caffe",
    matches=matches,
    key=key,
    infer=infer,
    preprocessing=Preprocessing(mean=(123 / 255, 117 / 255, 104 / 255), std=(1 / 255, 1 / 255, 1 / 255)),
    permute=permute,
)
