"""`optimize` on whole networks: the same function for every batch and size that it accepts; no network changes."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from senet import ConfigError, NoSqueezeConfig, SEConfig, UnitConfig, create_model, insert_
from senet.config import Placement
from senet.deploy.optimize import optimize
from senet.kernels import dispatch
from senet.models.network import FeatureExtractor
from tests.compiler import no_compiler
from tests.deploy.same import Fn, error, noise, same, trained
from tests.models.small import FAMILIES, pixels, small

SE = SEConfig(reduction=4)
HAS_C = dispatch.c_convolutions(torch.device("cpu"), torch.float32)


def conv() -> nn.Module:
    return nn.Conv2d(3, 8, 3, padding=1)


def of_one_block(family: str, unit: UnitConfig = SE) -> Any:
    """A family's smallest network: one block per stage."""
    net: Any = small(FAMILIES[family])
    return replace(net, se=unit)


def one_stage(unit: UnitConfig = SE, stages: int = 1) -> Any:
    net = of_one_block("bottleneck", unit)
    return replace(net, stages=net.stages[:stages])


def test_names_and_counts() -> None:
    """SE-ResNet of two bottlenecks: three norms each, that of its projection, and the stem's."""
    rewrites = same(create_model(one_stage(stages=2)), 3, 32, 32, batches=[1, 2]).rewrites
    assert [len(r) for r in (rewrites.folded, rewrites.early, rewrites.fused, rewrites.skipped)] == [1 + 2 * 4, 2, 2, 0]
    assert (rewrites.folded[0], rewrites.early[0]) == ("features.stem.norm", "features.stage2.block1.se")
    assert rewrites.fused[1].startswith("features.stage3.block1")
    assert str(rewrites) == ("   9 batch norms folded\n   2 squeezes moved before the expansion\n   2 block ends fused")


@pytest.mark.parametrize("family", ["basic", "preact_bottleneck", "vgg", "inception", "mobile", "shuffle"])
def test_every_family(family: str) -> None:
    """All but Inception-ResNet-v2, which has 204 norms at its smallest; its factors are in test_fold.py."""
    net = of_one_block(family)
    fast = same(create_model(net), 3, pixels(net), pixels(net), batches=[3])
    # ShuffleNet reads the size of its feature maps in the shuffle.
    assert fast.any_size == (family != "shuffle")
    assert fast.any_batch


# At "identity" the unit is behind the projection, a 1x1 convolution.
@pytest.mark.parametrize("place", Placement.__args__)
def test_every_place(place: Any) -> None:
    rewrites = same(create_model(one_stage(replace(SE, placement=place))), 3, 24, 24, batches=[3]).rewrites
    assert len(rewrites.early) == (place in ("standard", "identity"))


def test_a_unit_without_squeeze() -> None:
    rewrites = same(create_model(one_stage(NoSqueezeConfig(reduction=4))), 3, 24, 24, batches=[3]).rewrites
    assert (len(rewrites.folded), rewrites.early, rewrites.fused, rewrites.skipped) == (5, [], [], [])


def inserted() -> nn.Module:
    model = torchvision.models.resnet18(num_classes=5)
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 5)  # type: ignore[assignment]
    insert_(model, SE, example=torch.zeros(1, 3, 32, 32))
    for p in (p for name, p in model.named_parameters() if ".unit." in name):
        nn.init.normal_(p, std=0.3)
    return model


def of_timm(block: str, **options: Any) -> nn.Module:
    from timm.models import resnet

    layers = {"layers": (1, 1, 1, 1), "num_classes": 5, "block": getattr(resnet, block)}
    return resnet.ResNet(**layers, **options)


THEIRS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], str]] = {
    "torchvision's ResNet, inserted": (inserted, (0, 4), "layer1.0.bn2.se"),
    "timm's SE-ResNet": (partial(of_timm, "Bottleneck", block_args={"attn_layer": "se"}), (4, 4), "layer1.0.se"),
    "timm's MobileNetV3": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=5), (0, 0), "blocks.0.0.se"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
def test_networks_of_others(name: str) -> None:
    build, (early, fused), place = THEIRS[name]
    fast = same(build(), 3, 64, 64, batches=[2])
    assert (len(fast.rewrites.early), len(fast.rewrites.fused)) == (early, fused)
    places = [*fast.rewrites.early, *(where for where, *_ in fast.rewrites.skipped)]
    assert places[0].startswith(place)
    assert fast.any_size


