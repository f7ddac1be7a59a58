"""`senet.optimize`: a trained network as the same function in fewer passes over memory, for inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from senet.deploy.convolutions import has_onednn, use_onednn, use_winograd
from senet.deploy.fold import fold_factors, fold_norms
from senet.deploy.fuse_epilogues import find_epilogues, fuse_epilogue, write_in_place
from senet.deploy.graph import Graph, aten, capture, place
from senet.deploy.squeeze_early import find_gates, spread_layers, squeeze_early
from senet.errors import ConfigError
from senet.tracing import check_model


@dataclass(frozen=True)
class Rewrites:
    """What `optimize` did, each place by its module's name.

    folded: batch norms that are now in the weights before them.  factors: constant factors likewise.
    early: units whose squeeze now comes before the 1x1 convolution.
    fused: block ends that are one operation now.
    left: what stayed, (place, what it is, why).
    winograd: 3x3 convolutions that take a quarter of the products now, see `senet.kernels.conv3x3_cpu`.
    """

    folded: Sequence[str]
    factors: int
    early: Sequence[str]
    fused: Sequence[str]
    left: Sequence[tuple[str, str, str]] = field(default=())
    winograd: Sequence[str] = ()

    def __str__(self) -> str:
        counts = (
            (len(self.folded), "batch norm{s} folded"),
            (self.factors, "constant factor{s} folded"),
            (len(self.early), "squeeze{s} moved before the expansion"),
            (len(self.fused), "block end{s} fused"),
            (len(self.winograd), "3x3 convolution{s} by Winograd's algorithm"),
        )
        lines = [f"{n:4d} {words.format(s='s' * (n != 1))}" for n, words in counts if n]
        reasons: dict[tuple[str, str], list[str]] = {}
        for where, what, why in self.left:
            reasons.setdefault((what, why), []).append(where)
        for (what, why), places in reasons.items():
            s, be, more = ("s", "they are", ", ...") if len(places) > 1 else ("", "it is", "")
            lines.append(f"{len(places):4d} {what}{s} left as {be}: {why} ({places[0]}{more})")
        return "\n".join(lines or ["   0 rewrites: nothing was recognised"])


class Optimized(nn.Module):
    """A network for inference alone: takes and returns what the original does, in no-grad mode.

    rewrites: what was done to it.  any_size, any_batch: whether maps of another size and other batches than the
        example's are taken.  smallest: the size from which on they are.  spec: the nest of its outputs.
    Its weights are constants in the graph; it does not train, move or change its dtype: optimize the network again
    for that. `module` is the `torch.fx.GraphModule` without what is for this machine alone; it is what
    `torch.export.export` sees.
    """

    _run: Any

    def __init__(self, g: Graph, run: Any, example: Tensor, rewrites: Rewrites) -> None:
        super().__init__()
        self.module = g.module
        self.rewrites = rewrites
        self.any_size, self.any_batch, self.smallest = g.any_size, g.any_batch, g.smallest
        self.shape, self.dtype, self.device = tuple(example.shape), example.dtype, example.device
        self.spec = g.spec
        # No submodule: its constants are the graph's, laid out for this machine.
        object.__setattr__(self, "_run", run)
        super().train(False)

    def _check(self, x: Tensor) -> None:
        is_like = x.dim() == len(self.shape) and x.shape[1] == self.shape[1]
        is_like &= x.shape[2:] == self.shape[2:] or (self.any_size and all(map(int.__ge__, x.shape[2:], self.smallest)))
        is_like &= self.any_batch or x.shape[0] == self.shape[0]
        if not is_like or x.dtype != self.dtype or x.device != self.device:
            sizes = ["N" if self.any_batch else str(self.shape[0]), str(self.shape[1])]
            names = zip("DHW"[5 - len(self.shape) :], self.smallest, strict=False)
            open_sizes = [f"{name} >= {low}" if low > 1 else name for name, low in names]
            sizes += open_sizes if self.any_size else [str(d) for d in self.shape[2:]]
            raise ConfigError(
                f"x: {tuple(x.shape)} {x.dtype} on {x.device} is not what the network was optimized for; expected: "
                f"({', '.join(sizes)}) {self.dtype} on {self.device}"
            )

    def forward(self, x: Tensor) -> Any:
        """The network's outputs; maps are channels-last as a rule.

        Raises ConfigError for another shape, dtype or device than it was made for.
        """
        if not torch.compiler.is_compiling():
            self._check(x)
        run = self.module if torch.compiler.is_exporting() else self._run
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return tree_unflatten(list(run(x)), self.spec)

    def train(self, mode: bool = True) -> Optimized:
        """Raises ConfigError for True: its norms are gone."""
        if mode:
            raise ConfigError("mode: an optimized network does not train; train the original, then optimize it again")
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Optimized:
        raise ConfigError(
            "an optimized network does not move or change its dtype; move the original, then optimize it again"
        )

    def __getstate__(self) -> dict[str, Any]:
        raise ConfigError(
            "an optimized network is made for this machine, it is not copied or pickled; save the original, then "
            "optimize it again, or export it"
        )

    def extra_repr(self) -> str:
        """What was done."""
        return str(self.rewrites)


class _Compiled(nn.Module):
    """A graph compiled with its constants frozen."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        # Not inductor's own CUDA graphs: their outputs are written over by the next run.
        self.compiled = torch.compile(module, options={"max_autotune": True} if device.type == "cuda" else {})

    def forward(self, x: Tensor) -> Any:
        import torch._inductor.config as inductor

        # Not an option of `torch.compile`: it has to hold from the tracing on, and again for each new batch size.
        with inductor.patch(freezing=True):
            return self.compiled(x)


