"""A page with a section of every kind, of planted values that a test can look for."""

from __future__ import annotations

from typing import Any

from PIL import Image

from senet.analysis.pictures import data_uri
from senet.report.page import Page, Unit

UNITS = ("SE_2_1", "SE_2_2", "SE_3_1")
CLASSES = ("goldfish", "pug")
CHANNELS = 6


def gate(unit: int, line: int, channel: int) -> float:
    """The planted mean gate: unit and line in the first decimals, the channel in the last."""
    return round(0.3 * unit + 0.1 * line + 0.01 * channel, 3)


def unit(u: int) -> Unit:
    return {
        "name": f"features.{UNITS[u]}.se",
        "label": UNITS[u],
        "stage": f"stage{UNITS[u][3]}",
        "kind": "se",
        "channels": 16,
        "drawn": u > 0,
        "gate": 0.3 * u,
        "low": 0.1,
        "high": 0.02,
        "near_one": 0.03,
        "specificity": 0.2 + 0.1 * u,
        "entropy": 2.5,
        "ablation": {"off": 20.0 + u},
        "sampled": [3 * c for c in range(CHANNELS)],
        "mean": [[gate(u, line, c) for c in range(CHANNELS)] for line in range(3)],
        "deviation": [[0.05] * CHANNELS for _ in range(3)],
        "openers": [[[c, 0.9], [c + 1, 0.8]] for c in range(CHANNELS)],
        "closers": [[[c + 2, 0.1]] for c in range(CHANNELS)],
    }


def history(start: float, epochs: int = 10) -> list[dict[str, float]]:
    return [
        {
            "epoch": float(e),
            "lr": 0.1 / e,
            "train_loss": 2 / e,
            "train_error": 80 / e,
            "test_loss": 2.5 / e,
            "test_top1_error": start / e,
            "test_top5_error": 1.0,
        }
        for e in range(1, epochs + 1)
    ]


def full() -> Page:
    """Every section."""
    gates: Any = {
        "model": "se_resnet8",
        "source": "planted images",
        "images": 200,
        "top1_error": 12.5,
        "ablation": {"off": 88.0},
        "lines": [{"name": "all", "images": 200}, *({"name": name, "images": 100} for name in CLASSES)],
        "units": [unit(u) for u in range(len(UNITS))],
        "similarity": [[1.0, 0.5, 0.1], [0.5, 1.0, 0.4], [0.1, 0.4, None]],
        "thumbnails": {str(i): data_uri(Image.new("RGB", (2, 2), (30 * i, 90, 0))) for i in range(8)},
    }
    return {
        "title": "resnet8 and se_resnet8",
        "kind": "comparison",
        "subtitle": "10 epochs on planted images.",
        "result": {
            "label": "se_resnet8 minus resnet8",
            "value": -0.75,
            "unit": "points of error",
            "low": -1.25,
            "high": -0.25,
            "is_difference": True,
            "note": "Paired over 3 seeds.",
        },
        "networks": [
            {
                "name": "resnet8",
                "errors": [9.0, 8.0, 10.0],
                "mean": 9.0,
                "deviation": 1.0,
                "params": 1000,
                "macs": 5000,
            },
            {"name": "se_resnet8", "errors": [8.0, 7.0, 9.75], "mean": 8.25, "deviation": 1.39, "params": 1100},
        ],
        "overview": [("data", "planted"), ("test images", 200)],
        "curves": {"resnet8": [history(90.0), history(80.0)], "se_resnet8": [history(70.0), history(60.0)]},
        "results": [
            {
                "title": "Table 4",
                "table": {
                    "columns": ["network", "ours", "the paper's"],
                    "rows": [["SE-ResNet-110", 6.1, 5.21], ["SE-ResNet-164", None, 4.39]],
                    "notes": ["The second was not run."],
                    "differs": ["train.epochs: 10, not 200"],
                },
                "differences": [
                    {"label": "SE minus plain", "mean": -0.8, "low": -2.3, "high": 0.7, "n": 3, "printed": -1.16}
                ],
            }
        ],
        "gates": gates,
        "confusion": {"classes": ["cat", "dog", "ship"], "matrix": [[90, 10, 0], [4, 95, 1], [0, 0, 100]]},
        "per_class": [
            {"class": "cat", "images": 100, "top1_error": 10.0, "top5_error": 0.5},
            {"class": "dog", "images": 100, "top1_error": 5.0, "top5_error": 0.25},
            {"class": "ship", "images": 100, "top1_error": 0.0, "top5_error": 0.0},
        ],
        "calibration": {
            "ece": 0.0312,
            "mce": 0.1,
            "brier": 0.04,
            "nll": 0.11,
            "bins": [
                {"low": 0.0, "high": 0.5, "images": 0, "confidence": None, "accuracy": None},
                {"low": 0.5, "high": 0.75, "images": 40, "confidence": 0.63, "accuracy": 0.5},
                {"low": 0.75, "high": 1.0, "images": 160, "confidence": 0.9, "accuracy": 0.95},
            ],
        },
        "complexity": {
            "model": "se_resnet8",
            "image_size": [32, 32],
            "total": {"params": 1100, "macs": 5100, "se_params": 100, "se_macs": 100},
            "stages": [
                {"name": "stem", "layers": "3x3 16", "params": 100, "macs": 1100, "se_params": 0, "se_macs": 0},
                {
                    "name": "stage2",
                    "layers": "[3x3 16] x 1",
                    "params": 1000,
                    "macs": 4000,
                    "se_params": 100,
                    "se_macs": 100,
                },
            ],
        },
        "provenance": {
            "commands": ["senet train --config runs/a/recipe.yaml"],
            "recipe": {"name": "se_resnet8", "optim": {"lr": 0.05, "nesterov": True}, "stages": [{"block": "basic"}]},
            "seeds": [0, 1, 2],
            "environment": {"torch": "2.11.0", "cpu": "planted"},
        },
    }
