"""What the commands print: tables, what is going to be trained, what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from senet.cli.output import table
from senet.recipes.recipe import Recipe


def data_label(recipe: Recipe) -> str:
    """The data set's name as a part of a folder's name."""
    return Path(recipe.data.name).name or "images"


def announce(name: str, recipe: Recipe) -> None:
    """Say what is going to be trained."""
    t = recipe.train
    unit = f"{recipe.model.se.kind} unit" if recipe.model.se else "no attention unit"
    length = f"{epochs(t.epochs)}, batch {recipe.data.batch_size}, seed {t.seed}"
    print(f"\n{name} on {recipe.data.name}, {unit}: {length}", flush=True)


def epochs(count: int) -> str:
    """A number of epochs in words."""
    return f"{count} epoch{'s' if count > 1 else ''}"


def print_summary(summary: dict[str, Any], folder: Path) -> None:
    """One run's result, and what can be done with it."""
    best = f"best {summary['best_top1_error']:.2f} % in epoch {summary['best_epoch']}"
    print(
        f"\n{summary['model']}: test error {summary['top1_error']:.2f} % after {epochs(summary['epochs'])}, {best} "
        f"({summary['test_images']:,} images)\n"
        f"report      {folder}/report.html   (with classes and calibration: senet report {folder} --details)\n"
        f"checkpoint  {folder}/best.safetensors\n"
        f"evaluate    senet evaluate {folder}\n"
        f"predict     senet predict {folder} IMAGE..."
    )


def print_comparison(report: dict[str, Any], folder: Path) -> None:
    """The comparison as a table."""
    print(
        f"\n{report['data']}, {epochs(report['epochs'])}, {report['train_images']:,} training and "
        f"{report['test_images']:,} test images, {report['seeds']} seed{'s' if report['seeds'] > 1 else ''}; "
        f"error after the last epoch\n"
    )
    head = ("network", "test error, %", "parameters", "multiply-adds", "ms per step", "training, s")
    rows = []
    for m in report["models"]:
        spread = "" if m["error_deviation"] is None else f" ± {m['error_deviation']:.2f}"
        rows.append(
            (
                m["model"],
                f"{m['error_mean']:.2f}{spread}",
                f"{m['params']:,}",
                f"{m['macs'] / 1e6:,.2f} M",
                f"{m['step_ms']:.1f}",
                f"{m['train_seconds']:.1f}",
            )
        )
    print(table([head, *rows]))
    for d in report["differences"]:
        interval = (
            f"95 % interval {d['low']:+.2f} to {d['high']:+.2f}, n = {d['seeds']}"
            if d["low"] is not None
            else "one seed, so no interval; for one: senet compare ... --seeds 3"
        )
        print(
            f"\n{d['model']} minus {d['minus']}: {d['mean']:+.2f} points of error, "
            f"{d['step_ratio']:.2f} times the time per step\n({interval})"
        )
    last = report["models"][-1]["runs"][0]
    print(
        f"\nreport       {folder}/report.html\n"
        f"checkpoints  {folder}/{last}/best.safetensors, ...\n"
        f"evaluate     senet evaluate {folder}/{last}\n"
        f"predict      senet predict {folder}/{last} IMAGE..."
    )


def print_reproduction(found: dict[str, Any]) -> None:
    """A target's result: ours beside the paper's, and the differences with their intervals."""
    print(f"\n{found['target']}: {found['title']}")
    for name, why in found["failed"].items():
        print(f"failed: {name}: {why}")
    if not found["finished"]:
        print("no run has finished")
        return
    print(f"{found['where']}\n")
    lines = [("row", "top-1 error, %", "the paper's", "n", "parameters")]
    for row in found["rows"]:
        m = row["top1_error"]
        printed = "" if m["printed"] is None else f"{m['printed']:.2f}"
        params = f"{row['params']:,}" if row["params"] else ""
        lines.append((row["name"], m["text"], printed, str(row["n"] or ""), params))
    print(table(lines))
    differences = [d for d in found["differences"] if d["measure"] == "top1_error"]
    if differences:
        lines = [("difference", "points", "95 % interval", "n", "the paper's", "")]
        for d in differences:
            interval = "" if d["low"] is None else f"{d['low']:+.2f} to {d['high']:+.2f}"
            printed = "" if d["printed"] is None else f"{d['printed']:+.2f}"
            label = f"{d['row']} minus {d['minus']}"
            lines.append((label, f"{d['mean']:+.2f}", interval, str(d["seeds"]), printed, d["verdict"]))
        print(f"\n{table(lines)}")
    differs(found["differs"], "\n")


def differs(lines: Sequence[str], before: str = "") -> None:
    """What is otherwise than in the paper."""
    if lines:
        print(f"{before}otherwise than in the paper:\n" + "\n".join(f"  {line}" for line in lines))
