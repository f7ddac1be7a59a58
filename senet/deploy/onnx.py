"""A network as an ONNX file: rewritten for inference, checked in ONNX Runtime, saying how it wants its images."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from senet import __version__
from senet.config import to_dict
from senet.deploy.blocks import GATES, mark_gates, put_gates
from senet.deploy.graph import Graph, capture
from senet.deploy.optimize import Rewrites, rewritten
from senet.errors import ConfigError, MissingExtraError, RunError, unknown
from senet.files import write_atomically
from senet.models.network import Network
from senet.tracing import check_model, evaluating

FORMS = ("any", "machine")
"""For every runtime alike; for ONNX Runtime on CPUs like this one, for one batch size."""

OPSETS = range(18, 24)
TOLERANCE = 1e-4
"""Of the relative L2 distance between the file's outputs and the network's."""

LIMIT = 2**31
"""Bytes that a protobuf file can hold."""


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    rewrites: what was done to the network; None where it was exported as it is.
    deviation: the relative L2 distance of its outputs from the network's; None where it was not measured.
    any_batch: whether it takes other batches than the example's.
    smallest: the height and width from which on it takes any; empty where it takes the example's alone.
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
    example: Tensor,
    *,
    optimize: Literal["any", "machine"] | None = "any",
    any_size: bool = False,
    opset: int = 20,
    verify: bool = True,
    classes: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
) -> Exported:
    """Write a network's inference as one ONNX file, of any batch size where the network has none of its own.

    The input is called `image`, the output `logits`, or `output0`, `output1`, ... where there are several. The file's
    metadata are those of `metadata`. What was at `path` stays until the new file is whole and right.

    example: float32 images `(N, C, H, W)` on the CPU, where the network is too; one is enough.
    optimize: the rewrites of `senet.optimize`, "any" for every runtime alike, "machine" in the form that ONNX Runtime
        is fastest with on a CPU of this one's vector width, for the example's batch size (see `senet.deploy.blocks`);
        None exports the network as it is.
    any_size: leave height and width open; not with "machine". The file cannot refuse maps smaller than those for which
        the network was seen to be the same: its metadata name them.
    opset: the version of ONNX's operations.
    verify: compare with the network in ONNX Runtime, where that is installed.
    classes: names of the outputs.  about: further metadata, such as {"model": "se_resnet50"}.

    Raises ConfigError for a network that cannot be captured or has a size of its own, RunError where the file cannot be
    written or its outputs are not the network's to a relative 1e-4, MissingExtraError without onnx and onnxscript, for
    "machine" also onnxruntime.
    """
    for needed in ("onnx", "onnxscript", *["onnxruntime"] * (optimize == "machine")):
        if find_spec(needed) is None:
            raise MissingExtraError("ONNX files", "export")
    if optimize not in (*FORMS, None):
        raise unknown("optimize", optimize, (*FORMS, None))
    if opset not in OPSETS:
        raise unknown("opset", opset, OPSETS)
    if any_size and optimize == "machine":
        raise ConfigError("any_size: 'machine' is for one size; expected with it: False")
    check_exportable(model, path, example)
    g, rewrites = rewritten(model, example) if optimize else (capture(model, example), None)
    if any_size and not g.any_size:
        raise ConfigError(f"any_size: this network takes {tuple(example.shape[2:])} alone; expected: False")
    smallest = g.smallest if any_size else ()
    units = 0
    if optimize == "machine":
        units, g.any_batch = mark_gates(g), False
    data = _to_onnx(g, units, example, any_size, opset, metadata(model, optimize, classes, smallest, about or {}))
    data = put_gates(data, units) if optimize == "machine" else data
    deviation = None
    if verify and find_spec("onnxruntime") is not None:
        run = session(data)
        deviation = deviation_of(lambda x: run(None, {"image": x.numpy()}), model, example, g.any_batch, smallest)
    path = Path(path)
    write_atomically(path, lambda file: file.write(data))
    return Exported(path, len(data), rewrites, deviation, g.any_batch, smallest)


def check_exportable(model: nn.Module, path: str | Path, example: Tensor) -> None:
    """Raise ConfigError for what is no file's path, and no float32 network and images on the CPU."""
    check_model(model)
    if not isinstance(path, (str, PathLike)):
        raise ConfigError(f"path: a {type(path).__name__} names no file; the order is model, path, example")
    tensors = {"example": example, **dict(model.named_parameters())}
    for name, t in tensors.items():
        if not isinstance(t, Tensor) or t.device.type != "cpu" or t.dtype != torch.float32:
            what = f"{t.dtype} on {t.device}" if isinstance(t, Tensor) else repr(t)
            raise ConfigError(f"{name}: {what} is not exported; expected: torch.float32 on cpu")