def optimize(model: nn.Module, example: Tensor, *, compile: bool = False) -> Optimized:
    """A network for inference, equal to `model.eval()` to rounding and faster; `model` itself is not changed.

    Any network that `torch.export` captures: ours, those with inserted units, timm's, torchvision's. Batch norms go
    into the convolutions; a unit behind a 1x1 convolution squeezes that convolution's input; gates, sum and ReLU become
    the convolution's epilogue; maps are channels-last, those among the outputs too. What is not recognised stays as it
    is, and `rewrites` says so. On a CPU with a C compiler, which is run once, float32 is faster by C kernels; 3x3
    convolutions then take a quarter of the products, and four times the memory for their weights. On a GPU runs are
    CUDA graphs: each new shape of x is timed and recorded once, which takes a second or so, up to 8 shapes; further
    ones run without.

    example: images as the network will get them, `(N, C, H, W)`: their dtype and device, and where the network depends
        on it their size, are what the result takes. One image is enough; on a CPU the fastest for a batch is found by
        an example of as many.
    compile: compile and freeze with `torch.compile`, which takes a minute, needs a C++ compiler on a CPU, and pays.

    Raises ConfigError for a network that cannot be captured and for an example that it does not take.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> print(optimize(net, torch.zeros(1, 3, 8, 8)).rewrites)
       1 batch norm folded
    """
    check_model(model)
    _check_example(model, example)
    g, rewrites = rewritten(model, example)
    if example.dim() == 4:
        channels_last(g)
    with torch.autocast(example.device.type, enabled=False):
        run, fused, winograd = _specialised(g, example, compile)
    return Optimized(g, run, example, replace(rewrites, fused=fused, winograd=winograd))


def rewritten(model: nn.Module, example: Tensor) -> tuple[Graph, Rewrites]:
    """A network's graph with what is as good on every device: norms and factors folded, squeezes moved; and what was.

    Raises ConfigError for a network that cannot be captured.
    """
    g = capture(model, example)
    folded, kept = fold_norms(g)
    left = [(where, "batch norm", why) for where, why in kept]
    factors, early = fold_factors(g), []
    for gated in list(find_gates(g)):
        why = squeeze_early(g, gated)
        early += [gated.place] if why is None else []
        left += [] if why is None else [(gated.place, "squeeze", why)]
    # The squeezes that moved would still count as readers of the wide maps.
    g.tidy()
    return g, Rewrites(folded, factors, early, (), left)


def _specialised(g: Graph, example: Tensor, compile: bool) -> tuple[Any, list[str], list[str]]:
    """What runs the graph on the example's device, with operations of that device; the block ends fused, and where
    Winograd's algorithm is."""
    own = g.copy()
    ways = _ways(example, compile)
    gates = {gated.product: gated for gated in find_gates(own)}
    fused = [place(t.end) for t in find_epilogues(own, gates) if any(fuse_epilogue(own, t, how) for how in ways)]
    if compile and "c" in ways:
        for gated in gates.values():
            spread_layers(own, gated)
    own.graph.eliminate_dead_code()
    winograd = use_winograd(own, len(example)) if "c" in ways and example.dim() == 4 else []
    if not compile and example.device.type == "cpu" and has_onednn(example.dtype):
        use_onednn(own)
    write_in_place(own, compile)
    own.tidy()
    run = _Compiled(own.module, example.device) if compile else own.module
    if example.is_cuda:
        from senet.kernels.graphs import CudaGraphed

        run = CudaGraphed(run.eval(), example)
    return run, fused, winograd


def _ways(example: Tensor, compile: bool) -> list[str]:
    """How block ends are fused here (see `fuse_epilogue`), the first that fits; the rest is left to the compiler."""
    if example.is_cuda:
        return ["cuda"]
    ways = [] if compile else ["eager"]
    if example.device.type == "cpu" and example.dtype == torch.float32:
        from senet.kernels import conv1x1_cpu, conv3x3_cpu

        if conv1x1_cpu.available() and conv3x3_cpu.available():
            ways.insert(0, "c")
    return ways


def _check_example(model: nn.Module, example: object) -> None:
    if not isinstance(example, Tensor) or example.dim() < 3 or not example.is_floating_point():
        what = f"{tuple(example.shape)} {example.dtype}" if isinstance(example, Tensor) else repr(example)
        raise ConfigError(f"example: {what} is no batch of images; expected: a floating-point tensor (N, C, H, W)")
    first = next(iter(model.parameters()), None)
    if example.is_meta:
        raise ConfigError("example: on the meta device are no weights to fold; expected: images on a real one")
    if first is not None and first.device != example.device:
        raise ConfigError(f"example: is on {example.device} and the network on {first.device}; put both on one device")


def channels_last(g: Graph) -> None:
    """Maps and filters channels-last throughout."""
    for node in g.graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            # A map's positions and channels lie otherwise now.
            node.target = aten.reshape.default
        elif node.op == "get_attr":
            value = g.constant(node)
            if value is not None and value.dim() == 4:
                setattr(g.module, str(node.target), value.contiguous(memory_format=torch.channels_last))
        elif node.op == "placeholder":
            with g.graph.inserting_after(node):
                x = g.graph.call_function(aten.contiguous.default, (node,), {"memory_format": torch.channels_last})
            x.meta = dict(node.meta)
            node.replace_all_uses_with(x, delete_user_cb=lambda user, x=x: user is not x)
    g.tidy()
