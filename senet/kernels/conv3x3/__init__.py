"""A 3x3 convolution by Winograd's algorithm with sum and ReLU as its epilogue, for inference on a CPU: `c.py`."""
