"""Caffe files, written here byte by byte, and the released networks, computed here as their prototxts say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet import Network, create_model, get_net, load_weights_
from senet.errors import CheckpointError, MissingExtraError
from senet.models.net import Net, ResidualNet
from senet.weights import caffe, ilsvrc
from senet.weights.convention import shapes_of

# --- The wire format of protobuf, by its specification: a tag is (field number << 3 | wire type).


def varint(n: int) -> bytes:
    low, rest = n & 0x7F, n >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def blob(tensor: Tensor, form: str = "shape") -> bytes:
    if form == "double":
        data = field(8, tensor.double().numpy().astype("<f8").tobytes())
    else:
        # In two pieces, which a reader has to join, and with a gradient (field 6), which it has to skip.
        numbers = tensor.numpy().astype("<f4").tobytes()
        cut = tensor.numel() // 2 * 4
        data = field(5, numbers[:cut]) + field(5, numbers[cut:]) + field(6, b"\0\0\0\0")
    if form == "4d":
        shape = (1,) * (4 - tensor.ndim) + tuple(tensor.shape)
        return b"".join(field(i, n) for i, n in enumerate(shape, start=1)) + data
    return field(7, field(1, b"".join(map(varint, tensor.shape)))) + data


def layer(name: str, kind: str, *tensors: Tensor, form: str = "shape") -> bytes:
    blobs = b"".join(field(7, blob(t, form)) for t in tensors)
    # Bottom, top and phase are of no concern to a reader of weights.
    return field(100, field(1, name) + field(2, kind) + field(3, "data") + field(4, name) + field(10, 1) + blobs)


# --- The released networks.

MODELS = {
    # groups, whether the first 1x1 has the stride, kernel of the projections that have one
    "se_resnet50": (1, True, 1),
    "se_resnext50_32x4d": (32, False, 1),
    "senet154": (64, False, 3),
}


INCEPTION = """
3a  64  64  64   64  96  96  avg  32
3b  64  64  96   64  96  96  avg  64
3c   0 128 160   64  96  96  max   0
4a 224  64  96   96 128 128  avg 128
4b 192  96 128   96 128 128  avg 128
4c 160 128 160  128 160 160  avg 128
4d  96 128 192  160 192 192  avg 128
4e   0 128 192  192 256 256  max   0
5a 352 192 320  160 224 224  avg 128
5b 352 192 320  192 224 224  max 128
"""
"""SE-BN-Inception: 1x1; 3x3 with the 1x1 before it; the two 3x3 with theirs; the pool and the 1x1 behind it."""


def small(name: str) -> Net:
    """A network with half of its widths and two, one, one and one blocks; SE-BN-Inception whole."""
    net = get_net(name)
    if not isinstance(net, ResidualNet):
        return net
    half = [replace(row, mid=row.mid // 2, out=row.out // 2) for row in net.stages]
    stem = replace(net.stem, width=net.stem.width // 2, before=tuple(width // 2 for width in net.stem.before))
    return replace(net, stem=stem, stages=tuple(half)).depths(2, 1, 1, 1)


class Prototxt:
    """A released network with random weights: layers are made as the forward pass comes to them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.groups, self.stride_first, self.projection = MODELS.get(name, (0, False, 0))
        self.random = torch.Generator().manual_seed(1)
        self.layers: dict[str, tuple[str, tuple[Tensor, ...]]] = {}

    def blobs(self, name: str, kind: str, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        if name not in self.layers:
            self.layers[name] = (kind, make())
        return tuple(b.double() for b in self.layers[name][1])

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random)

    def conv(self, x: Tensor, name: str, out: int, k: int = 1, stride: int = 1, groups: int = 1) -> Tensor:
        """Convolution without bias, BatchNorm, Scale; Caffe's BatchNorm keeps sums and their factor."""
        fan_in = x.shape[1] // groups * k * k
        (w,) = self.blobs(name, "Convolution", lambda: (self.normal(out, x.shape[1] // groups, k, k) / fan_in**0.5,))
        mean, var, factor = self.blobs(
            f"{name}/bn",
            "BatchNorm",
            lambda: (self.normal(out), 400 * (1 + self.normal(out) ** 2), torch.tensor([999.98])),
        )
        gamma, beta = self.blobs(f"{name}/bn/scale", "Scale", lambda: (1 + self.normal(out) / 4, self.normal(out) / 4))
        x = F.conv2d(x, w, stride=stride, padding=k // 2, groups=groups)
        mean, var = (v.view(-1, 1, 1) / factor for v in (mean, var))
        return (x - mean) / (var + 1e-5).sqrt() * gamma.view(-1, 1, 1) + beta.view(-1, 1, 1)

    def dense(self, x: Tensor, name: str, out: int, kind: str = "Convolution") -> Tensor:
        shape = (out, x.shape[1], 1, 1)[: 4 if kind == "Convolution" else 2]
        w, b = self.blobs(name, kind, lambda: (self.normal(*shape) / x.shape[1] ** 0.5, self.normal(out)))
        return x @ w.flatten(1).T + b

    def unit(self, u: Tensor, name: str) -> Tensor:
        """Global pooling, two 1x1 convolutions with biases, the product."""
        s = self.dense(u.mean((2, 3)), f"{name}_1x1_down", u.shape[1] // 16).relu()
        return self.dense(s, f"{name}_1x1_up", u.shape[1]).sigmoid()[:, :, None, None] * u

    def block(self, x: Tensor, name: str, first: int, mid: int, out: int, stride: int, project: bool) -> Tensor:
        strides = (stride, 1) if self.stride_first else (1, stride)
        u = self.conv(x, f"{name}_1x1_reduce", first, stride=strides[0]).relu()
        u = self.conv(u, f"{name}_3x3", mid, 3, strides[1], self.groups).relu()
        u = self.conv(u, f"{name}_1x1_increase", out)
        if project:
            x = self.conv(x, f"{name}_1x1_proj", out, self.projection if stride > 1 else 1, stride)
        return (self.unit(u, name) + x).relu()

    def inception(self, x: Tensor, row: str) -> Tensor:
        name, *words = row.split()
        one, r3, c3, r33, a33, b33, proj = (int(w) for w in words if w.isdigit())
        stride, path = (1 if one else 2), f"inception_{name}"
        branches = [self.conv(x, f"{path}/1x1", one).relu()] if one else []
        u = self.conv(x, f"{path}/3x3_reduce", r3).relu()
        branches.append(self.conv(u, f"{path}/3x3", c3, 3, stride).relu())
        u = self.conv(x, f"{path}/double3x3_reduce", r33).relu()
        u = self.conv(u, f"{path}/double3x3a", a33, 3).relu()
        branches.append(self.conv(u, f"{path}/double3x3b", b33, 3, stride).relu())
        if not one:
            branches.append(F.max_pool2d(x, 3, 2, ceil_mode=True))
        else:
            u = F.max_pool2d(x, 3, 1, 1) if "max" in words else F.avg_pool2d(x, 3, 1, 1)
            branches.append(self.conv(u, f"{path}/pool_proj", proj).relu())
        return self.unit(torch.cat(branches, 1), path)

    def __call__(self, x: Tensor) -> Tensor:
        """BGR images, 0 to 255 less the mean, to logits in ILSVRC-2017's order."""
        if self.name == "senet154":
            x = self.conv(x, "conv1_1/3x3_s2", 32, 3, 2).relu()
            x = self.conv(x, "conv1_2/3x3", 32, 3).relu()
            x = self.conv(x, "conv1_3/3x3", 64, 3).relu()
        else:
            x = self.conv(x, "conv1/7x7_s2", 64 if self.name == "se_bn_inception" else 32, 7, 2).relu()
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        if self.name == "se_bn_inception":
            x = self.conv(x, "conv2/3x3_reduce", 64).relu()
            x = F.max_pool2d(self.conv(x, "conv2/3x3", 192, 3).relu(), 3, 2, ceil_mode=True)
            for row in INCEPTION.split("\n")[1:-1]:
                x = self.inception(x, row)
            return self.dense(x.mean((2, 3)), "classifier", 1000, "InnerProduct")
        for stage, width in ((2, 32), (3, 64), (4, 128), (5, 256)):
            mid = width * {1: 1, 32: 2, 64: 4}[self.groups]
            first = mid // 2 if (self.name == "senet154") else mid
            for i in range(2 if stage == 2 else 1):
                stride = 2 if stage > 2 and i == 0 else 1
                x = self.block(x, f"conv{stage}_{i + 1}", first, mid, 4 * width, stride, i == 0)
        return self.dense(x.mean((2, 3)), "classifier", 1000, "InnerProduct")

    def file(self, **form: str) -> bytes:
        """The .caffemodel; a layer without weights stands between."""
        name = field(1, "SE") + layer("pool1/3x3_s2", "Pooling")
        return name + b"".join(layer(n, kind, *blobs, **form) for n, (kind, blobs) in self.layers.items())


@pytest.fixture(scope="module")
def released() -> Callable[[str], tuple[Prototxt, Tensor, Tensor]]:
    """A network by name, the images as RGB bytes, and its logits."""
    made: dict[str, tuple[Prototxt, Tensor, Tensor]] = {}

    def release(name: str) -> tuple[Prototxt, Tensor, Tensor]:
        if name not in made:
            theirs = Prototxt(name)
            images = torch.randint(0, 256, (2, 3, 64, 64), generator=theirs.random)
            bgr = images.flip(1).double() - torch.tensor([104, 117, 123]).view(3, 1, 1)
            made[name] = theirs, images, theirs(bgr)
        return made[name]

    return release


def ours(model: Network, images: Tensor) -> Tensor:
    """Our logits of RGB bytes, as the loaded preprocessing wants them."""
    p = model.preprocessing
    assert p is not None
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (p.mean, p.std))
    with torch.no_grad():
        return model.double().eval()((images.double() / 255 - mean) / std)


@pytest.mark.parametrize("name", [*MODELS, "se_bn_inception"])
def test_logits_of_the_released_networks(name: str, tmp_path: Path) -> None:
    theirs = Prototxt(name)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=theirs.random)
    logits = theirs(images.flip(1).double() - torch.tensor([104, 117, 123]).view(3, 1, 1))
    (tmp_path / "net.caffemodel").write_bytes(theirs.file())
    net = small(name)
    if isinstance(net, ResidualNet):
        # Other pooling and strides, which the names in the file do not show.
        net = replace(net, pool="pad", stride_on="3x3" if theirs.stride_first else "1x1")
    model = create_model(net)
    report = load_weights_(model, tmp_path / "net.caffemodel", quiet=True)
    assert (report.convention, report.missing, report.unused) == ("caffe", (), ())
    assert len(report.permuted) == 3
    order = [ilsvrc.ilsvrc2017_order().index(i) for i in range(1000)]
    # The file holds float32; the arithmetic is in float64.
    assert (ours(model, images)[:, order] - logits).abs().max() < 1e-6 * logits.abs().max()


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("se_resnet152", "stage4.block36.conv3.weight", "conv4_36_1x1_increase.weight"),
        ("se_resnext101_32x4d", "stage4.block23.norm.running_var", "conv4_23_1x1_increase/bn.running_var"),
        ("senet154", "stem.norm.bias", "conv1_3/3x3/bn.bias"),
        ("senet154", "stage3.block1.shortcut.norm.weight", "conv3_1_1x1_proj/bn.weight"),
        ("se_bn_inception", "stage5.inception_5b.pool_proj.conv.weight", "inception_5b/pool_proj.weight"),
    ],
)
def test_names_of_the_prototxts(name: str, ours: str, theirs: str) -> None:
    assert caffe.key(f"features.{ours}", get_net(name)) == theirs


def test_the_numbers_in_a_released_file() -> None:
    # hujie-frank/SENet: SE-ResNet-50 has 107 MiB, 28,141,197 numbers, of which one per batch norm is its factor.
    shapes = {n: s for n, s in shapes_of(get_net("se_resnet50")).items() if not n.endswith("num_batches_tracked")}
    keys = {caffe.key(name, get_net("se_resnet50")): prod(shape) for name, shape in shapes.items()}
    assert len(keys) == len(shapes)
    assert sum(keys.values()) + sum(key.endswith("running_var") for key in keys) == 28_141_197


BN = "BatchNorm"
FILE = [
    ("conv1/7x7_s2", "Convolution", torch.arange(-6.0, 6.0).view(3, 2, 2, 1)),
    ("conv1/7x7_s2/bn", BN, torch.tensor([3.0, 6.0]), torch.tensor([9.0, 0.0]), torch.tensor([3.0])),
    ("conv1/7x7_s2/bn/scale", "Scale", torch.tensor([1.0, 2.0]), torch.tensor([4.0, 5.0])),
    ("never/bn", BN, torch.tensor([3.0]), torch.tensor([9.0]), torch.tensor([0.0])),
    ("classifier", "InnerProduct", torch.arange(6.0).view(3, 2), torch.tensor([7.0, 8.0, 9.0])),
]


@pytest.mark.parametrize("form", ["shape", "4d", "double"])
def test_a_file_layer_by_layer(form: str, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"".join(layer(*of, form=form) for of in FILE))
    found = {name: (tuple(t.shape), t.flatten().tolist()) for name, t in caffe.read(path).items()}
    assert found == {
        "conv1/7x7_s2.weight": ((3, 2, 2, 1), [float(i) for i in range(-6, 6)]),
        "conv1/7x7_s2/bn.running_mean": ((2,), [1.0, 2.0]),
        "conv1/7x7_s2/bn.running_var": ((2,), [3.0, 0.0]),
        "conv1/7x7_s2/bn.weight": ((2,), [1.0, 2.0]),
        "conv1/7x7_s2/bn.bias": ((2,), [4.0, 5.0]),
        "never/bn.running_mean": ((1,), [0.0]),
        "never/bn.running_var": ((1,), [0.0]),
        "classifier.weight": ((3, 2), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        "classifier.bias": ((3,), [7.0, 8.0, 9.0]),
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no weights"),
        (b"PK\x03\x04 not protobuf", "damaged, or not a .caffemodel"),
        (field(1, "old") + field(2, field(4, "conv1")), "V1 layers"),
        (layer(*FILE[0])[:-1], "damaged, or not"),
        (layer(*FILE[0]) * 2, "two layers have a 'conv1/7x7_s2.weight'"),
        (layer("conv", BN, torch.ones(2), torch.ones(2)), "BatchNorm 'conv' is not a mean, a variance and a factor"),
        (layer("prelu", "PReLU", *[torch.ones(2)] * 3), "'prelu' of type PReLU has 3 blobs"),
        (field(100, field(7, field(7, field(1, b"\x02")) + field(5, b"\0" * 4))), r"blob 0 .* is not \(2,\) numbers"),
    ],
)
def test_damaged_files(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        caffe.read(path)


def test_damage_anywhere_is_refused_or_other_numbers(tmp_path: Path) -> None:
    """A cut file gives no tensor that is not whole; a flipped byte no error but ours, and no lost layer in silence."""
    path = tmp_path / "net.caffemodel"
    whole = b"".join(layer(*of) for of in FILE)
    path.write_bytes(whole)
    tensors, refused = caffe.read(path), 0
    for i in range(0, len(whole), 2):
        for data in (whole[:i], whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :]):
            path.write_bytes(data)
            try:
                found = caffe.read(path)
            except CheckpointError:
                refused += 1
                continue
            if len(data) < len(whole):
                assert found.keys() < tensors.keys()
                assert all(torch.equal(found[name], tensors[name]) for name in found)
            assert all(t.numel() for t in found.values())
    assert refused > len(whole) // 2


def test_no_file_and_no_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        caffe.read(tmp_path / "none.caffemodel")
    caffe._net_message.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(MissingExtraError, match=r"senet\[caffe\]"):
        caffe.read(tmp_path / "none.caffemodel")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"".join(layer(*of) for of in FILE if of[0] != "never/bn"))
    tensors = caffe.read(path)
    caffe.write(tmp_path / "again.caffemodel", tensors)
    again = caffe.read(tmp_path / "again.caffemodel")
    assert list(again) == list(tensors)
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
