"""What every test shares: how many threads torch may take, and where real images are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Threads times xdist's workers must not exceed the cores; OMP_NUM_THREADS, where set, is already torch's limit.
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_threads = max(1, min(torch.get_num_threads(), _cores // _workers))
torch.set_num_threads(_threads)
os.environ["OMP_NUM_THREADS"] = str(_threads)  # of the processes that tests start

# Triton's programs run in its interpreter where there is no GPU; Triton reads this when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


# What a shell starts in its background ignores Ctrl-C, and so would all that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what only a GPU can test where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True, scope="module")
def devices() -> Iterator[None]:
    """No file's tests leave a torch behind that no longer makes tensors where `with torch.device(...)` says."""
    yield
    with torch.device("meta"):
        assert torch.empty(0).is_meta
        assert torch.zeros(0).is_meta


@pytest.fixture
def real_images() -> Path:
    """The folder that SENET_TEST_DATA names, with `cifar10/` and `imagenette/` in it; the test is skipped without."""
    folder = os.environ.get("SENET_TEST_DATA", "")
    if not folder:
        pytest.skip("SENET_TEST_DATA is not set: it names a folder with cifar10/ and imagenette/")
    path = Path(folder)
    missing = [name for name in ("cifar10", "imagenette") if not (path / name).is_dir()]
    if missing:
        pytest.skip(f"SENET_TEST_DATA={folder} has no {' and no '.join(missing)}")
    return path
