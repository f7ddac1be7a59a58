"""`senet report`: one HTML file about a run, a comparison, a reproduction or an analysis of gates."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli import options
from senet.cli.line import Line
from senet.errors import ConfigError, RunError
from senet.files import write_text

if TYPE_CHECKING:
    from senet.analysis.statistics import Gates
    from senet.data import Split
    from senet.recipes.recipe import DataRecipe
    from senet.report.page import Page
    from senet.runs.evaluation import Evaluation

DESCRIPTION = """Write FOLDER/report.html: what was trained or measured there, to look at.

FOLDER is one that senet train, compare, reproduce or analyze wrote. The report is one file that works offline and
loads nothing. Of a run it shows the gates too, once senet analyze has measured them; with --details also the errors of
each class, the confusions and the calibration of best.safetensors, which are measured on the run's own data and kept
in evaluation.json."""

THUMBNAIL = 48
"""Pixels a side, at most, of the pictures in a report."""

Thumbnail = Callable[[int], str | None]


def run(argv: list[str]) -> int:
    """The command."""
    parser = options.Parser("report", "FOLDER", DESCRIPTION)
    parser.add_argument("FOLDER", help="a folder of senet train, compare, reproduce or analyze")
    parser.option("details", action="store_true", help="evaluate best.safetensors: classes, confusions, calibration")
    parser.option("device", default="auto", choices=["auto", "cpu", "cuda"], help="where --details computes")
    parser.option("json", action="store_true", help="print JSON")
    found = parser.read(Line.of(argv).argv)
    folder = Path(found["FOLDER"]).expanduser()
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    if found["device"] != "auto" and not found["details"]:
        raise ConfigError("--device: has no effect without --details")
    if found["details"]:
        measure_details(folder, device=found["device"], progress=not found["json"])
    path = write_report(folder)
    if found["json"]:
        print(json.dumps({"report": str(path), "bytes": path.stat().st_size}, indent=2))
    else:
        print(f"report  {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return 0


def write_report(folder: Path) -> Path:
    """Write the report about a folder of any kind; gives its path.

    Raises RunError where no command of ours wrote the folder, it is unfinished, or it cannot be written to.
    """
    from senet.report.folder import GATES, page_of

    if not (folder / GATES).is_file() and (folder / "gates.npz").is_file():
        from senet.analysis.statistics import Gates

        _keep_gates(folder, Gates.load(folder / "gates.npz"), lambda _: None)
    return _write(folder, page_of(folder))


def write_run(folder: Path) -> Path:
    """Write the report about one run; gives its path. RunError where there is no epoch to report yet."""
    from senet.report.folder import run_page

    return _write(folder, run_page(folder))


def write_comparison(folder: Path) -> Path:
    """Write the report about networks trained alike; gives its path. RunError where the comparison is unfinished."""
    from senet.report.folder import comparison_page

    return _write(folder, comparison_page(folder))


def write_reproduction(folder: Path) -> Path:
    """Write the report about tables of the paper, run; gives its path. RunError where there is no reproduction.json."""
    from senet.report.folder import reproduction_page

    return _write(folder, reproduction_page(folder))


def write_analysis(folder: Path, gates: Gates, thumbnail: Thumbnail = lambda _: None) -> Path:
    """Write the report about a network's gates, and gates.json, from which a run's report shows them too.

    thumbnail: an image as a data URI by its number, or None.
    """
    from senet.report.folder import analysis_page

    return _write(folder, analysis_page(_keep_gates(folder, gates, thumbnail)))


def thumbnails(split: Split, recipe: DataRecipe) -> Thumbnail:
    """The images of a split as small pictures, as the network sees them."""
    import torch.nn.functional as F

    from senet.analysis.images import pixels
    from senet.report.picture import data_uri

    def picture(index: int) -> str:
        image = pixels(split, recipe, index)
        side = min(THUMBNAIL, image.shape[-1])
        if side < image.shape[-1]:
            image = F.interpolate(image[None].float(), size=side, mode="bilinear", antialias=True)[0].round().byte()
        return data_uri(side, side, image.permute(1, 2, 0).contiguous().numpy().tobytes())

    return picture


def measure_details(folder: Path, *, device: str = "auto", progress: bool = True) -> Evaluation:
    """Evaluate a run's best.safetensors with details on the run's own data, and keep them as evaluation.json.

    Raises ConfigError for a folder that is not a run's, DataError where the images are not at hand.
    """
    from senet.runs.checkpoint import load
    from senet.runs.evaluation import write_evaluation
    from senet.runs.recipe_file import RECIPE

    if not (folder / RECIPE).is_file():
        raise ConfigError(f"--details: {folder} is not the folder of one run; for a run inside it: senet report RUN")
    checkpoint = load(folder / "best.safetensors")

    from senet.data import open_data
    from senet.device import pick_device
    from senet.evaluation.accuracy import evaluate

    where = pick_device(device, field="--device")
    recipe = checkpoint.recipe
    data = open_data(recipe.data, recipe.train.seed, progress=progress)
    measured = evaluate(
        checkpoint.model,
        data.val,
        details=True,
        classes=data.classes,
        batch_size=recipe.data.eval_batch_size,
        device=where,
        progress=progress,
    )
    measured = replace(measured, epoch=int(checkpoint.measurements["epoch"]))
    write_evaluation(folder, measured)
    return measured


def _keep_gates(folder: Path, gates: Gates, thumbnail: Thumbnail) -> Any:
    from senet.config import to_dict
    from senet.report.picture import within
    from senet.runs.gates import write_gates

    page = gates.page(within(thumbnail))
    write_gates(folder, page)
    return to_dict(page)


def _write(folder: Path, page: Page) -> Path:
    from senet.report.folder import REPORT
    from senet.report.html import build

    path = folder / REPORT
    write_text(path, build(page))
    return path
