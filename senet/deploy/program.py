"""A network as a `torch.export` program, which runs where torch is and senet is not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten

from senet.deploy.graph import capture
from senet.deploy.onnx import Exported, check_exportable, deviation_of, metadata
from senet.deploy.optimize import channels_last, rewritten
from senet.errors import ConfigError
from senet.files import write_atomically

METADATA = "senet.json"
"""The file in the program's archive that says what it is, see `senet.deploy.onnx.metadata`."""


class _Nested(nn.Module):
    """A graph with its outputs nested as the network's."""

    def __init__(self, network: nn.Module, spec: TreeSpec) -> None:
        super().__init__()
        self.network, self.spec = network, spec

    def forward(self, x: Tensor) -> Any:
        return tree_unflatten(list(self.network(x)), self.spec)


def export_program(
    model: nn.Module,
    path: str | Path,
    example: Tensor,
    *,
    optimize: bool = True,
    any_size: bool = False,
    verify: bool = True,
    classes: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
) -> Exported:
    """Write a network's inference as a `.pt2` file, of any batch size where the network has none of its own.

    `torch.export.load(path).module()` runs it, `torch._inductor.aoti_compile_and_package` compiles it ahead of time.

    example: float32 images `(N, C, H, W)` on the CPU, where the network is too; one is enough.
    optimize: the rewrites of `senet.optimize`; else the network as it is.
    any_size: leave height and width open, from the smallest on for which the network was seen to be the same.
    verify: compare what was written with the network.
    classes: names of the outputs.  about: further metadata, such as {"model": "se_resnet50"}.

    Raises ConfigError for a network that cannot be captured or has a size of its own, RunError where the file cannot be
    written or its outputs are not the network's to a relative 1e-4.
    """
    check_exportable(model, path, example)
    g, rewrites = rewritten(model, example) if optimize else (capture(model, example), None)
    if optimize and example.dim() == 4:
        channels_last(g)
    if any_size and not g.any_size:
        raise ConfigError(f"any_size: this network takes {tuple(example.shape[2:])} alone; expected: False")
    open_dims: dict[int, Any] = {0: Dim.DYNAMIC} if g.any_batch else {}
    smallest = g.smallest if any_size else ()
    open_dims |= {2 + i: Dim.DYNAMIC(min=low) for i, low in enumerate(smallest)}
    batch = torch.zeros(max(2, len(example)) if g.any_batch else len(example), *example.shape[1:])
    with torch.no_grad():
        program = torch.export.export(_Nested(g.module, g.spec).eval(), (batch,), dynamic_shapes=(open_dims or None,))
    # torch itself may refuse maps smaller than its guess of what the operations take.
    x = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name == "x").meta["val"]
    smallest = tuple(int(program.range_constraints[d.node.expr].lower) for d in x.shape[2:]) if any_size else ()
    about = metadata(model, "any" if optimize else None, classes, smallest, about or {})
    data = BytesIO()
    with warnings.catch_warnings():
        # Of channels-last weights, which it writes whole.
        warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
        torch.export.save(program, data, extra_files={METADATA: json.dumps(about)})
    deviation = None
    if verify:
        with warnings.catch_warnings():
            # torch 2.11 warns of its own buffers.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            run = torch.export.load(BytesIO(data.getvalue())).module()
        deviation = deviation_of(lambda x: tree_leaves(run(x)), model, example, g.any_batch, smallest)
    path = Path(path)
    write_atomically(path, lambda file: file.write(data.getbuffer()))
    return Exported(path, data.tell(), rewrites, deviation, g.any_batch, smallest)
