"""`senet export`: a checkpoint as one file that runs without senet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from senet.cli.checkpoint import add_checkpoint, open_checkpoint
from senet.cli.output import check_free, print_json
from senet.cli.parse import Line, Parser, data_fields, with_data
from senet.errors import ConfigError, DataError, RunError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from senet.data import Split
    from senet.recipes.recipe import Recipe
    from senet.runs.checkpoint import Checkpoint

ENDINGS = (".onnx", ".pt2")
FORMS = ("any", "machine", "no")
GATES = ("dynamic", "static")
ZERO_POINTS = ("any", "zero")

DESCRIPTION = """Write a trained network as one file that runs without senet, and check that it is the same function.

OUT.onnx runs in ONNX Runtime, OpenVINO, TensorRT; OUT.pt2 where torch is, by torch.export.load. Batch norms are
folded, squeezes moved before the expansion. The file states its preprocessing and its classes. --int8 writes ONNX in 8
bits: training images of the run, or of --data, calibrate it; as many others compare it with float. Layers stay in float
until at most --most-changed percent of the images change their class. TensorRT takes --zero-points zero alone.

A detector is written as OUT.onnx that takes one image (1, 3, H, W) of any size, scaled and normalised, and gives boxes
in its pixels, scores and labels from 0. It is as it is: --optimize, --int8 and the like are for classifiers."""

EXAMPLES = (
    "senet export runs/pair-digits/runs/se_resnet20-seed0 digits.onnx",
    "senet export net.safetensors fast.onnx --optimize machine --batch 8",
    "senet export net.safetensors small.onnx --int8 --data imagenet",
)
COMMON = ("data.name", "data.root")


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("export", "CHECKPOINT OUT", DESCRIPTION, base=data_fields, examples=EXAMPLES, common=COMMON)
    add_checkpoint(parser)
    parser.word("OUT", help=f"the new file; its ending is its format: {', '.join(ENDINGS)}")
    parser.option("size", type=int, default=0, low=0, help="height and width in pixels; 0: the recipe's")
    parser.switch("any_size", help="leave height and width open")
    parser.option(
        "optimize",
        default="any",
        choices=FORMS,
        help="any: rewrite for every runtime; machine: for ONNX Runtime on CPUs like this one; no: as is",
    )
    parser.option("batch", type=int, default=0, low=0, help="batch size, with --optimize machine; 0: 1")
    parser.option(
        "opset", type=int, default=0, help="ONNX opset, 18 to 23; 0: 20, of a detector 18; torch exports no lower one"
    )
    parser.switch("int8", help="write ONNX in 8 bits, for ONNX Runtime")
    parser.option("images", type=int, default=0, low=0, help="with --int8: number of calibration images; 0: 128")
    parser.option(
        "zero_points",
        choices=ZERO_POINTS,
        help="with --int8: zero for TensorRT and others, any for ONNX Runtime, faster",
    )
    parser.option(
        "most_changed",
        type=float,
        default=1.0,
        low=0,
        high=100,
        metavar="PERCENT",
        help="with --int8: images that may change their class; layers stay in float until it holds",
    )
    parser.option("gates", choices=GATES, help="with --int8: dynamic leaves the units in float, static quantises them")
    parser.switch("force", help="overwrite an existing file")
    parser.json()
    line = parser.read(argv)
    out = check(line)

    checkpoint = open_checkpoint(line, detectors=True)
    is_detector = checkpoint.recipe.task.name == "detection"
    if is_detector:
        check_detector(line, out, checkpoint.recipe.name)
    recipe = sized(with_data(checkpoint.recipe, line), line["size"])
    checkpoint.model.preprocessing = recipe.data.preprocessing  # type: ignore[assignment]
    told: dict[str, Any] = {"model": recipe.name, "out": str(out)}
    writer = write_detector if is_detector else write_int8 if line["int8"] else write
    told |= writer(checkpoint, recipe, out, line)
    told["bytes"] = out.stat().st_size
    if line["json"]:
        print_json(told)
        return 0
    if not is_detector:
        print("\n".join(told["rewrites"]))
    print(f"{out}: {told['model']}, {told['bytes'] / 1e6:.1f} MB, takes ({', '.join(map(str, told['input']))})")
    if told["deviation"] is None:
        print("not checked: onnxruntime is not installed (pip install 'senet[export]')")
    elif is_detector:
        found, images = told["detections"], told["compared_on"]
        print(f"checked: {found:,} detections in {images}, {told['deviation']:.1e} from the network's")
    else:
        print(f"checked: outputs {told['deviation']:.1e} from the network's, relative")
    if line["int8"]:
        near = told["agreement"]
        print(
            f"8 bits, {told['gates']} gates, beside {told['float_bytes'] / 1e6:.1f} MB in float: cosine of the logits "
            f"{near['cosine']:.4f}, same class for {100 * near['top1']:.1f} % of {near['images']:,} images; wrong: "
            f"{near['wrong'][1]:,}, in float {near['wrong'][0]:,}\n"
            f"calibrated on {told['calibrated_on']}; compared on {told['compared_on']}"
        )
    return 0


def check(line: Line) -> Path:
    """Return the path of the new file; ConfigError for options without effect, RunError if it cannot be written."""
    out = Path(line["OUT"]).expanduser()
    if out.suffix not in ENDINGS:
        raise unknown("OUT", out.name, ENDINGS, kind="endings", says="the ending of {!r} is not known")
    is_onnx, is_machine = out.suffix == ".onnx", line["optimize"] == "machine"
    for needed, has_it, names in (
        ("--optimize machine", is_machine, ("batch",)),
        ("an .onnx", is_onnx, ("opset",)),
        ("--int8", line["int8"], ("images", "gates", "zero_points", "most_changed")),
    ):
        if not has_it:
            line.refuse(names, f"without {needed}")
    if line["size"] and "data.image_size" in line.named:
        raise ConfigError("--data.image_size: is the same as --size; give one of them")
    if line.named and not line["int8"]:
        raise ConfigError(f"--{line.named[0]}: has no effect without --int8, which measures on images")
    if not is_onnx and (is_machine or line["int8"]):
        raise ConfigError(
            f"{'--int8' if line['int8'] else '--optimize'}: needs an ONNX file, OUT.onnx; found: {out.name}"
        )
    if is_machine and (line["int8"] or line["any_size"]):
        raise ConfigError("--optimize: 'machine' excludes --int8 and --any-size; expected: any, no")
    if not out.parent.is_dir():
        raise RunError(f"{out.parent}: no such folder")
    check_free(out, line, "name another file")
    return out


def check_detector(line: Line, out: Path, name: str) -> None:
    """Raise ConfigError for options that a detector's file does not have."""
    if out.suffix != ".onnx":
        raise ConfigError(f"OUT: {out.name}, and {name} is a detector; expected: OUT.onnx")
    for option in ("size", "any_size", "int8"):
        if line[option]:
            why = "whose file takes any size" if option != "int8" else "which is written in float only"
            raise ConfigError(f"--{option.replace('_', '-')}: has no effect on {name}, a detector, {why}")
    if line["optimize"] == "machine":
        raise ConfigError(f"--optimize: 'machine' has no effect on {name}, a detector, which is written as it is")


