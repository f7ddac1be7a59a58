"""`senet.optimize`: rewrite a trained network for inference, as the same function in fewer passes over memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from senet.deploy.chains import chain_kernels
from senet.deploy.convolutions import (
    gate_depthwise,
    join_expansions,
    use_cat,
    use_depthwise,
    use_direct,
    use_linear,
    use_onednn,
    use_pointwise,
    use_pooling,
    use_winograd,
)
from senet.deploy.engines import (
    OF_FILES,
    Candidate,
    Engine,
    check_engine,
    fastest,
    graph_key,
    is_missing,
    run_in,
)
from senet.deploy.excitation import use_gates, use_squeeze
from senet.deploy.fold import fold_factors, fold_norms
from senet.deploy.fuse_epilogues import fuse_epilogues, use_products
from senet.deploy.graph import Graph, aten, capture, inputs_of, shape
from senet.deploy.in_place import write_in_place
from senet.deploy.int8 import MOST_CHANGED, Quantized, batches_of, quantized
from senet.deploy.onnx_graph import to_onnx
from senet.deploy.shuffles import move_shuffles
from senet.deploy.squeeze_early import find_gates, spread_layers, squeeze_early
from senet.errors import ConfigError, RunError
from senet.kernels import dispatch
from senet.outputs import describe, fill, tensors
from senet.tracing import check_model, evaluating


@dataclass(frozen=True)
class Rewrites:
    """What `optimize` did, by the names of modules.

    Attributes:
        folded: batch norms folded into the layer before.
        factors: how many constant factors were folded.
        early: units whose squeeze comes before the 1x1 convolution now.
        skipped: what was not rewritten: (name, "batch norm" or "squeeze", why).
        fused: block ends that are one operation now.
        winograd: 3x3 convolutions by Winograd's algorithm, see `senet.kernels.conv3x3`.
        depthwise: depthwise convolutions in C, see `senet.kernels.depthwise`.
        int8: which layers are in 8 bits, and how many calibration images changed their class; None if none are.
    """

    folded: Sequence[str]
    factors: int
    early: Sequence[str]
    skipped: Sequence[tuple[str, str, str]]
    fused: Sequence[str] = ()
    winograd: Sequence[str] = ()
    depthwise: Sequence[str] = ()
    int8: Quantized | None = None

    def __str__(self) -> str:
        counts = (
            (len(self.folded), "batch norm{s} folded"),
            (self.factors, "constant factor{s} folded"),
            (len(self.early), "squeeze{s} moved before the expansion"),
            (len(self.fused), "block end{s} fused"),
            (len(self.depthwise), "depthwise convolution{s} in C"),
            (len(self.winograd), "3x3 convolution{s} by Winograd's algorithm"),
        )
        lines = [f"{n:4d} {words.format(s='s' * (n != 1))}" for n, words in counts if n]
        lines += [str(self.int8)] * (self.int8 is not None)
        reasons: dict[tuple[str, str], list[str]] = {}
        for where, what, why in self.skipped:
            reasons.setdefault((what, why), []).append(where)
        for (what, why), places in reasons.items():
            s, more = ("s", ", ...") if len(places) > 1 else ("", "")
            lines.append(f"{len(places):4d} {what}{s} not rewritten: {why} ({places[0]}{more})")
        return "\n".join(lines or ["   0 rewrites: nothing was recognised"])


class Optimized(nn.Module):
    """A network for inference. It takes and returns what the original does, without gradients.

    Its weights are constants. It does not train, move or change dtype: optimize the original again for that.
    `torch.export.export` exports `module`, which is in float.

    Attributes:
        module: the `torch.fx.GraphModule` without what is specific to this machine.
        rewrites: what was done.
        engine: what runs it.
        any_size: whether it takes feature maps of other sizes than the example's.
        any_batch: whether it takes other batch sizes.
        smallest: the least height and width that it takes.
    """

    _run: Any

    def __init__(self, g: Graph, run: Any, example: tuple[Tensor, ...], rewrites: Rewrites, engine: Engine) -> None:
        super().__init__()
        self.module = g.module
        self.rewrites, self.engine = rewrites, engine
        self.any_size, self.any_batch, self.smallest = g.any_size, g.any_batch, g.smallest
        self.inputs = tuple(t.new_empty(t.shape, device="meta") for t in example)
        self.device = example[0].device
        self.outputs = g.outputs
        # Not a submodule: its constants are those of the graph, laid out for this machine.
        object.__setattr__(self, "_run", run)
        super().train(False)

    def _check(self, x: Tensor, like: Tensor) -> None:
        is_like = x.dim() == like.dim() and x.shape[1:2] == like.shape[1:2]
        is_like &= x.shape[2:] == like.shape[2:] or (self.any_size and all(map(int.__ge__, x.shape[2:], self.smallest)))
        is_like &= self.any_batch or x.shape[0] == like.shape[0]
        if not is_like or x.dtype != like.dtype or x.device != self.device:
            sizes = ["N" if self.any_batch else str(like.shape[0]), *map(str, like.shape[1:2])]
            names = zip("DHW"[5 - like.dim() :], self.smallest, strict=False)
            open_sizes = [f"{name} >= {low}" if low > 1 else name for name, low in names]
            sizes += open_sizes if self.any_size else [str(d) for d in like.shape[2:]]
            raise ConfigError(
                f"x: {tuple(x.shape)} {x.dtype} on {x.device} does not fit this optimized network; expected: "
                f"({', '.join(sizes)}) {like.dtype} on {self.device}"
            )

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        """Outputs of the network. Feature maps among them are channels-last.

        Raises:
            ConfigError: x has a shape, dtype or device that it was not optimized for.
        """
        if not torch.compiler.is_compiling():
            if len(more) + 1 != len(self.inputs):
                raise ConfigError(f"x: {len(more) + 1} tensors; expected: {len(self.inputs)}")
            for t, like in zip((x, *more), self.inputs, strict=True):
                self._check(t, like)
        run = self.module if torch.compiler.is_exporting() else self._run
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return fill(self.outputs, iter(run(x, *more)))

    def train(self, mode: bool = True) -> Optimized:
        """Raise ConfigError for True: its norms are folded."""
        if mode:
            raise ConfigError("mode: an optimized network does not train; train the original, then optimize it again")
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Optimized:
        raise ConfigError(
            "an optimized network does not move or change its dtype; move the original, then optimize it again"
        )

    def __getstate__(self) -> dict[str, Any]:
        raise ConfigError(
            "an optimized network is specific to this machine and cannot be copied or pickled; save the original by "
            "senet.deploy.program.export_program(model, 'net.pt2', example), and optimize that file"
        )

    def extra_repr(self) -> str:
        """The rewrites, one per line, and the engine."""
        return f"{self.rewrites}\n{self.engine}"


class _Compiled(nn.Module):
    """A graph compiled by `torch.compile`, with its constants frozen."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        # Not inductor's own CUDA graphs: the next run overwrites their outputs.
        self.compiled = torch.compile(module, options={"max_autotune": True} if device.type == "cuda" else {})

    def forward(self, *x: Tensor) -> Any:
        import torch._inductor.config as inductor

        # Not an option of `torch.compile`: it must hold while tracing, and again for each new batch size.
        with inductor.patch(freezing=True):
            return self.compiled(*x)


