"""Export a network as a `torch.export` program, which runs with torch and without senet."""

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
"""File in the program's archive with its metadata, see `senet.deploy.onnx.metadata`."""


class _Nested(nn.Module):
    """A graph whose outputs are nested like the network's."""

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
    """Export a network in inference to a `.pt2` file, of any batch size if the network allows it.

    `torch.export.load(path).module()` runs it; `torch._inductor.aoti_compile_and_package` compiles it ahead of time.

    Args:
        model: float32, on the CPU.
        path: the file to write.
        example: float32 images (N, C, H, W) on the CPU; one is enough.
        optimize: rewrite as `senet.optimize` does; else the network as it is.
        any_size: accept any height and width, from the smallest that was verified.
        verify: compare the file's outputs with the network's.
        classes: names of the outputs.
        about: further metadata, such as {"model": "se_resnet50"}.

    Raises:
        ConfigError: the network cannot be captured, or any_size with a network for one size.
        RunError: the file cannot be written, or its outputs differ by more than a relative 1e-4.
    """
    check_exportable(model, path, example)
    g, rewrites = rewritten(model, example) if optimize else (capture(model, example), None)
    if optimize and example.dim() == 4:
        channels_last(g)
    if any_size and not g.any_size:
        raise ConfigError(f"any_size: True, but this network takes only {tuple(example.shape[2:])}; expected: False")
    open_dims: dict[int, Any] = {0: Dim.DYNAMIC} if g.any_batch else {}
    smallest = g.smallest if any_size else ()
    open_dims |= {2 + i: Dim.DYNAMIC(min=low) for i, low in enumerate(smallest)}
    batch = torch.zeros(
        max(2, len(example)) if g.any_batch else len(example), *example.shape[1:], dtype=torch.float32, device="cpu"
    )
    with torch.no_grad():
        program = torch.export.export(_Nested(g.module, g.spec).eval(), (batch,), dynamic_shapes=(open_dims or None,))
    # torch may refuse sizes below its own estimate of what the operations take.
    x = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name == "x").meta["val"]
    smallest = tuple(int(program.range_constraints[d.node.expr].lower) for d in x.shape[2:]) if any_size else ()
    about = metadata(model, "any" if optimize else None, classes, smallest, about or {})
    data = BytesIO()
    with warnings.catch_warnings():
        # It warns of channels-last weights, which it writes completely.
        warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
        torch.export.save(program, data, extra_files={METADATA: json.dumps(about)})
    deviation = None
    if verify:
        with warnings.catch_warnings():
            # torch 2.11 warns about its own buffers.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            run = torch.export.load(BytesIO(data.getvalue())).module()
        deviation = deviation_of(lambda x: tree_leaves(run(x)), model, example, g.any_batch, smallest)
    path = Path(path)
    write_atomically(path, lambda file: file.write(data.getbuffer()))
    return Exported(path, data.tell(), rewrites, deviation, g.any_batch, smallest)