def sized(recipe: Recipe, size: int) -> Recipe:
    """Return the recipe for images of this size, with `resize` scaled in proportion; 0: the recipe itself."""
    data = recipe.data
    if not size or size == data.image_size:
        return recipe
    return replace(recipe, data=replace(data, image_size=size, resize=round(data.resize * size / data.image_size)))


def write(checkpoint: Checkpoint, recipe: Recipe, out: Path, line: Line) -> dict[str, Any]:
    """Export in float and return what to print."""
    import torch

    from senet.deploy.onnx import export_onnx
    from senet.deploy.program import export_program

    side = recipe.data.image_size
    example = torch.zeros(line["batch"] or 1, recipe.model.in_channels, side, side, dtype=torch.float32, device="cpu")
    common: dict[str, Any] = {
        "any_size": line["any_size"],
        "classes": checkpoint.classes,
        "about": about_of(checkpoint),
    }
    form: Any = None if line["optimize"] == "no" else line["optimize"]
    if out.suffix == ".pt2":
        done = export_program(checkpoint.model, out, example, optimize=form is not None, **common)
    else:
        common |= {"opset": line["opset"]} if line["opset"] else {}
        done = export_onnx(checkpoint.model, out, example, optimize=form, **common)
    batch = "N" if done.any_batch else len(example)
    sizes = [f"{name} >= {low}" if low > 1 else name for name, low in zip("HW", done.smallest, strict=False)]
    return {
        "input": [batch, recipe.model.in_channels, *(sizes or [side, side])],
        "rewrites": str(done.rewrites or "   0 rewrites, as asked").splitlines(),
        "deviation": done.deviation,
    }


