"""Time our kernels beside ONNX Runtime, OpenVINO and `torch.compile` on networks with SE, and write a table.

    python -m benchmarks.engines --out engines.jsonl                      # all networks, batch 1 and 8, 1 and 2 threads
    python -m benchmarks.engines --out engines.jsonl mnasnet_a1 --batch 1 --threads 1
    python -m benchmarks.engines --out busy.jsonl --threads 2 --busy 1    # beside a process that does nothing but count
    python -m benchmarks.engines --out engines.jsonl --table              # what is there, as Markdown; --table auto

It can be stopped at any time; what is in the file is not measured again. The sides of a case run in shuffled rounds of
one process, after their answers were compared. With one thread the process's own time is taken, which other programs on
the machine disturb less than the time of day. The others get the network as it is: exported for that shape, or compiled
with frozen weights in channels-last.
"""

from __future__ import annotations

import argparse
import atexit
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

import senet
from senet.bench.measure import Subject, measure
from senet.bench.result import Case, ratio_of
from senet.bench.subjects import exported, settle_norms_
from senet.config import from_dict, to_dict

NETWORKS = (
    *("timm:mobilenetv3_large_100", "timm:mobilenetv3_small_100", "timm:mnasnet_a1", "timm:efficientnet_b0"),
    *("timm:efficientnet_b3", "torchvision:efficientnet_v2_s", "timm:regnety_016", "timm:regnety_032"),
    *("timm:seresnet50", "timm:seresnext50_32x4d", "timm:legacy_senet154", "timm:ecaresnet50t"),
    *("se_resnet50", "se_resnext50_32x4d", "se_vgg16_bn", "se_bn_inception", "se_inception_resnet_v2"),
    *("se_mobilenet", "se_shufflenet_g3", "se_resnet20"),
)
RIVALS = ("onnxruntime", "openvino", "compiled")


def network(name: str, size: int) -> tuple[nn.Module, Tensor]:
    """A network with the norms of some noise, and how large its images are."""
    torch.manual_seed(0)
    library, _, its = name.rpartition(":")
    size = size or (32 if its == "se_resnet20" else 224)
    if library == "timm":
        model: nn.Module = timm.create_model(its)
    elif library == "torchvision":
        model = torchvision.models.get_model(its, weights=None)
    else:
        model = senet.create_model(its)
    images = torch.randn(4, 3, size, size)
    settle_norms_(model, images)
    return model.eval(), images


def sides(model: nn.Module, x: Tensor, names: list[str]) -> list[Subject]:
    """The sides to time, ours first."""

    def ours(**options: Any) -> Callable[[], Tensor]:
        fast = senet.optimize(model, x, **options)
        return lambda: fast(x)

    def compiled() -> Callable[[], Tensor]:
        from torch._inductor import config

        images = x.contiguous(memory_format=torch.channels_last)
        made = torch.compile(model.to(memory_format=torch.channels_last), dynamic=False)  # type: ignore[call-overload]
        with config.patch(freezing=True), torch.no_grad():
            made(images)

        def run() -> Tensor:
            with torch.no_grad():
                return made(images)

        return run

    def exact() -> Tensor:
        with torch.no_grad():
            return model.double()(x.double())

    makers: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "ours compiled": partial(ours, compile=True),
        "auto": partial(ours, engine="auto"),
        "onnxruntime": partial(exported, "onnxruntime", model, x),
        "openvino": partial(exported, "openvino", model, x),
        "compiled": compiled,
    }
    with torch.no_grad():
        rounding = float((model(x).double() - (want := exact())).norm() / want.norm())
    model.float()
    tolerance = max(1e-5, 8 * rounding)
    return [
        Subject(name=name, make=makers[name], like=None if name == "ours" else "ours", tolerance=(tolerance,))
        for name in ["ours", *names]
    ]


def best(case: Case, names: tuple[str, ...] = RIVALS) -> str:
    """The fastest of some sides that were timed."""
    there = [row for row in case.rows if row.name in names and row.median_ms is not None]
    return min(there, key=lambda row: row.median_ms or 0).name


def read(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What was measured, by network, batch, threads and side's names."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {(f["network"], f["batch"], f["threads"]): f for f in found}


def table(path: Path, side: str = "ours") -> str:
    """Markdown: time of a side over the fastest of the others that were timed, with intervals; a column each case.

    Args:
        path: What was measured.
        side: "ours", which is compared with the other engines, or "auto", which is compared with ours too.
    """
    found = read(path)
    columns = sorted({(batch, threads) for _, batch, threads in found})
    head = [f"batch {batch}, {threads} thread{'s' * (threads > 1)}" for batch, threads in columns]
    lines = ["| network | ms | " + " | ".join(head) + " |", "|---|--:|" + "--:|" * len(head)]
    for name in dict.fromkeys(name for name, _, _ in found):
        cells, first = [], ""
        for column in columns:
            one = found.get((name, *column))
            case = from_dict(Case, one["case"]) if one else None
            if case is None or not any(row.name == side for row in case.rows):
                cells.append("")
                continue
            first = first or f"{case.row(side).median_ms:.2f}"
            r = ratio_of(case.row(side), case.row(best(case, RIVALS if side == "ours" else (*RIVALS, "ours"))))
            cells.append(f"{r.value:.2f} ({r.low:.2f} to {r.high:.2f})")
        lines.append(f"| `{name.rpartition(':')[2]}` | {first} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not in the file yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="also: ours compiled, auto")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--busy", type=int, default=0, help="processes that run beside, each on a core")
    parser.add_argument("--table", choices=("ours", "auto"), nargs="?", const="ours")
    line = parser.parse_args()
    if line.table:
        print(table(line.out, line.table))
        return
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(line.busy)]
    atexit.register(lambda: [process.kill() for process in beside])
    versions = {name: version(name) for name in ("torch", "onnxruntime", "openvino", "timm")}
    for threads in map(int, line.threads.split(",")):
        torch.set_num_threads(threads)
        for batch in map(int, line.batch.split(",")):
            for name in line.networks:
                if (name, batch, threads) in read(line.out):
                    continue
                model, images = network(name, line.size)
                x = images.repeat(-(-batch // 4), 1, 1, 1)[:batch].contiguous()
                torch.compiler.reset()
                with redirect_stdout(StringIO()):
                    case = measure(
                        sides(model, x, line.rivals.split(",")),
                        repeats=line.rounds,
                        min_seconds=0.02,
                        ratios=[("ours", rival) for rival in line.rivals.split(",")],
                        clock=process_time if threads == 1 else perf_counter,
                        progress=sys.stderr.isatty(),
                    )
                found = {"network": name, "batch": batch, "threads": threads, "versions": versions}
                with line.out.open("a") as file:
                    file.write(json.dumps(found | {"case": to_dict(case)}) + "\n")
                ratios = {row.name: (row.median_ms and round(row.median_ms, 2)) or row.failure for row in case.rows}
                print(f"{name}, batch {batch}, {threads} threads: {ratios}", flush=True)
                if case.is_interrupted:
                    return


if __name__ == "__main__":
    main()
