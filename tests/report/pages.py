"""A page with every section, of planted values that a test can look for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PIL import Image

from senet.analysis.pictures import data_uri
from senet.experiments.experiment import TOP1, TOP5
from senet.experiments.result import Difference, Errors, Result, RowResult
from senet.models.describe import Description, Row
from senet.recipes.registry import recipe_for
from senet.recipes.task import CLASSIFICATION
from senet.report.page import Headline, Page
from senet.runs.environment import Environment
from senet.runs.evaluation import Calibration, CalibrationBin, ClassErrors, Evaluation, Mistake
from senet.runs.gates import GateLine, GatesOnPage, Specific, UnitOnPage
from senet.runs.metrics import Epoch

UNITS = ("SE_2_1", "SE_2_2", "SE_3_1")
CLASSES = ("goldfish", "pug")
CHANNELS = 6


def gate(unit: int, line: int, channel: int) -> float:
    """The planted mean gate: unit and line in the first decimals, the channel in the last."""
    return round(0.3 * unit + 0.1 * line + 0.01 * channel, 3)


def unit(u: int) -> UnitOnPage:
    return UnitOnPage(
        name=f"features.{UNITS[u]}.se",
        label=UNITS[u],
        stage=f"stage{UNITS[u][3]}",
        kind="se",
        channels=16,
        drawn=u > 0,
        gate=0.3 * u,
        low=0.1,
        high=0.02,
        near_one=0.03,
        specificity=0.2 + 0.1 * u,
        entropy=2.5,
        ablation={"one": 20.0 + u},
        sampled=tuple(3 * c for c in range(CHANNELS)),
        mean=tuple(tuple(gate(u, line, c) for c in range(CHANNELS)) for line in range(3)),
        deviation=((0.05,) * CHANNELS,) * 3,
        openers=tuple(((c, 0.9), (c + 1, 0.8)) for c in range(CHANNELS)),
        closers=tuple(((c + 2, 0.1),) for c in range(CHANNELS)),
    )


def gates() -> GatesOnPage:
    return GatesOnPage(
        model="se_resnet8",
        source="planted images",
        images=200,
        top1_error=12.5,
        ablation={"one": 88.0},
        lines=(GateLine(name="all", images=200), *(GateLine(name=name, images=100) for name in CLASSES)),
        units=tuple(unit(u) for u in range(len(UNITS))),
        similarity=((1.0, 0.5, 0.1), (0.5, 1.0, 0.4), (0.1, 0.4, None)),
        thumbnails={str(i): data_uri(Image.new("RGB", (2, 2), (30 * i, 90, 0))) for i in range(8)},
        specific=Specific(
            unit="SE_3_1",
            channel=12,
            specificity=0.9,
            by_class=(("pug", 0.91), ("goldfish", 0.08)),
            openers=((1, 0.95), (2, 0.94)),
            closers=((3, 0.01),),
        ),
    )


def history(start: float, epochs: int = 10) -> tuple[Epoch, ...]:
    """Epochs whose error falls from `start` as 1 / epoch, on 400 images."""
    return tuple(
        Epoch(
            epoch=e,
            part="val",
            step=10 * e,
            lr=0.1 / e,
            train={"loss": 2 / e, "error": 80 / e},
            train_images=1400,
            measured={"loss": 2.5 / e, "top1_error": start / e, "top5_error": 1.0},
            eval_images=400,
            seconds=6.0,
            step_ms=3.0,
            data_seconds=(0.5,),
        )
        for e in range(1, epochs + 1)
    )


def row(name: str, by_seed: tuple[float | None, ...], printed: float | None = None, **values: Any) -> RowResult:
    done = [e for e in by_seed if e is not None]
    costs: dict[str, Any] = {"params": 1000, "macs": 5000, "step_ms": 3.0, "train_seconds": 18.0, "epochs": 3}
    return RowResult(
        name=name,
        network=name if done else None,
        runs=tuple(f"{name}-seed{seed}" for seed in range(len(by_seed))),
        finished=len(done),
        **(costs if done else dict.fromkeys(costs)) | values,
        errors={TOP1: Errors.of(by_seed, printed), TOP5: Errors.of([None if e is None else 1.0 for e in by_seed])},
        best_errors=by_seed,
    )


def difference(row: str, minus: str, mean: float, low: float | None, high: float | None, **values: Any) -> Difference:
    found = Difference(
        row=row, minus=minus, seeds=3, mean=mean, deviation=None, low=low, high=high, step_ratio=1.1, verdict="open"
    )
    return replace(found, **values)


def result(name: str, rows: tuple[RowResult, ...], differences: tuple[Difference, ...], **values: Any) -> Result:
    found = Result(
        name=name,
        title=f"Planted {name}",
        data="digits",
        train_images=1400,
        part="val",
        eval_images=400,
        epochs=(3,),
        seeds=tuple(range(len(rows[0].runs))),
        finished=sum(row.finished for row in rows),
        planned=sum(len(row.runs) for row in rows),
        train_seconds=36.0,
        rows=rows,
        differences=differences,
        measures=dict(CLASSIFICATION.measures),
        shown=(TOP1,),
    )
    return replace(found, **values)


def comparison() -> Result:
    """Three networks, without figures of the paper."""
    return result(
        "comparison",
        (
            row("resnet8", (9.0, 8.0, 10.0)),
            row("se_resnet8", (8.0, 7.0, 9.75), params=1100),
            row("eca_resnet8", (8.0, 7.5, None)),
        ),
        (
            difference("se_resnet8", "resnet8", -0.75, -1.25, -0.25),
            difference("eca_resnet8", "resnet8", -0.5, -1.0, 0.5),
        ),
        failed={"eca_resnet8-seed2": "DataError: no images"},
    )


def table() -> Result:
    """A table of the paper, of which one row was not run."""
    return result(
        "table4",
        (row("ResNet-110", (7.0,), 6.37), row("SE-ResNet-110", (6.1,), 5.21), row("SE-ResNet-164", (None,), 4.39)),
        (difference("SE-ResNet-110", "ResNet-110", -0.8, -2.3, 0.7, printed=-1.16),),
        differs=("train.epochs: 10, not 200",),
        paper_run="200 epochs",
    )


def evaluation() -> Evaluation:
    return Evaluation(
        top1_error=5.0,
        top5_error=0.25,
        loss=0.11,
        images=300,
        per_class=(
            ClassErrors(name="cat", images=100, top1_error=10.0, top5_error=0.5),
            ClassErrors(name="dog", images=100, top1_error=5.0, top5_error=0.25),
            ClassErrors(name="ship", images=100, top1_error=0.0, top5_error=0.0),
        ),
        confusion=((90, 10, 0), (4, 95, 1), (0, 0, 100)),
        calibration=Calibration(
            ece=0.0312,
            mce=0.1,
            brier=0.04,
            nll=0.11,
            bins=(
                CalibrationBin(low=0.0, high=0.5, images=0, confidence=None, accuracy=None),
                CalibrationBin(low=0.5, high=0.75, images=40, confidence=0.63, accuracy=0.5),
                CalibrationBin(low=0.75, high=1.0, images=160, confidence=0.9, accuracy=0.95),
            ),
        ),
        epoch=2,
        mistakes=(Mistake(truth="cat", answer="dog", confidence=0.87, picture=data_uri(Image.new("L", (4, 4)))),),
    )


def cost() -> Description:
    def part(name: str, params: int, macs: int, se: int) -> Row:
        return Row(
            part=name, layers="3x3", channels=16, height=8, width=8, params=params, macs=macs, se_params=se, se_macs=se
        )

    return Description(
        image_size=(32, 32),
        params=1100,
        params_se_bias_true=1100,
        params_se_bias_false=1100,
        params_without_se=1000,
        macs=5100,
        macs_without_se=5000,
        bn_statistics=0,
        rows=(part("stem", 100, 1100, 0), part("stage2", 1000, 4000, 100)),
    )


def environment() -> Environment:
    return Environment(
        python="3.13.0",
        torch="2.11.0",
        torchvision="0.26.0",
        lightning="2.6.6",
        platform="Linux",
        cpu="planted",
        cores=2,
        threads=1,
        device="cpu",
        started="2026-01-01T00:00:00+00:00",
    )


def full() -> Page:
    """Every section."""
    return Page(
        kind="Comparison",
        title="resnet8 and se_resnet8",
        subtitle="10 epochs on planted images.",
        headline=Headline(
            label="se_resnet8 minus resnet8",
            value=-0.75,
            unit="points of error",
            low=-1.25,
            high=-0.25,
            is_difference=True,
            note="Paired over 3 seeds.",
        ),
        facts=[("data", "planted"), ("test images", 200)],
        results=[comparison()],
        curves={"resnet8": [history(90.0), history(80.0)], "se_resnet8": [history(70.0), history(60.0)]},
        gates=gates(),
        evaluation=evaluation(),
        cost=cost(),
        recipe=recipe_for("digits", model="se_resnet20"),
        seeds=[0, 1, 2],
        commands=["senet train --config runs/a/recipe.yaml"],
        environment=environment(),
    )