def optimize(
    model: nn.Module | str | PathLike[str],
    example: Tensor | tuple[Tensor, ...],
    *,
    engine: Literal["auto", "torch", "onnxruntime", "openvino"] | None = None,
    int8: Tensor | Iterable[Tensor] | None = None,
    most_changed: float = MOST_CHANGED,
    compile: bool = False,
    gpu_kernels: bool = False,
) -> Optimized:
    """Make a copy of a network that is faster in inference and equal to `model.eval()` up to rounding.

    It works on any network that `torch.export` captures: ours, those with inserted units, timm's, torchvision's. Batch
    norms are folded into convolutions; a unit behind a 1x1 convolution squeezes that convolution's input; gates, sum
    and ReLU become the convolution's epilogue; feature maps are channels-last, also those returned. What is not
    recognised stays as it is, and `rewrites` says so.

    On a CPU with a C compiler, which is run once, float32 networks use kernels in C. Their 3x3 convolutions take a
    quarter of the products, and four times the memory for weights; with AVX-512, wide 1x1 ones seven eighths of the
    products, and 1.75 times the memory.

    Args:
        model: not changed; or the path of a `.pt2` file of `senet export` or `export_program`, which is quicker to
            load than a network to capture.
        example: images (N, C, H, W) of the dtype and device that the network will get, and of the size if the network
            depends on it. One image is enough. On a CPU a batch is fastest with an example of that many images. A tuple
            of tensors for a network that takes several arguments; sizes other than the batch's are then fixed.
        engine: what runs it, float32 on a CPU, with torch's number of threads. None: our kernels. "torch": the faster
            of these and `torch.compile`. "onnxruntime", "openvino": these libraries, which get the folded graph with
            its squeezes moved. "auto": the fastest of all that are installed. Where there is a choice, the outputs are
            compared with the network's, the calls are timed with the example, up to a minute, most of it for
            `torch.compile`; `engine` of the result tells the times. This machine remembers the answer.
        int8: images (N, C, H, W) or batches of them, about a hundred, prepared like those to come: feature maps and
            weights are rounded to 8 bits by their ranges on these, gates stay in float. It runs in the faster of ONNX
            Runtime and OpenVINO, or in the `engine` of these two; "auto" times it beside all engines in float.
        most_changed: share of the `int8` images that may change their class, 0 to 1. Layers that cost accuracy stay in
            float until it holds; `rewrites.int8` of the result names them.
        compile: also compile with `torch.compile`. It takes up to a minute, needs a C++ compiler on a CPU, and pays.
        gpu_kernels: on a GPU, compute block ends by Triton kernels, and replay CUDA graphs. No GPU has run these yet.
            Each new shape is recorded once, up to 8 shapes; further ones run without a graph.

    Raises:
        ConfigError: a network that cannot be captured, a file that senet did not write, an example that it does not
            take, `gpu_kernels` without a GPU, an unknown engine, or one together with `compile` or `gpu_kernels`;
            `int8` images that it does not take, or of a network without classes.
        MissingExtraError: the engine is not installed; for 8 bits, ONNX Runtime.
        RunError: the engine cannot run the network, or computes something else.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> print(optimize(net, torch.zeros(1, 3, 8, 8)).rewrites)
       1 batch norm folded
    """
    is_file = isinstance(model, (str, PathLike))
    if not is_file:
        check_model(model)
    _check_example(None if is_file else model, example)
    images, *others = inputs = inputs_of(example)
    if engine is not None or int8 is not None:
        if compile or gpu_kernels:
            what = "compile" if compile else "gpu_kernels"
            beside = f"engine={engine!r}" if engine else "int8"
            raise ConfigError(f"{what}: True with {beside}; expected: one of the two")
        check_engine(engine, inputs, int8=int8 is not None)
    if int8 is None and most_changed != MOST_CHANGED:
        raise ConfigError(f"most_changed: {most_changed} has no effect without int8")
    if gpu_kernels and (others or not images.is_cuda):
        what = "with several inputs" if others else f"on {images.device}"
        raise ConfigError(f"gpu_kernels: True has no effect {what}; expected: False, or images on a GPU")
    g, rewrites = rewritten(model, example)
    whole = g.copy()
    if images.dim() == 4:
        channels_last(g)
    with torch.autocast(images.device.type, enabled=False):
        if engine is None and int8 is None:
            made = _in_torch(g, images, compile, gpu_kernels)
            chosen = Engine("torch compiled" if compile else "torch")
        else:
            network = whole.module if isinstance(model, (str, PathLike)) else model
            made, chosen = _in_engine(g, whole, network, inputs, engine, int8, most_changed)
    return Optimized(g, made.run, inputs, replace(rewrites, **made.done), chosen)


