"""Which files have no doctests to collect here."""

from importlib.util import find_spec

TRITON = ("block_epilogue/triton", "block_epilogue/triton_programs", "conv1x1/triton")
collect_ignore = [] if find_spec("triton") else [f"senet/kernels/{name}.py" for name in TRITON]
