"""`senet export`: a checkpoint as one file that runs without senet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from senet.cli.parse import Parser, data_fields, with_data
from senet.errors import ConfigError, RunError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from senet.recipes.recipe import Recipe
    from senet.runs.checkpoint import Checkpoint

ENDINGS = (".onnx", ".pt2")
FORMS = ("any", "machine", "no")
GATES = ("dynamic", "static")

ONLY = {"batch": "--optimize machine", "opset": "an .onnx", "images": "--int8", "gates": "--int8"}
"""Options that have an effect with another alone."""

DESCRIPTION = """Write a trained network as one file that runs without senet, and check that it is the same function.

OUT.onnx runs in ONNX Runtime, OpenVINO, TensorRT; OUT.pt2 where torch is, by torch.export.load. Batch norms are
folded, squeezes moved before the expansion. The file says how it wants its images and what its classes are called.
--int8 writes ONNX in 8 bits: ranges are measured on images that --data names, and others of them compared."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("export", "CHECKPOINT OUT", DESCRIPTION, base=data_fields)
    parser.word("CHECKPOINT", help="a run folder, a .safetensors of senet, or a last.ckpt")
    parser.word("OUT", help=f"the new file; its ending is its format: {', '.join(ENDINGS)}")
    parser.option("size", type=int, default=0, help="pixels a side; 0: as the recipe's")
    parser.switch("any_size", help="leave height and width open")
    parser.option(
        "optimize",
        default="any",
        metavar="|".join(FORMS),
        help="rewrite for every runtime, for ONNX Runtime on CPUs like this one (fastest there), or not",
    )
    parser.option("batch", type=int, default=0, help="images at once, with --optimize machine; 0: one")
    parser.option("opset", type=int, default=0, help="version of ONNX's operations; 0: the usual one")
    parser.switch("int8", help="write ONNX in 8 bits")
    parser.option("images", type=int, default=0, help="with --int8: to measure ranges on; 0: 128")
    parser.option("gates", default="", metavar="|".join(GATES), help="with --int8: in float, or in 8 bits too")
    parser.switch("force", help="write over a file that is there")
    parser.switch("json", help="print JSON")
    found = parser.read(argv)
    out = check(found)

    from senet.runs.checkpoint import load

    checkpoint = load(Path(found["CHECKPOINT"]).expanduser())
    recipe = sized(with_data(checkpoint.recipe, found), found["size"])
    checkpoint.model.preprocessing = recipe.data.preprocessing
    told: dict[str, Any] = {"model": recipe.name, "out": str(out)}
    told |= write_int8(checkpoint, recipe, out, found) if found["int8"] else write(checkpoint, recipe, out, found)
    told["bytes"] = out.stat().st_size
    if found["json"]:
        print(json.dumps(told, indent=2))
        return 0
    print("\n".join(told["rewrites"]))
    print(f"{out}: {told['model']}, {told['bytes'] / 1e6:.1f} MB, takes ({', '.join(map(str, told['input']))})")
    if told["deviation"] is None:
        print("not checked: onnxruntime is not installed (pip install 'senet[export]')")
    else:
        print(f"checked: outputs {told['deviation']:.1e} from the network's, relative")
    if found["int8"]:
        near = told["agreement"]
        print(
            f"8 bits, {told['gates']} gates, beside {told['float_bytes'] / 1e6:.1f} MB in float: cosine of the logits "
            f"{near['cosine']:.4f}, same class for {100 * near['top1']:.1f} % of {near['images']:,} images"
        )
    return 0


