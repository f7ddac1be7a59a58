"""Draw what one SE unit does to two images, for the home page and the README, in light and dark.

python docs/make_unit_picture.py RUN --unit features.stage3.block3.se --classes 3,1
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

import senet
from senet.data import open_data

IMAGES = Path(__file__).parent / "images"
CHANNELS = 6
"""Channels to draw: those whose gates differ most between the two images."""

WIDTHS = [1, 1, *[1] * CHANNELS, 0.7, *[1] * CHANNELS]

WORDS = {"0": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven"}
COLOURS = {
    "light": ("#1f2328", "#6e7781", "#0072b2", ("#0072b2", "#f4f4f4", "#d55e00")),
    "dark": ("#f0f3f6", "#9da7b3", "#56b4e9", ("#56b4e9", "#22272e", "#e69f00")),
}
"""Text, quiet text, bars; and below, at and above zero: a channel that is shut fades into the middle colour."""


def measure(run: Path, unit: str, classes: list[int]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return image, feature map and gates of the most typical held-out image of each class: gates nearest the mean."""
    checkpoint = senet.load(run)
    data = open_data(checkpoint.recipe.data, seed=0)
    images, targets = data.measured.prepare(data.measured[0, range(len(data.measured))], torch.device("cpu"))
    module = checkpoint.model.get_submodule(unit)
    assert isinstance(module, senet.Unit)
    seen: list[torch.Tensor] = []
    module.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.no_grad():
        checkpoint.model.eval()(images)
        gates = module.gate(seen[0])
    chosen = []
    for target in classes:
        (of,) = (targets == target).nonzero(as_tuple=True)
        nearest = of[(gates[of] - gates[of].mean(0)).square().sum(1).argmin()]
        chosen.append((images[nearest, 0], seen[0][nearest], gates[nearest]))
    return chosen


def draw(chosen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], names: list[str], theme: str) -> Figure:
    """One block of columns for each image: the channels, their gates, the gated channels."""
    ink, quiet, blue, scale = COLOURS[theme]
    colours = LinearSegmentedColormap.from_list(theme, scale)
    difference = chosen[0][2] - chosen[1][2]
    channels = difference.argsort()[[*range(CHANNELS // 2), *range(-CHANNELS // 2, 0)]]
    # The largest values of a few channels would leave the others pale.
    top = float(torch.cat([u[channels].abs().flatten() for _, u, _ in chosen]).quantile(0.98))
    figure = plt.figure(figsize=(11, 3.1), facecolor="none")
    grid = figure.add_gridspec(
        4, 2 * CHANNELS + 3, left=0, right=1, top=1, bottom=0, wspace=0.1, hspace=0.1, width_ratios=WIDTHS
    )
    for side, (image, u, s) in enumerate(chosen):
        first = side * (CHANNELS + 1) + 2
        axes = figure.add_subplot(grid[0, first])
        axes.imshow(image, cmap="gray_r" if theme == "light" else "gray", vmin=image.min(), vmax=image.max())
        axes.axis("off")
        title = figure.add_subplot(grid[0, first + 1 : first + CHANNELS])
        title.text(0.02, 0.5, f"a {names[side]}", color=ink, fontsize=22, va="center")
        title.axis("off")
        for place, channel in enumerate(channels.tolist()):
            for row, values in ((1, u[channel]), (3, u[channel] * s[channel])):
                axes = figure.add_subplot(grid[row, first + place])
                axes.imshow(values, cmap=colours, vmin=-top, vmax=top)
                axes.axis("off")
            axes = figure.add_subplot(grid[2, first + place])
            axes.bar([0], [float(s[channel])], width=0.62, color=blue)
            axes.text(0, float(s[channel]) + 0.05, f"{float(s[channel]):.2f}", ha="center", color=ink, fontsize=14)
            axes.set(xlim=(-0.5, 0.5), ylim=(-0.02, 1.4), xticks=[], yticks=[], facecolor="none")
            for name, spine in axes.spines.items():
                spine.set_visible(name == "bottom")
                spine.set_color(quiet)
    for row, (word, more) in enumerate((("u", "channels"), ("s", "gates"), ("s·u", "gated")), start=1):
        axes = figure.add_subplot(grid[row, :2])
        axes.text(0.98, 0.6, more, color=ink, fontsize=17, ha="right", va="center")
        axes.text(0.98, 0.28, word, color=quiet, fontsize=15, ha="right", va="center", style="italic")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.axis("off")
    return figure


def main() -> None:
    """Write docs/images/unit-light.png and unit-dark.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--unit", default="features.stage3.block3.se")
    parser.add_argument("--classes", default="3,1")
    args = parser.parse_args()
    classes = args.classes.split(",")
    chosen = measure(args.run, args.unit, [int(c) for c in classes])
    for theme in COLOURS:
        figure = draw(chosen, [WORDS[c] for c in classes], theme)
        figure.savefig(IMAGES / f"unit-{theme}.png", dpi=150, transparent=True)


if __name__ == "__main__":
    main()
