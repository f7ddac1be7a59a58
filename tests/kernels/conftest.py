"""Where Triton's programs run (a CUDA device, else Triton's interpreter on the CPU), and what tests start from."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.kernels.buffers import full_of_nan


@pytest.fixture
def device() -> torch.device:
    """A device on which Triton's programs run; the test is skipped if there is none."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if torch.cuda.is_available():
        return torch.device("cuda")
    import triton

    if triton.__version__.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip(f"the interpreter of triton {triton.__version__} fails with numpy {np.__version__} (triton#9171)")
    if isinstance(triton.language.sum, triton.JITFunction):
        pytest.fail("triton was imported before TRITON_INTERPRET=1 was set")
    return torch.device("cpu")


@pytest.fixture
def nan_buffers() -> Iterator[None]:
    """New buffers are full of NaN, which remains where a pass does not write."""
    with full_of_nan():
        yield
