"""What is written is what was measured: JSON there and back, the table's figures, the picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from senet.bench.machine import describe_machine
from senet.bench.plots import plot_cost
from senet.bench.result import Bench, Case, Ratio, Row, ratio_of, spread, write_bench
from senet.bench.table import markdown
from senet.config import from_dict
from senet.errors import RunError
from senet.plotting import COLOURS


def row(name: str, *samples: float, **fields: object) -> Row:
    return Row(name=name, samples_ms=samples, **spread(samples), **fields)  # type: ignore[arg-type]


@pytest.fixture
def bench() -> Bench:
    plain = row("plain", 10.0, 11.0, 12.0, limit_ms=5.5, bytes=1e6, flops=1e9)
    se = row("SE", 11.0, 12.1, 13.2, like="plain", tolerance=(1e-5,), deviation=(2e-6,), memory_mib=1234.5)
    lost = Row(name="timm", failure="ModuleNotFoundError: No module named 'timm'")
    alone = row("unchecked", 22.0, 22.0, 22.0, like="timm")
    rows = (plain, se, lost, alone)
    pairs = [(r, plain) for r in rows[1:]] + [(alone, se)]
    case = Case(
        labels={"network": "se_resnet50", "batch": 8},
        base="plain",
        rows=rows,
        ratios=tuple(ratio_of(a, b) for a, b in pairs),
        load_before=0.5,
        load_after=1.25,
    )
    return Bench(
        title="a test",
        machine=describe_machine(torch.device("cpu")),
        settings={"precision": "fp32"},
        copy_gb_s=20.0,
        matmul_tflop_s=0.1,
        cases=(case,),
    )


def test_json_there_and_back(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_bench(path, bench)
    written = json.loads(path.read_text())
    assert from_dict(Bench, written) == bench
    assert written["cases"][0]["rows"][0]["samples_ms"] == [10.0, 11.0, 12.0]
    assert set(written["machine"]) >= {"cpu", "cores", "threads", "torch", "timm", "triton", "python", "date"}


def test_the_tables_figures_are_those_of_the_json(bench: Bench) -> None:
    text = markdown(bench)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    table = {cells[0]: cells[1:] for cells in lines}
    assert table["plain"] == ["11.000", "10.500 to 11.500", "1", "", "not measured", "50 %", "reference"]
    assert table["SE"] == [
        *("12.100", "11.550 to 12.650", "1.100", "1.100 to 1.100", "1,234", "", "2e-06 from plain"),
    ]
    assert table["timm"] == ["not measured", "", "", "", "", "", ""]
    assert table["unchecked"][-1] == "not checked: no timm"
    assert "- not measured: timm: ModuleNotFoundError: No module named 'timm'" in text
    assert "- unchecked over SE: 1.818" in text
    assert "load 0.5 before, 1.2 after" in text
    assert f"torch {torch.__version__}" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_a_picture(tmp_path: Path) -> None:
    def at(place: float, value: float | None) -> tuple[float, Ratio]:
        spread = (None, None) if value is None else (value - 0.01, value + 0.02)
        return place, Ratio(top="SE", bottom="plain", value=value, low=spread[0], high=spread[1])

    curves = {"eager": [at(64, 1.2), at(128, 1.1), at(224, 1.05)], "lost": [at(64, None)], "gap": [at(64, 1.0)]}
    plot_cost(tmp_path / "a.png", curves, x="pixels a side", y="SE over plain", title="a test")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (975, 572)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert tuple(bytes.fromhex(COLOURS[0][1:])) in colours
    with pytest.raises(RunError, match="cannot write"):
        plot_cost(tmp_path / "no" / "a.png", curves, x="", y="", title="")
