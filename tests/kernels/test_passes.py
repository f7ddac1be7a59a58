"""The passes in C and in Triton against `reference` in float64: layouts, dtypes, odd shapes, missing terms, NaN."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from senet.kernels.block_epilogue import c, reference
from senet.kernels.block_epilogue.reference import Affine, wide

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("nan_buffers")

# Relative to the largest element. Sums: a few roundings of float32. Feature maps in half precision: one rounding, and
# the interpreter of Triton rounds down.
SUMS = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 3e-6, torch.float16: 3e-6}
MAPS = SUMS | {torch.bfloat16: 2**-7, torch.float16: 2**-10}


class Passes(NamedTuple):
    """An implementation of the passes, and where it runs."""

    name: str
    module: Any
    device: torch.device


@pytest.fixture(params=["c", "triton"])
def passes(request: pytest.FixtureRequest) -> Passes:
    if request.param == "c":
        if not c.available():
            pytest.skip("no C compiler")
        return Passes("c", c, torch.device("cpu"))
    device = request.getfixturevalue("device")
    from senet.kernels.block_epilogue import triton

    return Passes("triton", triton, device)


class Case(NamedTuple):
    """Terms that are missing, and the shape of the feature map."""

    shape: tuple[int, ...]
    last: bool
    dtype: torch.dtype = torch.float32
    programs: int = 4096
    norm: bool = True
    affine: bool = True
    unit: bool = True
    extremum: bool = False
    shortcut: bool = True
    relu: bool = True


VARIANTS: list[dict[str, bool]] = [
    {},
    {"unit": False},
    {"norm": False, "shortcut": False},
    {"extremum": True},
    {"shortcut": False},
    {"affine": False, "relu": False},
    {"norm": False, "extremum": True, "relu": False},
]
SHAPES = [(3, 5, 7, 7), (2, 3, 1, 1), (1, 1, 13, 11), (2, 70, 9), (2, 3, 5, 3, 4)]
# Channels: a lane, less and more than a row, more than a task's. Positions: less than a row, several tasks.
IN_C = [*SHAPES, (2, 2051, 41), (2, 16, 97, 71), (1, 3, 190, 181)]
IN_TRITON = [*SHAPES, (1, 2049, 3, 1), (2, 64, 17, 11), (3, 24, 8, 10), (1, 17, 31, 37)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32]
CASES = [
    ("c", Case(shape, last, **VARIANTS[(2 * i + last) % 7])) for i, shape in enumerate(IN_C) for last in (False, True)
]
# Numbers of programs at which an image is one part, several parts, one part per tile.
CASES += [
    ("triton", Case(shape, last, DTYPES[i % 5], (1, 16, 4096)[i % 3], **VARIANTS[i % 7]))
    for i, (shape, last) in enumerate((shape, last) for last in (False, True) for shape in IN_TRITON)
]


def laid(x: Tensor, last: bool) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x.contiguous()


def doubled(values: Any) -> Any:
    if isinstance(values, Affine):
        return Affine(*doubled(tuple(values)))
    return [doubled(v) if isinstance(v, Affine) else v.double() if isinstance(v, Tensor) else v for v in values]


def close(found: Any, wanted: Any, tolerance: float, scale: float = 0) -> None:
    """Equal to within `tolerance` times the largest element, or times `scale`."""
    assert (found is None) == (wanted is None)
    if wanted is not None:
        assert found.shape == wanted.shape
        atol = tolerance * max(scale, float(wanted.abs().max()))
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=atol)


def all_close(found: Any, wanted: Any, tolerance: float, scale: float = 0) -> None:
    pairs = [(found, wanted)] if isinstance(found, Tensor) else zip(found, wanted, strict=True)
    for one, other in pairs:
        close(one, other, tolerance, scale)


@pytest.mark.parametrize(("passes", "case"), CASES, ids=str, indirect=["passes"])
def test_every_pass(passes: Passes, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    p, device = passes.module, passes.device
    if passes.name == "triton":
        monkeypatch.setattr(p, "PROGRAMS", case.programs)
    rng = torch.Generator().manual_seed(len(case.shape) + case.shape[1])

    def drawn(*shape: int, wanted: bool = True) -> Tensor:
        # None where the term is missing.
        t = torch.randn(shape, generator=rng, dtype=torch.float64).to(device, wide(torch.empty(0, dtype=case.dtype)))
        return t if wanted else None  # type: ignore[return-value]

    def drawn_map(last: bool = case.last) -> Tensor:
        return laid(drawn(*case.shape).to(case.dtype), last)

    n, channels = case.shape[:2]
    sums, maps = SUMS[case.dtype], MAPS[case.dtype]
    x, g, y = drawn_map(), drawn_map(), drawn_map()
    if case.extremum:
        # Several elements are the largest.
        x = laid((2 * x).round() / 2, case.last)
    # The shortcut may have another layout.
    e = drawn_map(not case.last) if case.shortcut else None
    mu, a, r, b0, b1 = (drawn(channels, wanted=case.norm) for _ in range(5))
    beta, gamma = (drawn(channels, wanted=case.norm and case.affine) for _ in range(2))
    sign = drawn(channels, wanted=case.extremum)
    s, dz, z0 = (drawn(n, channels, wanted=case.unit) for _ in range(3))
    f, positions = Affine(mu, a, beta, s), x[0, 0].numel()

    found = mean, m2, extremum = p.moments(x, sign)
    all_close(found[:2], reference.moments(x.double(), sign)[:2], sums, positions)
    extremum_wanted = reference.moments(x, sign)[2]
    assert extremum is extremum_wanted is None or torch.equal(extremum, extremum_wanted)
    all_close(p.combine(mean, m2, positions), reference.combine(*doubled((mean, m2)), positions), sums)
    if case.norm:
        arguments: Any = z0, mu, r.square(), gamma, beta
        all_close(p.normalise(*arguments, 1e-3), reference.normalise(*doubled(arguments), 1e-3), sums)

    out = p.apply(x, e, f, case.relu)
    assert (out.dtype, out.stride()) == (x.dtype, x.stride())
    close(out, reference.apply(*doubled((x, e, f)), case.relu), maps)

    for kept in (y, None):
        for keep in (True, False):
            arguments = g, x, kept, f, extremum
            t, *totals = p.reduce(*arguments, relu=case.relu, keep=keep)
            t_wanted, *wanted = reference.reduce(*doubled(arguments), relu=case.relu, keep=keep)
            assert (t is None) == (t_wanted is None)
            assert t is None or (torch.equal(t.double(), t_wanted) and t.stride() == g.stride())
            all_close(totals, wanted, sums, positions**0.5)
            ties = totals[2]
    T0, T1 = totals[:2]
    close(p.gate_gradient(T0, T1, f), reference.gate_gradient(*doubled((T0, T1, f))), sums)
    if case.norm:
        arguments = T0, T1, f, dz, z0
        all_close(p.sums(*arguments), reference.sums(*doubled(arguments)), sums)
    for relu in {False, case.relu}:
        arguments = g, x, f, r, dz, extremum, ties, b0, b1
        dx = p.input_gradient(*arguments, 77, relu=relu)
        assert (dx.dtype, dx.stride()) == (x.dtype, x.stride())
        close(dx, reference.input_gradient(*doubled(arguments), 77, relu=relu), maps)


def test_sums_over_many_images(passes: Passes) -> None:
    """More images than a tile of Triton's has."""
    T0, T1, s, dz, z0 = (torch.randn(300, 5).to(passes.device) for _ in range(5))
    f = Affine(mu=torch.randn(5).to(passes.device), s=s)
    all_close(passes.module.sums(T0, T1, f, dz, z0), reference.sums(*doubled((T0, T1, f, dz, z0))), 1e-6)
    wanted = reference.combine(T0.double(), T1.abs().double(), 3)
    all_close(passes.module.combine(T0, T1.abs(), 3), wanted, 1e-6)


