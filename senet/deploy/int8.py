"""Quantize an ONNX file to 8 bits with ONNX Runtime; the gates stay in float or are quantized too.

Weights are signed and use 7 of their 8 bits. Without VNNI, an x86 processor adds two products of an unsigned activation
and a signed weight in 16 bits: 2 x 255 x 127 does not fit and saturates silently, 2 x 255 x 64 does. So the file gives
the same numbers on every processor. Unsigned weights would do so too, and are 1.4 times as slow.

Layers that cost accuracy stay in float, as few as it takes until few enough images change their class: those first
which alone in 8 bits change the logits most.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from senet.deploy.onnx_graph import session
from senet.errors import ConfigError, MissingExtraError, unknown
from senet.files import write_atomically
from senet.outputs import describe

GATES = ("dynamic", "static")
ZERO_POINTS = ("any", "zero")
MOST_CHANGED = 0.01

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators that can stay in float, with all that they read and write."""

POOLS = ("ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True)
class Agreement:
    """How well the logits of two files agree over a set of images.

    Attributes:
        cosine: mean cosine similarity of an image's two logit vectors.
        top1: share of the images for which both files give the same top-1 class, 0 to 1.
        images: number of images.
        wrong: how many of them the first file gets wrong, and the second; None without labels.
    """

    cosine: float
    top1: float
    images: int
    wrong: tuple[int, int] | None = None


@dataclass(frozen=True)
class Quantized:
    """A network in 8 bits.

    Attributes:
        layers: number of convolutions and linear layers, those of gates in float not counted.
        kept: those that stay in float for accuracy, by the names of their weights.
        changed: share of the calibration images that change their class, 0 to 1.
    """

    layers: int
    kept: tuple[str, ...]
    changed: float

    def __str__(self) -> str:
        names = f" ({', '.join(self.kept[:3])}{', ...' if len(self.kept) > 3 else ''})" if self.kept else ""
        return (
            f"{self.layers - len(self.kept):4d} layers in 8 bits, {len(self.kept)} in float for accuracy{names}; "
            f"{100 * self.changed:.1f} % of the calibration images change their class"
        )


def quantize_onnx(
    path: str | Path,
    out: str | Path,
    images: Tensor | Iterable[Tensor],
    *,
    gates: Literal["dynamic", "static"] = "dynamic",
    zero_points: Literal["any", "zero"] = "any",
    most_changed: float = MOST_CHANGED,
) -> Quantized:
    """Quantize an ONNX file to 8 bits: weights per output channel, activations by their ranges on sample images.

    Args:
        path: a file that `export_onnx` wrote with `optimize="any"` or None.
        out: the file to write.
        images: (N, C, H, W), float32, or batches of them, prepared like the images to come; about a hundred suffice.
        gates: "dynamic" leaves squeeze, excitation and gate function in float, so that each image has its own range;
            "static" quantizes them by measured ranges like the rest. The scaling of the feature map is quantized in
            both.
        zero_points: "any" uses all 256 values of a feature map that is never negative. "zero" has signed values around
            0, which TensorRT and others ask for; ONNX Runtime is slower with them.
        most_changed: share of the images that may change their class, 0 to 1. Layers stay in float until it holds; 1
            quantizes all.

    Raises:
        ConfigError: images that the file does not take, a file of another form or without classes, or most_changed
            outside of 0 to 1.
        RunError: the file cannot be written.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    check_installed()
    for field, value, known in (("gates", gates, GATES), ("zero_points", zero_points, ZERO_POINTS)):
        if value not in known:
            raise unknown(field, value, known)
    import onnx

    model = onnx.load(str(path))
    form = next((p.value for p in model.metadata_props if p.key == "senet.optimize"), None)
    if form == "machine":
        raise ConfigError(f"path: {str(path)!r} is in the form 'machine'; expected: a file with optimize='any'")
    batches = batches_of(images, model, "images")
    data, done = quantized(model, batches, gates=gates, zero_points=zero_points, most_changed=most_changed)
    write_atomically(Path(out), lambda file: file.write(data))
    return done


def check_installed() -> None:
    """Raise MissingExtraError if something is not installed that quantizes."""
    for needed in ("onnx", "onnxruntime"):
        if find_spec(needed) is None:
            raise MissingExtraError("ONNX files", "export")


def quantized(
    model: Any,
    batches: list[Tensor],
    *,
    gates: str = "dynamic",
    zero_points: str = "any",
    most_changed: float = MOST_CHANGED,
) -> tuple[bytes, Quantized]:
    """Quantize an `onnx.ModelProto`, which is not changed, as `quantize_onnx` does; return the bytes of a file.

    Raises:
        ConfigError: it has no classes, or most_changed is outside of 0 to 1.
    """
    if not 0 <= most_changed <= 1:
        raise ConfigError(f"most_changed: {most_changed}; expected: a share, 0 to 1")
    shapes = [*map(_shape, model.graph.output)]
    if len(shapes) > 1 or len(shapes[0]) != 2 or shapes[0][1] == 1:
        found = " and ".join(map(_words, shapes))
        raise ConfigError(f"model: its outputs are {found}; expected: logits (N, classes) of two classes or more")
    excluded = gate_nodes(model) if gates == "dynamic" else []
    layers = {n.name: n for n in model.graph.node if n.op_type in LAYERS and n.name not in excluded}
    quantizer = _Quantizer(model, batches, excluded, zero_points)
    whole = model.SerializeToString()

    def tried(kept: Sequence[str]) -> tuple[Sequence[str], Any, float]:
        made = quantizer.without(kept if len(kept) < len(layers) else [n.name for n in model.graph.node])
        return kept, made, 1 - agreement(whole, made.SerializeToString(), batches).top1

    best = tried(())
    if best[-1] > most_changed:
        order = _by_effect(quantizer, [*layers], batches[0][:16])
        # Twice as many until it holds, then the fewest between: there may be a hundred layers.
        low, high = 0, 1
        while (best := tried(order[:high]))[-1] > most_changed:
            low, high = high, min(2 * high, len(order))
        while high - low > 1:
            middle = (low + high) // 2
            made = tried(order[:middle])
            low, high, best = (low, middle, made) if made[-1] <= most_changed else (middle, high, best)
    kept, result, changed = best
    own = [p for p in result.metadata_props if p.key.startswith("senet.")]
    del result.metadata_props[:]
    result.metadata_props.extend(own)
    about = f"{gates} gates, {zero_points} zero points, {len(kept)} of {len(layers)} layers in float"
    result.metadata_props.add(key="senet.int8", value=about)
    names = (layers[name].input[1].partition("_weight")[0] for name in kept)
    return result.SerializeToString(), Quantized(len(layers), tuple(names), changed)


def batches_of(images: Tensor | Iterable[Tensor], model: Any, field: str) -> list[Tensor]:
    """Calibration images as batches that an `onnx.ModelProto` takes.

    Raises:
        ConfigError: they are none, or others; it calls them `field`.
    """
    shape = _shape(model.graph.input[0])
    expected = f"{_words(shape)} float32 on cpu, or batches of them"
    if isinstance(images, Tensor) and images.dim() == len(shape):
        images = images.split(shape[0] or 32)
    if not isinstance(images, Iterable):
        raise ConfigError(f"{field}: {describe(images)}; expected: {expected}")
    batches = list(images)
    for x in batches:
        fits = isinstance(x, Tensor) and x.dtype == torch.float32 and x.device.type == "cpu" and x.dim() == len(shape)
        if not fits or any(wanted not in (0, size) for size, wanted in zip(x.shape, shape, strict=True)):
            raise ConfigError(f"{field}: {describe(x)}; expected: {expected}")
    if not sum(map(len, batches)):
        raise ConfigError(f"{field}: none to measure ranges on; expected: at least one batch")
    return batches


def _shape(value: Any) -> list[int]:
    """The shape of an input or output of a file; 0 where any number fits."""
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def _words(shape: list[int]) -> str:
    """A shape in words, such as (N, 3, H, W)."""
    names = ["N", "C", *"DHW"[5 - len(shape) :]]
    return f"({', '.join(str(size or name) for size, name in zip(shape, names, strict=False))})"


class _Quantizer:
    """Quantizes a model; the ranges of its feature maps are measured once.

    Attributes:
        model: an `onnx.ModelProto`, which is not changed.
    """

    def __init__(self, model: Any, batches: list[Tensor], excluded: Sequence[str], zero_points: str) -> None:
        from onnxruntime import quantization
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        self.model, self.excluded, self.zero_points = model, excluded, zero_points
        self.operators = sorted({*QDQRegistry, *QLinearOpsRegistry})
        name = model.graph.input[0].name
        with TemporaryDirectory() as folder:
            path = Path(folder) / "float.onnx"
            path.write_bytes(model.SerializeToString())
            measured = str(Path(folder) / "measured.onnx")
            calibrator = quantization.create_calibrator(path, self.operators, augmented_model_path=measured)
            calibrator.collect_data(_reader(iter([{name: batch.numpy()} for batch in batches])))
            self.ranges = calibrator.compute_data()

    def without(self, kept: Sequence[str]) -> Any:
        """The model in 8 bits, but for these nodes and what is between them."""
        import onnx
        from onnxruntime import quantization

        is_zero = self.zero_points == "zero"
        with warnings.catch_warnings():
            # onnxruntime warns of what onnx deprecates.
            warnings.simplefilter("ignore")
            quantizer = quantization.QDQQuantizer(
                onnx.ModelProto.FromString(self.model.SerializeToString()),
                True,  # a scale for each channel of weights
                True,  # 7 bits for weights: see above
                quantization.QuantType.QInt8,
                quantization.QuantType.QInt8 if is_zero else quantization.QuantType.QUInt8,
                self.ranges,
                [],
                [*self.excluded, *kept, *_beside(self.model, kept)],
                self.operators,
                {"ActivationSymmetric": is_zero},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        return quantizer.model.model


def _beside(model: Any, kept: Sequence[str]) -> list[str]:
    """Names of the products, sums and the like which read what these nodes write, or write what they read.

    There is nothing to gain from 8 bits between a layer in float and its sum.
    """
    made = {name: n for n in model.graph.node for name in n.output}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, None] = {}
    nodes = {n.name: n for n in model.graph.node}
    for is_back in (True, False):
        todo = [nodes[name] for name in kept]
        while todo:
            node = todo.pop()
            near = [made[i] for i in node.input if i in made]
            near = near if is_back else [reader for name in node.output for reader in readers.get(name, [])]
            for other in near:
                if other.op_type not in LAYERS and other.name not in found:
                    found[other.name] = None
                    # On through activations and poolings, which have one input.
                    todo += [other] * (sum(i in made for i in other.input) == 1)
    return list(found)


def _by_effect(quantizer: _Quantizer, layers: Sequence[str], images: Tensor) -> list[str]:
    """Names of layers, those first which alone in 8 bits change the logits most."""
    name = quantizer.model.graph.input[0].name

    def logits(model: Any) -> Tensor:
        return torch.as_tensor(session(model.SerializeToString())(None, {name: images.numpy()})[0])

    exact = logits(quantizer.model)
    others = [n.name for n in quantizer.model.graph.node]
    lost = {one: float((logits(quantizer.without([n for n in others if n != one])) - exact).norm()) for one in layers}
    return sorted(layers, key=lost.__getitem__, reverse=True)


def _reader(batches: Iterator[dict[str, Any]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:  # type: ignore[override]
            return next(batches, None)

    return Reader()


def gate_nodes(model: Any) -> list[str]:
    """Names of the nodes that compute gates: those factors of products which depend on pooled values alone."""
    maker = {name: node for node in model.graph.node for name in node.output}
    inputs = {i.name for i in model.graph.input}
    found: dict[str, None] = {}
    for product in (n for n in model.graph.node if n.op_type == "Mul"):
        for factor in product.input:
            nodes, todo, is_gate = {}, [factor], factor in maker
            while todo and is_gate:
                name = todo.pop()
                is_gate = name not in inputs
                node = maker.get(name)
                if node is not None and node.name not in nodes:
                    nodes[node.name] = None
                    todo += [] if node.op_type in POOLS else node.input
            if is_gate:
                found |= nodes
    return list(found)


@torch.no_grad()
def agreement(
    path: bytes | str | Path, other: bytes | str | Path, images: Iterable[Tensor], targets: Tensor | None = None
) -> Agreement:
    """Compare the logits of two ONNX files.

    Args:
        path: one file, or its bytes.
        other: the other.
        images: batches `(N, C, H, W)`, float32.
        targets: labels of all images, int64.

    Raises:
        ConfigError: no images.
        MissingExtraError: onnxruntime is not installed.
    """
    run, run_other = (session(file if isinstance(file, bytes) else Path(file)) for file in (path, other))
    (name,) = (i.name for i in run.__self__.get_inputs())
    cosines, classes = [], []
    for batch in images:
        x = {name: batch.numpy()}
        (a,), (b,) = (tuple(map(torch.as_tensor, r(None, x))) for r in (run, run_other))
        cosines.append(torch.cosine_similarity(a.double(), b.double()))
        classes.append(torch.stack((a.argmax(1), b.argmax(1))))
    if not cosines:
        raise ConfigError("images: none to compare on; expected: at least one batch")
    first, second = torch.cat(classes, 1)
    wrong = None if targets is None else (int((first != targets).sum()), int((second != targets).sum()))
    return Agreement(float(torch.cat(cosines).mean()), float((first == second).double().mean()), len(first), wrong)
