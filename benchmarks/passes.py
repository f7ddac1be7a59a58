"""Time the Triton passes against the GPU's copy bandwidth, at the shapes of ResNet-50.

    python -m benchmarks.passes [--batch 256] [--dtype bfloat16] [--nchw] [--channels 256 ...] [--tune]
        [--json FILE]
    python -m benchmarks.passes --compile [--json FILE]

Each pass must read and write some maps once; their bytes over its time is set against a copy from device memory to
device memory on the same device, bytes read plus bytes written. Times are medians; inputs are random, several sets take
turns, and the cache is cleared before each run. First each pass is checked against `reference.py` in float64. `forward`
and `backward` are all the passes of an epilogue in their order, small ones included, but for the unit's own layers.

--tune tries other cuts of the maps and prints the best beside the default. --compile needs no device: it compiles the
programs for compute capability 9.0 and prints the registers they take and how wide they read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from senet.kernels.block_epilogue import reference
from senet.kernels.block_epilogue.reference import Affine

CACHE_BYTES = 50 * 2**20


class Shape(NamedTuple):
    """A feature map of `size` by `size`. An epilogue has a unit and a shortcut; else it is norm and ReLU only."""

    channels: int
    size: int
    epilogue: bool


SHAPES = [
    *(Shape(channels, size, True) for channels, size in ((256, 56), (512, 28), (1024, 14), (2048, 7))),
    *(Shape(channels, size, False) for channels, size in ((64, 112), (64, 56), (128, 28), (256, 14), (512, 7))),
]
# How many feature maps each pass reads and writes: in an epilogue, in a norm and ReLU.
MAPS = {
    "moments": (1, 1),
    "apply": (3, 2),
    "reduce": (4, 2),
    "input_gradient": (3, 3),
    "forward": (4, 3),
    "backward": (7, 5),
}


class Inputs:
    """Random inputs of an epilogue, and its passes by name. `on` is the module with the passes."""

    def __init__(self, shape: Shape, batch: int, dtype: torch.dtype, nchw: bool, device: str) -> None:
        c, self.epilogue = shape.channels, shape.epilogue
        layout = torch.contiguous_format if nchw else torch.channels_last

        def drawn() -> Tensor:
            x = torch.randn(batch, c, shape.size, shape.size, device=device, dtype=dtype)
            return x.contiguous(memory_format=layout)

        self.g, self.x = drawn(), drawn()
        self.e, self.y = (drawn(), drawn().relu()) if shape.epilogue else (None, None)
        self.mu, self.r, self.gamma, self.beta = (torch.rand(c, device=device) for _ in range(4))
        self.s, self.dz = [torch.rand(batch, c, device=device) if shape.epilogue else None for _ in range(2)]
        self.f = Affine(self.mu, self.gamma * self.r, self.beta, self.s)

    def double(self) -> Inputs:
        """The same values in float64."""
        copy = object.__new__(Inputs)
        vars(copy).update({name: v.double() if isinstance(v, Tensor) else v for name, v in vars(self).items()})
        copy.f = Affine(*(None if v is None else v.double() for v in self.f))
        return copy

    def moments(self, on: Any) -> tuple[Tensor | None, ...]:
        return on.moments(self.x)

    def apply(self, on: Any) -> tuple[Tensor | None, ...]:
        return (on.apply(self.x, self.e, self.f, True),)

    def reduce(self, on: Any) -> tuple[Tensor | None, ...]:
        return on.reduce(self.g, self.x, self.y, self.f, None, relu=True, keep=self.epilogue)

    def input_gradient(
        self, on: Any, t: Tensor | None = None, b0: Any = None, b1: Any = None
    ) -> tuple[Tensor | None, ...]:
        b0, b1 = (self.mu, self.f.a) if b0 is None else (b0, b1)
        t, count = self.g if t is None else t, self.x[:, 0].numel()
        relu = not self.epilogue
        return (on.input_gradient(t, self.x, self.f, self.r, self.dz, None, None, b0, b1, count, relu=relu),)

    def forward(self, on: Any) -> tuple[Tensor | None, ...]:
        mean, m2, _ = on.moments(self.x)
        mu, var = on.combine(mean, m2, self.x[0, 0].numel())
        _, a, z = on.normalise(mean if self.epilogue else None, mu, var, self.gamma, self.beta, 1e-5)
        return on.apply(self.x, self.e, Affine(mu, a, self.beta, self.s), True), z

    def backward(self, on: Any) -> tuple[Tensor | None, ...]:
        t, T0, T1, _ = self.reduce(on)
        ds = on.gate_gradient(T0, T1, self.f) if self.epilogue else None
        b0, b1 = on.sums(T0, T1, self.f, self.dz, T0 if self.epilogue else None)
        return *self.input_gradient(on, t, b0, b1), ds

    def run(self, name: str, on: Any) -> tuple[Tensor | None, ...]:
        return getattr(self, name)(on)


def check(inputs: Inputs, name: str, on: Any) -> float:
    """Largest relative error of a pass, by norms, against float64. Exits if it is too large."""
    exact = inputs.double().run(name, reference)
    worst = 0.0
    for found, wanted in zip(inputs.run(name, on), exact, strict=True):
        if found is None or wanted is None:
            continue
        error = float((found.double() - wanted).norm() / wanted.norm())
        limit = 1e-2 if found.dtype in (torch.bfloat16, torch.float16) else 1e-4
        if not error < limit:
            sys.exit(f"{name} is wrong: relative error {error:.2g}, limit {limit:.2g}")
        worst = max(worst, error)
    return worst


def median_ms(calls: Sequence[Callable[[], object]], rep_ms: int = 200) -> float:
    """Median time of a call; the calls take turns for `rep_ms`."""
    from triton.testing import do_bench

    turns = itertools.cycle(calls)
    return cast(float, do_bench(lambda: next(turns)(), warmup=25, rep=rep_ms, return_mode="median"))


def copy_gb_s() -> float:
    """Bytes per second that the device's own copy reads and writes; the better of two sizes."""
    best = 0.0
    for mib in (512, 2048):
        source = torch.randint(256, (mib * 2**20,), device="cuda", dtype=torch.uint8)
        target = torch.empty_like(source)
        best = max(best, 2 * source.numel() / median_ms([lambda s=source, t=target: t.copy_(s)]) / 1e6)
    return best


