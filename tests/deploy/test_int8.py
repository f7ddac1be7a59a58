"""8 bits. The network is trained on the digits first: agreement on random logits would say nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from senet import ConfigError, create_model, optimize
from senet.data import open_data
from senet.deploy import engines
from senet.deploy.int8 import Agreement, agreement, gate_nodes, quantize_onnx
from senet.deploy.onnx import export_onnx
from senet.deploy.program import export_program
from senet.errors import MissingExtraError
from senet.recipes.recipe import DataRecipe
from tests.deploy.networks import BOTTLENECKS

Trained = tuple[Path, Tensor]


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, Tensor]:
    """A network after 72 steps on the digits, and the held-out images."""
    data = open_data(DataRecipe(name="digits", image_size=8), seed=0)
    net = replace(BOTTLENECKS, in_channels=1, num_classes=10, image_size=8)
    model, device, order = create_model(net, fused=False).train(), torch.device("cpu"), data.train.order(128)
    # More threads than one only wait for each other on maps this small.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for epoch in range(6):
        order.set_epoch(epoch)
        for key in order:
            x, y = data.train.prepare(data.train[key], device)
            sgd.zero_grad()
            F.cross_entropy(model(x), y).backward()
            sgd.step()
    torch.set_num_threads(threads)
    x, y = data.val.prepare(data.val[(0, list(range(len(data.val))))], device)
    with torch.no_grad():
        assert (model.eval()(x).argmax(1) == y).float().mean() > 0.9
    return model, x


@pytest.fixture(scope="module")
def trained(network: tuple[nn.Module, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The network's file, and the images."""
    model, x = network
    path = tmp_path_factory.mktemp("int8") / "float.onnx"
    export_onnx(model, path, x[:1], verify=False)
    return path, x


@pytest.mark.parametrize("gates", ["dynamic", "static"])
def test_8_bits_agree_with_float(trained: Trained, gates: str, tmp_path: Path) -> None:
    path, x = trained
    out = tmp_path / "int8.onnx"
    quantize_onnx(path, out, x[::2].split(60), gates=gates)  # type: ignore[arg-type]
    near = agreement(path, out, x[1::2].split(100))
    assert near.images == 179
    assert near.top1 > 0.97
    assert 0.999 < near.cosine < 1
    assert out.stat().st_size < 0.75 * path.stat().st_size

    model = onnx.load(out)
    maker = {name: node.op_type for node in model.graph.node for name in node.output}
    before = {op: {maker[n.input[0]] for n in model.graph.node if n.op_type == op} for op in ("Sigmoid", "Mul", "Conv")}
    assert before["Mul"] == before["Conv"] == {"DequantizeLinear"}
    assert before["Sigmoid"] == {"Gemm" if gates == "dynamic" else "DequantizeLinear"}
    told = {p.key: p.value for p in model.metadata_props}
    layers = sum(n.op_type in ("Conv", "Gemm") for n in onnx.load(path).graph.node) - 4 * (gates == "dynamic")
    assert told["senet.int8"] == f"{gates} gates, any zero points, 0 of {layers} layers in float"
    assert told["senet.optimize"] == "any"
    assert all(key.startswith("senet.") for key in told)


@pytest.mark.parametrize("gates", ["dynamic", "static"])
def test_8_bits_are_right_on_every_processor(trained: Trained, gates: str, tmp_path: Path) -> None:
    path, x = trained
    out = tmp_path / "int8.onnx"
    quantize_onnx(path, out, x[::2].split(60), gates=gates)  # type: ignore[arg-type]

    # Without VNNI two products of an unsigned and a signed byte are added in 16 bits: by hand, none can saturate.
    weights = [numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer if t.name.endswith("_quantized")]
    weights = [w for w in weights if w.dtype == np.int8]
    largest = max(int(abs(w.astype(int)).max()) for w in weights)
    assert len(weights) >= 9
    assert largest >= 60
    assert 2 * 255 * largest <= 2**15 - 1

    # ONNX Runtime's own switch computes without that instruction; on a processor with VNNI it changes nothing.
    precise = onnxruntime.SessionOptions()
    precise.add_session_config_entry("session.x64quantprecision", "1")
    logits = [
        onnxruntime.InferenceSession(str(out), options).run(None, {"image": x[:60].numpy()})[0]
        for options in (onnxruntime.SessionOptions(), precise)
    ]
    np.testing.assert_array_equal(*logits)

    # ONNX's reference computes the same file in float, without any kernel for bytes.
    (reference,) = ReferenceEvaluator(str(out)).run(None, {"image": x[:60].numpy()})
    cosine = torch.cosine_similarity(torch.as_tensor(reference), torch.as_tensor(logits[0]))
    assert cosine.mean() > 0.9999