@pytest.mark.parametrize("last", [False, True])
def test_a_mean_far_from_zero_keeps_its_digits(passes: Passes, last: bool) -> None:
    x = torch.randn(2, 6, 33, 64, generator=torch.Generator().manual_seed(0)) + 1000
    x[0, 0] = 1000
    # A first pixel unlike all others is the worst centre.
    x[1, 1, 0, 0] = -1000
    x = laid(x.to(passes.device), last)
    mean, m2, _ = passes.module.moments(x)
    wanted = reference.moments(x.double())
    torch.testing.assert_close(mean.double(), wanted[0], rtol=2e-7, atol=0)
    torch.testing.assert_close(m2.double(), wanted[1], rtol=1e-4, atol=0)
    assert m2[0, 0] == 0


@pytest.mark.parametrize("last", [False, True])
def test_large_half_precision_values_do_not_overflow(last: bool, device: torch.device) -> None:
    from senet.kernels.block_epilogue import triton

    x = laid(torch.full((2, 3, 9, 31), 6e4, dtype=torch.float16).to(device), last)
    mean, m2, _ = triton.moments(x)
    assert (mean == 6e4).all()
    assert (m2 == 0).all()
    _, T0, T1, _ = triton.reduce(x, x, None, Affine(), None, relu=False, keep=False)
    assert (T0 == 279 * 6e4).all()
    assert torch.allclose(T1, torch.full_like(T1, 279 * 6e4**2))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("programs", [1, 4096])
