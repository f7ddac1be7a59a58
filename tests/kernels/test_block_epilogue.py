"""The fused operations against autograd of `functional`, layer by layer, in float64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from senet import ECAConfig, SEConfig, SharedConfig, UnitConfig
from senet import functional as sf
from senet.initialization import draw_
from senet.insert import InsertedUnit, Site
from senet.kernels import dispatch, fuse
from senet.kernels.block_epilogue import operation
from tests.compiler import no_compiler

GATED = ["sigmoid", "tanh", "relu", "hard_sigmoid"]
UNITS: dict[str, UnitConfig | None] = {
    "none": None,
    **{gate: SEConfig(reduction=4, gate=gate) for gate in GATED},  # type: ignore[arg-type]
    "no_bias": SEConfig(reduction=4, bias=False),
    "narrow": SEConfig(reduction=16),
    "max": SEConfig(reduction=4, squeeze="max"),
    "eca": ECAConfig(gate="tanh"),
    "shared": SharedConfig(groups=4),
    "shared_max": SharedConfig(groups=4, squeeze="max", gate="tanh"),
}


def unit_of(config: UnitConfig | None, channels: int = 8, *, inserted: bool = False) -> Any:
    if config is None:
        return None
    unit: Any = config.build(channels)
    if inserted:
        unit = InsertedUnit(unit, Site("site", channels, 0, 0), 0)
    draw_(unit, 1)
    with torch.no_grad():
        for i, p in enumerate(unit.parameters()):
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    return unit.double()


def norm_of(channels: int = 8, kind: type[nn.Module] = nn.BatchNorm2d, **options: Any) -> Any:
    norm: Any = kind(channels, **options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for t in norm.parameters():
            t.copy_(torch.randn(t.shape, generator=generator))
        if norm.running_mean is not None:
            norm.running_mean.copy_(torch.randn(channels, generator=generator))
            norm.running_var.copy_(0.5 + torch.rand(channels, generator=generator))
    return norm.double()


def map_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def results(function: Any, x: Tensor, e: Tensor | None, norm: Any, unit: Any, **options: Any) -> list[Tensor]:
    """Output, gradients of x, e and all parameters, and the norm's buffers after the call."""
    modules = [m for m in (norm, unit) if m is not None]
    before = [b.clone() for m in modules for b in m.buffers()]
    maps = [t.detach().requires_grad_() for t in (x, e) if t is not None]
    params = [p for m in modules for p in m.parameters()]
    if norm is None:
        y = function(maps[0], unit, **options)
    elif e is None:
        y = function(maps[0], norm, **options)
    else:
        y = function(maps[0], norm, unit, maps[1], **options)
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64, device=y.device).reshape(y.shape)
    grads = torch.autograd.grad((y * weights).sum(), maps + params)
    buffers = [b for m in modules for b in m.buffers()]
    after = [b.clone() for b in buffers]
    for b, old in zip(buffers, before, strict=True):
        b.copy_(old)
    return [y, *grads, *after]


