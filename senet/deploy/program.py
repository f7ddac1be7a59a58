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
from torch.export import Dim, ExportedProgram

from senet.deploy.graph import METADATA, Graph, aten, capture, inputs_of, quiet
from senet.deploy.onnx import Exported, check_exportable, deviation_of, metadata
from senet.deploy.optimize import channels_last, rewritten
from senet.errors import ConfigError
from senet.files import write_atomically
from senet.outputs import fill, tensors


def _smallest(program: ExportedProgram, batch: Tensor) -> tuple[int, ...]:
    """The least height and width that torch takes, which may be more than the network does."""
    name = next(iter(program.graph_signature.user_inputs))
    x = next(node for node in program.graph.nodes if node.name == name).meta["val"]
    size = [int(program.range_constraints[d.node.expr].lower) for d in x.shape[2:]]
    # What torch asserts of products and quotients of sizes is not in its ranges.
    while size != list(batch.shape[2:]):
        try:
            program.module()(batch.new_zeros(*batch.shape[:2], *size))
            break
        except AssertionError:
            size = [min(2 * d, most) for d, most in zip(size, batch.shape[2:], strict=True)]
    return tuple(size)


class _Nested(nn.Module):
    """A graph whose outputs are nested like the network's, in tuples, lists and dictionaries."""

    def __init__(self, g: Graph) -> None:
        super().__init__()
        self.network, self.outputs = g.module, g.outputs

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        return fill(self.outputs, iter(self.network(x, *more)), plain=True)


def export_program(
    model: nn.Module,
    path: str | Path,
    example: Tensor | tuple[Tensor, ...],
    *,
    optimize: bool = True,
    any_size: bool = False,
    verify: bool = True,
    classes: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
) -> Exported:
    """Export a network in inference to a `.pt2` file, of any batch size if the network allows it.

    `torch.export.load(path).module()` runs it, and `senet.optimize(path, example)` makes it fast.
    `torch._inductor.aoti_compile_and_package` compiles it ahead of time.

    Args:
        model: float32, on the CPU.
        path: the file to write.
        example: float32 images (N, C, H, W) on the CPU, one is enough; or a tuple of tensors.
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
    images = inputs_of(example)[0]
    if any_size and not g.any_size:
        raise ConfigError("any_size: True, but this network takes images of one size; expected: False")
    # Of channels-last feature maps whose channels are padded, as in option A, torch exports even sizes only.
    is_padded = any(g.calls(aten.pad.default, aten.constant_pad_nd.default))
    if optimize and images.dim() == 4 and not (any_size and is_padded):
        channels_last(g)
    open_dims: dict[int, Any] = {0: Dim.DYNAMIC} if g.any_batch else {}
    smallest = g.smallest if any_size else ()
    open_dims |= {2 + i: Dim.DYNAMIC(min=low) for i, low in enumerate(smallest)}
    batch, open_sizes = g.batch(example), open_dims or None
    more = ((open_sizes,) * (len(batch) - 1),) * (len(batch) > 1)
    with torch.no_grad(), quiet():
        program = torch.export.export(_Nested(g).eval(), batch, dynamic_shapes=(open_sizes, *more))
    smallest = _smallest(program, batch[0]) if any_size else ()
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
        deviation = deviation_of(lambda *x: tensors(run(*x)), model, example, g.any_batch, smallest)
    path = Path(path)
    write_atomically(path, lambda file: file.write(data.getbuffer()))
    return Exported(path, data.tell(), rewrites, deviation, g.any_batch, smallest)