def test_agreement_by_hand(tmp_path: Path) -> None:
    def scaled(name: str, *by: float) -> Path:
        value = helper.make_tensor("by", 1, [2], by)
        io = [helper.make_tensor_value_info(n, 1, ["N", 2]) for n in ("image", "logits")]
        graph = helper.make_graph([helper.make_node("Mul", ["image", "by"], ["logits"])], name, io[:1], io[1:], [value])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / name)
        return tmp_path / name

    one, other = scaled("one.onnx", 1, 1), scaled("other.onnx", 1, -1)
    # (3, 4) beside (3, -4), cosine -7/25, another class; (1, 0) beside itself.
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert agreement(one, other, [x]) == Agreement(pytest.approx((1 - 7 / 25) / 2), 0.5, 2)  # type: ignore[arg-type]
    assert agreement(one, one, [x, x]) == Agreement(pytest.approx(1), 1.0, 4)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="images: none to compare on; expected: at least one batch"):
        agreement(one, other, [])


def test_gates_are_what_poolings_alone_make() -> None:
    def nodes(*triples: tuple[str, str, str]) -> list[onnx.NodeProto]:
        return [helper.make_node(op, i.split(), [o], name=o) for op, i, o in triples]

    unit = nodes(("Conv", "x w", "u"), ("ReduceMean", "u", "z"), ("Gemm", "z w1", "a"), ("Sigmoid", "a", "s"))
    rest = nodes(("Mul", "u s", "y"), ("Sigmoid", "y", "t"), ("Mul", "y t", "silu"), ("ReduceMean", "silu", "head"))
    image = helper.make_tensor_value_info("x", 1, None)
    graph = helper.make_graph([*unit, *rest], "g", [image], [])
    assert sorted(gate_nodes(helper.make_model(graph))) == ["a", "s", "z"]


def test_refused(trained: Trained, tmp_path: Path) -> None:
    path, x = trained
    with pytest.raises(ConfigError, match="images: none to measure ranges on"):
        quantize_onnx(path, tmp_path / "n.onnx", [])
    with pytest.raises(ConfigError, match=r"gates: 'float' is not known; expected: dynamic, static"):
        quantize_onnx(path, tmp_path / "n.onnx", [x], gates="float")  # type: ignore[arg-type]
    for wrong in (x[:, :, :5], x.double(), 3, [x, None]):
        with pytest.raises(ConfigError, match=r"^images: .*; expected: \(N, 1, 8, 8\) float32 on cpu, or batches"):
            quantize_onnx(path, tmp_path / "n.onnx", wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"most_changed: 1.5; expected: a share, 0 to 1"):
        quantize_onnx(path, tmp_path / "n.onnx", x, most_changed=1.5)
    model = onnx.load(path)
    next(p for p in model.metadata_props if p.key == "senet.optimize").value = "machine"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="is in the form 'machine'; expected: a file with optimize='any'"):
        quantize_onnx(tmp_path / "m.onnx", tmp_path / "n.onnx", [x])
    assert not (tmp_path / "n.onnx").exists()


def test_zero_points_of_zero(trained: Trained, tmp_path: Path) -> None:
    """The form that TensorRT asks for: every zero point is 0, and the classes stay."""
    path, x = trained
    out = tmp_path / "int8.onnx"
    quantize_onnx(path, out, x[::2].split(60), zero_points="zero")
    near = agreement(path, out, x[1::2].split(100))
    assert near.top1 > 0.97
    model = onnx.load(out)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    points = [values[n.input[2]] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    eight = [point for point in points if point.dtype != np.int32]
    assert len(eight) > 10
    assert all(point.dtype == np.int8 and not point.any() for point in eight)


def test_layers_that_cost_accuracy_stay_in_float(trained: Trained, tmp_path: Path) -> None:
    """One channel between two convolutions is a thousand times as large, and the function the same."""
    path, x = trained
    model, uneven, out = onnx.load(path), tmp_path / "uneven.onnx", tmp_path / "int8.onnx"
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    first, second = next(
        (conv, readers[relu.output[0]][0])
        for conv in model.graph.node
        if conv.op_type == "Conv" and [r.op_type for r in readers[conv.output[0]]] == ["Relu"]
        for relu in readers[conv.output[0]]
        if [r.op_type for r in readers[relu.output[0]]] == ["Conv"]
    )
    for name, at, factor in (
        (first.input[1], 0, 1e3),
        (first.input[2], 0, 1e3),
        (second.input[1], (slice(None), 0), 1e-3),
    ):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[at] *= factor
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, uneven)
    images, others = x[::2].split(60), x[1::2].split(100)
    assert agreement(path, uneven, others).top1 == 1
    rough = quantize_onnx(uneven, out, images, most_changed=1)
    assert rough.kept == ()
    assert rough.changed > 0.05
    kept = quantize_onnx(uneven, out, images)
    assert 1 <= len(kept.kept) < kept.layers / 2
    assert {n.input[1].removesuffix("_weight_folded") for n in (first, second)} & {*kept.kept}
    assert kept.changed <= 0.01
    assert agreement(uneven, out, others).top1 > 0.96
    told = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert told["senet.int8"].endswith(f"{len(kept.kept)} of {kept.layers} layers in float")


