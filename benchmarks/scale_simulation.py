"""An event simulation of synchronous training on many GPUs: stragglers, failures, checkpoints and restarts.

    python -m benchmarks.scale_simulation

Each step waits for the slowest GPU. Failures come at random, at a rate proportional to the number of GPUs; the run then
loses the steps since its last checkpoint, waits for the restart (torchrun starts all processes anew) and for its first
batches. Each line of the output is one setting; "goodput" is the share of the time of GPUs without stragglers, failures
and checkpoints that a run of `--days` days of such work gets, over `--runs` simulated runs: median and 5th and 95th
percentile. Beside it is the goodput that Young's formula gives for failures and checkpoints alone.

Assumed, not measured here: the time of a step, its spread, how often a GPU is slow, and the rate of failures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from math import sqrt

import numpy as np


@dataclass(frozen=True)
class Cluster:
    """What is assumed of a cluster.

    Attributes:
        gpus: Number of GPUs.
        step_s: Seconds of a step on a GPU that nothing disturbs.
        spread: Standard deviation of the logarithm of a GPU's time of a step.
        slow_share: Share of the steps of a GPU in which it waits: for an image, the network, another process.
        slow_s: Mean of these waits in seconds, exponential.
        failure_hours: Mean hours between failures of one GPU with its share of the node.
        restart_s: From a failure to the next step: noticing it, starting processes, reading index and checkpoint.
        checkpoint_s: Seconds that a checkpoint stops the run.
        checkpoint_every_s: Seconds of work between two.
    """

    gpus: int
    step_s: float = 0.35
    spread: float = 0.02
    slow_share: float = 1e-4
    slow_s: float = 0.5
    # 419 unexpected interruptions of 16,384 GPUs in 54 days (Llama 3, arXiv:2407.21783).
    failure_hours: float = 16_384 * 54 * 24 / 419
    restart_s: float = 180.0
    checkpoint_s: float = 3.0
    checkpoint_every_s: float = 600.0

    @property
    def failures_per_s(self) -> float:
        """Failures of the run in a second."""
        return self.gpus / (self.failure_hours * 3600)


def step_times(cluster: Cluster, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Seconds of each step: the slowest GPU's, without drawing all of them.

    The largest of n equal variables has the distribution function's n-th power, so its quantile of u is that of
    u^(1/n) of one. Waits are few: their number is Poisson, and only the longest counts.
    """
    from scipy.stats import norm

    slowest = cluster.step_s * np.exp(cluster.spread * norm.ppf(rng.random(steps) ** (1 / cluster.gpus)))
    waiting = rng.poisson(cluster.gpus * cluster.slow_share, steps)
    longest = np.zeros(steps)
    some = waiting > 0
    longest[some] = -cluster.slow_s * np.log1p(-(rng.random(some.sum()) ** (1 / waiting[some])))
    return slowest + longest


def run(cluster: Cluster, days: float, rng: np.random.Generator) -> tuple[float, int, float]:
    """Simulate a run; return the seconds that it takes, its failures, and the seconds of work that were lost."""
    steps = round(days * 86400 / cluster.step_s)
    # The times of steps are drawn for a part and repeated: means over 1e5 steps no longer move.
    times = step_times(cluster, min(steps, 100_000), rng)
    mean = float(times.mean())
    work, now, lost = steps * mean, 0.0, 0.0
    done = saved = 0.0
    failures = 0
    until_failure = rng.exponential(1 / cluster.failures_per_s)
    while done < work:
        # The next event is a checkpoint, the end, or a failure.
        stretch = min(saved + cluster.checkpoint_every_s, work) - done
        needed = stretch + cluster.checkpoint_s
        if until_failure < needed:
            failures += 1
            now += until_failure + cluster.restart_s
            lost += min(until_failure, stretch) + done - saved
            done = saved
            until_failure = rng.exponential(1 / cluster.failures_per_s)
        else:
            now += needed
            until_failure -= needed
            done = saved = saved + stretch
    return now, failures, lost


def young(cluster: Cluster) -> tuple[float, float]:
    """Young's best interval in seconds, and the goodput at the cluster's interval to first order."""
    best = sqrt(2 * cluster.checkpoint_s / cluster.failures_per_s)
    every = cluster.checkpoint_every_s
    costs = cluster.checkpoint_s / every + cluster.failures_per_s * (every / 2 + cluster.restart_s)
    return best, 1 / (1 + costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--runs", type=int, default=200)
    args = parser.parse_args()
    settings = [Cluster(gpus) for gpus in (8, 64, 256, 1000, 4000)]
    settings += [Cluster(1000, checkpoint_every_s=every) for every in (60, 3600, 6 * 3600)]
    settings += [Cluster(1000, slow_share=0.0), Cluster(1000, slow_share=1e-3), Cluster(1000, failure_hours=5000)]
    settings += [Cluster(1000, restart_s=1200)]
    for number, cluster in enumerate(settings):
        rng = np.random.default_rng(number)
        found = [run(cluster, args.days, rng) for _ in range(args.runs)]
        times = np.array([time for time, _, _ in found])
        goodput = args.days * 86400 / times
        best, expected = young(cluster)
        slowdown = float(step_times(cluster, 100_000, rng).mean()) / cluster.step_s
        print(
            json.dumps(
                {
                    "gpus": cluster.gpus,
                    "checkpoint every s": cluster.checkpoint_every_s,
                    "slow share": cluster.slow_share,
                    "GPU hours per failure": round(cluster.failure_hours),
                    "restart s": cluster.restart_s,
                    "step, times its own": round(slowdown, 3),
                    "failures": float(np.median([failures for _, failures, _ in found])),
                    "lost minutes": round(float(np.median([lost for _, _, lost in found])) / 60, 1),
                    "goodput": [round(float(q), 4) for q in np.quantile(goodput, (0.5, 0.05, 0.95))],
                    "without stragglers": round(float(np.median(goodput)) * slowdown, 4),
                    "Young": round(expected, 4),
                    "Young's interval s": round(best),
                }
            )
        )


if __name__ == "__main__":
    main()