def assert_equal(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        gap = (a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-6)
        assert gap < tolerance, (i, gap.item())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The norms and units of the calls of the operation; a test without any has tested the reference by itself."""
    seen: list[str] = []
    epilogue = operation.block_epilogue

    def counted(*args: Any) -> Any:
        seen.append(f"{args[11]} {args[10]}")
        return epilogue(*args)

    monkeypatch.setattr(operation, "block_epilogue", counted)
    yield seen
    assert seen


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", UNITS)
def test_block_epilogue(name: str, mode: str, calls: list[str]) -> None:
    x, e, norm, unit = map_of(3, 8, 5, 3), map_of(3, 8, 5, 3, seed=1), norm_of(), unit_of(UNITS[name])
    norm.train(mode == "train")
    wanted = results(sf.block_epilogue, x, e, norm, unit)
    assert_equal(results(fuse.block_epilogue, x, e, norm, unit), wanted, 1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": None},
        {"momentum": 0.9},
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
        {"eps": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_norms(options: dict[str, Any], mode: str, calls: list[str]) -> None:
    norm, unit = norm_of(**options).train(mode == "train"), unit_of(SEConfig(reduction=4, squeeze="max"))
    x, e = map_of(3, 8, 5, 3), map_of(3, 8, 5, 3, seed=1)
    wanted = results(sf.block_epilogue, x, e, norm, unit)
    assert_equal(results(fuse.block_epilogue, x, e, norm, unit), wanted, 1e-10)
    wanted = results(sf.norm_relu, x, None, norm, None)
    assert_equal(results(fuse.norm_relu, x, None, norm, None), wanted, 1e-10)


@pytest.mark.parametrize("name", [name for name in UNITS if name != "none"])
def test_unit_alone(name: str, calls: list[str]) -> None:
    for inserted in (False, name != "relu"):
        unit = unit_of(UNITS[name], inserted=inserted)
        wanted = results(sf.recalibrate, map_of(3, 8, 5, 3), None, None, unit)
        found = results(fuse.recalibrate, map_of(3, 8, 5, 3), None, None, unit)
        assert_equal(found, wanted, 1e-10)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.BatchNorm1d, (5, 8, 13)),
        (nn.BatchNorm2d, (1, 8, 7, 11)),
        (nn.BatchNorm2d, (4, 8, 1, 1)),
        (nn.BatchNorm2d, (2, 1, 3, 5)),
        (nn.BatchNorm3d, (2, 8, 3, 2, 5)),
    ],
)
def test_shapes_and_layouts(kind: type[nn.Module], shape: tuple[int, ...], calls: list[str]) -> None:
    norm, unit = norm_of(shape[1], kind), unit_of(SEConfig(squeeze="max"), shape[1])
    x, e = map_of(*shape), map_of(*shape, seed=1)
    wanted = results(sf.block_epilogue, x, e, norm, unit)
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape), torch.contiguous_format)
    gappy = x.new_empty(*shape[:-1], 2 * shape[-1])[..., ::2].copy_(x)
    for x_, e_ in ((x, e), (x.to(memory_format=last), e), (x.to(memory_format=last), e.to(memory_format=last))):
        found = results(fuse.block_epilogue, x_, e_, norm, unit)
        assert_equal(found, wanted, 1e-10)
        assert found[0].is_contiguous(memory_format=last if x_ is not x else torch.contiguous_format)
    assert_equal(results(fuse.block_epilogue, gappy, e, norm, unit), wanted, 1e-10)


@pytest.mark.parametrize(("dtype", "ulp"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_types_of_maps(dtype: torch.dtype, ulp: float, calls: list[str]) -> None:
    # Parameters in float32 with feature maps in half precision, as under autocast; and all in one dtype.
    for like in {torch.float32, dtype}:
        norm, unit = norm_of().to(like), unit_of(SEConfig(reduction=4)).to(like)
        x, e = map_of(4, 8, 9, 9).to(dtype), map_of(4, 8, 9, 9, seed=1).to(dtype)
        found = results(fuse.block_epilogue, x, e, norm, unit)
        assert found[0].dtype == found[1].dtype == dtype
        assert found[3].dtype == like
        wanted = results(sf.block_epilogue, x.double(), e.double(), norm.double(), unit.double())
        assert_equal(found, wanted, ulp)


def test_a_mean_far_from_zero_keeps_its_digits(calls: list[str]) -> None:
    norm, x = norm_of().float(), (map_of(4, 8, 16, 16) + 1000).float()
    wanted = results(sf.norm_relu, x.double(), None, norm_of(), None)
    assert_equal(results(fuse.norm_relu, x, None, norm, None), wanted, 1e-3)


def arguments(unit: str = "", norm: str = "batch", *, relu: bool = True, shortcut: bool = True) -> tuple[Any, ...]:
    def leaf(*shape: int, seed: int) -> Tensor:
        return map_of(*shape, seed=seed).requires_grad_()

    x, e = leaf(2, 4, 3, 2, seed=0), leaf(2, 4, 3, 2, seed=1) if shortcut else None
    gamma, beta = (leaf(4, seed=2), leaf(4, seed=3)) if norm else (None, None)
    mean, var = (map_of(4, seed=8), map_of(4, seed=9).square() + 1) if norm == "constant" else (None, None)
    shapes = {"": [], "se": [(2, 4), (2,), (4, 2), (4,)], "eca": [(1, 1, 3)], "shared": [(2,), (2,), (1,)]}
    params: list[Any] = [leaf(*shape, seed=4 + i) for i, shape in enumerate(shapes[unit.partition(" ")[0]])]
    return x, e, gamma, beta, mean, var, *params, *[None] * (4 - len(params)), unit, norm, 1e-5, relu, ""


CASES = [
    arguments(),
    arguments("se sigmoid avg"),
    arguments("se tanh max 0.5", "constant"),
    arguments("eca sigmoid avg", "", relu=False, shortcut=False),
    arguments("shared sigmoid max", relu=False),
    arguments(norm="constant", shortcut=False),
]


# torch.library's own check reads `.grad` of what is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[10] or 'none'}-{case[11] or 'none'}")
def test_operations_are_what_torch_wants_of_one(case: tuple[Any, ...]) -> None:
    torch.library.opcheck(torch.ops.senet.block_epilogue.default, case)
    x, e, gamma, beta, mean, var, *rest = case
    y, mu, v, z0, s, _ = torch.ops.senet.block_epilogue(*case)
    if case[11] != "batch":
        mu, v = mean, var
    kept = y.detach() if e is not None and case[13] else None
    saved = [None if t is None else t.detach() for t in (x, kept, gamma, beta, mu, v)]
    saved += [z0, s] if case[10] else [None, None]
    rest = [t.detach() if isinstance(t, Tensor) else t for t in rest]
    torch.library.opcheck(torch.ops.senet.block_epilogue_backward.default, (torch.ones_like(y), *saved, None, *rest))


# A convolution in float64 takes long on a CPU, and ECA is tested against autograd.
@pytest.mark.parametrize("case", [c for c in CASES if "eca" not in c[10]], ids=lambda c: f"{c[10]}-{c[11]}")
def test_finite_differences(case: tuple[Any, ...]) -> None:
    leaves = [t for t in case if isinstance(t, Tensor) and t.requires_grad]

    def function(*leaves: Tensor) -> Tensor:
        given = iter(leaves)
        return torch.ops.senet.block_epilogue(
            *(next(given) if isinstance(t, Tensor) and t.requires_grad else t for t in case)
        )[0]

    assert torch.autograd.gradcheck(function, leaves)


# In eager mode an autograd function, else the operation.
WAYS = pytest.mark.parametrize(
    "epilogue", [operation.block_epilogue, torch.ops.senet.block_epilogue], ids=["eager", "operation"]
)


@WAYS
def test_second_derivatives_are_refused(epilogue: Any) -> None:
    case = arguments("se sigmoid avg")
    (dx,) = torch.autograd.grad(epilogue(*case)[0].square().sum(), case[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative; use senet.kernels.unfuse_\(model\)"):
        dx.sum().backward()


@WAYS
def test_batches_of_gradients_are_refused(epilogue: Any) -> None:
    case = arguments("se sigmoid avg")
    y = epilogue(*case)[0]
    with pytest.raises(RuntimeError, match=r"do not take a batch of gradients; use senet.kernels.unfuse_\(model\)"):
        torch.autograd.grad(y, case[0], torch.ones(2, *y.shape, dtype=y.dtype), is_grads_batched=True)
    y = epilogue(*case)[0]
    with pytest.raises(RuntimeError, match="do not take a batch of gradients"):
        torch.vmap(lambda g: torch.autograd.grad(y, case[0], g))(torch.ones(2, *y.shape, dtype=y.dtype))


def test_a_step_in_training_leaves_an_earlier_backward_in_evaluation_alone() -> None:
    grads = []
    for function in (sf.norm_relu, fuse.norm_relu):
        norm, x = norm_of().eval(), map_of(3, 8, 5, 3).requires_grad_()
        y = function(x, norm)
        if function is fuse.norm_relu:
            function(x, norm.train())
        grads += torch.autograd.grad(y.square().sum(), x)
    assert torch.allclose(*grads, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_a_norm_that_does_not_count(momentum: float | None, calls: list[str]) -> None:
    x, found = map_of(3, 8, 5, 3), []
    for function in (sf.norm_relu, fuse.norm_relu):
        norm = norm_of(momentum=momentum)
        norm.num_batches_tracked = None
        function(x, norm)
        found += [norm.running_mean, norm.running_var]
    assert_equal(found[2:], found[:2], 1e-12)


@WAYS
def test_a_shortcut_alone_may_want_a_gradient(epilogue: Any) -> None:
    case = arguments()
    x, e, *rest = [t.detach() if isinstance(t, Tensor) else t for t in case]
    y = epilogue(x, e.requires_grad_(), *rest)[0]
    assert torch.equal(torch.autograd.grad(y.sum(), e)[0], (y > 0).double())


@pytest.mark.parametrize("name", ["none", "sigmoid", "max"])
def test_by_triton(name: str, device: torch.device, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from senet.kernels.block_epilogue import triton

    monkeypatch.setattr(dispatch, "passes", lambda x: triton)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    norm, unit = (
        norm_of(13).float().to(device),
        unit_of(UNITS[name] and SEConfig(reduction=4, squeeze="max" if name == "max" else "avg"), 13),
    )
    unit = unit and unit.float().to(device)
    x, e = (map_of(2, 13, 5, 3, seed=i).float().to(device) for i in range(2))
    wanted = results(sf.block_epilogue, x.double(), e.double(), norm.double(), unit and unit.double())
    norm, unit = norm.float(), unit and unit.float()
    # What is allocated is full of NaN, which stays where a kernel does not write.
    torch.use_deterministic_algorithms(True)
    try:
        for last in (torch.contiguous_format, torch.channels_last):
            maps = x.to(memory_format=last), e.to(memory_format=last)
            assert_equal(results(fuse.block_epilogue, *maps, norm, unit), wanted, 1e-4)
    finally:
        torch.use_deterministic_algorithms(False)


class Log(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **kwargs or {})


def test_dispatch_modes_see_the_operations_and_nothing_else() -> None:
    case = arguments("se sigmoid avg")
    with Log() as log:
        y = operation.block_epilogue(*case)[0]
        y.backward(torch.ones_like(y))
    assert [name for name in log.seen if name.startswith("senet")] == [
        "senet.block_epilogue.default",
        "senet.block_epilogue_backward.default",
    ]
    assert not any("mul" in name or "sum" in name for name in log.seen)


def test_feature_maps_without_data_compile_nothing() -> None:
    """Without a compiler, trying to compile would warn, and warnings are errors here."""
    for mode, device in ((FakeTensorMode(), "cpu"), (nullcontext(), "meta")):
        with no_compiler(), mode:
            x = torch.empty(2, 4, 3, 2, device=device, requires_grad=True)
            y = operation.block_epilogue(x, *(None,) * 9, "", "batch", 1e-5, True, "")[0]
            y.sum().backward()
            assert x.grad is not None
            assert x.grad.shape == y.shape == x.shape


TWO = """
import sys, torch, torch.distributed as dist
from torch import nn
import torch.nn.functional as F
from senet import SEConfig, create_model, get_net
from senet.kernels import fuse_
rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=2, init_method="file://" + sys.argv[2])
net = get_net("se_resnet20").depths(1, 1, 1)
x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
whole = create_model(net, num_classes=4, fused=False).double()
F.cross_entropy(whole(x), torch.arange(5) % 4, reduction="sum").backward()
model = nn.parallel.DistributedDataParallel(create_model(net, num_classes=4, fused=True).double())
# Not before, for it refuses such norms on the CPU as they do themselves.
nn.SyncBatchNorm.convert_sync_batchnorm(model.module)
# Two images here, three there.
own = slice(0, 2) if rank == 0 else slice(2, 5)
F.cross_entropy(model(x[own]), torch.arange(5)[own] % 4, reduction="sum").backward()
for (name, p), q in zip(whole.named_parameters(), model.parameters(), strict=True):
    gap = (p.grad / 2 - q.grad).norm() / p.grad.norm().clamp_min(1e-6)
    assert gap < 1e-9, (name, gap)
for (name, p), q in zip(whole.named_buffers(), model.buffers(), strict=True):
    assert torch.allclose(p.double(), q.double(), rtol=1e-9, atol=1e-12), name
print("equal")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed here")
def test_statistics_over_two_processes(tmp_path: Any) -> None:
    # One process with the whole batch is the judge: torch's own SyncBatchNorm refuses the CPU.
    command = [sys.executable, "-c", TWO]
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=100)
        assert out.strip() == b"equal", err.decode()