def test_labels_count_what_is_wrong(trained: Trained) -> None:
    path, x = trained
    targets = torch.zeros(len(x), dtype=torch.int64)
    near = agreement(path, path, x.split(100), targets)
    (logits,) = onnxruntime.InferenceSession(path).run(None, {"image": x.numpy()})
    wrong = int((logits.argmax(1) != 0).sum())
    assert (near.wrong, near.top1) == ((wrong, wrong), 1)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_optimized_in_8_bits(network: tuple[nn.Module, Tensor], engine: Any) -> None:
    model, x = network
    with torch.no_grad():
        want = model(x)
    fast = optimize(model, x[:1], engine=engine, int8=x[::2])
    assert fast.engine.name == f"{engine} int8"
    done = fast.rewrites.int8
    assert done is not None
    assert done.layers == 9
    assert done.kept == ()
    assert done.changed == pytest.approx(float((fast(x[::2]).argmax(1) != want[::2].argmax(1)).double().mean()))
    assert done.changed <= 0.01
    assert f"  9 layers in 8 bits, 0 in float for accuracy; {100 * done.changed:.1f} % of" in str(fast.rewrites)
    for n in (1, 3, 100):
        have, few = fast(x[1:][:n]), want[1:][:n]
        assert 1e-3 < (have - few).norm() / few.norm() < 0.1


@pytest.mark.slow
def test_saved_and_loaded_in_8_bits(network: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    model, x = network
    fast = optimize(model, x[:1], engine="onnxruntime", int8=x[::2])
    export_program(model, tmp_path / "net.pt2", x[:1])
    again = optimize(tmp_path / "net.pt2", x[:1], engine="onnxruntime", int8=x[::2].split(32))
    assert again.rewrites.int8 == fast.rewrites.int8
    assert torch.equal(again(x[:3]), fast(x[:3]))


class Uneven(nn.Module):
    """A sum of feature maps whose channel 0 is so negative that 8 bits leave nothing of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.conv.weight.data[:, 0] = torch.tensor([1.0, 0, 0]).view(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + x).mean((2, 3))


def test_sums_between_layers_in_float_are_in_float() -> None:
    torch.manual_seed(0)
    model = Uneven().eval()
    x = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0] = -1e4
    rough = optimize(model, x[:1], engine="onnxruntime", int8=x, most_changed=1)
    fine = optimize(model, x[:1], engine="onnxruntime", int8=x, most_changed=0)
    assert rough.rewrites.int8 is not None
    assert fine.rewrites.int8 is not None
    assert rough.rewrites.int8.changed > 0.2
    assert (fine.rewrites.int8.kept, fine.rewrites.int8.changed) == (("conv",), 0)
    torch.testing.assert_close(fine(x), model(x).detach())


def test_what_8_bits_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    one = x[:1]
    for match, given in (
        (r"engine: 'torch' with int8; expected: 'onnxruntime', 'openvino', 'auto' or None", {"engine": "torch"}),
        (r"compile: True with int8; expected: one of the two", {"compile": True}),
        (r"int8: \(32, 2, 8, 8\) float32; expected: \(N, 1, H, W\) float32 on cpu", {"int8": x.repeat(1, 2, 1, 1)}),
        (r"int8: none to measure ranges on", {"int8": []}),
        (r"most_changed: 0.5 has no effect without int8", {"int8": None, "most_changed": 0.5}),
    ):
        with pytest.raises(ConfigError, match=match):
            optimize(model, one, **({"int8": x} | given))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"int8: with torch.float64 on cpu; expected: torch.float32 on cpu$"):
        optimize(nn.Conv2d(1, 2, 1).double(), one.double(), int8=x)
    with pytest.raises(ConfigError, match=r"its outputs are \(N, 2, H, W\); expected: logits \(N, classes\)"):
        optimize(nn.Conv2d(1, 2, 1), one, int8=x)
    monkeypatch.setattr(engines, "is_missing", lambda engine: engine == "onnxruntime")
    with pytest.raises(MissingExtraError, match=r"pip install 'senet\[export\]'"):
        optimize(model, one, engine="openvino", int8=x)


@pytest.mark.slow
def test_auto_times_8_bits_beside_float(
    network: tuple[nn.Module, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model, x = network
    fast = optimize(model, x[:1], engine="auto", int8=x[::2])
    names = {"torch", "torch compiled", "onnxruntime", "openvino", "onnxruntime int8", "openvino int8"}
    assert {*fast.engine.milliseconds, *fast.engine.skipped} == names
    assert (fast.rewrites.int8 is not None) == fast.engine.name.endswith(" int8")
    either = optimize(model, x[:1], int8=x[::2])
    assert {*either.engine.milliseconds} == {"onnxruntime int8", "openvino int8"}
