"""Threads of the kernels in C: each item is computed once, by any number of callers, and in a child of fork."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import senet
from senet.kernels import cc, dispatch

if not dispatch.c_convolutions(torch.device("cpu"), torch.float32):
    pytest.skip("no C compiler", allow_module_level=True)


@pytest.mark.parametrize("sanitizer", ["none", "address,undefined", "thread"])
def test_each_item_once(sanitizer: str, tmp_path: Path) -> None:
    """5 threads and a child of fork call at once, with 1 to 6 threads for each of 1,500 calls."""
    program, options = tmp_path / "stress", [] if sanitizer == "none" else [f"-fsanitize={sanitizer}"]
    sources = Path(__file__).with_name("stress.c"), cc.THREADS
    command = [*(cc.compiler() or ()), "-O2", "-g", "-pthread", f"-I{cc.HEADERS}", *options, *sources, "-o", program]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode and options:
        pytest.skip(f"no -fsanitize={sanitizer} here: {made.stderr.strip().splitlines()[-1]}")
    assert not made.returncode, made.stderr
    env = os.environ | {"TSAN_OPTIONS": "die_after_fork=0"}
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, env=env)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip(f"-fsanitize={sanitizer} does not run on this kernel: {done.stderr.strip()}")
    assert not done.returncode, done.stderr
    assert not done.stderr


@torch.no_grad()
def test_in_a_child_of_fork() -> None:
    """Threads do not exist in a child; the kernels start new ones."""
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(), nn.Conv2d(64, 8, 1))
    x, before = torch.randn(4, 3, 40, 40), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        fast = senet.optimize(net.eval(), x)
        want = fast(x)
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            # Not torch.equal, whose threads are OpenMP's.
            os._exit(0 if fast(x).numpy().tobytes() == want.numpy().tobytes() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert torch.equal(fast(x), want)
    finally:
        torch.set_num_threads(before)