def test_weights_that_are_made_from_weights() -> None:
    """A parametrized convolution's are constants as well."""
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 1))
    fast = same(nn.Sequential(conv, nn.BatchNorm2d(8), SE.build(8)), 3, 5, 7)
    assert (fast.rewrites.folded, fast.rewrites.early) == (["1"], ["2"])


def test_rounding_in_float32() -> None:
    """No worse than the original's own, which folding reorders, times four; bfloat16 likewise."""
    model = trained(create_model(one_stage(), seed=0))
    x = noise(4, 3, 64, 64)
    with torch.no_grad():
        truth = model(x)
        for dtype in (torch.float32, torch.bfloat16):
            model.to(dtype)
            fast = optimize(model, x[:1].to(dtype))
            own, ours = ((net(x.to(dtype)).double() - truth).norm() for net in (model, fast))
            assert ours < 4 * own
            model.double()


def test_outputs_in_a_nest() -> None:
    maps = FeatureExtractor(one_stage(stages=2), (2, 3))
    assert isinstance(same(maps, 3, 32, 32)(noise(1, 3, 32, 32)), list)
    nest = Fn(lambda m, x: {"a": (x + 1, 3), "b": [m.c(x), None], "x": x}, c=conv())
    same(nest, 3, 5, 7)


# Sizes


def test_other_sizes() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten())
    fast = same(model, 3, 16, 16)
    with torch.no_grad():
        assert error(fast(x := noise(2, 3, 9, 31)), model(x)) < 1e-12


