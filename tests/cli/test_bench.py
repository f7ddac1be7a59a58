"""`senet bench` as a user types it, on the smallest network, and the mistakes that users make."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from senet import SEConfig, create_model, describe, get_net
from senet.bench import subjects
from senet.bench.result import Bench
from senet.bench.subjects import OTHERS, Plan, layers, net_of, ratios, sides
from senet.config import from_dict
from senet.foreign_models import CODE, allow_code
from senet.kernels import dispatch
from senet.recipes.registry import get_recipe
from senet.runs.checkpoint import save
from tests.compiler import no_compiler

Call = Callable[..., tuple[int, str, str]]

TINY = ["--batch", "1", "--modes", "eager", "--repeats", "2", "--min-ms", "0"]
TWENTY = ["se_resnet20", *TINY]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def plan(**changes: object) -> Plan:
    fields = {
        **{"what": "inference", "model": "se_resnet50", "batch": 2, "size": 64, "device": torch.device("cpu")},
        **{"precision": "fp32", "modes": ("eager", "compiled"), "against": ("timm", "torchvision"), "function": "same"},
    }
    return Plan(**(fields | changes))  # type: ignore[arg-type]


def test_a_tiny_network_end_to_end(senet: Call) -> None:
    status, out, _ = senet("bench", "inference", *TWENTY, "--size", "32", "--threads", "1", "--out", "b.json")
    assert status == 0, out
    bench = from_dict(Bench, json.loads(Path("b.json").read_text()))
    (case,) = bench.cases
    assert case.labels == {"network": "se_resnet20", "batch": 1, "size": 32}
    names = [f"senet {kind} {t}" for kind in ("plain", "SE") for t in ("eager", "optimized")]
    assert [row.name for row in case.rows] == names
    assert (bench.machine["threads"], bench.settings["against"]) == (1, "none")
    for row in case.rows:
        assert len(row.samples_ms) == 2
        assert f"| {row.name} | {row.median_ms:.3f} | " in out
        assert row.deviation is not None or row.name.endswith("eager")
        assert row.limit_ms > 0
    assert case.ratio("senet SE optimized", "senet plain optimized").value > 0


def test_a_sweep_and_its_picture(senet: Call) -> None:
    swept = ["--sweep", "resolution", "--size", "8,16", "--against", "none", "--plot", "p.png", "--json"]
    status, out, err = senet("bench", "training", *TWENTY, *swept)
    assert status == 0
    assert [case["labels"]["size"] for case in json.loads(out)["cases"]] == [8, 16]
    assert "2 of 2" in err
    with Image.open("p.png") as image:
        assert image.size[0] > 600


@pytest.mark.slow
def test_a_wrong_side_stops_it(senet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    build = subjects.inference

    def broken(plan: Plan, treatment: str, model: nn.Module, images: torch.Tensor) -> Callable[[], torch.Tensor]:
        if treatment == "optimized":
            for name, layer in model.named_modules():
                if name.endswith("stage4.block3.se.fc2"):
                    nn.init.zeros_(layer.weight)
        return build(plan, treatment, model, images)

    monkeypatch.setattr(subjects, "inference", broken)
    status, out, err = senet("bench", "inference", *TWENTY, "--size", "8")
    assert (status, out) == (2, "")
    assert "'senet SE optimized' does not compute what 'senet SE eager' does" in err


def test_a_library_that_is_not_there_is_said(senet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    words = ["se_resnet18", *TINY, "--size", "64", "--against", "timm"]
    status, out, _ = senet("bench", "training", *words)
    assert status == 1
    assert "| timm SE eager | not measured |" in out
    assert "- not measured: timm SE eager: ModuleNotFoundError: import of timm halted" in out
    assert "| senet SE eager | not" not in out


@pytest.mark.filterwarnings("ignore:.*is not compiled:RuntimeWarning")
def test_all_sides_of_a_case() -> None:
    names = [side.name for side in sides(plan())]
    assert len(names) == len(set(names)) == 6 + 6 + 3
    assert names[0] == "senet plain eager"
    assert {"timm SE compiled", "torchvision plain channels-last", "senet SE optimized compiled"} <= set(names)
    assert not any(name.startswith("torchvision SE") for name in names)
    pairs = ratios(plan())
    assert {
        ("senet SE optimized compiled", "senet plain optimized compiled"),
        ("senet SE optimized compiled", "timm SE compiled"),
        ("senet SE optimized", "timm SE eager"),
    } <= set(pairs)
    assert {name for pair in pairs for name in pair} <= set(names)
    if dispatch.block_epilogue(torch.device("cpu"), torch.float32) == "c":
        assert {
            ("senet SE fused", "torchvision plain eager"),
            ("senet SE fused", "senet plain compiled"),
            ("senet SE fused", "senet plain fused"),
            ("senet SE fused", "timm SE eager"),
        } <= set(ratios(plan(what="training")))
    # Without a compiler a fused network on a CPU is slower, and is not timed.
    with no_compiler():
        assert not any("fused" in side.name for side in sides(plan(what="training")))
    assert not any("fused" in side.name for side in sides(plan(what="training", precision="bf16")))
    # Ours are always there to check the others against, and no one else's where only ours are asked for.
    assert [side.name for side in sides(plan(modes=("compiled",), against=()))] == [
        *("senet plain eager", "senet plain optimized compiled", "senet SE eager", "senet SE optimized compiled"),
    ]


def test_the_same_function_has_others_widths_and_the_papers_is_left_alone() -> None:
    net = net_of(plan(model="se_resnet18"), "SE")
    # timm rounds 64 / 16 up to a multiple of 8.
    shapes = create_model(net, device="meta").state_dict()
    assert shapes["features.stage2.block1.se.fc1.weight"].shape == (8, 64)
    assert net_of(plan(function="paper", size=224), "SE") == get_net("se_resnet50")
    assert net_of(plan(), "plain").se is None
    assert isinstance(net_of(plan(), "SE").se, SEConfig)


@pytest.mark.parametrize("name", OTHERS)
def test_others_networks_take_our_weights(name: str) -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    from senet.weights.export import state_as

    for library, build in (("timm", timm.create_model), ("torchvision", torchvision.models.get_model)):
        for kind, theirs in zip(subjects.KINDS, OTHERS[name][library], strict=True):
            if theirs:
                ours = create_model(net_of(plan(model=name), kind), device="meta")
                with torch.device("meta"):
                    build(theirs).load_state_dict(state_as(ours, library), assign=True)


def test_the_least_work_is_counted_by_hand() -> None:
    counted = list(layers(plan(size=224), net_of(plan(), "plain")))
    # The first convolution: 2 images, 3 x 224 x 224 to 64 x 112 x 112, 7 x 7; four bytes, two operations a product.
    first = (4 * (2 * 3 * 224**2 + 2 * 64 * 112**2 + 64 * 3 * 49), 2 * 2 * 64 * 112**2 * 3 * 49)
    assert counted[0] == first
    assert sum(f for _, f in counted) == 2 * 2 * describe(net_of(plan(size=224), "plain")).macs
    steps = list(layers(plan(what="training", precision="bf16", size=224), net_of(plan(), "plain")))
    # Half the bytes; forward and two gradients, of which the first layer has one.
    assert steps[0] == (first[0], 2 * first[1])
    assert steps[1] == (3 * counted[1][0] / 2, 3 * counted[1][1])


@pytest.mark.slow
def test_engines_run_the_same_network(senet: Call) -> None:
    words = ["inference", *TWENTY, "--size", "16", "--against", "onnxruntime,openvino", "--json"]
    status, out, err = senet("bench", *words)
    assert status == 0, err
    (case,) = json.loads(out)["cases"]
    rows = {row["name"]: row for row in case["rows"]}
    for engine in ("onnxruntime", "openvino"):
        for kind in ("SE", "plain"):
            row = rows[f"{engine} {kind} exported"]
            assert row["failure"] is None
            assert row["like"] == f"senet {kind} eager"
            assert row["deviation"][0] < 1e-5
        assert ["senet SE optimized", f"{engine} SE exported"] in [[r["top"], r["bottom"]] for r in case["ratios"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "bench: '' is not known; what can be timed: inference, training"),
        (["inferenze"], "bench: 'inferenze' is not known (did you mean 'inference'?)"),
        (["inference", "resnet50"], "model: 'resnet50' has no attention units"),
        (["inference", "se_resnet20", "se_resnet51"], "model: 'se_resnet51' is not known"),
        (["se_resnet20"], "bench: 'se_resnet20' is not known; what can be timed: inference, training"),
        (["inference", "--batch", "1,0"], "--batch: '0' is not a whole number of 1 to 65,535"),
        (["inference", "--size", "big"], "--size: 'big' is not a whole number"),
        (["inference", "--modes", "eagre"], "--modes: 'eagre' is not known (did you mean 'eager'?)"),
        (["inference", "--modes", ","], "--modes: ',' is an empty list"),
        (
            ["inference", "--against", "pycls"],
            "'pycls' is not known; expected: timm, torchvision, onnxruntime, openvino",
        ),
        (["training", "--against", "openvino"], "--against: 'openvino' runs inference in fp32 only"),
        (["inference", "--against", "openvino", "--precision", "bf16"], "'openvino' runs inference in fp32 only"),
        (["inference", "--against", "timm,none"], "--against: 'timm,none' mixes none and libraries"),
        (["inference", "se_resnet20", "--against", "timm"], "'se_resnet20' is in neither of timm"),
        (
            ["inference", "--sweep", "width"],
            "--sweep: 'width' is not known (did you mean 'depth'?); expected: resolution",
        ),
        (["inference", "--batch", "1", "--plot", "a.png"], "--plot: one thing must vary, as in --sweep resolution"),
        (["inference", "--precision", "int8"], "--precision: 'int8' is not known; expected: fp32, bf16, fp16"),
        (["inference", "--function", "other"], "--function: 'other' is not known; expected: same, paper"),
        (["training", "--precision", "fp16"], "--precision: 'fp16' needs a loss scaler"),
        (["inference", "--repeats", "0"], "--repeats: 0 is too small; expected: 1 or more"),
        (["inference", "--min-ms", "-1"], "--min-ms: -1 is too small"),
        (["inference", "--out", "no/b.json"], "--out: no is not a folder"),
        (["inference", "--reapeats", "3"], "did you mean '--repeats'?"),
    ],
)
def test_mistakes(senet: Call, words: list[str], message: str) -> None:
    status, out, err = senet("bench", *words)
    assert (status, out) == (2, "")
    assert message in err


NETWORK = """from torch import nn


