"""A table or figure of the paper as an experiment: what is trained, what is compared, and what the paper prints.

A row is a whole recipe; the rows that one comparison joins differ in their network alone, and as a rule in one field of
it, so that they are fair twins: equal images in equal order, equal values in every weight that they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from senet.models.net import Net
from senet.recipes.recipe import Recipe

TOP1, TOP5 = "top1_error", "top5_error"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    name: the paper's word for it.
    recipe: how it is trained; None for a line of others' results, which is only printed.
    minus: the name of the row that it is compared with; "" for none.
    printed: the paper's errors in percent, `TOP1` and `TOP5`; what it does not give is not there.
    note: what a reader of the figures must know.
    """

    name: str
    recipe: Recipe | None = None
    minus: str = ""
    printed: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A table or figure, "table10" or "figure4".

    title: what it is about.  rows: in the paper's order.
    hours: what the paper's own run needed, in words; hardware too.
    small: the plain network that stands in for the rows' own where images are of 64 pixels or less; each row's unit is
        put into it. None where the rows' networks are for such images already, or no other may stand in.
    crops: sizes in pixels at which the trained network is evaluated beside its own, as Table 8 does.
    shows: what a figure is drawn of: "curves" (Figure 4), "gates" (Figures 6 and 7), "" for a table.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    hours: str = ""
    small: Net | None = None
    crops: tuple[int, ...] = ()
    shows: str = ""
