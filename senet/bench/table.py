"""Format a benchmark as Markdown."""

from __future__ import annotations

from senet.bench.result import Bench, Case, Ratio, Row

HEAD = ("", "ms", "quartiles", "ratio to the first", "95 % interval", "memory, MiB", "of the limit", "answer")


def markdown(bench: Bench) -> str:
    """Format the hardware and, for each case, a table with ratios to its first row."""
    m = bench.machine
    versions = ", ".join(f"{name} {m[name]}" for name in ("torch", "torchvision", "timm", "triton") if m[name])
    lines = [
        f"## {bench.title}",
        "",
        f"{m['device']}; {m['cpu']}, {m['threads']} of {m['cores']} threads; {versions}, Python {m['python']}; "
        f"{m['date'][:10]}.",
        f"Limits: copying {bench.copy_gb_s:.1f} GB/s, matrix products {bench.matmul_tflop_s:.2f} TFLOP/s.",
        f"Settings: {', '.join(f'{k} {v}' for k, v in bench.settings.items())}.",
    ]
    for case in bench.cases:
        lines += ["", *_case(case)]
    return "\n".join(lines)


def _case(case: Case) -> list[str]:
    labels = ", ".join(f"{name} {value}" for name, value in (case.labels or {}).items())
    rounds = max(len(row.samples_ms) for row in case.rows)
    loads = "" if case.load_before is None else f", load {case.load_before:.1f} before, {case.load_after:.1f} after"
    stopped = "; stopped before the last round" if case.is_interrupted else ""
    notes = [f"- {_said(r)}" for r in case.ratios if r.bottom != case.base and r.value is not None]
    notes += [f"- not measured: {row.name}: {row.failure}" for row in case.rows if row.failure]
    return [
        f"### {labels}",
        "",
        f"Medians of {rounds} rounds{loads}{stopped}.",
        "",
        _line(HEAD),
        "|---|" + "--:|" * (len(HEAD) - 1),
        *(_line(_cells(case, row)) for row in case.rows),
        *([""] if notes else []),
        *notes,
    ]


def _cells(case: Case, row: Row) -> tuple[str, ...]:
    if row.median_ms is None:
        return (row.name, "not measured", *[""] * (len(HEAD) - 2))
    value, interval = "1", ""
    if row.name != case.base:
        ratio = case.ratio(row.name, case.base)
        value = "" if ratio.value is None else f"{ratio.value:.3f}"
        interval = "" if ratio.value is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
    answer = "reference" if row.like is None else f"not checked: no {row.like}"
    if row.deviation is not None:
        answer = f"{', '.join(f'{d:.0e}' for d in row.deviation)} from {row.like}"
    return (
        row.name,
        f"{row.median_ms:.3f}",
        f"{row.low_ms:.3f} to {row.high_ms:.3f}",
        value,
        interval,
        "not measured" if row.memory_mib is None else f"{row.memory_mib:,.0f}",
        "" if row.limit_ms is None else f"{100 * row.limit_ms / row.median_ms:.0f} %",
        answer,
    )


def _said(ratio: Ratio) -> str:
    return f"{ratio.top} over {ratio.bottom}: {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
