"""`optimize(engine=...)`: each engine computes the network's function, and the fastest is taken and remembered."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet import ConfigError, SEConfig, insert_, optimize
from senet.deploy import engines
from senet.errors import MissingExtraError, RunError
from tests.deploy.same import noise as noise64
from tests.deploy.same import trained

ENGINES = ("torch", "onnxruntime", "openvino")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the times, in a cache folder of its own; they are taken in short turns."""
    monkeypatch.setattr(engines, "TURN", 0.002)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "senet" / "engines.json"


def network() -> nn.Module:
    def block(k: int, c: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(k, c, 3, stride, 1), nn.BatchNorm2d(c), nn.ReLU())

    model = nn.Sequential(block(3, 16), block(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    insert_(model, SEConfig(reduction=4), "1.1", example=noise(1, 3, 32, 32))
    return trained(model).float()


@functools.cache
def made(engine: Any) -> tuple[nn.Module, Any]:
    """A network, and what an engine makes of it."""
    model = network()
    return model, optimize(model, noise(1, 3, 32, 32), engine=engine)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return noise64(*shape, seed=seed, dtype=torch.float32)


def error(have: Tensor, want: Tensor) -> float:
    assert have.shape == want.shape
    return float((have - want.detach()).norm() / want.detach().norm())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_same_function_of_any_batch_and_size(engine: Any) -> None:
    model, fast = made(engine)
    assert fast.engine.name == engine
    for shape in ((1, 3, 32, 32), (3, 3, 32, 32), (2, 3, 40, 37)):
        x = noise(*shape)
        assert error(fast(x), model(x)) < 1e-5
    with pytest.raises(ConfigError, match="does not fit this optimized network"):
        fast(noise(1, 3, 32, 32).double())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_outputs_with_names_and_feature_maps(engine: Any) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: Tensor, scale: Tensor) -> dict[str, Any]:
            y = self.conv(x) * scale
            return {"map": y, "aux": [y.mean((2, 3))]}

    model = Two().eval()
    x, scale = noise(2, 3, 9, 7), noise(2, 1, 1, 1)
    insert_(model, SEConfig(reduction=4), "conv", example=(x, scale))
    fast = optimize(model, (x, scale), engine=engine)
    have, want = fast(x, scale), model(x, scale)
    assert list(have) == ["map", "aux"]
    assert have["map"].is_contiguous(memory_format=torch.channels_last)
    assert error(have["map"], want["map"]) < 1e-5
    assert error(have["aux"][0], want["aux"][0]) < 1e-5


@pytest.mark.parametrize("engine", [None, "onnxruntime", "openvino"])
def test_threads_of_a_server_get_the_serial_answers(engine: Any) -> None:
    _, fast = made(engine)
    images = [noise(1 + i % 3, 3, 32, 32, seed=i) for i in range(24)]
    serial = [fast(x) for x in images]
    found: dict[int, Tensor] = {}

    def serve(first: int) -> None:
        torch.set_num_threads(1)
        for i in range(first, len(images), 4):
            found[i] = fast(images[i])

    threads = [threading.Thread(target=serve, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(error(found[i], serial[i]) < 1e-6 for i in range(len(images)))


def test_answers_do_not_share_memory() -> None:
    _, fast = made("openvino")
    x = noise(1, 3, 32, 32)
    first = fast(x)
    kept = first.clone()
    fast(x + 1)
    assert torch.equal(first, kept)


class Slow(nn.Module):
    def forward(self, t: Tensor) -> list[Tensor]:
        return [sum((t @ t for _ in range(300)), t)]


class Shifted(nn.Module):
    """In float32 it rounds its input to multiples of 2^-10."""

    def forward(self, t: Tensor) -> Tensor:
        return (t + 10000.0) - 10000.0


def test_the_fastest_is_taken_and_remembered(cache: Path) -> None:
    x = noise(1, 3, 8, 8)
    slow = Slow()

    def candidate(run: Any) -> Any:
        calls.append(run)
        return engines.Candidate(run, {})

    calls: list[Any] = []
    want = slow(x)
    quick = lambda t: want  # noqa: E731
    wrong = lambda t: [want[0] + 1]  # noqa: E731
    makers: dict[str, Any] = {
        "a": lambda: candidate(slow),
        "b": lambda: candidate(quick),
        "c": lambda: candidate(wrong),
    }
    chosen, engine = engines.fastest(makers, slow, [x], "net")
    assert (chosen.run, engine.name, engine.is_remembered) == (quick, "b", False)
    assert set(engine.milliseconds) == {"a", "b"}
    assert "from the network's" in engine.skipped["c"]
    calls.clear()
    again, engine = engines.fastest(makers, slow, [x], "net")
    assert (again.run, engine.name, engine.is_remembered, calls) == (quick, "b", True, [quick])
    assert "measured earlier" in str(engine)
    makers = {"a": makers["a"]}
    for given, key in ((x, "another"), (noise(2, 3, 8, 8), "net")):
        assert not engines.fastest(makers, slow, [given], key)[1].is_remembered
    with pytest.raises(RunError, match="c: its outputs are"):
        engines.fastest({"c": lambda: candidate(wrong)}, slow, [x], "net")


def test_an_engine_is_not_judged_by_the_threads_of_another(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call after another engine is slow, as while threads of that one still spin."""
    monkeypatch.setattr(engines, "TURN", 0.03)
    last: list[str] = []

    def run(name: str, seconds: float) -> Any:
        def candidate(t: Tensor) -> list[Tensor]:
            time.sleep(0.02 if last != [name] else seconds)
            last[:] = [name]
            return [t]

        return lambda: engines.Candidate(candidate, {})

    makers = {"slow": run("slow", 0.015), "fast": run("fast", 0.001)}
    _, engine = engines.fastest(makers, nn.Identity(), [noise(1, 3, 8, 8)], "net")
    assert engine.name == "fast"
    assert engine.milliseconds["slow"] > 2 * engine.milliseconds["fast"]


def test_a_network_that_rounds_coarsely_is_compared_by_its_own_rounding(cache: Path) -> None:
    """Here float32 is 3e-4 from float64, so an engine that rounds otherwise is right, and one 1 % away is not."""
    x = noise(1, 3, 8, 8)
    distance = error(Shifted()(x), x)
    assert 1e-4 < distance < 2e-3
    makers = {
        "exact": lambda: engines.Candidate(lambda t: [t], {}),
        "wrong": lambda: engines.Candidate(lambda t: [t * 1.01], {}),
    }
    _, engine = engines.fastest(makers, Shifted(), [x], "net")
    assert (engine.name, set(engine.skipped)) == ("exact", {"wrong"})
    nans = {"nan": lambda: engines.Candidate(lambda t: [torch.where(t > 0, t, torch.nan)], {})}
    with pytest.raises(RunError, match=r"nan: its outputs are nan from the network's; expected: 1e-04 or less"):
        engines.fastest(nans, nn.Identity(), [x], "net")


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"KEY": {"name": "b"}}', '{"KEY": {"nom": 1}}'])
def test_a_damaged_memory_is_measured_again(damaged: str, cache: Path) -> None:
    x = noise(1, 3, 8, 8)
    makers = {"a": lambda: engines.Candidate(lambda t: [t], {})}
    engines.fastest(makers, nn.Identity(), [x], "net")
    (key,) = json.loads(cache.read_text())
    cache.write_text(damaged.replace("KEY", key))
    assert not engines.fastest(makers, nn.Identity(), [x], "net")[1].is_remembered
    assert engines.fastest(makers, nn.Identity(), [x], "net")[1].is_remembered


@pytest.mark.slow
def test_auto_compares_all_that_are_installed(cache: Path) -> None:
    model, x = network(), noise(1, 3, 32, 32)
    fast = optimize(model, x, engine="auto")
    assert set(fast.engine.milliseconds) | set(fast.engine.skipped) == {*ENGINES, "torch compiled"}
    assert set(fast.engine.skipped) <= {"torch compiled"}
    assert fast.engine.name == min(fast.engine.milliseconds, key=fast.engine.milliseconds.__getitem__)
    assert fast.engine.name in repr(fast)
    assert error(fast(x), model(x)) < 1e-5
    torch_only = optimize(model, x, engine="torch").engine
    assert {*torch_only.milliseconds, *torch_only.skipped} == {"torch", "torch compiled"}


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), noise(1, 3, 32, 32)
    with pytest.raises(ConfigError, match=r"engine: 'onnx' is not known.*onnxruntime"):
        optimize(model, x, engine="onnx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="compile: True with engine='openvino'"):
        optimize(model, x, engine="openvino", compile=True)
    with pytest.raises(ConfigError, match=r"engine: 'auto' with torch.float64 on cpu"):
        optimize(model.double(), x.double(), engine="auto")
    monkeypatch.setattr(engines, "is_missing", lambda engine: engine == "openvino")
    with pytest.raises(MissingExtraError, match=r"pip install 'senet\[openvino\]'"):
        optimize(network(), x, engine="openvino")


FREED = """
import gc, os, signal, sys, time
import torch
from torch import nn
import senet

x = torch.randn(1, 3, 8, 8)
first, second = (senet.optimize(nn.Conv2d(3, 8, n).eval(), x, engine="openvino") for n in (1, 3))
first(x), second(x)
del first
gc.collect()
del second
gc.collect()
# As faulthandler, which pytest uses, and Python's own handlers: on the stack for signals.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_a_signal_after_networks_in_openvino_were_freed() -> None:
    """It is a segmentation fault where each network has an `openvino.Core` of its own."""
    words = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", FREED]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (7, "")