def test_nan_and_infinity(passes: Passes, programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if passes.name == "triton":
        monkeypatch.setattr(passes.module, "PROGRAMS", programs)
    x = torch.randn(2, 5, 40, 41)
    x[0, 1, 0, 0] = x[1, 2, -1, -1] = torch.nan
    # In C the mean of a channel with an infinity is NaN.
    if passes.name == "triton":
        x[0, 3, 20, 7], x[1, 3, 0, 0] = torch.inf, -torch.inf
    x = laid(x.to(passes.device), programs == 1)
    sign = torch.tensor([1.0, -1, 1, -1, 1], device=passes.device)
    for found, wanted in zip(passes.module.moments(x, sign), reference.moments(x, sign), strict=True):
        torch.testing.assert_close(found, wanted, equal_nan=True)
    y = passes.module.apply(x, None, Affine(), True)
    assert torch.equal(y.isnan(), x.isnan())
    # torch's ReLU lets the gradient through where y is NaN.
    leaf, g = x.clone().requires_grad_(), torch.ones_like(x)
    (wanted,) = torch.autograd.grad(torch.relu(leaf), leaf, g)
    assert wanted[0, 1, 0, 0] == 1
    for p in (passes.module, reference):
        for mask in (y, None):
            assert torch.equal(p.reduce(g, x, mask, Affine(), None, relu=True, keep=True)[0], wanted)
        dx = p.input_gradient(g, x, Affine(), *(None,) * 6, 1, relu=True)
        # 0 times infinity is NaN in Triton.
        assert torch.equal(torch.where(x.isinf(), wanted, dx.nan_to_num(1)), wanted)


def test_results_have_the_format_of_x(passes: Passes) -> None:
    """e, g, y and t with other strides than x's."""
    p = passes.module
    g, x, e = (torch.randn(2, 6, 5, 7).to(passes.device) for _ in range(3))
    far = laid(x, last=True)
    y = p.apply(far, e, Affine(), True)
    assert y.stride() == far.stride()
    assert torch.equal(y, torch.relu(x + e))
    t, T0, _, _ = p.reduce(g, far, y.contiguous(), Affine(), None, relu=True, keep=True)
    assert t.stride() == far.stride()
    assert torch.equal(t, g.where(y > 0, 0))
    close(T0, t.double().sum((2, 3)), 1e-6)
    spread = torch.randn(2, 6, 1, 1).to(passes.device).expand(2, 6, 5, 7)
    assert torch.equal(p.input_gradient(spread, far, Affine(), *(None,) * 6, 1, relu=False), spread)


def test_triton_copies_a_feature_map_with_gaps(device: torch.device) -> None:
    from senet.kernels.block_epilogue import triton

    gaps = torch.randn(2, 12, 5, 7).to(device)[:, ::2]
    assert torch.equal(triton.apply(gaps, None, Affine(), True), torch.relu(gaps))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("last", [False, True])
def test_equal_bits_with_any_number_of_threads_and_unchanged_inputs(passes: Passes, last: bool) -> None:
    p, rng = passes.module, torch.Generator().manual_seed(0)
    shape = (3, 24, 60, 60) if passes.name == "c" else (2, 64, 17, 11)
    x, g, e = (laid(torch.randn(shape, generator=rng), last).to(passes.device) for _ in range(3))
    sign, gamma, beta = torch.randn(3, shape[1], generator=rng).to(passes.device)
    s, dz = torch.randn(2, *shape[:2], generator=rng).to(passes.device)
    inputs = x, g, e, sign, gamma, beta, s, dz
    before = [t.clone() for t in inputs]

    def chain() -> list[Tensor]:
        mean, m2, extremum = p.moments(x, sign)
        mu, var = p.combine(mean, m2, x[0, 0].numel())
        r, a, _ = p.normalise(extremum, mu, var, gamma, beta, 1e-5)
        f = Affine(mu, a, beta, s)
        y = p.apply(x, e, f, True)
        t, T0, T1, ties = p.reduce(g, x, y, f, extremum, relu=True, keep=True)
        b0, b1 = p.sums(T0, T1, f, dz, extremum)
        dx = p.input_gradient(t, x, f, r, dz, extremum, ties, b0, b1, x[:, 0].numel(), relu=False)
        return [mean, m2, mu, var, r, a, y, t, T0, T1, ties, b0, b1, dx]

    with threads(1):
        first = chain()
    with threads(3):
        second = chain()
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, inputs, before))


