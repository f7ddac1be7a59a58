"""Export a network to one ONNX file: rewritten for inference, checked in ONNX Runtime, with its preprocessing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from senet import __version__
from senet.config import to_dict
from senet.deploy.graph import capture, inputs_of
from senet.deploy.onnx_gates import mark_gates, put_gates
from senet.deploy.onnx_graph import session, to_onnx
from senet.deploy.optimize import Rewrites, rewritten
from senet.deploy.rounding import check_distance, worst
from senet.errors import ConfigError, MissingExtraError, RunError, unknown
from senet.files import write_atomically
from senet.models.detector import DetectorNet
from senet.models.net import Preprocessing
from senet.models.network import Network
from senet.outputs import describe, tensors
from senet.tracing import check_model, evaluating

FORMS = ("any", "machine")
"""For every runtime; for ONNX Runtime on CPUs like this one, at one batch size."""

OPSETS = range(18, 24)


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: of the file.
        bytes: its size.
        rewrites: what was done to the network; None if it was exported as it is.
        deviation: relative L2 distance of its outputs from the network's; None if not measured.
        any_batch: whether it takes other batch sizes than the example's.
        smallest: the least height and width that it takes; empty if it takes the example's size only.
    """

    path: Path
    bytes: int
    rewrites: Rewrites | None
    deviation: float | None
    any_batch: bool
    smallest: tuple[int, ...]


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example: Tensor | tuple[Tensor, ...],
    *,
    optimize: Literal["any", "machine"] | None = "any",
    any_size: bool = False,
    opset: int = 20,
    verify: bool = True,
    classes: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
) -> Exported:
    """Export a network in inference to one ONNX file, of any batch size if the network allows it.

    The input is called `image`; several have the names of the network's arguments. The output is called `logits`.
    Several have the names that they have in the network's dictionary or object ("logits", "aux.0"), or `output0`,
    `output1`, ... in a tuple. See `metadata` for what the file says about itself. An existing file is replaced only
    when the new one is complete and verified.

    Args:
        model: float32, on the CPU.
        path: the file to write.
        example: float32 images (N, C, H, W) on the CPU, one is enough; or a tuple of tensors.
        optimize: rewrite as `senet.optimize` does: "any" for every runtime; "machine" as ONNX Runtime runs it fastest
            on a CPU of this one's vector width, at the example's batch size (`senet.deploy.onnx_gates`); None exports
            the network as it is.
        any_size: accept any height and width; not with "machine". The file cannot refuse images that are too small: its
            metadata say the least size that was verified.
        opset: version of the ONNX operators.
        verify: compare with the network, if ONNX Runtime is installed.
        classes: names of the outputs.
        about: further metadata, such as {"model": "se_resnet50"}.

    Raises:
        ConfigError: the network cannot be captured, or any_size with a network for one size.
        RunError: the file cannot be written, or its outputs differ by more than a relative 1e-4.
        MissingExtraError: onnx or onnxscript is not installed, or for "machine" onnxruntime.
    """
    for needed in ("onnx", "onnxscript", *["onnxruntime"] * (optimize == "machine")):
        if find_spec(needed) is None:
            raise MissingExtraError("ONNX files", "export")
    if optimize not in (*FORMS, None):
        raise unknown("optimize", optimize, (*FORMS, None))
    if opset not in OPSETS:
        raise unknown("opset", opset, OPSETS)
    if any_size and optimize == "machine":
        raise ConfigError("any_size: True with optimize='machine', which is for one size; expected: False")
    check_exportable(model, path, example)
    g, rewrites = rewritten(model, example) if optimize else (capture(model, example), None)
    if any_size and not g.any_size:
        raise ConfigError("any_size: True, but this network takes images of one size; expected: False")
    smallest = g.smallest if any_size else ()
    units = 0
    if optimize == "machine":
        units, g.any_batch = mark_gates(g), False
    names = input_names(model, example)
    about = metadata(model, optimize, classes, smallest, about or {})
    data = to_onnx(g, example, names, any_size=any_size, opset=opset, units=units, about=about)
    data = put_gates(data, units) if optimize == "machine" else data
    deviation = None
    if verify and find_spec("onnxruntime") is not None:
        run = session(data)

        def outputs(*x: Tensor) -> Any:
            return run(None, {name: t.numpy() for name, t in zip(names, x, strict=True)})

        deviation = deviation_of(outputs, model, example, g.any_batch, smallest)
    path = Path(path)
    write_atomically(path, lambda file: file.write(data))
    return Exported(path, len(data), rewrites, deviation, g.any_batch, smallest)