def tf_same(m: Any, x: Tensor) -> Tensor:
    """TensorFlow's padding, which depends on the size."""
    pad = [max((-(-d // 2) - 1) * 2 + 3 - d, 0) for d in x.shape[:1:-1]]
    return F.conv2d(F.pad(x, [pad[0] // 2, -(-pad[0] // 2), pad[1] // 2, -(-pad[1] // 2)]), m.c.weight, stride=2)


def embedded(m: Any, x: Tensor) -> Tensor:
    return m.c(x) + m.c.position


OF_A_SIZE: dict[str, Callable[..., Any]] = {
    "padding": tf_same,
    "padding, pooled": lambda m, x: tf_same(m, x).mean((2, 3)),
    "a mean by hand": lambda m, x: m.c(x).sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "a pool of all": lambda m, x: F.avg_pool2d(m.c(x), x.shape[2:]).flatten(1),
    "interpolation": lambda m, x: F.interpolate(F.max_pool2d(m.c(x), 2), size=x.shape[2:]) + x[:, :1],
    "a crop": lambda m, x: m.c(x)[..., : x.shape[2], 1 : x.shape[3] - 1],
    "a shuffle": lambda m, x: (
        m.c(x).reshape(x.shape[0], 2, 4, *x.shape[2:]).transpose(1, 2).reshape(-1, 8, *x.shape[2:])
    ),
    "a position": embedded,
    "a layer": lambda m, x: m.l(m.c(x).flatten(1)),
    "its number": lambda m, x: (m.c(x).mean((2, 3)), x.shape[2]),
}


@pytest.mark.parametrize("name", OF_A_SIZE)
def test_networks_of_one_size(name: str) -> None:
    layers = {"c": conv(), "l": nn.Linear(8 * 64, 2)}
    layers["c"].register_buffer("position", noise(8, 8, 8))
    fast = same(Fn(OF_A_SIZE[name], **layers), 3, 8, 8)
    assert not fast.any_size
    with pytest.raises(ConfigError, match=r"x: \(1, 3, 9, 8\) torch.float64 on cpu does not fit.*: \(N, 3, 8, 8\)"):
        fast(noise(1, 3, 9, 8))


OF_ANY_SIZE: dict[str, Callable[..., Any]] = {
    "interpolation": lambda m, x: F.interpolate(m.c(x), scale_factor=2),
    "to a size": lambda m, x: F.interpolate(m.c(x), size=(5, 6), mode="bilinear").flatten(1),
    "halved and joined": lambda m, x: m.c(x) + F.interpolate(F.max_pool2d(m.c(x), 4), scale_factor=4),
    "padding": lambda m, x: F.pad(m.c(x), (1, 2)),
}


@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_networks_of_any_size(name: str) -> None:
    model = trained(Fn(OF_ANY_SIZE[name], c=conv()))
    fast = same(model, 3, 8, 8)
    assert fast.any_size
    with torch.no_grad():
        assert error(fast(x := noise(2, 3, 12, 20)), model(x)) < 1e-12


def test_sizes_are_taken_from_the_smallest_that_was_compared() -> None:
    """Half of the example's size is another function, or none; from 64 on they are all one."""
    halves = Fn(lambda m, x: F.avg_pool2d(u, 2) if (u := m.c(x)).shape[-1] >= 48 else u, c=conv())
    valid = nn.Sequential(nn.Conv2d(3, 8, 33), SE.build(8))
    for model in (halves, valid):
        fast = same(model, 3, 64, 64, batches=[1])
        assert (fast.any_size, fast.smallest) == (True, (64, 64))
        fast(noise(1, 3, 64, 70))
        with pytest.raises(ConfigError, match=r"x: \(1, 3, 64, 32\).*: \(N, 3, H >= 64, W >= 64\)"):
            fast(noise(1, 3, 64, 32))
    assert same(conv(), 3, 24, 8, batches=[1]).smallest == (1, 1)


OF_A_BATCH: dict[str, Callable[..., Any]] = {
    "above four": lambda m, x: m.c(x) * 2 if x.shape[0] > 4 else m.c(x),
    "one": lambda m, x: m.c(x) * 2 if x.shape[0] == 1 else m.c(x),
    "a loop": lambda m, x: torch.stack([m.c(image[None]).mean() for image in x]),
}


@pytest.mark.parametrize("name", OF_A_BATCH)
def test_networks_of_one_batch(name: str) -> None:
    model = Fn(OF_A_BATCH[name], c=conv())
    for n in (1, 3):
        x = noise(n, 3, 8, 8)
        fast = optimize(trained(model), x)
        assert not fast.any_batch
        with torch.no_grad():
            assert error(fast(x), model(x)) < 1e-12
        with pytest.raises(ConfigError, match=rf"expected: \({n}, 3, H, W\)"):
            fast(noise(n + 1, 3, 8, 8))


def test_an_example_of_another_batch() -> None:
    model = trained(nn.Sequential(conv(), SE.build(8)))
    fast = optimize(model, noise(4, 3, 8, 8))
    with torch.no_grad():
        for n in (0, 1, 3):
            assert torch.allclose(fast(x := noise(n, 3, 8, 8)), model(x), rtol=0, atol=1e-12)


# What it refuses, and what it leaves alone


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "strides": (
        Fn(lambda m, x: m.c(x).as_strided((1, 8), (512, 64)), c=conv()),
        *(
            torch.zeros(1, 3, 8, 8),
            "model: calls as_strided, which fixes the memory format; expected: a network without",
        ),
    ),
    "counts": (Counting(), noise(1, 3, 4, 4), "model: changes 'seen' in evaluation; expected: one that changes"),
    "writes its input": (Fn(lambda m, x: x.sub_(1)), noise(1, 3, 4, 4), "model: changes its input in evaluation"),
    "branches": (Fn(lambda m, x: x if x.sum() > 0 else -x), noise(1, 3, 4, 4), "model: torch.export cannot capture"),
    "other channels": (conv(), torch.zeros(1, 4, 8, 8), "model: torch.export cannot capture this network .*channels"),
    "other type": (nn.Conv2d(3, 3, 1), noise(1, 3, 8, 8), "model: torch.export cannot capture this network"),
    "integers": (
        conv(),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        r"example: \(1, 3, 8, 8\) uint8; expected: images",
    ),
    "a size": (conv(), (1, 3, 8, 8), r"example: \(1, 3, 8, 8\); expected: images \(N, C, H, W\)"),
    "features": (nn.Linear(3, 3), torch.zeros(1, 3), r"example: \(1, 3\) float32; expected: images"),
    "meta": (nn.Conv2d(3, 8, 3, device="meta"), torch.zeros(1, 3, 8, 8, device="meta"), "example: on the meta device"),
    "two devices": (
        nn.Conv2d(3, 3, 1, device="meta"),
        torch.zeros(1, 3, 8, 8),
        "example: on cpu; expected: meta",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    model, example, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        optimize(model, example)
    assert model.training


def test_the_network_is_left_alone() -> None:
    model = create_model(of_one_block("cifar")).train()
    model.features[0].eval()  # type: ignore[union-attr]
    next(model.parameters()).requires_grad_(False)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    before = {
        "state": copy.deepcopy(model.state_dict()),
        "flags": [m.training for m in model.modules()],
        "grads": [p.requires_grad for p in model.parameters()],
    }
    x = noise(2, 3, 16, 16, dtype=torch.float32)
    fast = optimize(model, x)
    assert error(dict(model.state_dict()), dict(before["state"])) == 0
    assert [m.training for m in model.modules()] == before["flags"]
    assert [p.requires_grad for p in model.parameters()] == before["grads"]
    y, count = fast(x), len(calls)
    with torch.no_grad():
        for t in [*model.parameters(), *model.buffers()]:
            t.zero_()
        model.eval()(x)
    assert len(calls) == count + 1
    assert torch.equal(fast(x), y)


def test_torch_exports_it() -> None:
    fast = optimize(nn.Sequential(conv(), nn.BatchNorm2d(8)), torch.zeros(1, 3, 8, 8))
    x = noise(3, 3, 8, 8).float()
    program = torch.export.export(fast, (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert error(program.module()(x), fast(x)) < 1e-6
    # What is laid out for this machine is not in it.
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)


def test_it_is_for_inference_alone() -> None:
    fast = optimize(nn.Sequential(conv(), nn.BatchNorm2d(8)), torch.zeros(1, 3, 8, 8))
    assert not fast.training
    assert fast.eval() is fast
    assert not fast(torch.zeros(2, 3, 8, 8, requires_grad=True)).requires_grad
    with pytest.raises(ConfigError, match="mode: an optimized network does not train"):
        fast.train()
    for change in (fast.half, fast.double, lambda: fast.to("cpu")):
        with pytest.raises(ConfigError, match="does not move or change its dtype"):
            change()
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(ConfigError, match="specific to this machine and cannot be copied or pickled"):
            copied(fast)
    with pytest.raises(ConfigError, match=r"x: .* torch.float64 on cpu does not fit .*\(N, 3, H, W\) torch.float32"):
        fast(noise(1, 3, 8, 8))
    assert "1 batch norm folded" in repr(fast)


@pytest.mark.parametrize("when", ["made", "run"])
def test_autocast_changes_nothing(when: str) -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(8), SE.build(8)).eval()
    x = noise(1, 3, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        want = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=when == "made"):
        fast = optimize(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=when == "run"):
        assert error(fast(x), want) < 1e-6


def test_cudnn_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons are by one algorithm, whatever the caller has chosen."""
    cudnn, seen = torch.backends.cudnn, []
    monkeypatch.setattr(cudnn, "benchmark", True)

    def look(m: Any, x: Tensor) -> Tensor:
        seen.append((cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision))
        return m.c(x)

    model, chosen = Fn(look, c=conv()), (cudnn.deterministic, True, cudnn.conv.fp32_precision)
    optimize(model, torch.zeros(1, 3, 8, 8))
    assert set(seen) == {chosen, (True, False, "ieee")}
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision) == chosen


# Compiled


def test_gpu_kernels_need_a_gpu() -> None:
    with pytest.raises(ConfigError, match="gpu_kernels: True has no effect on cpu; expected: False"):
        optimize(conv(), torch.zeros(1, 3, 8, 8), gpu_kernels=True)


@pytest.mark.gpu
@pytest.mark.parametrize("gpu_kernels", [False, True])
@pytest.mark.parametrize("compile", [False, True])
def test_outputs_of_a_gpu_stay(compile: bool, gpu_kernels: bool) -> None:
    model = trained(create_model(one_stage())).float().cuda()
    x = noise(2, 3, 64, 64, dtype=torch.float32).cuda()
    fast = optimize(model, x, compile=compile, gpu_kernels=gpu_kernels)
    first = fast(x)
    before = first.clone()
    fast(x + 1)
    assert torch.equal(first, before)
    with torch.no_grad():
        assert error(first, model(x)) < 1e-2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch 2.11's own
@pytest.mark.skipif(not HAS_C, reason="no C compiler")
def test_compiled() -> None:
    model = trained(create_model(one_stage())).float()
    x = noise(2, 3, 32, 32, dtype=torch.float32)
    with torch.no_grad():
        want = model(x)
    fast = optimize(model, x, compile=True)
    assert len(fast.rewrites.fused) == len(fast.rewrites.early)
    assert error(fast(x), want) < 1e-5
    assert error(fast(x[:1]), want[:1]) < 1e-5


def test_compiled_without_a_c_compiler() -> None:
    """A compiler fuses the block ends itself. A warning says once what is missing."""
    model, x = trained(create_model(one_stage())).float(), noise(2, 3, 32, 32, dtype=torch.float32)
    with no_compiler(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rewrites = [optimize(model, x, compile=True).rewrites for _ in range(2)]
    assert [str(w.message) for w in caught if w.category is RuntimeWarning] == [
        "gates.c is not compiled (no C compiler: found none of $CC, cc, gcc, clang); slower kernels run instead"
    ]
    assert not any(r.fused for r in rewrites)