def _in_torch(g: Graph, images: Tensor, compile: bool = False, gpu_kernels: bool = False) -> Candidate:
    """The network by our kernels, perhaps compiled; g is not changed."""
    own = g.copy()
    done = _specialise(own, images, compile, gpu_kernels)
    run: Any = _Compiled(own.module, images.device) if compile else own.module
    if gpu_kernels:
        from senet.kernels.cuda_graph import CudaGraphed

        run = CudaGraphed(run.eval(), images)
    return Candidate(run, done)


def _in_engine(
    g: Graph,
    whole: Graph,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    engine: str | None,
    int8: Tensor | Iterable[Tensor] | None,
    most_changed: float,
) -> tuple[Candidate, Engine]:
    """The network in the fastest of the engines that were asked for: g by our kernels, `whole` as an ONNX file."""
    makers: dict[str, Callable[[], Candidate]] = {}
    key = graph_key(g)
    if engine in ("torch", "auto"):
        makers = {"torch": partial(_in_torch, g, inputs[0]), "torch compiled": partial(_in_torch, g, inputs[0], True)}
    if engine != "torch":
        names = [engine] if engine in OF_FILES else [name for name in OF_FILES if not is_missing(name)]
        names_in_file = [f"x{i}" for i in range(len(inputs))]
        file = cache(partial(to_onnx, whole, inputs, names_in_file, any_size=whole.any_size))
        if int8 is None or engine == "auto":
            makers |= {name: lambda name=name: Candidate(run_in(name, file()), {}) for name in names}
        if int8 is not None:
            of_8_bits, kept = _in_8_bits(names, file(), network, int8, most_changed)
            makers |= of_8_bits
            key += f"\n8 bits but {kept}"
    with torch.no_grad():
        return fastest(makers, network, inputs, key)