def check(found: dict[str, Any]) -> Path:
    """The new file's path; ConfigError for options that are wrong or without effect, RunError where it cannot be."""
    out = Path(found["OUT"]).expanduser()
    if out.suffix not in ENDINGS:
        raise unknown("OUT", out.name, ENDINGS, kind="endings", says="the ending of {!r} is not known")
    if found["optimize"] not in FORMS:
        raise unknown("--optimize", found["optimize"], FORMS)
    if found["gates"] not in ("", *GATES):
        raise unknown("--gates", found["gates"], GATES)
    for name in ("size", "batch", "images"):
        if found[name] < 0:
            raise ConfigError(f"--{name}: {found[name]} is too small; expected: 0 or more")
    is_onnx, is_machine = out.suffix == ".onnx", found["optimize"] == "machine"
    effective = {"batch": is_machine, "opset": is_onnx, "images": found["int8"], "gates": found["int8"]}
    for name, has_effect in effective.items():
        if found[name] and not has_effect:
            raise ConfigError(f"--{name}: has no effect without {ONLY[name]}")
    if found["size"] and "data.image_size" in found.named:
        raise ConfigError("--data.image_size: is --size; name one of them")
    if found.named and not found["int8"]:
        raise ConfigError(f"--{found['named'][0]}: has no effect without --int8, which measures on images")
    if not is_onnx and (is_machine or found["int8"]):
        raise ConfigError(f"{'--int8' if found['int8'] else '--optimize'}: is of ONNX files; name one, OUT.onnx")
    if is_machine and (found["int8"] or found["any_size"]):
        raise ConfigError("--optimize: 'machine' is for float and one size; expected here: any, no")
    if not out.parent.is_dir():
        raise RunError(f"{out.parent}: no such folder")
    if out.exists() and not found["force"]:
        raise RunError(f"{out} is there already; write over it with --force, or name another file")
    return out


def sized(recipe: Recipe, size: int) -> Recipe:
    """The recipe for images of this size, resized before the crop in the same proportion; 0: as it is."""
    data = recipe.data
    if not size or size == data.image_size:
        return recipe
    return replace(recipe, data=replace(data, image_size=size, resize=round(data.resize * size / data.image_size)))


def write(checkpoint: Checkpoint, recipe: Recipe, out: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Export in float; what there is to tell."""
    import torch

    from senet.deploy.onnx import export_onnx
    from senet.deploy.program import export_program

    side = recipe.data.image_size
    example = torch.zeros(found["batch"] or 1, recipe.model.in_channels, side, side, dtype=torch.float32, device="cpu")
    about = {
        "model": recipe.name,
        "data": Path(checkpoint.recipe.data.name).name,
        "measurements": json.dumps(checkpoint.measurements),
    }
    common: dict[str, Any] = {"any_size": found["any_size"], "classes": checkpoint.classes, "about": about}
    form: Any = None if found["optimize"] == "no" else found["optimize"]
    if out.suffix == ".pt2":
        done = export_program(checkpoint.model, out, example, optimize=form is not None, **common)
    else:
        common |= {"opset": found["opset"]} if found["opset"] else {}
        done = export_onnx(checkpoint.model, out, example, optimize=form, **common)
    batch = "N" if done.any_batch else len(example)
    sizes = [f"{name} >= {low}" if low > 1 else name for name, low in zip("HW", done.smallest, strict=False)]
    return {
        "input": [batch, recipe.model.in_channels, *(sizes or [side, side])],
        "rewrites": str(done.rewrites or "   0 rewrites, as asked").splitlines(),
        "deviation": done.deviation,
    }


def write_int8(checkpoint: Checkpoint, recipe: Recipe, out: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Export in float beside the new file's place, then in 8 bits, and compare the two; what there is to tell."""
    import torch

    from senet.data import open_data
    from senet.deploy.int8 import agreement, quantize_onnx

    gates: Any = found["gates"] or "dynamic"
    split = open_data(recipe.data, recipe.train.seed, progress=True).val
    # Of each two neighbours one is measured on and one compared on; images lie class by class.
    wanted = min(2 * (found["images"] or 128), len(split))
    some = torch.linspace(0, len(split) - 1, wanted, dtype=torch.float32, device="cpu").long().tolist()
    parts = some[::2], some[1::2]

    def images(part: list[int]) -> Iterator[Tensor]:
        for i in range(0, len(part), 32):
            yield split.prepare(split[(0, part[i : i + 32])], torch.device("cpu"))[0]

    with TemporaryDirectory() as folder:
        whole = Path(folder) / "float.onnx"
        told = write(checkpoint, recipe, whole, found)
        quantize_onnx(whole, out, images(parts[0]), gates=gates)
        near = agreement(whole, out, images(parts[1]))
        return told | {"gates": gates, "float_bytes": whole.stat().st_size, "agreement": asdict(near)}
