"""What SE costs an optimized network: its time over that of the same network with its units removed.

    python -m benchmarks.free_se
    python -m benchmarks.free_se timm:regnety_016 --batch 8

With one thread the process's own time is taken; rounds are shuffled; intervals are of medians' ratios.
"""

from __future__ import annotations

import argparse
import sys
from copy import deepcopy
from functools import partial
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

import senet
from benchmarks.engines import network
from senet.bench.measure import Subject, measure

NETWORKS = (
    *("se_mobilenet", "se_resnet50", "se_resnext50_32x4d", "timm:mobilenetv3_large_100", "timm:mobilenetv3_small_100"),
    *("timm:efficientnet_b0", "timm:regnety_016", "timm:regnety_032", "timm:seresnet50"),
)
UNITS = ("SqueezeExcite", "SEModule", "SqueezeExcitation", "SEBlock")
"""Classes of units, ours and other libraries'."""


def without_units(model: nn.Module) -> nn.Module:
    """A copy of a network in which every unit returns its input."""
    plain = deepcopy(model)
    units = [name for name, module in plain.named_modules() if type(module).__name__ in UNITS]
    if not units:
        raise SystemExit("no units found")
    for name in units:
        plain.set_submodule(name, nn.Identity())
    return plain


def main() -> None:
    """Time each network beside its twin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    line = parser.parse_args()
    torch.set_num_threads(line.threads)
    print("| network | with SE, ms | without | ratio |\n|---|--:|--:|--:|")
    for name in line.networks:
        model, images = network(name, 0)
        x = images.repeat(-(-line.batch // 4), 1, 1, 1)[: line.batch].contiguous()

        def make(net: Any, x: Tensor) -> Any:
            fast = senet.optimize(net, x)
            return lambda: fast(x)

        if name.startswith(("timm:", "torchvision:")):
            plain = without_units(model)
        else:
            plain = senet.create_model(name.removeprefix("se_")).eval()
        case = measure(
            [Subject(name=which, make=partial(make, net, x)) for which, net in (("SE", model), ("plain", plain))],
            repeats=line.rounds,
            min_seconds=0.02,
            ratios=[("SE", "plain")],
            clock=process_time if line.threads == 1 else perf_counter,
            progress=sys.stderr.isatty(),
        )
        r = case.ratio("SE", "plain")
        if failed := [row.failure for row in case.rows if row.failure]:
            raise SystemExit(f"{name}: {failed[0]}")
        times = [f"{case.row(which).median_ms:.2f}" for which in ("SE", "plain")]
        print(f"| {name} | {' | '.join(times)} | **{r.value:.3f}** ({r.low:.3f} to {r.high:.3f}) |", flush=True)


if __name__ == "__main__":
    main()
