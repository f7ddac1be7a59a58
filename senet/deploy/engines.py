"""Engines that run an optimized network on a CPU: our kernels, `torch.compile`, ONNX Runtime or OpenVINO.

`fastest` times them on this machine with the network's example and remembers the answer.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from senet import __version__
from senet.deploy.graph import Graph
from senet.deploy.onnx_graph import session
from senet.deploy.rounding import check_distance, worst
from senet.errors import ConfigError, MissingExtraError, RunError, unknown
from senet.files import cache_folder, write_atomically
from senet.kernels.cc import processor
from senet.outputs import reason, tensors
from senet.tracing import evaluating

ENGINES: dict[str, str] = {"torch": "", "onnxruntime": "export", "openvino": "openvino"}
"""Engine -> extra that installs it; of the same name as its package."""

OF_FILES = ("onnxruntime", "openvino")
"""Those that run an ONNX file, in float or in 8 bits."""

ROUNDS, SECONDS = 25, 3.0
"""Timing ends after this many rounds, or after this time and five rounds."""

TURN = 0.03
"""Seconds for which each engine runs in a round."""

MOST = 8
"""Threads and shapes for which an engine keeps a session; the least recently used goes."""


@dataclass(frozen=True)
class Engine:
    """Which engine runs an optimized network, and what the others took.

    Attributes:
        name: "torch", "torch compiled", "onnxruntime", "openvino", or one of these two in 8 bits, "openvino int8".
        milliseconds: median time of a call with the example, by engine; empty if it was not measured.
        skipped: engines that were not taken into account, and why.
        is_remembered: whether the times are those of an earlier measurement on this machine.
    """

    name: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    is_remembered: bool = False

    def __str__(self) -> str:
        lines = [self.name]
        if len(self.milliseconds) > 1:
            own = self.milliseconds[self.name]
            others = [f"{name} {ms / own:.2f}" for name, ms in self.milliseconds.items() if name != self.name]
            earlier = ", measured earlier" if self.is_remembered else ""
            lines = [f"{self.name}, {own:.3g} ms; times as long: {', '.join(others)}{earlier}"]
        lines += [f"without {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)


class Candidate(NamedTuple):
    """A way to run a network.

    Attributes:
        run: what to call.
        done: what was done for it, by the fields of `Rewrites`.
        is_compared: whether its maker compared its outputs with the network's.
    """

    run: Callable[..., Sequence[Tensor]]
    done: Mapping[str, Any]
    is_compared: bool = False


def check_engine(engine: str | None, example: Sequence[Tensor], *, int8: bool = False) -> None:
    """Raise ConfigError unless the engine is known and takes such inputs; MissingExtraError if it is not installed.

    Args:
        engine: None is any of those that run 8 bits.
        example: the inputs.
        int8: whether it is to run 8 bits, for which ONNX Runtime is needed in any case.
    """
    if engine not in (*ENGINES, "auto", None):
        raise unknown("engine", engine, (*ENGINES, "auto"))
    if int8 and engine == "torch":
        raise ConfigError("engine: 'torch' with int8; expected: 'onnxruntime', 'openvino', 'auto' or None")
    if int8 and len(example) > 1:
        raise ConfigError(f"int8: with a network of {len(example)} inputs; expected: of one, images")
    for t in example:
        if t.device.type != "cpu" or t.dtype != torch.float32:
            what, other = ("int8:", "") if int8 else (f"engine: {engine!r}", ", or None")
            raise ConfigError(f"{what} with {t.dtype} on {t.device}; expected: torch.float32 on cpu{other}")
    for needed in ((engine,) if engine else ()) + (("onnxruntime",) if int8 else ()):
        check_installed(needed)


def check_installed(engine: str) -> None:
    """Raise MissingExtraError if something is not installed that an engine needs."""
    if is_missing(engine):
        raise MissingExtraError("ONNX files" if engine == "onnxruntime" else "networks in OpenVINO", ENGINES[engine])


def is_missing(engine: str) -> bool:
    """Whether something is not installed that an engine needs."""
    needed = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
    return any(find_spec(package) is None for package in needed.get(engine, ()))


def run_in(engine: str, file: bytes) -> Callable[..., Sequence[Tensor]]:
    """Return what runs an ONNX file in an engine, with torch's number of threads.

    It takes and returns float32 tensors on the CPU, and may be called from several threads at once.
    """
    run: Any = _Sessions(_onnxruntime if engine == "onnxruntime" else _openvino, file)
    return run


class _Sessions:
    """Runs a file; opens it again for other numbers of threads, and for other shapes where the engine asks for it."""

    def __init__(self, opened: Callable[..., Any], file: bytes) -> None:
        self.opened, self.file = opened, file
        self.lock = threading.Lock()
        self.kept: OrderedDict[Any, Any] = OrderedDict()

    # The compiler cannot look into an engine.
    @torch.compiler.disable
    def __call__(self, *x: Tensor) -> list[Tensor]:
        key = (torch.get_num_threads(), *(tuple(t.shape) for t in x))
        with self.lock:
            run = self.kept.get(key)
            if run is None:
                run = self.kept[key] = self.opened(self.file, *key, others=self.kept)
                if len(self.kept) > MOST:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(key)
        return [_channels_last(torch.from_numpy(y)) for y in run([t.contiguous().numpy() for t in x])]


def _onnxruntime(file: bytes, threads: int, *shapes: Any, others: Mapping[Any, Any]) -> Callable[..., Any]:
    # One session takes all shapes.
    same = next((run for (n, *_), run in others.items() if n == threads), None)
    if same is not None:
        return same
    run = session(file, threads)
    names = [i.name for i in run.__self__.get_inputs()]
    return lambda arrays: run(None, dict(zip(names, arrays, strict=True)))


@cache
def _core() -> Any:
    """OpenVINO, one for the process, which is never freed.

    It sets the stack on which its thread takes signals, and frees it with itself. Of two, freed in another order than
    made, the stack of one stays in use: then the next Ctrl-C is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _openvino(file: bytes, threads: int, *shapes: Any, others: Mapping[Any, Any]) -> Callable[..., Any]:
    core = _core()
    model = core.read_model(file, b"")
    # With open sizes it is slower.
    model.reshape({i: list(wanted) for i, wanted in enumerate(shapes)})
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", options)
    # A request works for one thread at a time.
    kept = threading.local()

    def run(arrays: list[Any]) -> list[Any]:
        if not hasattr(kept, "request"):
            kept.request = compiled.create_infer_request()
        results = kept.request.infer(arrays, share_inputs=True)
        # The request writes to the same memory again.
        return [results[i].copy() for i in range(len(compiled.outputs))]

    return run


