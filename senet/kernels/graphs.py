"""CUDA graphs of a network in inference: its launches are recorded once per input shape and replayed as one.

At small batches a GPU waits for the processor between kernels; a replay has no launches to wait for.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from senet.errors import ConfigError

WARM_UP = 3
"""Runs before recording, in which libraries load and kernels are compiled, timed and chosen."""


class CudaGraphed(nn.Module):
    """A network that replays a CUDA graph for each shape, dtype and memory format of its one input.

    module: in evaluation mode, on a GPU; launches the same kernels whatever the input's values are, and gives a tensor
        or a tuple, list or dict of them.
    example: an input on that GPU, recorded at once.
    limit: how many graphs are kept; inputs of further shapes run without one.

    Outputs are copies, which later calls leave alone. Parameters and buffers may change in place but not be replaced.
    Threads take turns; all must be on one stream, for on another the input would be written while it is still read.

    Raises ConfigError for a limit below 1, and for what a graph cannot replay: an input that is not on a GPU or whose
    gradient is asked for, a module in training, autocast.
    """

    def __init__(self, module: nn.Module, example: Tensor, limit: int = 8) -> None:
        super().__init__()
        if limit < 1:
            raise ConfigError(f"limit: {limit} graphs; at least 1")
        self.module = module
        self.limit = limit
        self.graphs: dict[tuple, _Graph] = {}
        self.lock = Lock()
        self(example)

    def forward(self, x: Tensor) -> Any:
        """What the module gives for x, replayed where a graph of its kind is or can be kept."""
        if not x.is_cuda:
            raise ConfigError(f"x: on {x.device}; CUDA graphs need a tensor on a CUDA device")
        if x.requires_grad and torch.is_grad_enabled():
            raise ConfigError("x: requires a gradient, and a graph replays inference; call it under torch.no_grad()")
        if self.module.training:
            raise ConfigError("module: in training, and a graph replays inference; call eval() first")
        if torch.is_autocast_enabled("cuda"):
            raise ConfigError("autocast: its casts would be recorded; convert module and input to the dtype instead")
        key = (x.shape, x.stride(), x.dtype, x.device)
        with torch.no_grad():
            with self.lock:
                if key not in self.graphs and len(self.graphs) < self.limit:
                    # Graphs replay one after another and outputs are copied at once, so all work in the same memory.
                    like = next((graph for graph in self.graphs.values() if graph.x.device == x.device), None)
                    self.graphs[key] = _Graph(self.module, x, like)
                if key in self.graphs:
                    return self.graphs[key](x)
            return self.module(x)


class _Graph:
    """One recording: its input and outputs are tensors of fixed addresses.

    like: another graph on the device, whose memory this one shares.
    """

    def __init__(self, module: nn.Module, x: Tensor, like: _Graph | None) -> None:
        # Tensors made in inference mode could not be written outside of it.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device_of(x):
            self.x = x.detach().clone()
            # Graphs that share memory must share the stream too.
            self.side = torch.cuda.Stream() if like is None else like.side
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                for _ in range(WARM_UP):
                    module(self.x)
            torch.cuda.current_stream().wait_stream(self.side)
            self.graph = torch.cuda.CUDAGraph()
            pool = None if like is None else like.graph.pool()
            with torch.cuda.graph(self.graph, pool, self.side, capture_error_mode="thread_local"):
                self.outputs = module(self.x)

    def __call__(self, x: Tensor) -> Any:
        with torch.cuda.device_of(x):
            self.x.copy_(x)
            self.graph.replay()
            return tree_map_only(Tensor, torch.clone, self.outputs)
