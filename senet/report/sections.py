"""The sections of a report. Each is a function from the page to its markup, or None where the page has no data for it.

Text, tables and simple bars are HTML, so the page can be read without scripts; what a reader moves through (curves,
gates, matrices) is a `figure` that the scripts in `assets/` fill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from senet.report.markup import Markup, join, tag
from senet.report.words import MINUS, cell, count, interval, is_number, number, short

Values = Mapping[str, Any]
"""A page, or a part of one; see `senet.report.page`."""

COLOURS = 8
"""How many colours the style sheet has for lines: --c0 to --c7."""

MOST_LABELS = 20
"""Classes up to which a matrix or a list shows every one."""

KINDS = {"run": "Run", "comparison": "Comparison", "reproduction": "Reproduction", "analysis": "Gates"}


def section(name: str, title: str, lede: str, *children: Any) -> Markup:
    """A section with its heading and the sentence that says how to read it."""
    heading = tag("header", tag("h2", title, id=f"{name}-title"), tag("p", lede, class_="lede") if lede else None)
    return tag("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def drawing(name: str, label: str) -> Markup:
    """The place of a chart that a script draws."""
    hint = tag("noscript", tag("p", f"{label}: drawn by the page's scripts, which are switched off.", class_="note"))
    return tag("figure", hint, class_="drawing", data_draw=name)


def table(
    columns: Sequence[Any], rows: Iterable[Sequence[Any]], *, numeric: Iterable[int], caption: str = ""
) -> Markup:
    """A table whose first column names the rows; columns of numbers are set to the right."""
    right = set(numeric)

    def line(kind: str, values: Sequence[Any]) -> Markup:
        cells = []
        for i, value in enumerate(values):
            name = "th" if kind == "col" or i == 0 else "td"
            scope = {"col": "col", "row": "row"}[kind] if name == "th" else None
            cells.append(tag(name, value, scope=scope, class_="n" if i in right else None))
        return tag("tr", cells)

    body = [line("row", row) for row in rows]
    shown = tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", line("col", columns)),
        tag("tbody", body),
    )
    return tag("div", shown, class_="scroll", tabindex=0, role="region", aria_label=caption or "Table")


def facts(pairs: Iterable[tuple[str, Any]], class_: str = "facts") -> Markup:
    """Labels with their values."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", cell(value))) for name, value in pairs], class_=class_)


def axis(values: Iterable[Any], *, with_zero: bool) -> tuple[float, float]:
    """Round limits, a little beyond the values."""
    found = [v for v in values if is_number(v)] + [0.0] * with_zero
    low, high = min(found), max(found)
    step = 10 ** math.floor(math.log10(max(high - low, 1e-3))) / 2
    return step * math.floor(low / step - 0.25), step * math.ceil(high / step + 0.25)


def place(value: float, limits: tuple[float, float]) -> str:
    """Where a value lies between the limits, in percent for CSS."""
    return f"{100 * (value - limits[0]) / (limits[1] - limits[0]):.2f}%"


def colour(i: int) -> str:
    """The CSS colour of the i-th network or class."""
    return f"var(--c{i % COLOURS})"


def overview(page: Values) -> Markup:
    """What the page is about, its result in one number, the networks side by side, and the facts."""
    result = page.get("result")
    big = None
    if result:
        signed = bool(result.get("is_difference"))
        low, high = result.get("low"), result.get("high")
        between = interval(low, high, signed=signed)
        big = tag(
            "div",
            tag("p", result.get("label", ""), class_="label"),
            tag(
                "p",
                tag("span", number(result.get("value"), signed=signed), class_="figure"),
                " ",
                tag("span", result.get("unit", "%"), class_="unit"),
                class_="big",
            ),
            tag("p", "95 % interval ", tag("b", between), class_="between") if between else None,
            _range(result["value"], low, high) if signed and is_number(result.get("value")) else None,
            tag("p", result.get("note", ""), class_="note") if result.get("note") else None,
            class_="result",
        )
    networks, about = page.get("networks"), page.get("overview")
    listed = facts(about) if about else None
    beside = _networks(networks) if networks else listed if big else None
    return tag(
        "section",
        tag("p", KINDS.get(page.get("kind", ""), "Report"), class_="kicker"),
        tag("h1", page.get("title", "Report"), id="overview-title"),
        tag("p", page["subtitle"], class_="subtitle") if page.get("subtitle") else None,
        tag("div", big, beside, class_="hero") if big or beside else None,
        listed if listed is not beside else None,
        id="overview",
        aria_labelledby="overview-title",
    )