def _channels_last(y: Tensor) -> Tensor:
    return y.contiguous(memory_format=torch.channels_last) if y.dim() == 4 else y


def fastest(
    makers: Mapping[str, Callable[[], Candidate]], network: nn.Module, example: Sequence[Tensor], key: str
) -> tuple[Candidate, Engine]:
    """Make the candidates, compare their outputs with the network's, time them in alternation, and take the fastest.

    A later call with this key, on a machine with the same processor, threads and versions, makes only the fastest.

    Args:
        makers: by name. One that fails, or whose outputs are wrong, is left out, and `Engine.skipped` says why.
        network: what they compute.
        example: its inputs.
        key: what tells the network from others.

    Raises:
        RunError: no candidate is left.
    """
    key = _key(key, example, tuple(makers))
    with evaluating(network):
        want = tensors(network(*(t.clone() for t in example)))

    def checked(make: Callable[[], Candidate]) -> Candidate:
        made = make()
        if not made.is_compared:
            found = worst(made.run(*example), want)
            if expected := check_distance(found, network, example):
                raise RunError(f"its outputs are {found:.1e} from the network's; expected: {expected}")
        return made

    if (earlier := _read().get(key)) is not None:
        # Where it fails now it is measured again.
        with suppress(Exception):
            engine = Engine(**earlier, is_remembered=True)
            return checked(makers[engine.name]), engine
    found: dict[str, Candidate] = {}
    skipped: dict[str, str] = {}
    for name, make in makers.items():
        try:
            found[name] = checked(make)
        except Exception as error:
            skipped[name] = reason(error)
    if not found:
        raise RunError("; ".join(f"{name}: {why}" for name, why in skipped.items()))
    times = {name: 1000 * s for name, s in _time({name: c.run for name, c in found.items()}, example).items()}
    chosen = Engine(min(times, key=times.__getitem__), times, skipped)
    values = asdict(chosen)
    del values["is_remembered"]
    _remember(key, values)
    return found[chosen.name], chosen


def _time(runs: Mapping[str, Callable[..., Any]], example: Sequence[Tensor]) -> dict[str, float]:
    """Median seconds of a call of each, in turns."""
    for run in runs.values():
        for _ in range(2):
            run(*example)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + SECONDS
    for i in range(ROUNDS):
        if i >= 5 and time.perf_counter() > end:
            break
        for name, run in runs.items():
            samples[name].append(_turn(lambda run=run: run(*example)))
    return {name: median(of_one) for name, of_one in samples.items()}


def _turn(run: Callable[[], Any]) -> float:
    """Seconds of a call. The first is left out if it is short: threads of the engine before spin for milliseconds."""
    start, count = time.perf_counter(), 0
    run()
    if (seconds := time.perf_counter() - start) >= TURN:
        return seconds
    start = time.perf_counter()
    while (seconds := time.perf_counter() - start) < TURN:
        run()
        count += 1
    return seconds / count


def graph_key(g: Graph) -> str:
    """What tells a network from others of another speed: its operations and the shapes of its constants."""
    shapes = [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in g.module.named_buffers()]
    return "\n".join([g.module.code, *shapes])


def _key(key: str, example: Sequence[Tensor], names: Sequence[str]) -> str:
    versions = [f"{p} {version(p)}" for p in ("torch", "onnxruntime", "openvino") if find_spec(p)]
    shapes = [tuple(t.shape) for t in example]
    told = (key, shapes, names, torch.get_num_threads(), processor(), __version__, versions)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def _file() -> Path:
    return cache_folder() / "engines.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(key: str, values: dict[str, Any]) -> None:
    text = json.dumps(_read() | {key: values}, indent=1)
    # Without a cache folder it is measured each time.
    with suppress(OSError, RunError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_atomically(_file(), lambda file: file.write(text.encode()))
