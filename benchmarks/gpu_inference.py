"""Time the 1x1 convolutions of SE-ResNet-50 with their epilogues on a GPU: our kernel and three others.

    python -m benchmarks.gpu_inference [--batches 1,8,32,256] [--dtypes bf16,fp32] [--rounds 15] [--tune] [--json FILE]

`y = relu(s (W h + b) + e)` for a block's expansion, `relu(W h + b)` for its reduction, channels-last:

    triton      one kernel                                       senet/kernels/conv1x1/triton.py
    separate    cuDNN, then one pass of our own                  senet/kernels/conv1x1/operation.py
    compiled    torch.compile of the definition: cuDNN, then what Inductor makes of the rest
    addmm       torch.addmm over positions, and the rest compiled

First each is judged in float64. Then each is recorded in a CUDA graph over several sets of inputs and outputs, more
than the L2 cache holds, and the graphs are replayed in turn: no launch from Python is in the figures. Medians per call,
and what share of this GPU's copy bandwidth the bytes that must move make of them. In float32 --tf32 lets cuDNN and
addmm use TF32; the kernel never does.

--tune also times the kernel with other tiles. Needs CUDA: without, it says so and exits with 2.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Stage by stage: reduction and expansion, input and output channels, side of the map, how many the network has:
# 28 of its 36, without the shortcuts' projections and the reductions of each stage's first block.
SHAPES = (
    ("reduce 2", 256, 64, 56, 2),
    ("expand 2", 64, 256, 56, 3),
    ("reduce 3", 512, 128, 28, 3),
    ("expand 3", 128, 512, 28, 4),
    ("reduce 4", 1024, 256, 14, 5),
    ("expand 4", 256, 1024, 14, 6),
    ("reduce 5", 2048, 512, 7, 2),
    ("expand 5", 512, 2048, 7, 3),
)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}
"""Largest relative error, by norms; that of float32 allows for TF32."""


class Inputs(NamedTuple):
    h: Tensor
    weight: Tensor
    bias: Tensor
    s: Tensor | None
    e: Tensor | None

    def bytes(self, y: Tensor) -> int:
        """Bytes that must move: each input read once, the output written once."""
        return sum(v.numel() * v.element_size() for v in (*self, y) if v is not None)


Way = Callable[[Inputs], Tensor]


def draw(n: int, k: int, c: int, side: int, dtype: torch.dtype, expand: bool) -> Inputs:
    def noise(*shape: int) -> Tensor:
        v = torch.randn(shape, device="cuda", dtype=dtype)
        return v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v

    gates = torch.rand(n, c, device="cuda", dtype=dtype) if expand else None
    return Inputs(
        noise(n, k, side, side),
        noise(c, k, 1, 1) / k**0.5,
        noise(c),
        gates,
        noise(n, c, side, side) if expand else None,
    )


def definition(i: Inputs) -> Tensor:
    u = F.conv2d(i.h, i.weight, i.bias)
    return rest(u, i)


def rest(u: Tensor, i: Inputs) -> Tensor:
    if i.s is not None:
        u = u * i.s[:, :, None, None]
    return torch.relu(u if i.e is None else u + i.e)


def by_addmm(i: Inputs) -> Tensor:
    n, k, height, width = i.h.shape
    rows = torch.addmm(i.bias, i.h.permute(0, 2, 3, 1).reshape(-1, k), i.weight.flatten(1).t())
    return rest(rows.reshape(n, height, width, -1).permute(0, 3, 1, 2), i)


def ways() -> dict[str, Way]:
    from senet.kernels.conv1x1.operation import separate
    from senet.kernels.conv1x1.triton import conv1x1

    # One shape each: torch gives up silently on a function that it has compiled too often.
    torch._dynamo.reset()
    return {
        "triton": lambda i: conv1x1(*i, True),
        "separate": lambda i: separate(*i, True),
        "compiled": torch.compile(definition, dynamic=False),
        "addmm": torch.compile(by_addmm, dynamic=False),
    }


def error(way: Way, i: Inputs) -> float:
    """Relative error against float64, by norms; NaN if any value is."""
    right = definition(Inputs(*(None if v is None else v.double() for v in i)))  # type: ignore[arg-type]
    return float((way(i).double() - right).norm() / right.norm())


def record(way: Callable[[Any], Tensor], sets: list[Any]) -> torch.cuda.CUDAGraph:
    """Record one call on each set of inputs as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            way(sets[0])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        # Alive together, so that they do not share one place in the cache.
        _outputs = [way(i) for i in sets]
    return graph


