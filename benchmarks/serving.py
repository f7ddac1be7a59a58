"""Serve an optimized network: the same answers from several threads, flat memory, and a table of latencies.

    python -m benchmarks.serving                        # SE-MobileNet at 96 pixels, 10,000 calls of 8 threads
    python -m benchmarks.serving se_resnet50 --calls 200 --size 224 --engine onnxruntime

Each thread calls the network with batches of 1 to 8 images in an order of its own, and compares with the answer of a
single thread. Resident memory is read after a tenth of the calls and at the end. Exit status 1 if an answer differs or
memory grew by more than 1 %.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

import senet
from benchmarks.engines import network


def resident_mib() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    """Serve, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="se_mobilenet")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--each", type=int, default=1, help="threads in which each of them computes a call")
    parser.add_argument("--engine", default=None)
    parser.add_argument("--rounds", type=int, default=30, help="calls that a latency is the median of")
    line = parser.parse_args()
    model, _ = network(line.network, line.size)
    fast = senet.optimize(model, torch.randn(1, 3, line.size, line.size), engine=line.engine)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, 3, line.size, line.size, generator=generator) for n in range(1, 9)]
    serial = [fast(x) for x in batches]
    wrong: list[int] = []
    each = line.calls // line.threads
    early = threading.Barrier(line.threads + 1)

    def serve(seed: int) -> None:
        torch.set_num_threads(line.each)
        draw = random.Random(seed)
        for call in range(each):
            if call == each // 10:
                early.wait()
                early.wait()
            i = draw.randrange(len(batches))
            if not torch.equal(fast(batches[i]), serial[i]):
                wrong.append(i)

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(line.threads)]
    for thread in threads:
        thread.start()
    early.wait()
    before = resident_mib()
    early.wait()
    for thread in threads:
        thread.join()
    after = resident_mib()
    growth = 100 * (after / before - 1)
    what = f"{each * line.threads:,} calls of {line.threads} threads, in {line.each} each"
    print(f"{what}: {len(wrong)} answers differ from the serial ones")
    print(f"resident memory {before:.0f} MiB after a tenth, {after:.0f} MiB at the end ({growth:+.2f} %)")
    print(f"\n{line.network}, {line.size} pixels, {fast.engine.name}: ms a call, median of {line.rounds}\n")
    print("| threads | " + " | ".join(f"batch {n}" for n in (1, 2, 4, 8)) + " |\n|--:|" + "--:|" * 4)
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        times = []
        for n in (1, 2, 4, 8):
            fast(batches[n - 1])
            samples = []
            for _ in range(line.rounds):
                start = perf_counter()
                fast(batches[n - 1])
                samples.append(perf_counter() - start)
            times.append(f"{1000 * median(samples):.2f}")
        print(f"| {count} | " + " | ".join(times) + " |")
    return int(bool(wrong) or growth > 1)


if __name__ == "__main__":
    sys.exit(main())