def _range(mean: float, low: Any, high: Any, extra: Any = None, limits: tuple[float, float] | None = None) -> Markup:
    """An interval on a line with its zero; `extra`: another value beside it, the paper's."""
    limits = limits or axis([mean, low, high, extra], with_zero=True)
    marks = [tag("i", class_="zero", style=f"left:{place(0, limits)}")]
    if is_number(low) and is_number(high):
        left, right = place(low, limits), place(high, limits)
        marks.append(tag("i", class_="span", style=f"left:{left};right:calc(100% - {right})"))
    if is_number(extra):
        marks.append(tag("i", class_="theirs", style=f"left:{place(extra, limits)}"))
    marks.append(tag("i", class_="mean", style=f"left:{place(mean, limits)}"))
    return tag("div", marks, class_="range", aria_hidden="true")


def _networks(networks: Sequence[Any]) -> Markup:
    """Each network's error with its seeds as dots on one scale, and its cost beside the first one's."""
    limits = axis([e for n in networks for e in n.get("errors", ())], with_zero=False)
    first = networks[0]
    cards = []
    for i, n in enumerate(networks):
        errors = n.get("errors", [])
        dots = [tag("i", style=f"left:{place(e, limits)}", title=f"{number(e)} %") for e in errors if is_number(e)]
        costs = []
        for key, name in (("params", "parameters"), ("macs", "multiply-adds"), ("step_ms", "ms per step")):
            value, base = n.get(key), first.get(key)
            if value is None:
                continue
            more = None
            if i and base:
                more = tag("small", f"{number(100 * value / base - 100, 1, signed=True)} %")
            shown = number(value, 1) if key == "step_ms" else short(value)
            costs.append(tag("div", tag("dt", name), tag("dd", shown, " ", more)))
        spread = n.get("deviation")
        seeds = f"{len(errors)} seed{'s' if len(errors) != 1 else ''}"
        cards.append(
            tag(
                "li",
                tag("p", tag("i", class_="dot"), n["name"], class_="name"),
                tag(
                    "p",
                    tag("span", number(n.get("mean")), class_="figure"),
                    " % ",
                    tag("small", f"± {number(spread)}") if is_number(spread) else None,
                    class_="error",
                ),
                tag("div", dots, class_="dots", role="img", aria_label=f"{seeds}: {', '.join(map(number, errors))} %"),
                tag(
                    "p",
                    tag("span", number(limits[0])),
                    tag("span", seeds),
                    tag("span", number(limits[1])),
                    class_="ends",
                ),
                tag("dl", costs),
                style=f"--own:{colour(i)}",
            )
        )
    return tag("ul", cards, class_="networks")


def curves(page: Values) -> Markup | None:
    """Error, loss and learning rate over the epochs."""
    runs = page.get("curves")
    if not runs or not any(any(history) for history in runs.values()):
        return None
    several = max(map(len, runs.values())) > 1
    lede = "Solid: test images. Dashed: training images, as they were augmented."
    if several:
        lede += " A line is the mean over the seeds, its band goes from the lowest to the highest."
    return section("curves", "Curves", lede, drawing("curves", "Error and loss over the epochs"))


def results(page: Values) -> Markup | None:
    """Ours beside the paper's: each table, and each paired difference as an interval."""
    found = page.get("results")
    if not found:
        return None
    parts = [_result(one, alone=len(found) == 1) for one in found]
    with_paper = any(
        "table" in one or any(is_number(d.get("printed")) for d in one.get("differences", ())) for one in found
    )
    lede = "Errors in percent; a difference is paired seed by seed, with its 95 % interval by Student's t."
    return section("results", "Ours beside the paper's" if with_paper else "Differences", lede, *parts)


