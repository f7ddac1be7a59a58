"""Draw the layers of `[tool.importlinter]` in pyproject.toml: `python docs/make_layers_picture.py [--check]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "layers.svg"

WHAT = {
    "__main__": "python -m senet",
    "cli": "one file per command",
    "app": "drop an image, switch units off",
    "bench": "honest timing",
    "report": "results as one page",
    "paper": "the paper's tables as experiments",
    "experiments": "rows x seeds, run and compared",
    "training": "one run",
    "analysis": "gates over a data set",
    "evaluation": "errors, calibration, crops",
    "runs": "checkpoint and run folder",
    "plotting": "figures with any name",
    "progress": "bars and lines",
    "processes": "rank and world",
    "data": "images, splits, augmentation",
    "counting": "errors of a classifier",
    "recipes": "one run as a value",
    "deploy": "optimize, ONNX, 8 bits",
    "detection": "Faster R-CNN, RetinaNet",
    "diagnosis": "the doctor",
    "create": "a network by name",
    "foreign_models": "timm, torchvision, a file",
    "weights": "other libraries' weights",
    "kernels": "C and Triton, by operation",
    "models": "networks as tables",
    "insert": "SE in any network",
    "blocks": "blocks as modules",
    "units": "SE, ECA, ...",
    "functional": "the paper's equations",
    "initialization": "weights drawn by name",
    "outputs": "logits of any answer",
    "tracing": "what a forward pass did",
    "device": "where to compute",
    "config": "frozen values",
    "files": "atomic writes, locks",
    "errors": "",
}
RUN = ("cli", "app", "bench", "report", "paper", "experiments", "training", "analysis", "evaluation", "runs", "data")
RUN += ("plotting", "progress", "counting", "recipes", "__main__")

WIDTH, ROW, GAP = 760, 46, 6


def layers() -> list[list[str]]:
    """The layers from top to bottom, each a list of packages."""
    text = (ROOT / "pyproject.toml").read_text()
    (found,) = re.findall(r"^layers = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    return [re.findall(r"\w+", line) for line in re.findall(r'"([^"]+)"', found)]


def draw() -> str:
    """The picture as SVG."""
    rows = [[name for name in row if name != "__main__"] for row in layers()]
    rows = [row for row in rows if row]
    height = len(rows) * ROW + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        "<title>The packages of senet. Each may import those below it.</title>",
    ]
    top, was_run = 4, True
    for row in rows:
        is_run = row[0] in RUN
        if was_run and not is_run:
            lines.append(f'<text x="4" y="{top + 14}" font-size="12" fill="#5b6c7d">what runs networks is above</text>')
            lines.append(
                f'<text x="{WIDTH - 4}" y="{top + 14}" font-size="12" fill="#5b6c7d" text-anchor="end">'
                "what networks are is below</text>"
            )
            top += 22
        was_run = is_run
        width = (WIDTH - 8 - GAP * (len(row) - 1)) / len(row)
        for i, name in enumerate(row):
            x = 4 + i * (width + GAP)
            fill, edge = ("#e8f0f7", "#30638e") if is_run else ("#fbeaec", "#d1495b")
            lines.append(
                f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{ROW - GAP}" rx="5" '
                f'fill="{fill}" stroke="{edge}"/>'
            )
            middle = x + width / 2
            lines.append(
                f'<text x="{middle:.1f}" y="{top + 17}" font-size="14" font-weight="600" fill="#1d2733" '
                f'text-anchor="middle">{escape(name)}</text>'
            )
            lines.append(
                f'<text x="{middle:.1f}" y="{top + 32}" font-size="11" fill="#44515e" text-anchor="middle">'
                f"{escape(WHAT[name])}</text>"
            )
        top += ROW
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    if "--check" in sys.argv:
        if not PICTURE.is_file() or PICTURE.read_text() != draw():
            sys.exit(f"{PICTURE.relative_to(ROOT)} is not that of pyproject.toml: python docs/make_layers_picture.py")
    else:
        PICTURE.write_text(draw())
