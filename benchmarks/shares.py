"""Where the time of optimized networks goes: shares of each kind of kernel, as a Markdown table.

    python -m benchmarks.shares
    python -m benchmarks.shares timm:regnety_016 --batch 8

By torch's profiler, one thread. Kernels are called one by one here, since a chain of them is one call to the profiler.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

import senet
from benchmarks.engines import NETWORKS, network
from senet.deploy import optimize

KINDS = {
    "1x1": ("senet::conv1x1_packed", "senet::conv1x1_packed_"),
    "3x3 by Winograd": ("senet::conv3x3_packed", "senet::conv3x3_packed_"),
    "grouped, small, first": ("senet::direct", "senet::direct_"),
    "oneDNN": ("mkldnn::_convolution_pointwise", "mkldnn::_convolution_pointwise_"),
    "depthwise": ("senet::depthwise", "senet::depthwise_squeeze", "senet::expanded_depthwise"),
    "squeeze, gates, scaling": (
        "senet::global_mean",
        "senet::gates",
        "senet::channel_gates",
        "senet::gated",
        "senet::gated_",
    ),
    "pooling": ("senet::pool",),
    "classifier": ("senet::linear_packed", "aten::addmm"),
}


def shares(name: str, batch: int) -> tuple[Counter[str], float]:
    """Microseconds of each kind, and of all."""
    model, images = network(name, 0)
    x = images.repeat(-(-batch // 4), 1, 1, 1)[:batch].contiguous()
    fast = senet.optimize(model, x)
    for _ in range(3):
        fast(x)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(10):
            fast(x)
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key in names), "other")
        spent[kind] += event.self_cpu_time_total
    return spent, sum(spent.values())


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--batch", type=int, default=1)
    line = parser.parse_args()
    torch.set_num_threads(1)
    optimize.chain_kernels = lambda g: None
    columns = [*KINDS, "other"]
    print(f"| % of the time | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    for name in line.networks:
        spent, of_all = shares(name, line.batch)
        cells = [f"{100 * spent[kind] / of_all:.0f}" if spent[kind] else "" for kind in columns]
        print(f"| `{name.rpartition(':')[2]}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