def _result(one: Values, *, alone: bool) -> Markup:
    shown, title = one.get("table"), one.get("title", "")
    head = None if alone else tag("h3", title)
    parts: list[Any] = [head, tag("p", one["subtitle"], class_="note") if one.get("subtitle") else None]
    if shown:
        columns, rows = shown.get("columns", []), shown.get("rows", [])
        right = [i for i in range(len(columns)) if i and not any(_is_words(row[i]) for row in rows if len(row) > i)]
        parts.append(
            table(columns, [list(map(cell, row)) for row in rows], numeric=right, caption=title if alone else "")
        )
    found = one.get("differences", [])
    for measure in dict.fromkeys(d.get("measure", "") for d in found):
        caption = f"Differences in {measure} error" if measure else "Differences"
        parts.append(_differences([d for d in found if d.get("measure", "") == measure], caption))
    if shown and shown.get("notes"):
        parts.append(tag("ul", [tag("li", note) for note in shown["notes"]], class_="notes"))
    if shown and shown.get("differs"):
        summary = tag("summary", f"Otherwise than in the paper: {len(shown['differs'])}")
        parts.append(
            tag("details", summary, tag("ul", [tag("li", d) for d in shown["differs"]], class_="notes"), open=True)
        )
    return tag("div", parts, class_="one")


def _is_words(value: Any) -> bool:
    """Whether a cell is text to read, unlike "8.40 ± 0.18"."""
    return isinstance(value, str) and any(c.isalpha() for c in value)


def _differences(differences: Sequence[Any], caption: str) -> Markup:
    values = [d.get(key) for d in differences for key in ("mean", "low", "high", "printed")]
    limits = axis(values, with_zero=True)
    rows = []
    for d in differences:
        between = interval(d.get("low"), d.get("high"), signed=True)
        seeds = f"n = {d['n']}" if d.get("n") else ""
        printed = f"paper {number(d['printed'], signed=True)}" if is_number(d.get("printed")) else ""
        mean = d.get("mean")
        rows.append(
            tag(
                "li",
                tag("span", d.get("label", ""), class_="what"),
                _range(mean, d.get("low"), d.get("high"), d.get("printed"), limits) if is_number(mean) else tag("span"),
                tag("b", number(mean, signed=True), class_="value"),
                tag(
                    "span",
                    ", ".join(filter(None, (between, seeds, printed, d.get("verdict")))) or "not run",
                    class_="note",
                ),
            )
        )
    ends = tag(
        "p",
        tag("span", f"{MINUS} fewer errors"),
        tag("span", "points of error"),
        tag("span", "more errors +"),
        class_="ends",
        aria_hidden="true",
    )
    theirs = any(is_number(d.get("printed")) for d in differences)
    key = tag("p", tag("i", class_="mean"), " ours ", tag("i", class_="theirs"), " the paper's", class_="key note")
    return tag(
        "figure",
        tag("figcaption", caption),
        tag("ul", rows, class_="forest"),
        ends,
        key if theirs else None,
        class_="differences",
    )


def gates(page: Values) -> Markup | None:
    """The gate explorer."""
    found = page.get("gates")
    if not found or not found.get("units"):
        return None
    images = f"{count(found.get('images'))} images"
    lede = (
        f"What the units let through, over {images}{' of ' + found['source'] if found.get('source') else ''}. "
        "Choose a unit by its depth, then move along its channels; a gate of 1 passes a channel as it is, 0 shuts it."
    )
    return section("gates", "Gates", lede, drawing("gates", "Gates of every unit"))


def confusion(page: Values) -> Markup | None:
    """What is taken for what."""
    found = page.get("confusion")
    if not found:
        return None
    pairs = worst_pairs(found["classes"], found["matrix"])
    worst = max((n / of for _, _, n, of in pairs), default=1)
    rows = [
        tag(
            "li",
            tag("span", tag("b", truth), " taken for ", tag("b", answer)),
            tag("span", f"{count(n)} of {count(of)}", class_="n"),
            style=f"--w:{100 * n / of / worst:.1f}%",
        )
        for truth, answer, n, of in pairs
    ]
    listed = tag("div", tag("h3", "Most frequent confusions"), tag("ol", rows, class_="pairs")) if rows else None
    step = group_size(len(found["classes"]))
    lede = (
        "A row is the truth, a column the answer; the diagonal is right, the rest is coloured by how often it happens."
    )
    if step > 1:
        lede += f" A cell is the sum over {step} by {step} neighbouring classes."
    return section(
        "confusion",
        "Confusion",
        lede,
        tag("div", drawing("confusion", "Confusion matrix"), listed, class_="beside"),
    )


