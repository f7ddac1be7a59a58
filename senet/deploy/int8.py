"""Quantize an ONNX file to 8 bits with ONNX Runtime; the gates stay in float or are quantized too.

Weights are signed and use 7 of their 8 bits. Without VNNI, an x86 processor adds two products of an unsigned activation
and a signed weight in 16 bits: 2 x 255 x 127 does not fit and saturates silently, 2 x 255 x 64 does. So the file gives
the same numbers on every processor. Unsigned weights would do so too, and are 1.4 times as slow.

Layers that cost accuracy stay in float, until few enough images change their class: those first that lose most by
rounding what they read or write, on a few images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
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

GATES = ("dynamic", "static")
ZERO_POINTS = ("any", "zero")

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
    """A file in 8 bits.

    Attributes:
        layers: number of convolutions and linear layers, those of gates in float not counted.
        kept: names of those that stay in float for accuracy.
        changed: share of the calibration images that change their class, 0 to 1.
    """

    layers: int
    kept: tuple[str, ...]
    changed: float


def quantize_onnx(
    path: str | Path,
    out: str | Path,
    images: Iterable[Tensor],
    *,
    gates: Literal["dynamic", "static"] = "dynamic",
    zero_points: Literal["any", "zero"] = "any",
    most_changed: float = 0.01,
) -> Quantized:
    """Quantize an ONNX file to 8 bits: weights per output channel, activations by their ranges on sample images.

    Args:
        path: a file that `export_onnx` wrote with `optimize="any"` or None.
        out: the file to write.
        images: batches `(N, C, H, W)`, float32, prepared like the images to come; about a hundred images suffice.
        gates: "dynamic" leaves squeeze, excitation and gate function in float, so that each image has its own range;
            "static" quantizes them by measured ranges like the rest. The scaling of the feature map is quantized in
            both.
        zero_points: "any" uses all 256 values of a feature map that is never negative. "zero" has signed values around
            0, which TensorRT and others ask for; ONNX Runtime is slower with them.
        most_changed: share of the images that may change their class, 0 to 1. Layers stay in float until it holds; 1
            quantizes all.

    Raises:
        ConfigError: no images, a file of another form, or most_changed outside of 0 to 1.
        RunError: the file cannot be written.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    for needed in ("onnx", "onnxruntime"):
        if find_spec(needed) is None:
            raise MissingExtraError("ONNX files", "export")
    for field, value, known in (("gates", gates, GATES), ("zero_points", zero_points, ZERO_POINTS)):
        if value not in known:
            raise unknown(field, value, known)
    if not 0 <= most_changed <= 1:
        raise ConfigError(f"most_changed: {most_changed}; expected: a share, 0 to 1")
    import onnx

    model = onnx.load(str(path))
    form = next((p.value for p in model.metadata_props if p.key == "senet.optimize"), None)
    if form == "machine":
        raise ConfigError(f"path: {str(path)!r} is in the form 'machine'; expected: a file with optimize='any'")
    batches = list(images)
    if not batches:
        raise ConfigError("images: none to measure ranges on; expected: at least one batch")
    excluded = gate_nodes(model) if gates == "dynamic" else []
    layers = [n.name for n in model.graph.node if n.op_type in LAYERS and n.name not in excluded]
    kept: list[str] = []
    with TemporaryDirectory() as folder:
        new = Path(folder) / "int8.onnx"
        while True:
            _quantize(str(path), new, batches, [*excluded, *kept], zero_points)
            changed = 1 - agreement(path, new, batches).top1
            if changed <= most_changed or len(kept) == len(layers):
                break
            # Each time as many again: there may be a hundred layers.
            worst = [name for name in _by_error(model, onnx.load(new), batches[0][:16]) if name in {*layers} - {*kept}]
            kept += worst[: max(1, len(kept))] or [name for name in layers if name not in kept]
        result = onnx.load(new)
    own = [p for p in result.metadata_props if p.key.startswith("senet.")]
    del result.metadata_props[:]
    result.metadata_props.extend(own)
    about = f"{gates} gates, {zero_points} zero points, {len(kept)} of {len(layers)} layers in float"
    result.metadata_props.add(key="senet.int8", value=about)
    data = result.SerializeToString()
    write_atomically(Path(out), lambda file: file.write(data))
    return Quantized(len(layers), tuple(kept), changed)