def metadata(
    model: nn.Module, form: str | None, classes: Sequence[str], smallest: Sequence[int], about: Mapping[str, str]
) -> dict[str, str]:
    """What a file says of itself, all under `senet.`: `version`, and what is known of the rest, as JSON but for names.

    preprocessing: how the network wants its images, the fields of `Preprocessing`.  net: its table.  classes: names
    of the outputs.  smallest: the height and width from which on it takes any, where they are open.  optimize: the
    form.  And the names in `about`: by `senet export`, `model`, `data` and `measurements`.
    """
    found: dict[str, str] = {"version": __version__, "optimize": str(form), **about}
    if isinstance(model, Network):
        found["net"] = json.dumps(to_dict(model.net))
        if model.preprocessing is not None:
            found["preprocessing"] = json.dumps(asdict(model.preprocessing))
    if classes:
        found["classes"] = json.dumps(list(classes))
    if smallest:
        found["smallest"] = json.dumps(list(smallest))
    return {f"senet.{key}": value for key, value in found.items()}


def _to_onnx(g: Graph, units: int, example: Tensor, any_size: bool, opset: int, about: Mapping[str, str]) -> bytes:
    if sum(t.numel() * t.element_size() for t in g.module.buffers()) >= LIMIT:
        raise ConfigError("model: its weights are 2 GB or more; expected: less, to be one ONNX file")
    open_dims = {0: "batch"} if g.any_batch else {}
    if any_size:
        open_dims |= {2 + i: name for i, name in enumerate(("height", "width", "depth")[: example.dim() - 2])}
    # torch takes a size of 1 for a constant.
    batch = torch.zeros(max(2, len(example)) if g.any_batch else len(example), *example.shape[1:])
    names = ["logits"] if g.spec.num_leaves == 1 else [f"output{i}" for i in range(g.spec.num_leaves)]
    with warnings.catch_warnings():
        # torch.onnx warns of its own uses of what torch deprecates.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            g.module.eval(),
            (batch,),
            dynamo=True,
            dynamic_shapes=(open_dims or None,),
            opset_version=opset,
            input_names=["image"],
            output_names=names + [GATES.format(i) for i in range(units)],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        # Among it the paths of our files on this machine.
        del node.metadata_props[:]
    proto.producer_name, proto.producer_version = "senet", __version__
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def session(file: bytes | str | Path, threads: int = 0) -> Any:
    """The `run(names, inputs)` of ONNX Runtime on the CPU for a file or its bytes; threads: 0, as many as there are.

    Raises MissingExtraError without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("ONNX files", "export") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Of what it leaves undone it warns at every load.
    options.log_severity_level = 3
    # Threads that wait by spinning would take the cores from whoever runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    file = str(file) if isinstance(file, Path) else file
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]).run


def deviation_of(run: Any, model: nn.Module, example: Tensor, any_batch: bool, smallest: Sequence[int]) -> float:
    """The largest relative L2 distance of any output from the network's in eval mode, on random images.

    For a batch like the example, and another batch, a larger size and the smallest where they are open. RunError
    beyond `TOLERANCE`.
    """
    n, c, *size = example.shape
    shapes = [(n, c, *size)] + [(n + 2, c, *size)] * any_batch
    shapes += [(n, c, *(d + 32 for d in size)), (n, c, *smallest)] if smallest else []
    worst = 0.0
    with evaluating(model):
        for i, wanted in enumerate(shapes):
            x = torch.randn(wanted, generator=torch.Generator().manual_seed(i))
            for have, want in zip(run(x), tree_leaves(model(x)), strict=True):
                distance = float((torch.as_tensor(have).double() - want).norm() / want.double().norm())
                # Not `max`, which may drop a nan.
                worst = worst if distance <= worst else distance
    if not worst <= TOLERANCE:
        raise RunError(f"the exported network's outputs are {worst:.1e} from the network's, more than {TOLERANCE:.0e}")
    return worst
