"""`senet bench`: what SE costs, here and elsewhere, measured so that it can be trusted."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.bench.subjects import ENGINES, OTHERS, TREATMENTS, Plan, Side, ratios, sides, subjects
from senet.cli.checkpoint import add_code, use_code
from senet.cli.output import print_json
from senet.cli.parse import Parser, read_list
from senet.config import to_dict
from senet.errors import ConfigError, unknown
from senet.foreign_models import allow_named_code
from senet.models.net import Net
from senet.models.other import OtherNet, is_other
from senet.models.registry import canonical_name, get_net
from senet.recipes.recipe import MOST_PIXELS

if TYPE_CHECKING:
    import torch

    from senet.bench.result import Bench, Ratio

DESCRIPTION = """Time networks with SE beside their plain twins and beside timm's and torchvision's.

inference: logits of a batch. training: a step of SGD; on a GPU also with fused kernels. All sides run in this process,
in rounds whose order is shuffled; before that their answers are compared, and a wrong one ends the benchmark. Exit
status 1 where a side could not be measured: its row says why. Ctrl-C keeps what was measured."""

EXAMPLES = (
    "senet bench inference se_resnet20 --modes eager",
    "senet bench inference se_resnet18 timm:resnet18+se",
    "senet bench inference --sweep resolution --plot cost.png",
    "senet bench training --device cuda --precision bf16 --batch 32,256",
)

SWEEPS = {
    "resolution": ("size", "64,96,128,160,192,224,256,288"),
    "batch": ("batch", "1,2,4,8,16,32"),
    "depth": ("models", ["se_resnet50", "se_resnet101", "se_resnet152"]),
}
"""Value of --sweep -> what it varies, and the default values."""

AXES = {
    "models": ("model", "layers"),
    "batch": ("batch", "images in a batch"),
    "size": ("size", "pixels a side"),
}
"""What varies -> field of a `Plan`, and label of the axis."""

LIBRARIES = ("timm", "torchvision")
AGAINST = """timm, torchvision, onnxruntime, openvino, none; by default timm and torchvision, where installed; the two
engines run the network as torch exports it"""
PRECISIONS = ("fp32", "bf16", "fp16")
MODES = ("eager", "compiled")
FUNCTIONS = ("same", "paper")
MODEL = """a network with units, timed beside its twin; timm:NAME, torchvision:NAME or FILE.py:FUNCTION, with +se or
alone; or a checkpoint, whose network is timed; without one: se_resnet50"""
FUNCTION_HELP = """same: our networks with stride, pooling and widths as in the other libraries, and one set of weights
for all; paper: ours as released, the others as they are, which do other work"""


def run(argv: list[str]) -> int:
    """Run the command."""
    found, values = _read(argv)

    import torch

    from senet.bench.machine import describe_machine, measure_limits
    from senet.bench.measure import measure
    from senet.bench.result import Bench, write_bench
    from senet.bench.table import markdown
    from senet.device import pick_device

    device = pick_device(found["device"], field="--device")
    if found["threads"]:
        torch.set_num_threads(found["threads"])
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        # Else what is called fp32 is not.
        torch.backends.cudnn.allow_tf32 = False
    plans = _plans(found, values, device)
    limits = measure_limits(device, plans[0].dtype)
    shown = ("modes", "against", "precision", "function", "repeats", "min_ms")
    bench = Bench(
        title=f"senet bench {found['WHAT']}",
        machine=describe_machine(device),
        settings={name: " ".join(v) or "none" if isinstance(v := found[name], tuple) else v for name in shown},
        copy_gb_s=limits.bytes_per_s / 1e9,
        matmul_tflop_s=limits.flops_per_s / 1e12,
    )
    for plan in plans:
        labels = {"network": plan.model, "batch": plan.batch, "size": plan.size}
        print(f"{len(bench.cases) + 1} of {len(plans)}: {labels}", file=sys.stderr, flush=True)
        if "compiled" in plan.modes:
            # What was compiled for another size must not make this one's sizes symbols.
            torch.compiler.reset()
        case = measure(
            subjects(plan),
            ratios=ratios(plan),
            repeats=found["repeats"],
            min_seconds=found["min_ms"] / 1000,
            device=device,
            limits=limits,
            labels=labels,
            progress=True,
        )
        bench = replace(bench, cases=(*bench.cases, case))
        if found["out"]:
            write_bench(Path(found["out"]).expanduser(), bench)
        if case.is_interrupted:
            break
    if found["json"]:
        print_json(to_dict(bench))
    else:
        print(markdown(bench))
    if found["plot"]:
        _plot(Path(found["plot"]).expanduser(), bench, plans, next(n for n, v in values.items() if len(v) > 1))
    if bench.cases[-1].is_interrupted:
        return 130
    return 1 if any(row.failure for case in bench.cases for row in case.rows) else 0


def _read(argv: list[str]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Read the options, and the networks, batch sizes and image sizes whose combinations are measured."""
    parser = Parser("bench", "inference|training [MODEL...]", DESCRIPTION, examples=EXAMPLES)
    parser.word("WHAT", count="?", help=f"what is timed: {' or '.join(TREATMENTS)}")
    parser.word("MODEL", count="*", help=MODEL)
    add_code(parser)
    parser.option("batch", default="1,8", metavar="SIZES", help="images in a batch")
    parser.option("size", default="", metavar="PIXELS", help="of a side; by default the network's own")
    parser.option("sweep", choices=tuple(SWEEPS), help="vary this at batch 1")
    parser.option("modes", default="eager,compiled", metavar="MODES", help=f"some of: {', '.join(MODES)}")
    parser.option("against", default="", metavar="NAMES", help=AGAINST)
    parser.option("function", default="same", choices=FUNCTIONS, help=FUNCTION_HELP)
    parser.device()
    parser.option("threads", type=int, default=0, low=0, high=1024, help="CPU threads; 0: torch's default")
    parser.option("precision", default="fp32", choices=PRECISIONS, help="data type")
    parser.option("repeats", type=int, default=30, low=1, high=1_000_000, help="rounds")
    parser.option("min_ms", type=float, default=20.0, low=0, high=60_000, metavar="MS", help="shortest sample, in ms")
    parser.option("out", default="", metavar="FILE.json", help="write all that was measured, after each case")
    parser.option("plot", default="", metavar="FILE.png", help="draw SE's cost against what is swept")
    parser.json()
    line = parser.read(argv)
    found = line.values
    if found["WHAT"] not in TREATMENTS:
        raise unknown("bench", found["WHAT"], TREATMENTS, kind="what can be timed")
    words = found["MODEL"]
    if found["sweep"]:
        option, many = SWEEPS[found["sweep"]]
        found["batch"] = found["batch"] if "batch" in line.given else "1"
        if option == "models":
            words = words or many
        elif option not in line.given:
            found[option] = many
    if found["WHAT"] == "training" and found["precision"] == "fp16":
        raise ConfigError("--precision: 'fp16' needs a loss scaler, which is not timed here; expected: fp32, bf16")
    for name in ("out", "plot"):
        # Before hours of measuring.
        if not (folder := Path(found[name]).expanduser().parent).is_dir():
            raise ConfigError(f"--{name}: {folder} is not a folder")
    use_code(line)
    tables = dict(_network(word) for word in words or ["se_resnet50"])
    for name, net in tables.items():
        if net.se is None and not isinstance(net, OtherNet):
            raise ConfigError(f"model: {name!r} has no attention units; expected: a network with units")
    models, found["tables"] = list(tables), tables
    if found["plot"] and any(net.se is None for net in tables.values()):
        raise ConfigError("--plot: draws the cost of units, and a network has no inserted ones; name it with +se")
    found["modes"] = _words(found, "modes", MODES)
    found["against"] = _libraries(found, models)
    values: dict[str, list[Any]] = {
        "models": models,
        "batch": _numbers(found, "batch"),
        "size": _numbers(found, "size") if found["size"] else [0],
    }
    if found["plot"] and sum(len(several) > 1 for several in values.values()) != 1:
        raise ConfigError("--plot: one thing must vary, as in --sweep resolution")
    return found, values


