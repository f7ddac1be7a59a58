"""Quantize an ONNX file to 8 bits with ONNX Runtime; the gates stay in float or are quantized too.

Weights are signed and use 7 of their 8 bits. Without VNNI, an x86 processor adds two products of an unsigned activation
and a signed weight in 16 bits: 2 x 255 x 127 does not fit and saturates silently, 2 x 255 x 64 does. So the file gives
the same numbers on every processor. Unsigned weights would do so too, and are 1.4 times as slow.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
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

POOLS = ("ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True)
class Agreement:
    """How well the logits of two files agree over a set of images.

    Attributes:
        cosine: mean cosine similarity of an image's two logit vectors.
        top1: share of the images for which both files give the same top-1 class, 0 to 1.
        images: number of images.
    """

    cosine: float
    top1: float
    images: int


def quantize_onnx(
    path: str | Path,
    out: str | Path,
    images: Iterable[Tensor],
    *,
    gates: Literal["dynamic", "static"] = "dynamic",
) -> None:
    """Quantize an ONNX file to 8 bits: weights per output channel, activations by their ranges on sample images.

    Args:
        path: a file that `export_onnx` wrote with `optimize="any"` or None.
        out: the file to write.
        images: batches `(N, C, H, W)`, float32, prepared like the images to come; about a hundred images suffice.
        gates: "dynamic" leaves squeeze, excitation and gate function in float, so that each image has its own range;
            "static" quantizes them by measured ranges like the rest. The scaling of the feature map is quantized in
            both.

    Raises:
        ConfigError: no images, or a file of another form.
        RunError: the file cannot be written.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    for needed in ("onnx", "onnxruntime"):
        if find_spec(needed) is None:
            raise MissingExtraError("ONNX files", "export")
    if gates not in GATES:
        raise unknown("gates", gates, GATES)
    import onnx
    from onnxruntime import quantization

    model = onnx.load(str(path))
    form = next((p.value for p in model.metadata_props if p.key == "senet.optimize"), None)
    if form == "machine":
        raise ConfigError(f"path: {str(path)!r} is in the form 'machine'; expected: a file with optimize='any'")
    name = model.graph.input[0].name
    batches = [{name: batch.numpy()} for batch in images]
    if not batches:
        raise ConfigError("images: none to measure ranges on; expected: at least one batch")
    # `export_onnx` has folded everything and inferred every shape, so ONNX Runtime need not warn about preprocessing.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # onnxruntime warns of what onnx deprecates.
        warnings.simplefilter("ignore")
        new = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            new,
            _reader(iter(batches)),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # 7 bits for weights: see above.
            reduce_range=True,
            per_channel=True,
            nodes_to_exclude=gate_nodes(model) if gates == "dynamic" else [],
        )
        result = onnx.load(new)
    kept = [p for p in result.metadata_props if p.key.startswith("senet.")]
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    result.metadata_props.add(key="senet.int8", value=f"{gates} gates")
    data = result.SerializeToString()
    write_atomically(Path(out), lambda file: file.write(data))


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
def agreement(path: str | Path, other: str | Path, images: Iterable[Tensor]) -> Agreement:
    """Compare the logits of two ONNX files.

    Args:
        path: one file.
        other: the other.
        images: batches `(N, C, H, W)`, float32.

    Raises:
        ConfigError: no images.
        MissingExtraError: onnxruntime is not installed.
    """
    run, run_other = session(Path(path)), session(Path(other))
    cosines, same = [], []
    for batch in images:
        x = {"image": batch.numpy()}
        (a,), (b,) = (tuple(map(torch.as_tensor, r(None, x))) for r in (run, run_other))
        cosines.append(torch.cosine_similarity(a.double(), b.double()))
        same.append(a.argmax(1) == b.argmax(1))
    if not cosines:
        raise ConfigError("images: none to compare on; expected: at least one batch")
    return Agreement(float(torch.cat(cosines).mean()), float(torch.cat(same).double().mean()), len(torch.cat(same)))