def cuts(shape: Shape, itemsize: int, nchw: bool) -> Iterator[Any]:
    """Other plans to try: bytes of a row, of a tile, tiles of a program, warps."""
    from senet.kernels.block_epilogue.triton import Plan

    for row, tile, steps, warps in itertools.product((64, 128, 256), (4096, 8192, 16384), (1, 4, 16), (4, 8)):
        channels, walk = (tile // row, row // itemsize) if nchw else (row // itemsize, tile // row)
        # More steps than cover the image make the same cut again.
        if channels <= shape.channels and (steps == 1 or walk * steps < 4 * shape.size**2):
            yield Plan(channels, walk, walk * steps, warps)


def tuned(calls: Sequence[Callable[[], object]], plans: list[Any]) -> tuple[Any, float]:
    """Find the fastest plan; return it and its time in ms."""
    from senet.kernels.block_epilogue import triton as triton_passes

    default, times = triton_passes.plan, []
    for plan in plans:
        triton_passes.plan = lambda *_, plan=plan: plan
        times.append(median_ms(calls, 50))
    triton_passes.plan = default
    best = min(range(len(plans)), key=times.__getitem__)
    return plans[best], times[best]


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Check and time each pass at each shape; print a table."""
    import triton

    from senet.config import to_dict
    from senet.kernels.block_epilogue import triton as triton_passes
    from senet.runs.environment import this_environment

    dtype = getattr(torch, args.dtype)
    torch.manual_seed(0)
    limit = copy_gb_s()
    print(f"copy: {limit:.0f} GB/s\n\n{'shape':>14}  {'pass':14}  {'ms':>8}  {'GB/s':>6}  of copy")
    rows = []
    for shape in (shape for shape in SHAPES if not args.channels or shape.channels in args.channels):
        small = Inputs(shape, 4, dtype, args.nchw, "cuda")
        errors = {name: check(small, name, triton_passes) for name in MAPS}
        bytes_of_map = args.batch * shape.channels * shape.size**2 * dtype.itemsize
        sets = [
            Inputs(shape, args.batch, dtype, args.nchw, "cuda") for _ in range(max(2, 4 * CACHE_BYTES // bytes_of_map))
        ]
        for name, maps in MAPS.items():
            calls = [lambda inputs=inputs, name=name: inputs.run(name, triton_passes) for inputs in sets]
            time, moved = median_ms(calls), bytes_of_map * maps[not shape.epilogue]
            row = {"shape": shape._asdict(), "pass": name, "error": errors[name], "median_ms": time, "bytes": moved}
            row |= {"gb_s": moved / time / 1e6, "of_copy": moved / time / 1e6 / limit}
            label = f"{shape.channels}x{shape.size}x{shape.size}"
            print(f"{label:>14}  {name:14}  {time:8.4f}  {row['gb_s']:6.0f}  {row['of_copy']:6.1%}", flush=True)
            if args.tune and name not in ("forward", "backward"):
                plans = list(cuts(shape, dtype.itemsize, args.nchw))
                plan, time = tuned(calls, plans)
                row["tuned"] = {"plan": plan._asdict(), "median_ms": time}
                print(f"{'':>14}  {'  tuned':14}  {time:8.4f}  {moved / time / 1e6:6.0f}  {plan}", flush=True)
            rows.append(row)
        del sets
    device = torch.device("cuda")
    return {
        "batch": args.batch,
        "dtype": args.dtype,
        "layout": "NCHW" if args.nchw else "NHWC",
        "copy_gb_s": limit,
        "rows": rows,
        "environment": to_dict(this_environment(device)) | {"triton": triton.__version__, "cuda": torch.version.cuda},
    }


def compiled(args: argparse.Namespace) -> dict[str, Any]:
    """Compile what the passes would launch, for compute capability 9.0."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from senet.kernels.block_epilogue import triton as triton_passes

    types = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.float64: "*fp64"}
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    found: dict[str, dict[str, Any]] = {}

    def launch(program: Any, _grid: object, _x: Tensor, *arguments: Any, **constants: Any) -> None:
        warps = constants.pop("num_warps", 4)
        constants["WIDE"] = triton.language.float32
        signature, fixed, aligned = {}, {}, {}
        for i, name in enumerate(program.arg_names):
            value = arguments[i] if i < len(arguments) else constants[name]
            if isinstance(value, Tensor):
                signature[name] = types[value.dtype]
            elif name in constants or value is None or value == 1:
                signature[name], fixed[(i,)] = "constexpr", value
                continue
            else:
                signature[name] = "i32" if value < 2**31 else "i64"
            if isinstance(value, Tensor) or value % 16 == 0:
                aligned[(i,)] = [["tt.divisibility", 16]]
        key = f"{program.__name__} {signature} {fixed} {list(aligned)} {warps}"
        if key in found:
            return
        source = ASTSource(program, signature, fixed, aligned)
        kernel = triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "enable_fp_fusion": False}
        )
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            usage = subprocess.run(
                [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
            ).stdout
        reads = re.findall(r"ld\.global\S*?(?:\.v(\d))?\.[buf](\d+)", kernel.asm["ptx"])
        found[key] = {
            "name": program.__name__,
            "channels": args.shape.channels,
            "size": args.shape.size,
            "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
            "spilled_bytes": int(re.findall(r"STACK:(\d+)", usage)[0]) + int(re.findall(r"LOCAL:(\d+)", usage)[0]),
            "widest_load_bytes": max(int(count or 1) * int(bits) // 8 for count, bits in reads),
        }

    triton_passes.launch = launch
    # 24 channels: what 16 does not divide is read 16 bytes at a time only if the programs say what does.
    for args.shape in (SHAPES[0], SHAPES[3], SHAPES[4], Shape(24, 56, True)):
        inputs = Inputs(args.shape, args.batch, getattr(torch, args.dtype), args.nchw, "meta")
        for name in ("forward", "backward"):
            inputs.run(name, triton_passes)
    return {"capability": 90, "triton": triton.__version__, "programs": list(found.values())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--nchw", action="store_true", help="contiguous maps, else channels last")
    parser.add_argument("--channels", type=int, nargs="+", help="only shapes of so many")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", help="a file; - for standard output")
    args = parser.parse_args()
    if not args.compile and not torch.cuda.is_available():
        print("needs CUDA; not run", file=sys.stderr)
        return 2
    result = compiled(args) if args.compile else measured(args)
    if args.compile and args.json != "-":
        for row in result["programs"]:
            print(", ".join(f"{name} {value}" for name, value in row.items()))
    text = json.dumps(result, indent=2)
    if args.json == "-":
        print(text)
    elif args.json:
        Path(args.json).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