def _network(word: str) -> tuple[str, Net]:
    """The name and table of a network, which may be that of a checkpoint."""
    path = Path(word).expanduser()
    if path.exists() and not is_other(word):
        from senet.runs.checkpoint import find
        from senet.weights import files

        about = files.read(find(path)).header
        if about is None:
            raise ConfigError(
                f"model: {word} is not a checkpoint of senet; expected: a checkpoint or the name of a network"
            )
        return word, about.model
    allow_named_code(word)
    name = canonical_name(word)
    return name, get_net(name)


def _words(found: dict[str, Any], name: str, expected: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names of a list; ConfigError for an empty list and for names that are not expected."""
    words = tuple(dict.fromkeys(read_list(found[name])))
    if not words:
        raise ConfigError(f"--{name}: {found[name]!r} is an empty list")
    for word in words:
        if expected and word not in expected:
            raise unknown(f"--{name}", word, expected)
    return words


def _numbers(found: dict[str, Any], name: str) -> list[int]:
    words = _words(found, name)
    for word in words:
        if not word.isdecimal() or not 1 <= int(word) <= MOST_PIXELS:
            raise ConfigError(f"--{name}: {word!r} is not a whole number of 1 to {MOST_PIXELS:,}")
    return [int(word) for word in words]


def _libraries(found: dict[str, Any], models: list[str]) -> tuple[str, ...]:
    """Return the libraries to compare with; ConfigError if a named one has none of these networks."""
    if not found["against"]:
        return tuple(name for name in LIBRARIES if find_spec(name) and all(model in OTHERS for model in models))
    words = _words(found, "against", (*LIBRARIES, *ENGINES, "none"))
    if words == ("none",):
        return ()
    if "none" in words:
        raise ConfigError(f"--against: {found['against']!r} mixes none and libraries")
    for model in models:
        if model not in OTHERS and set(words) & set(LIBRARIES):
            raise unknown("--against", model, OTHERS, says=f"{{!r}} is in neither of {', '.join(LIBRARIES)}")
    if engines := [word for word in words if word in ENGINES]:
        if found["WHAT"] != "inference" or found["precision"] != "fp32":
            raise ConfigError(f"--against: {engines[0]!r} runs inference in fp32 only")
        from senet.deploy.engines import check_installed

        for engine in engines:
            check_installed(engine)
    return words


def _plans(found: dict[str, Any], values: dict[str, list[Any]], device: torch.device) -> list[Plan]:
    return [
        Plan(
            what=found["WHAT"],
            model=model,
            batch=batch,
            size=size or found["tables"][model].image_size,
            device=device,
            table=found["tables"][model],
            **{name: found[name] for name in ("precision", "modes", "against", "function")},
        )
        for model, batch, size in product(*values.values())
    ]


def _plot(path: Path, bench: Bench, plans: list[Plan], option: str) -> None:
    """Plot the time of SE over plain, a line per library and treatment."""
    from senet.bench.plots import plot_cost

    field, axis = AXES[option]
    curves: dict[str, list[tuple[float, Ratio]]] = {}
    for plan, case in zip(plans, bench.cases, strict=False):
        value = getattr(plan, field)
        place = value if option != "models" else int(re.findall(r"\d+", value)[0])
        for library in dict.fromkeys(side.library for side in sides(plan) if side.kind == "SE"):
            for treatment in dict.fromkeys(side.treatment for side in sides(plan) if side.library == library):
                se, plain = (Side(library, kind, treatment).name for kind in ("SE", "plain"))
                curves.setdefault(f"{library} {treatment}", []).append((place, case.ratio(se, plain)))
    m, first = bench.machine, plans[0]
    fixed = {"network": first.model, "batch": f"batch {first.batch}", "size": f"{first.size} pixels"}
    where = m["device"] if m["device"] != "cpu" else f"{m['cpu']}, threads {m['threads']}"
    kept = ", ".join(text for name, text in fixed.items() if name != {"model": "network"}.get(field, field))
    title = f"{first.what}, {kept}, {first.precision}; {where}; torch {m['torch']}"
    plot_cost(path, curves, x=axis, y="time of SE over time of its plain twin", title=title)
