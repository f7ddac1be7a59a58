"""A graph as the bytes of an ONNX file, and ONNX Runtime to run it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet import __version__
from senet.deploy.graph import Graph, inputs_of, quiet
from senet.deploy.onnx_gates import GATES
from senet.errors import ConfigError, MissingExtraError

LIMIT = 2**31
"""Size limit of a protobuf file, in bytes."""


def output_names(g: Graph, inputs: Sequence[str]) -> list[str]:
    """Return "logits" for one output; for several their names in the network's output, apart from the inputs' names."""
    if len(g.names) == 1:
        return ["logits"]
    names = [f"output{name}" if name[:1].isdigit() else name for name in g.names]
    return [f"{name}_out" if name in inputs else name for name in names]


def to_onnx(
    g: Graph,
    example: Tensor | tuple[Tensor, ...],
    names: Sequence[str],
    *,
    any_size: bool = False,
    opset: int = 20,
    units: int = 0,
    about: Mapping[str, str] | None = None,
) -> bytes:
    """Write a graph as ONNX, of any batch size if it allows it.

    Args:
        g: the graph; it is not changed.
        example: its inputs; only shapes are read.
        names: of the inputs.
        any_size: leave height and width open.
        opset: version of the ONNX operators.
        units: gates that `mark_gates` added to the outputs.
        about: metadata of the file.

    Raises:
        ConfigError: it has 2 GB of weights or more.
    """
    if sum(t.numel() * t.element_size() for t in g.module.buffers()) >= LIMIT:
        raise ConfigError("model: has 2 GB of weights or more; expected: less, to fit one ONNX file")
    open_dims = {0: "batch"} if g.any_batch else {}
    if any_size:
        sizes = inputs_of(example)[0].shape[2:]
        open_dims |= {2 + i: name for i, name in enumerate(("height", "width", "depth")[: len(sizes)])}
    with quiet(), warnings.catch_warnings():
        # torch.onnx itself uses deprecated parts of torch.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            g.module.eval(),
            g.batch(example),
            dynamo=True,
            dynamic_shapes=(open_dims or None,) * len(names),
            opset_version=opset,
            input_names=list(names),
            output_names=output_names(g, names) + [GATES.format(i) for i in range(units)],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        # They hold paths of this machine, among others.
        del node.metadata_props[:]
    proto.producer_name, proto.producer_version = "senet", __version__
    for key, value in (about or {}).items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def session(file: bytes | str | Path, threads: int = 0) -> Any:
    """Open a file, or its bytes, in ONNX Runtime on the CPU; return its `run(names, inputs)`.

    Args:
        file: path or bytes.
        threads: 0 for all.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("ONNX files", "export") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # It warns at every load of optimizations that it skips.
    options.log_severity_level = 3
    # Threads that spin while they wait take cores from the next session.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    file = str(file) if isinstance(file, Path) else file
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]).run