def _in_8_bits(
    names: Sequence[str], file: bytes, network: nn.Module, images: Tensor | Iterable[Tensor], most_changed: float
) -> tuple[dict[str, Callable[[], Candidate]], tuple[str, ...]]:
    """What runs an ONNX file in 8 bits in each of these engines, and the layers that stay in float.

    Engines round in different ways, so each is held to the bound.
    """
    import onnx

    model = onnx.ModelProto.FromString(file)
    batches = batches_of(images, model, "int8")
    data, done = quantized(model, batches, most_changed=most_changed)
    with evaluating(network), torch.no_grad():
        classes = [tensors(network(x))[0].argmax(1) for x in batches]

    def make(name: str) -> Candidate:
        # A session of its own, for an engine that keeps one for each shape.
        run = run_in(name, data)
        same = sum(int((run(x)[0].argmax(1) == y).sum()) for x, y in zip(batches, classes, strict=True))
        changed = 1 - same / sum(map(len, batches))
        if changed > most_changed:
            raise RunError(
                f"{100 * changed:.1f} % of the calibration images change their class in 8 bits; expected: at most "
                f"{100 * most_changed:.1f} %"
            )
        return Candidate(run_in(name, data), {"int8": replace(done, changed=changed)}, is_compared=True)

    return {f"{name} int8": partial(make, name) for name in names}, done.kept


def rewritten(model: nn.Module | str | PathLike[str], example: Tensor | tuple[Tensor, ...]) -> tuple[Graph, Rewrites]:
    """Capture a network, or open its file; fold norms and factors, and squeeze early, which pays on every device.

    Raises:
        ConfigError: the network cannot be captured.
    """
    g = capture(model, example)
    folded, norms = fold_norms(g)
    factors = fold_factors(g)
    early, squeezes = squeeze_early(g, len(inputs_of(example)[0]))
    # Squeezes that moved still count as readers of the wide feature maps.
    g.tidy()
    skipped = [(where, "batch norm", why) for where, why in norms]
    skipped += [(where, "squeeze", why) for where, why in squeezes]
    return g, Rewrites(folded, factors, early, skipped)