def make(num_classes=4):
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8, num_classes))
"""


@pytest.mark.parametrize(
    ("what", "model", "rows"),
    [
        ("inference", "timm:mobilenetv3_small_050", ("timm network eager", "timm network optimized")),
        ("training", "net.py:make", ("file network eager",)),
        ("training", "run.safetensors", ("file plain eager", "file SE eager")),
    ],
)
def test_networks_of_others(
    senet: Call, what: str, model: str, rows: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CODE, "")
    Path("net.py").write_text(NETWORK)
    words = ["bench", what, model, "--batch", "2", "--size", "32", *TINY[2:]]
    if model == "run.safetensors":
        allow_code("net.py")
        recipe = replace(get_recipe("digits"), name="net.py:make+se", model=get_net("net.py:make+se"))
        save(model, create_model(recipe.model), recipe=recipe, classes=tuple("0123456789"))
        words += ["--code", "net.py"]
    status, out, err = senet(*words, "--json")
    assert status == 0, err
    (case,) = json.loads(out)["cases"]
    assert tuple(row["name"] for row in case["rows"]) == rows
    assert not any(row["failure"] for row in case["rows"])
    if "SE" not in rows[-1]:
        status, _, err = senet(*words, "--plot", "cost.png", "--sweep", "batch")
        assert (status, "name it with +se" in err) == (2, True)
