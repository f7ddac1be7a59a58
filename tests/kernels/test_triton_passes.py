"""The Triton passes against `passes.py` in float64: layouts, dtypes, odd shapes, optional arguments, NaN in buffers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from senet.kernels import passes

fast = pytest.importorskip("senet.kernels.triton_passes", reason="triton is not installed")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("nan_buffers")

# Of float32 sums some roundings; of maps in half precision a unit in the last place, for the interpreter rounds down.
SUMS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}
MAPS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


class Case(NamedTuple):
    shape: tuple[int, ...]
    last: bool
    dtype: torch.dtype
    programs: int
    norm: bool = True
    affine: bool = True
    unit: bool = True
    extremum: bool = False
    shortcut: bool = True
    relu: bool = True


SHAPES = [
    (3, 5, 7, 7),
    (2, 3, 1, 1),
    (1, 1, 13, 11),
    (2, 70, 9),
    (2, 3, 5, 3, 4),
    (1, 2049, 3, 1),
    (2, 64, 17, 11),
    (3, 24, 8, 10),
    (1, 17, 31, 37),
]
VARIANTS: list[dict[str, bool]] = [
    {},
    {"unit": False},
    {"norm": False, "shortcut": False},
    {"extremum": True},
    {"shortcut": False},
    {"affine": False, "relu": False},
    {"norm": False, "extremum": True, "relu": False},
]
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32]
# Numbers of programs at which an image is one part, some parts, a part for each tile.
CASES = [
    Case(shape, last, DTYPES[i % 5], (1, 16, 4096)[i % 3], **VARIANTS[i % 7])
    for i, (shape, last) in enumerate((shape, last) for last in (False, True) for shape in SHAPES)
]


def arranged(x: Tensor, last: bool) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x


class Inputs:
    """What the passes of a case are given, drawn from its number: maps g, x, e, and vectors."""

    def __init__(self, case: Case, device: torch.device) -> None:
        rng = torch.Generator().manual_seed(CASES.index(case) if case in CASES else 99)
        wide = torch.float64 if case.dtype == torch.float64 else torch.float32

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng, dtype=torch.float64)

        def each(wanted: bool) -> Tensor | None:
            return drawn(case.shape[1]).to(device, wide) if wanted else None

        def pair(wanted: bool) -> Tensor | None:
            return drawn(*case.shape[:2]).to(device, wide) if wanted else None

        self.g, self.x, self.e = [arranged(drawn(*case.shape).to(device, case.dtype), case.last) for _ in range(3)]
        self.mu, self.a, self.r = each(case.norm), each(case.norm), each(case.norm)
        self.beta, self.gamma = each(case.norm and case.affine), each(case.norm and case.affine)
        self.b0, self.b1, self.sign = each(case.norm), each(case.norm), each(case.extremum)
        self.s, self.dz, self.z0 = pair(case.unit), pair(case.unit), pair(case.unit)
        self.T0, self.T1 = pair(True), pair(True)
        self.norm = self.mu, self.a, self.beta


def doubled(values: Any) -> Any:
    return [v.double() if isinstance(v, Tensor) else v for v in values]


def close(found: Any, wanted: Any, tolerance: float) -> None:
    """Equal to within tolerance times the largest element."""
    assert (found is None) == (wanted is None)
    if wanted is not None:
        assert found.shape == wanted.shape
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


@pytest.fixture(params=CASES, ids=lambda case: f"{case.shape}-{case.last}-{case.dtype}".replace("torch.", ""))
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(fast, "PROGRAMS", request.param.programs)
    return request.param


def test_moments_and_combine(case: Case, device: torch.device) -> None:
    on = Inputs(case, device)
    found, wanted = fast.moments(on.x, on.sign), passes.moments(on.x.double(), on.sign)
    for mine, theirs in zip(found, wanted, strict=True):
        close(mine, theirs, SUMS[case.dtype])
    positions = on.x[0, 0].numel()
    for mine, theirs in zip(
        fast.combine(*found[:2], positions), passes.combine(*doubled(found[:2]), positions), strict=True
    ):
        close(mine, theirs, SUMS[case.dtype])


def test_normalise(case: Case, device: torch.device) -> None:
    on = Inputs(case, device)
    if on.mu is None or on.r is None:
        return
    arguments = on.z0, on.mu, on.r.square(), on.gamma, on.beta
    for mine, theirs in zip(fast.normalise(*arguments, 1e-3), passes.normalise(*doubled(arguments), 1e-3), strict=True):
        close(mine, theirs, SUMS[case.dtype])


def test_apply(case: Case, device: torch.device) -> None:
    on = Inputs(case, device)
    arguments = on.x, on.e if case.shortcut else None, *on.norm, on.s, case.relu
    found = fast.apply(*arguments)
    assert (found.dtype, found.stride()) == (on.x.dtype, on.x.stride())
    close(found, passes.apply(*doubled(arguments)), MAPS[case.dtype])


@pytest.mark.parametrize("keep", [False, True])
def test_reduce(case: Case, keep: bool, device: torch.device) -> None:
    on = Inputs(case, device)
    y = passes.apply(on.x, on.e, *on.norm, on.s, True) if case.shortcut else None
    extremum = on.x.to(passes.wide(on.x)).amax(passes.space(on.x)) if case.extremum else None
    arguments = on.g, on.x, y, *on.norm, on.s, extremum
    found = fast.reduce(*arguments, relu=case.relu, keep=keep)
    t, *wanted = passes.reduce(*doubled(arguments), relu=case.relu, keep=keep)
    assert (found[0] is None) == (t is None)
    if t is not None:
        assert (found[0].dtype, found[0].stride()) == (on.g.dtype, on.g.stride())
        assert torch.equal(found[0].double(), t)
    for mine, theirs in zip(found[1:], wanted, strict=True):
        close(mine, theirs, SUMS[case.dtype])


def test_gate_gradient_and_sums(case: Case, device: torch.device) -> None:
    on = Inputs(case, device)
    arguments = on.T0, on.T1, on.a, on.beta
    close(fast.gate_gradient(*arguments), passes.gate_gradient(*doubled(arguments)), SUMS[case.dtype])
    if on.mu is None:
        return
    arguments = on.T0, on.T1, on.s, on.dz, on.z0, on.mu
    for mine, theirs in zip(fast.sums(*arguments), passes.sums(*doubled(arguments)), strict=True):
        close(mine, theirs, SUMS[case.dtype])


def test_input_gradient(case: Case, device: torch.device) -> None:
    on = Inputs(case, device)
    extremum = on.x.to(passes.wide(on.x)).amax(passes.space(on.x)) if case.extremum else None
    ties = None if extremum is None else torch.full_like(extremum, 2)
    arguments = on.g, on.x, *on.norm, on.r, on.s, on.dz, extremum, ties, on.b0, on.b1, 7 * on.x[:, 0].numel()
    relu = case.relu and not case.shortcut
    found = fast.input_gradient(*arguments, relu=relu)
    assert (found.dtype, found.stride()) == (on.x.dtype, on.x.stride())
    close(found, passes.input_gradient(*doubled(arguments), relu=relu), MAPS[case.dtype])


def test_sums_over_many_images(device: torch.device) -> None:
    """More images than a tile has."""
    T0, T1, s, dz, z0 = (torch.randn(300, 5).to(device) for _ in range(5))
    mu = torch.randn(5).to(device)
    for mine, theirs in zip(
        fast.sums(T0, T1, s, dz, z0, mu), passes.sums(*doubled((T0, T1, s, dz, z0, mu))), strict=True
    ):
        close(mine, theirs, 1e-6)
    for mine, theirs in zip(
        fast.combine(T0, T1.abs(), 3), passes.combine(T0.double(), T1.abs().double(), 3), strict=True
    ):
        close(mine, theirs, 1e-6)


@pytest.mark.parametrize("last", [False, True])
def test_large_values_neither_overflow_nor_cancel(last: bool, device: torch.device) -> None:
    x = arranged(torch.full((2, 3, 9, 31), 6e4, dtype=torch.float16).to(device), last)
    mean, m2, _ = fast.moments(x)
    assert (mean == 6e4).all()
    assert (m2 == 0).all()
    _, T0, T1, _ = fast.reduce(x, x, None, *[None] * 5, relu=False, keep=False)
    assert (T0 == 279 * 6e4).all()
    assert torch.allclose(T1, torch.full_like(T1, 279 * 6e4**2))

    sample = torch.randn(4, 3, 29, 31, dtype=torch.float64)
    x = arranged((1000 + sample).float().to(device), last)
    _, var = fast.combine(*fast.moments(x)[:2], 29 * 31)
    assert torch.allclose(var.double().cpu(), sample.var((0, 2, 3), correction=0), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("programs", [1, 4096])
def test_nan_and_infinity_pass_through(programs: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "PROGRAMS", programs)
    x = torch.randn(2, 5, 40, 41)
    x[0, 1, 0, 0], x[1, 2, -1, -1], x[0, 3, 20, 7], x[1, 3, 0, 0] = [float(v) for v in ("nan", "nan", "inf", "-inf")]
    x = x.to(device)
    sign = torch.tensor([1.0, -1, 1, -1, 1], device=device)
    for mine, theirs in zip(fast.moments(x, sign), passes.moments(x, sign), strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True)
    y = fast.apply(x, *[None] * 5, True)
    assert torch.equal(y.isnan(), x.isnan())
    # Torch's ReLU lets the gradient through where y is NaN.
    g, wanted = torch.ones_like(x), ((x > 0) | x.isnan()).float()
    for mask in (y, None):
        assert torch.equal(fast.reduce(g, x, mask, *[None] * 5, relu=True, keep=True)[0], wanted)


def test_other_formats_are_brought_to_that_of_x(device: torch.device) -> None:
    """e, g, y, t with other strides than x, and x with gaps."""
    g, x, e = (torch.randn(2, 6, 5, 7).to(device) for _ in range(3))
    far = arranged(x, last=True)
    y = fast.apply(far, e, *[None] * 4, True)
    assert y.stride() == far.stride()
    assert torch.equal(y, torch.relu(x + e))
    t, T0, _, _ = fast.reduce(g, far, y.contiguous(), *[None] * 5, relu=True, keep=True)
    assert t.stride() == far.stride()
    assert torch.equal(t, g.where(y > 0, 0))
    close(T0, t.double().sum((2, 3)), 1e-6)
    gaps = torch.randn(2, 12, 5, 7).to(device)[:, ::2]
    assert torch.equal(fast.apply(gaps, *[None] * 5, True), torch.relu(gaps))
    spread = torch.randn(2, 6, 1, 1).to(device).expand(2, 6, 5, 7)
    assert torch.equal(fast.input_gradient(spread, far, *[None] * 10, 1, relu=False), spread)


def test_twice_gives_the_same_bits_and_leaves_the_inputs(device: torch.device) -> None:
    on = Inputs(Case((2, 64, 17, 11), True, torch.float32, 4096, extremum=True), device)
    before = {name: v.clone() for name, v in vars(on).items() if isinstance(v, Tensor)}

    def chain() -> list[Tensor]:
        mean, m2, extremum = fast.moments(on.x, on.sign)
        mu, var = fast.combine(mean, m2, 187)
        r, a, _ = fast.normalise(extremum, mu, var, on.gamma, on.beta, 1e-5)
        y = fast.apply(on.x, on.e, mu, a, on.beta, on.s, True)
        t, T0, T1, ties = fast.reduce(on.g, on.x, y, mu, a, on.beta, on.s, extremum, relu=True, keep=True)
        b0, b1 = fast.sums(T0, T1, on.s, on.dz, extremum, mu)
        dx = fast.input_gradient(t, on.x, mu, a, on.beta, r, on.s, on.dz, extremum, ties, b0, b1, 374, relu=False)
        return [mean, m2, mu, var, r, a, y, t, T0, T1, ties, b0, b1, dx]

    assert all(torch.equal(one, two) for one, two in zip(chain(), chain(), strict=True))
    assert all(torch.equal(v, getattr(on, name)) for name, v in before.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_more_elements_than_32_bits_count() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 24 * 2**30:
        pytest.skip("needs 24 GiB of GPU memory")
    x = torch.randn(2, 64, 5800, 5800, device="cuda", dtype=torch.float16)
    assert x.numel() > 2**32
    y = fast.apply(x, *[None] * 5, True)
    assert torch.equal(y[1, 63, -64:], torch.relu(x[1, 63, -64:]))
    mean, _, _ = fast.moments(x)
    close(mean[1, 63], x[1, 63].double().mean(), 1e-4)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="triton compiles on Linux")
def test_compiled_for_a_gpu_memory_is_read_16_bytes_at_a_time_and_registers_suffice() -> None:
    """What the interpreter cannot see; no device is needed to compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.passes", "--compile", "--json", "-"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    programs = json.loads(done.stdout)["programs"]
    assert {program["name"] for program in programs} >= {"moments", "merge", "normalise", "gate_gradient", "sums"}
    # Triton 3.6 puts two registers of one program aside, 3.9 none.
    assert all(program["spilled_bytes"] <= 8 for program in programs), programs
    over_maps = [p for p in programs if p["name"] in ("moments", "apply", "reduce", "input_gradient")]
    assert len(over_maps) >= 8
    assert all(program["widest_load_bytes"] == 16 for program in over_maps), over_maps