def _specialise(g: Graph, example: Tensor, compile: bool, gpu_kernels: bool) -> dict[str, list[str]]:
    """Run the passes for this machine; return what was done, by the fields of `Rewrites`."""
    gates = {gated.product: gated for gated in find_gates(g)}
    is_map = example.dim() == 4
    if is_map and not compile and dispatch.c_convolutions(example.device, example.dtype):
        move_shuffles(g)
    depthwise = use_depthwise(g) if is_map else []
    if not compile:
        use_squeeze(g)
        use_gates(g, gates.values())
    fused = fuse_epilogues(g, gates, compile=compile, gpu_kernels=gpu_kernels)
    if compile and dispatch.c_convolutions(example.device, example.dtype):
        for gated in gates.values():
            spread_layers(g, gated)
    g.graph.eliminate_dead_code()
    if is_map:
        gate_depthwise(g, gates)
        use_pointwise(g, gates)
        if not compile:
            use_products(g, gates)
        join_expansions(g)
    winograd = use_winograd(g, len(example)) if is_map else []
    if is_map and not compile:
        use_direct(g, len(example))
        use_pooling(g)
        use_linear(g)
        use_cat(g)
    if example.device.type == "cpu" and not compile:
        use_onednn(g, example.dtype)
        g.tidy()
        g.use_large_pages()
        chain_kernels(g)
    write_in_place(g, compile)
    g.tidy()
    return {"fused": fused, "winograd": winograd, "depthwise": depthwise}


def _check_example(model: nn.Module | None, example: object) -> None:
    given: tuple[Any, ...] = example if isinstance(example, tuple) and example else (example,)
    is_fit = isinstance(given[0], Tensor) and given[0].dim() >= 3
    if not is_fit or not all(isinstance(t, Tensor) and t.dim() and t.is_floating_point() for t in given):
        expected = "images (N, C, H, W) of a floating-point dtype, or a tuple of them and other tensors"
        raise ConfigError(f"example: {describe(example)}; expected: {expected}")
    first = next(iter(model.parameters()), given[0]) if model is not None else torch.empty(0, device="cpu")
    for t in given:
        if t.is_meta:
            raise ConfigError("example: on the meta device; expected: images on a device with data")
        if first.device != t.device:
            raise ConfigError(f"example: on {t.device}; expected: {first.device}, like the network")


def channels_last(g: Graph) -> None:
    """Make all feature maps and weights of convolutions channels-last."""
    for node in g.graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            # Its input is channels-last now and may need a copy.
            node.target = aten.reshape.default
        elif node.op == "get_attr":
            value = g.constant(node)
            if value is not None and value.dim() == 4:
                setattr(g.module, str(node.target), value.contiguous(memory_format=torch.channels_last))
        elif node.op == "placeholder" and len(shape(node)) == 4 and not _is_made_channels_last(node):
            with g.graph.inserting_after(node):
                x = g.graph.call_function(aten.contiguous.default, (node,), {"memory_format": torch.channels_last})
            x.meta = dict(node.meta)
            # A size is read from the images as given, which nothing else may need in this layout.
            node.replace_all_uses_with(
                x, delete_user_cb=lambda user, x=x: user is not x and user.target is not aten.sym_size.int
            )
    g.tidy()


def _is_made_channels_last(node: fx.Node) -> bool:
    """Whether an input is made channels-last already, as in a file."""
    of = [user for user in node.users if user.target is not aten.sym_size.int]
    return len(of) == 1 and of[0].target in (aten.contiguous.default, aten.clone.default)
