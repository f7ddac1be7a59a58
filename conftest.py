"""Which files have no examples to test here."""

from importlib.util import find_spec

TRITON = ("tiles", "triton_passes", "triton_conv1x1")
collect_ignore = [] if find_spec("triton") else [f"senet/kernels/{name}.py" for name in TRITON]