def group_size(classes: int) -> int:
    """How many neighbouring classes share a cell of the drawn matrix."""
    return 1 if classes <= MOST_LABELS else math.ceil(classes / 40)


def grouped(page: Values) -> dict[str, Any] | None:
    """The confusion matrix as it is drawn: neighbouring classes summed where there are many."""
    found = page.get("confusion")
    if not found:
        return None
    names, matrix, step = found["classes"], found["matrix"], group_size(len(found["classes"]))
    starts = range(0, len(names), step)
    cells = [[sum(sum(row[b : b + step]) for row in matrix[a : a + step]) for b in starts] for a in starts]
    labels = [n if step == 1 else f"{n} to {names[min(a + step, len(names)) - 1]}" for a in starts for n in [names[a]]]
    return {"classes": labels, "matrix": cells}


def worst_pairs(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[tuple[str, str, int, int]]:
    """The ten most frequent confusions: truth, answer, images, images of that truth; the more frequent share first."""
    found = [
        (n / sum(row), names[i], names[j], n, sum(row))
        for i, row in enumerate(matrix)
        for j, n in enumerate(row)
        if i != j and n
    ]
    return [(truth, answer, n, of) for _, truth, answer, n, of in sorted(found, key=lambda p: (-p[0], -p[3]))[:10]]


def per_class(page: Values) -> Markup | None:
    """Each class's error as a bar, the worst first."""
    found = page.get("per_class")
    if not found:
        return None
    ordered = sorted(found, key=lambda c: -c["top1_error"] if is_number(c["top1_error"]) else math.inf)
    most = max((c["top1_error"] for c in ordered if is_number(c["top1_error"])), default=0) or 1

    def rows(classes: Sequence[Any]) -> Markup:
        lines = []
        for c in classes:
            error = c["top1_error"]
            bar = tag("i", style=f"--w:{100 * error / most:.1f}%" if is_number(error) else "--w:0%", class_="bar")
            lines.append((c["class"], bar, number(error, 1), number(c.get("top5_error"), 1), count(c.get("images"))))
        head = ("class", tag("span", "error", class_="hidden"), "top-1, %", "top-5, %", "images")
        return table(head, lines, numeric=(2, 3, 4), caption="Errors by class, the highest first")

    shown = rows(ordered[:MOST_LABELS])
    rest = None
    if len(ordered) > MOST_LABELS:
        rest = tag("details", tag("summary", f"All {len(ordered)} classes"), rows(ordered))
    return section("classes", "Classes", "Which classes are hard.", tag("div", shown, class_="bars"), rest)


def calibration(page: Values) -> Markup | None:
    """Whether answers are right as often as the network is sure of them."""
    found = page.get("calibration")
    if not found or not found.get("bins"):
        return None
    named = (
        ("Expected calibration error", "ece"),
        ("Largest of a bin", "mce"),
        ("Brier score", "brier"),
        ("Negative log likelihood, nats", "nll"),
    )
    values = [(name, number(found.get(key), 4)) for name, key in named if key in found]
    lede = (
        "How often answers are right, by how sure the network is of them. On the diagonal its confidence can be taken "
        "at its word."
    )
    return section(
        "calibration",
        "Calibration",
        lede,
        tag("div", drawing("calibration", "Accuracy by confidence"), facts(values, "facts tall"), class_="beside"),
    )


def complexity(page: Values) -> Markup | None:
    """Parameters and multiply-adds by stage, and SE's share."""
    found = page.get("complexity")
    if not found or not found.get("stages"):
        return None
    stages, total = found["stages"], found.get("total", {})
    has_se = any(s.get("se_params") or s.get("se_macs") for s in stages)

    def bar(stage: Any, key: str) -> Markup:
        most = max(s.get(key, 0) for s in stages) or 1
        se = stage.get(f"se_{key}", 0)
        whole = stage.get(key, 0)
        inside = tag("i", style=f"--w:{100 * se / whole:.1f}%", class_="bar se") if se and whole else None
        return tag("span", inside, class_="bar", style=f"--w:{100 * whole / most:.1f}%")

    def line(name: Any, s: Any, bars: bool) -> list[Any]:
        cells: list[Any] = [name]
        for key, shown in (("params", count), ("macs", short)):
            cells += [bar(s, key) if bars else "", shown(s.get(key))]
            if has_se:
                share = 100 * s.get(f"se_{key}", 0) / s[key] if s.get(key) else 0
                cells.append(f"{number(share, 2)} %" if share else "")
        return cells

    def hidden(text: str) -> Markup:
        return tag("span", text, class_="hidden")

    se_head = ["of SE"] if has_se else []
    columns = ["part", hidden("share"), "parameters", *se_head, hidden("share"), "multiply-adds", *se_head]
    rows = [
        line(join(s["name"], tag("small", " · ".join(filter(None, (s.get("layers"), s.get("output")))))), s, True)
        for s in stages
    ]
    if total:
        rows.append(line(tag("b", "in all"), total, False))
    bars = {1, 3 + has_se}
    size, of = found.get("image_size"), f", of {found['model']}" if found.get("model") else ""
    pixels = f" for one image of {' x '.join(map(str, size))} pixels" if size else ""
    key = tag("p", tag("i", class_="bar se"), " of it in the attention units", class_="key note") if has_se else None
    return section(
        "complexity",
        "Complexity",
        f"Learnable parameters, and multiply-adds of convolutions and fully connected layers{of}{pixels}.",
        tag("div", table(columns, rows, numeric=set(range(1, len(columns))) - bars), key, class_="bars stages"),
    )


def provenance(page: Values) -> Markup | None:
    """What it takes to get the same again."""
    found = page.get("provenance")
    if not found:
        return None
    parts: list[Any] = []
    for command in found.get("commands", []):
        parts.append(
            tag("div", tag("code", command, tabindex=0), tag("button", "Copy", type="button"), class_="command")
        )
    seeds = found.get("seeds")
    environment = dict(found.get("environment", {}))
    if seeds:
        environment = {"seeds" if len(seeds) > 1 else "seed": ", ".join(map(str, seeds))} | environment
    columns = []
    if found.get("recipe"):
        columns.append(tag("div", tag("h3", "Recipe"), tree(found["recipe"]), class_="tree"))
    if environment:
        pairs = [(name, str(value)) for name, value in environment.items()]
        columns.append(tag("div", tag("h3", "Environment"), facts(pairs, "facts tall")))
    parts.append(tag("div", *columns, class_="beside"))
    return section("provenance", "Provenance", "What it takes to get the same again.", *parts)


def tree(value: Any) -> Markup:
    """Nested values as a list that opens and closes."""
    items = value.items() if isinstance(value, dict) else enumerate(value, 1)
    lines = []
    for name, inner in items:
        is_nested = isinstance(inner, dict) or (isinstance(inner, (list, tuple)) and any(map(_is_nested, inner)))
        if is_nested and inner:
            summary = tag("summary", name, tag("small", _preview(inner)))
            lines.append(tag("li", tag("details", summary, tree(inner))))
        else:
            lines.append(tag("li", tag("span", name, class_="name"), tag("span", _leaf(inner), class_="value")))
    return tag("ul", lines)


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple))


def _leaf(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_leaf, value)) or "none"
    return str(value)


def _preview(value: Any) -> str:
    """The first words of a branch, for its closed state."""
    if not isinstance(value, dict):
        return f"{len(value)} entries"
    leaves = [f"{name} {_leaf(v)}" for name, v in value.items() if not _is_nested(v)]
    return ", ".join(leaves[:3])


SECTIONS = {
    "overview": ("Overview", overview),
    "results": ("Results", results),
    "curves": ("Curves", curves),
    "gates": ("Gates", gates),
    "confusion": ("Confusion", confusion),
    "classes": ("Classes", per_class),
    "calibration": ("Calibration", calibration),
    "complexity": ("Complexity", complexity),
    "provenance": ("Provenance", provenance),
}
"""Name -> (the word in the navigation, the function), in the page's order."""
