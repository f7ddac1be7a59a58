"""Where Triton's programs run: on a CUDA device, else on the CPU in Triton's interpreter."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """A device on which Triton's programs run; the test is skipped where they cannot."""
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
