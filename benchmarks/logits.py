"""Logits of optimized networks of timm and torchvision beside the original's in float64: is the error rounding?

    python -m benchmarks.logits
    python -m benchmarks.logits timm:regnety_016 --engine openvino

The measure is how far float32 moves the network itself. Weights are random, with the norms of some noise. Exit status
1 if an error is above 8 times that.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

import torch

import senet
from benchmarks.engines import network

NETWORKS = (
    *("seresnet18", "seresnet50", "seresnext26t_32x4d", "seresnext50_32x4d", "seresnextaa101d_32x8d", "seresnet152d"),
    *("legacy_seresnet18", "legacy_seresnet50", "legacy_seresnext50_32x4d", "legacy_senet154", "ecaresnet50t"),
    *("ecaresnet26t", "ecaresnetlight", "eca_nfnet_l0", "eca_resnext26ts", "seresnext26ts", "gcresnet33ts"),
    *("mobilenetv3_large_100", "mobilenetv3_small_100", "mobilenetv3_rw", "semnasnet_100", "efficientnet_b0"),
    *("efficientnet_b3", "efficientnet_es", "efficientnetv2_rw_t", "tf_efficientnetv2_s", "mixnet_s", "fbnetv3_b"),
    *("ghostnet_100", "lcnet_100", "tinynet_a", "hardcorenas_a", "rexnet_100", "regnety_016", "regnety_032"),
    *("skresnet18", "res2net50_26w_4s", "cspresnet50", "densenet121", "inception_v3"),
)
TORCHVISION = ("efficientnet_b0", "efficientnet_v2_s", "mobilenet_v3_large", "regnet_y_1_6gf", "shufflenet_v2_x1_0")


def main() -> int:
    """Compare each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*(f"timm:{name}" for name in NETWORKS), *(f"torchvision:{name}" for name in TORCHVISION)]
    parser.add_argument("networks", nargs="*", default=every)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--engine", default=None)
    line = parser.parse_args()
    wrong, worst, start = [], 0.0, perf_counter()
    for name in line.networks:
        model, images = network(name, line.size)
        x = images[:2]
        with torch.no_grad():
            y, fast = model(x).double(), senet.optimize(model, x, engine=line.engine)(x).double()
            exact = model.double()(x.double())
        rounding, error = (float((t - exact).norm() / exact.norm()) for t in (y, fast))
        worst = max(worst, error / rounding)
        wrong += [name] if error > 8 * rounding else []
        print(f"{name}: {error:.1e}, {error / rounding:.2f} of the network's own", flush=True)
    count, seconds = len(line.networks), perf_counter() - start
    print(f"{count} networks, {seconds:.0f} s: at most {worst:.2f} of their own; wrong: {', '.join(wrong) or 'none'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
