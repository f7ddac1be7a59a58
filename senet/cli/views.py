"""The options of commands that measure on images: which images, which classes, which views of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.cli.parse import Line, Parser
from senet.errors import ConfigError
from senet.recipes.recipe import PARTS, DataRecipe

if TYPE_CHECKING:
    from senet.evaluation.crops import Views


def add_part(parser: Parser) -> None:
    """Declare --part."""
    parser.option(
        "part",
        choices=tuple(PARTS),
        help="images to take; by default test where there are some, else val; all of a folder without parts, "
        "but what was held out of the run's own",
    )


def add_among(parser: Parser) -> None:
    """Declare --among."""
    parser.option(
        "among",
        default="all",
        choices=("all", "present"),
        help="where the images have some of the network's classes only: the best answer of all, or of these",
    )


def add_views(parser: Parser) -> None:
    """Declare the options."""
    parser.option(
        "crops",
        default="1",
        choices=("1", "10", "12", "whole"),
        help="1: centre; 10: corners, centre and their mirrors; 12: also the squeezed image; whole: no crop",
    )
    parser.switch("flip", help="add the mirror of each crop")
    parser.option("scales", metavar="SIDES", help="shorter sides in pixels to resize to, such as 256,288,320")
    parser.option(
        "average", default="probabilities", choices=("probabilities", "logits"), help="average these over the views"
    )


def read_scales(text: str) -> tuple[int, ...]:
    """Read the shorter sides; ConfigError if one is not a whole number."""
    try:
        return tuple(int(side) for side in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(f"--scales: {text!r} is not a list of whole numbers, such as 256,320") from None


def read_views(line: Line) -> Views | None:
    """Return the views of a command line; None for the single crop."""
    scales = read_scales(line["scales"])

    from senet.evaluation.crops import Views

    is_whole = line["crops"] == "whole"
    crops = 1 if is_whole else int(line["crops"])
    views = Views(crops=crops, flip=line["flip"], scales=scales, whole=is_whole, average=line["average"])
    if views.count == 1 and views.average != "probabilities":
        raise ConfigError("--average: has no effect on a single view")
    return views if views != Views() else None


def check_in_memory(line: Line, recipe: DataRecipe, views: Views | None) -> None:
    """Raise ConfigError if a line asks for images in memory and for views that need the whole files."""
    if views is not None and "data.in_memory" in line.named and recipe.is_in_memory:
        raise ConfigError("--data.in_memory: 'yes' excludes --crops, --flip and --scales, which need the whole files")
