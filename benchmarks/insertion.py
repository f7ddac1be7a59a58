"""SE put into a trained plain network: its function kept at insertion, against the units' ordinary initialisation.

    python -m benchmarks.insertion CIFAR10_FOLDER [--epochs 4] [--tune 2] [--seeds 3] [--threads 2] [--out docs/images]

A plain ResNet-20 is trained on CIFAR-10 for a few epochs. Then three copies go on for a few more, all on the same
batches at the same rate: as it is; with SE by `insert_`, which keeps the function; with SE as it is drawn for a network
that starts from nothing, its gates near a half. Test error before the first step and along the way. Writes
insertion.json and insertion.png; with several seeds the line is their mean and the band runs from the lowest to the
highest.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from senet import SEConfig, create_model, insert_
from senet.data import Data, open_data
from senet.evaluation.accuracy import evaluate
from senet.recipes.recipe import Recipe
from senet.recipes.registry import recipe_for

ARMS = ("plain, no SE", "SE inserted, function kept", "SE inserted, default initialisation")
LOOKS = (10, 25, 50, 100, 200, 300)


def with_kept_function(plain: nn.Module, seed: int) -> nn.Module:
    model = copy.deepcopy(plain)
    insert_(model, SEConfig(), "residual", example=torch.zeros(1, 3, 32, 32), seed=seed)
    return model


def with_default_units(plain: nn.Module, seed: int) -> nn.Module:
    model = create_model("se_resnet20", seed=seed)
    lacking = model.load_state_dict(plain.state_dict(), strict=False)
    assert not lacking.unexpected_keys
    assert all(".se." in key for key in lacking.missing_keys)
    return model


def train(model: nn.Module, recipe: Recipe, data: Data, first: int, epochs: int, lr: float, look: Any) -> None:
    """SGD as the recipe has it, at one rate; `look(step)` before the first step and after some."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    o = recipe.optim
    sgd = torch.optim.SGD(model.parameters(), lr, momentum=o.momentum, weight_decay=o.weight_decay)
    order = data.train.order(recipe.data.batch_size)
    step, last = 0, epochs * len(order)
    look(step)
    for epoch in range(first, first + epochs):
        order.set_epoch(epoch)
        for key in order:
            images, targets = data.train.prepare(data.train[key], torch.device("cpu"))
            loss = F.cross_entropy(model.train()(images), targets)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            step += 1
            if step in LOOKS or step % len(order) == 0 or step == last:
                look(step)


def error(model: nn.Module, data: Data, recipe: Recipe) -> float:
    return evaluate(model, data.measured, batch_size=recipe.data.eval_batch_size)["top1_error"]  # type: ignore[arg-type]


def one_seed(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    recipe = recipe_for("cifar10", model="resnet20")
    is_folder = (args.data / "train").is_dir()
    where = {"name": str(args.data)} if is_folder else {"root": str(args.data)}
    recipe = replace(recipe, data=replace(recipe.data, **where))
    data = open_data(recipe.data, seed)
    plain = create_model("resnet20", seed=seed)
    start = time.perf_counter()
    train(plain, recipe, data, 0, args.epochs, args.lr, lambda step: None)
    print(f"seed {seed}: plain network trained in {time.perf_counter() - start:.0f} s", flush=True)
    curves: dict[str, list[tuple[int, float]]] = {}
    makers = (lambda p, s: copy.deepcopy(p), with_kept_function, with_default_units)
    for arm, make in zip(ARMS, makers, strict=True):
        model, points = make(plain, seed), curves.setdefault(arm, [])

        def look(step: int, model: nn.Module = model, points: Any = points, arm: str = arm) -> None:
            points.append((step, error(model, data, recipe)))
            print(f"  {arm}: step {step}, test error {points[-1][1]:.2f} %", flush=True)

        train(model, recipe, data, args.epochs, args.tune, args.tune_lr, look)
    return {"seed": seed, "curves": curves}


def plot(result: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    # The dashed line lies on another one, so it is drawn last.
    for arm, colour, style in zip(reversed(ARMS), ("#edae49", "#d1495b", "#1d3557"), ("-", "-", "--"), strict=True):
        steps = [step for step, _ in result["runs"][0]["curves"][arm]]
        columns = list(zip(*([e for _, e in run["curves"][arm]] for run in result["runs"]), strict=True))
        axes.plot(steps, [sum(c) / len(c) for c in columns], style, color=colour, label=arm, marker="o", markersize=3)
        axes.fill_between(
            steps, list(map(min, columns)), list(map(max, columns)), color=colour, alpha=0.15, linewidth=0
        )
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.set_xlabel("steps after insertion")
    axes.set_ylabel("test error, %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with CIFAR-10, or where it is to be downloaded")
    parser.add_argument("--epochs", type=int, default=4, help="of the plain network")
    parser.add_argument("--tune", type=int, default=2, help="epochs after the insertion")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--tune-lr", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "network": "resnet20, CIFAR-10",
        **{k: getattr(args, k) for k in ("epochs", "tune", "lr", "tune_lr")},
        "torch": torch.__version__,
        "machine": platform.machine(),
        "runs": [],
    }
    for seed in args.seeds:
        result["runs"].append(one_seed(seed, args))
        (args.out / "insertion.json").write_text(json.dumps(result, indent=1) + "\n")
        plot(result, args.out / "insertion.png")


if __name__ == "__main__":
    main()
