"""The end of a block as one operation: batch norm, unit, sum and ReLU, in the memory traffic of batch norm alone.

    y = relu(s (a (x - mu) + beta) + e)

Eight passes compute it. `reference.py` defines them in plain torch; `c.py` and `triton.py` have the same functions for
CPUs and GPUs. `excitation.py` computes the gates between the passes, `operation.py` joins all of it into one
differentiable operation. `senet.kernels.dispatch` picks the passes.
"""