def microseconds(graph: torch.cuda.CUDAGraph, calls: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return 1000 * start.elapsed_time(end) / calls


def interleaved(graphs: dict[Any, torch.cuda.CUDAGraph], calls: int, rounds: int) -> dict[Any, list[float]]:
    """Replay the graphs in turn, in rounds; the first three rounds warm up."""
    times: dict[Any, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds + 3):
        for name, graph in graphs.items():
            times[name].append(microseconds(graph, calls))
    return {name: values[3:] for name, values in times.items()}


def sets_of(n: int, k: int, c: int, side: int, dtype: torch.dtype, expand: bool) -> list[Inputs]:
    """Enough sets of inputs to fill the L2 cache twice, from 3 to 64."""
    one = draw(n, k, c, side, dtype, expand)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    count = min(64, max(3, 2 * cache // one.bytes(one.h) + 1))
    return [one, *(draw(n, k, c, side, dtype, expand) for _ in range(count - 1))]


def copy_bandwidth(rounds: int) -> float:
    """Bytes per second that a copy of 2 GiB within the device reads and writes, as a median."""
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    graphs = {"copy": record(lambda _: target.copy_(source), [None])}
    (times,) = interleaved(graphs, 1, rounds).values()
    return 2 * source.numel() * 4 / (statistics.median(times) / 1e6)


def measure(
    n: int, shape: tuple[str, int, int, int, int], dtype: torch.dtype, rounds: int, peak: float
) -> dict[str, Any]:
    name, k, c, side, times_in_network = shape
    sets = sets_of(n, k, c, side, dtype, name.startswith("expand"))
    row: dict[str, Any] = {"layer": name, "batch": n, "dtype": str(dtype).removeprefix("torch."), "in": k, "out": c}
    row |= {"side": side, "times_in_network": times_in_network, "sets": len(sets)}
    graphs = {}
    for way_name, way in ways().items():
        found = error(way, sets[0])
        if not found <= TOLERANCE[dtype]:
            raise SystemExit(f"{way_name}, {row}: relative error {found}, beyond {TOLERANCE[dtype]}; nothing is timed")
        row[f"{way_name}_error"] = found
        graphs[way_name] = record(way, sets)
    moved = sets[0].bytes(definition(sets[0]))
    for way_name, values in interleaved(graphs, len(sets), rounds).items():
        low, middle, high = statistics.quantiles(values, n=4)
        row[f"{way_name}_us"] = {"median": middle, "quartiles": [low, high]}
        row[f"{way_name}_share_of_copy"] = moved / (middle / 1e6) / peak
    return row


def tune(n: int, shape: tuple[str, int, int, int, int], dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Time the kernel with other tiles; return them, the fastest first."""
    from senet.kernels.conv1x1.triton import Tiles, conv1x1, tiles_of

    name, k, c, side, _ = shape
    sets = sets_of(n, k, c, side, dtype, name.startswith("expand"))
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    own = tiles_of(n * side * side, k, c, dtype, processors)
    sides = itertools.product((32, 64, 128), (32, 64, 128, 256), (32, 64), (4, 8), (3,))
    graphs = {}
    for tiles in dict.fromkeys((own, *itertools.starmap(Tiles, sides))):

        def way(i: Inputs, tiles: Tiles = tiles) -> Tensor:
            return conv1x1(*i, True, tiles=tiles)

        try:
            graphs[tiles] = record(way, sets)
        except Exception as problem:  # Triton has many: too many registers, too much shared memory
            print(f"  {tiles}: {type(problem).__name__}", file=sys.stderr)
            torch.cuda.synchronize()
    medians = {tiles: statistics.median(v) for tiles, v in interleaved(graphs, len(sets), rounds).items()}
    best = sorted(medians, key=medians.__getitem__)[:5]
    row = {"layer": name, "batch": n, "dtype": str(dtype).removeprefix("torch."), "own_us": medians.get(own)}
    return row | {"own": own._asdict(), "best": [t._asdict() | {"us": medians[t]} for t in best]}


def hardware() -> dict[str, Any]:
    import triton

    gpu = torch.cuda.get_device_properties(0)
    return {
        "gpu": gpu.name,
        "multiprocessors": gpu.multi_processor_count,
        "memory_gib": round(gpu.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    names = ("triton", "separate", "compiled", "addmm")
    lines = ["| layer | batch | dtype | " + " | ".join(f"{n}, us" for n in names) + " | triton, share of copy |"]
    lines.append("|---" * (len(names) + 4) + "|")
    for row in rows:
        times = " | ".join(f"{row[f'{n}_us']['median']:.1f}" for n in names)
        lines.append(
            f"| {row['layer']} | {row['batch']} | {row['dtype']} | {times} | {row['triton_share_of_copy']:.0%} |"
        )
    for key, group in itertools.groupby(rows, key=lambda row: (row["batch"], row["dtype"])):
        members = list(group)
        sums = (sum(row[f"{n}_us"]["median"] * row["times_in_network"] for row in members) for n in names)
        lines.append(f"| these {sum(r['times_in_network'] for r in members)} in the network | {key[0]} | {key[1]} | ")
        lines[-1] += " | ".join(f"{v:.0f}" for v in sums) + " | |"
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,8,32,256")
    parser.add_argument("--dtypes", default="bf16,fp32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu_inference: needs CUDA; not run", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    # cuDNN too may choose by timing, as our own choice does.
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    with torch.no_grad():
        peak = copy_bandwidth(args.rounds)
        result: dict[str, Any] = {"hardware": hardware(), "copy_gb_per_s": peak / 1e9, "tf32": args.tf32}
        cases = [
            (int(n), shape, DTYPES[d])
            for d in args.dtypes.split(",")
            for n in args.batches.split(",")
            for shape in SHAPES
        ]
        result["layers"] = [measure(*case, args.rounds, peak) for case in cases]
        if args.tune:
            result["tiles"] = [tune(*case, args.rounds) for case in cases]
    text = json.dumps(result, indent=2)
    if args.json:
        args.json.write_text(text + "\n")
    print(text)
    print(table(result["layers"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
