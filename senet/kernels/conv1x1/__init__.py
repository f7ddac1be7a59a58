"""A 1x1 convolution with the end of a block as its epilogue, for inference: `y = relu(s (W h + b) + e)`.

`operation.py` is the operation for GPUs, with its kernel in `triton.py`. `c.py` is the one for CPUs.
"""