def about_of(checkpoint: Checkpoint) -> dict[str, str]:
    """What the file says about its training."""
    return {
        "model": checkpoint.recipe.name,
        "data": Path(checkpoint.recipe.data.name).name,
        "measurements": json.dumps(checkpoint.measurements),
    }


def write_detector(checkpoint: Checkpoint, recipe: Recipe, out: Path, line: Line) -> dict[str, Any]:
    """Export a detector, compare on two of its own images where they are here, else on noise; return what to print."""
    import torch

    from senet.deploy.onnx_detector import export_detector

    try:
        from senet.data import open_part

        part = open_part(recipe.data, trained_on=checkpoint.trained_on)
        sizes = [(o.width, o.height) for o in part.split.objects]  # type: ignore[attr-defined]
        other = next((k for k, size in enumerate(sizes) if size != sizes[0]), len(sizes) - 1)
        images = [*part.split.prepare(part.split[(0, sorted({0, other}))], torch.device("cpu"))[0]]
        source = f"{len(images)} of {part.words}"
    except (DataError, ModuleNotFoundError):
        side = recipe.data.image_size
        shapes = ((side, side), (side, side * 4 // 3))
        images = [torch.randn(recipe.model.in_channels, *shape, dtype=torch.float32, device="cpu") for shape in shapes]
        source = "2 images of noise"
    opset = {"opset": line["opset"]} if line["opset"] else {}
    about = about_of(checkpoint)
    done, count = export_detector(checkpoint.model, out, images, classes=checkpoint.classes, about=about, **opset)
    return {
        "input": [1, recipe.model.in_channels, "H", "W"],
        "rewrites": [],
        "deviation": done.deviation,
        "detections": count,
        "compared_on": source,
    }


def write_int8(checkpoint: Checkpoint, recipe: Recipe, out: Path, line: Line) -> dict[str, Any]:
    """Export in float to a temporary file, quantise it, compare the two, and return what to print."""
    import torch

    from senet.data import open_data, open_part
    from senet.deploy.int8 import agreement, quantize_onnx

    gates: Any = line["gates"] or "dynamic"
    train = open_part(recipe.data, "train", progress=True)
    others = open_data(recipe.data, recipe.train.seed, progress=True)
    wanted = line["images"] or 128

    def batches(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        # Images are sorted by class.
        some = torch.linspace(0, len(split) - 1, min(wanted, len(split)), dtype=torch.float64, device="cpu").long()
        for few in some.split(32):
            yield split.prepare(split[(0, few.tolist())], torch.device("cpu"))

    with TemporaryDirectory() as folder:
        whole = Path(folder) / "float.onnx"
        told = write(checkpoint, recipe, whole, line)
        done = quantize_onnx(
            whole,
            out,
            [x for x, _ in batches(train.split)],
            gates=gates,
            zero_points=line["zero_points"] or "any",
            most_changed=line["most_changed"] / 100,
        )
        x, y = zip(*batches(others.measured), strict=True)
        near = agreement(whole, out, x, torch.cat(y))
        used = {"calibrated_on": (train.split, train.words), "compared_on": (others.measured, others.held_out)}
        about = {what: f"{min(wanted, len(split)):,} of {words}" for what, (split, words) in used.items()}
        told["rewrites"].append(str(done))
        sizes = {"gates": gates, "float_bytes": whole.stat().st_size}
        return told | about | sizes | {"agreement": asdict(near), "quantized": asdict(done)}