def test_c_refuses_what_it_cannot_read() -> None:
    if not c.available():
        pytest.skip("no C compiler")
    x = torch.zeros(2, 4, 3, 3)
    with pytest.raises(RuntimeError, match=r"apply: torch.float64 on cpu; expected: torch.float32 on cpu"):
        c.apply(x, x.double(), Affine(), True)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count() -> None:
    from senet.kernels.block_epilogue import triton

    if torch.cuda.get_device_properties(0).total_memory < 24 * 2**30:
        pytest.skip("needs 24 GiB of GPU memory")
    x = torch.randn(2, 64, 5800, 5800, device="cuda", dtype=torch.float16)
    assert x.numel() > 2**32
    y = triton.apply(x, None, Affine(), True)
    assert torch.equal(y[1, 63, -64:], torch.relu(x[1, 63, -64:]))
    mean, _, _ = triton.moments(x)
    close(mean[1, 63], x[1, 63].double().mean(), 1e-4)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="triton compiles on Linux")
def test_compiled_for_a_gpu_memory_is_read_16_bytes_at_a_time_and_registers_suffice(device: torch.device) -> None:
    """What the interpreter cannot show; no GPU is needed to compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.passes", "--compile", "--json", "-"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    programs = json.loads(done.stdout)["programs"]
    assert {program["name"] for program in programs} >= {"moments", "merge", "normalise", "gate_gradient", "sums"}
    # Triton 3.6 spills two registers of one program, 3.9 none.
    assert all(program["spilled_bytes"] <= 8 for program in programs), programs
    over_maps = [p for p in programs if p["name"] in ("moments", "apply", "reduce", "input_gradient")]
    assert len(over_maps) >= 8
    assert all(program["widest_load_bytes"] == 16 for program in over_maps), over_maps


# The trial of the Triton passes.

PASSES = ("moments", "combine", "normalise", "apply", "reduce", "gate_gradient", "sums", "input_gradient")


class Changed:
    """The Triton passes, one of them replaced."""

    def __init__(self, **replaced: Any) -> None:
        from senet.kernels.block_epilogue import triton

        vars(self).update({name: getattr(triton, name) for name in PASSES} | replaced)


@pytest.mark.parametrize("dtype", DTYPES[:4], ids=str)
def test_the_trial_finds_no_fault(dtype: torch.dtype, device: torch.device) -> None:
    from senet.kernels.block_epilogue.triton_trial import fault

    state = torch.get_rng_state()
    with torch.inference_mode():
        assert fault(device, dtype) == ""
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", PASSES)
def test_the_trial_finds_a_wrong_pass(name: str, device: torch.device) -> None:
    from senet.kernels.block_epilogue import triton
    from senet.kernels.block_epilogue.triton_trial import fault

    def wrong(*args: Any, **kwargs: Any) -> Any:
        found = getattr(triton, name)(*args, **kwargs)
        last = found if isinstance(found, Tensor) else found[-1]
        last.view(-1)[-1] = torch.nan if name == "reduce" else last.max() + 1
        return found

    assert fault(device, torch.bfloat16, Changed(**{name: wrong})) == f"{name} is wrong"


def test_the_trial_says_what_was_raised(device: torch.device) -> None:
    from senet.kernels.block_epilogue.triton_trial import fault

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a long story\nFailed to find C compiler")

    assert fault(device, torch.float32, Changed(sums=fails)) == "RuntimeError: Failed to find C compiler"