def _quantize(path: str, out: Path, batches: list[Tensor], excluded: list[str], zero_points: str) -> None:
    import onnx
    from onnxruntime import quantization

    model = onnx.load(path)
    name = model.graph.input[0].name
    # `export_onnx` has folded everything and inferred every shape, so ONNX Runtime need not warn about preprocessing.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    is_zero = zero_points == "zero"
    with warnings.catch_warnings():
        # onnxruntime warns of what onnx deprecates.
        warnings.simplefilter("ignore")
        quantization.quantize_static(
            model,
            out,
            _reader(iter([{name: batch.numpy()} for batch in batches])),
            activation_type=quantization.QuantType.QInt8 if is_zero else quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # 7 bits for weights: see above.
            reduce_range=True,
            per_channel=True,
            nodes_to_exclude=excluded,
            extra_options={"ActivationSymmetric": is_zero},
        )


def _by_error(model: Any, quantized: Any, images: Tensor) -> list[str]:
    """Names of layers, those first that lose most by rounding what they read or write to 8 bits."""
    import onnx
    from onnx import numpy_helper

    before = {n.name: n for n in model.graph.node if n.op_type in LAYERS}
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in quantized.graph.initializer}
    rounding = {
        n.input[0]: [values[of] for of in n.input[1:3]] for n in quantized.graph.node if _is_rounding(n, values)
    }
    made = {name for n in model.graph.node for name in n.output}
    # A ReLU behind a layer may be part of it now, and its output the layer's.
    touched = {n.name: [before[n.name].input[0], n.output[0]] for n in quantized.graph.node if n.name in before}
    wanted = sorted({t for both in touched.values() for t in both if t in rounding and t in made})
    whole = onnx.ModelProto.FromString(model.SerializeToString())
    there = {o.name for o in whole.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in there)
    found = session(whole.SerializeToString())(wanted, {model.graph.input[0].name: images.numpy()})
    lost = {}
    for name, value in zip(wanted, found, strict=True):
        exact, (scale, zero) = torch.as_tensor(value).double(), rounding[name]
        limits = torch.iinfo(zero.dtype)
        steps = (exact / scale + zero.double()).round().clamp(limits.min, limits.max)
        lost[name] = _distance((steps - zero.double()) * scale, exact)
    return sorted(touched, key=lambda name: max(lost.get(t, 0.0) for t in touched[name]), reverse=True)


def _is_rounding(node: Any, values: Mapping[str, Tensor]) -> bool:
    """Whether a node rounds a feature map by one scale."""
    return node.op_type == "QuantizeLinear" and len(node.input) == 3 and values[node.input[1]].numel() == 1


def _distance(have: Tensor, want: Tensor) -> float:
    """Relative L2 distance, the mean of all channels: large channels would hide the others."""
    off, size = ((t.transpose(0, 1).flatten(1).norm(dim=1)) for t in (have - want, want))
    return float((off / size.clamp_min(1e-30)).clamp_max(1).mean())


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
    path: str | Path, other: str | Path, images: Iterable[Tensor], targets: Tensor | None = None
) -> Agreement:
    """Compare the logits of two ONNX files.

    Args:
        path: one file.
        other: the other.
        images: batches `(N, C, H, W)`, float32.
        targets: labels of all images, int64.

    Raises:
        ConfigError: no images.
        MissingExtraError: onnxruntime is not installed.
    """
    run, run_other = session(Path(path)), session(Path(other))
    cosines, classes = [], []
    for batch in images:
        x = {"image": batch.numpy()}
        (a,), (b,) = (tuple(map(torch.as_tensor, r(None, x))) for r in (run, run_other))
        cosines.append(torch.cosine_similarity(a.double(), b.double()))
        classes.append(torch.stack((a.argmax(1), b.argmax(1))))
    if not cosines:
        raise ConfigError("images: none to compare on; expected: at least one batch")
    first, second = torch.cat(classes, 1)
    wrong = None if targets is None else (int((first != targets).sum()), int((second != targets).sum()))
    return Agreement(float(torch.cat(cosines).mean()), float((first == second).double().mean()), len(first), wrong)