def check_exportable(model: nn.Module, path: str | Path, example: Tensor | tuple[Tensor, ...]) -> None:
    """Raise ConfigError unless `path` is a path, and network and images are float32 on the CPU."""
    check_model(model)
    if not isinstance(path, (str, PathLike)):
        raise ConfigError(f"path: a {type(path).__name__}; expected: a file's path (the order is model, path, example)")
    inputs = [("example", t) for t in inputs_of(example)]
    for name, t in [*inputs, *model.named_parameters()]:
        if not isinstance(t, Tensor) or t.device.type != "cpu" or t.dtype != torch.float32:
            what = f"{t.dtype} on {t.device}" if isinstance(t, Tensor) else describe(t)
            raise ConfigError(f"{name}: {what}; expected: torch.float32 on cpu")


def metadata(
    model: nn.Module, form: str | None, classes: Sequence[str], smallest: Sequence[int], about: Mapping[str, str]
) -> dict[str, str]:
    """Metadata of a file: keys under `senet.`, values are text, or JSON for tables and lists.

    `version` and `optimize` always; `net` (the table) of a network or detector of ours; `preprocessing` if known;
    `classes` and `smallest` (least height and width) if given; and the keys of `about`: `senet export` adds `model`,
    `data` and `measurements`.
    """
    found: dict[str, str] = {"version": __version__, "optimize": str(form), **about}
    net: Any = getattr(model, "net", None)
    if isinstance(model, Network) or isinstance(net, DetectorNet):
        found["net"] = json.dumps(to_dict(net))
    # The networks of others carry it too, if they come from a checkpoint or from weights.
    if isinstance(preprocessing := getattr(model, "preprocessing", None), Preprocessing):
        found["preprocessing"] = json.dumps(asdict(preprocessing))
    if classes:
        found["classes"] = json.dumps(list(classes))
    if smallest:
        found["smallest"] = json.dumps(list(smallest))
    return {f"senet.{key}": value for key, value in found.items()}


def input_names(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> list[str]:
    """Return "image" for one input; for several the names of the network's arguments."""
    count = len(inputs_of(example))
    given = [p.name for p in signature(model.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if count == 1:
        return ["image"]
    return given[:count] if len(given) >= count else [f"input{i}" for i in range(count)]


def deviation_of(
    run: Any, model: nn.Module, example: Tensor | tuple[Tensor, ...], any_batch: bool, smallest: Sequence[int]
) -> float:
    """Largest relative L2 distance of any output from the network's in eval mode, on random images.

    Compared at the example's shape; at another batch size, a larger size and the smallest, where these are open.

    Raises:
        RunError: it is above 1e-4, and above 8 times what float32 moves the network itself.
    """
    given = [tuple(t.shape) for t in inputs_of(example)]
    shapes = [given] + [[(n + 2, *rest) for n, *rest in given]] * any_batch
    if smallest:
        ((n, c, *size),) = given
        shapes += [[(n, c, *(d + 32 for d in size))], [(n, c, *smallest)]]
    found = []
    with evaluating(model):
        for i, wanted in enumerate(shapes):
            generator = torch.Generator("cpu").manual_seed(i)
            x = [torch.randn(one, generator=generator, dtype=torch.float32, device="cpu") for one in wanted]
            found.append(worst(map(torch.as_tensor, run(*x)), tensors(model(*x))))
            if expected := check_distance(found[-1], model, x):
                raise RunError(f"the file's outputs are {found[-1]:.1e} from the network's; expected: {expected}")
    return max(found)
