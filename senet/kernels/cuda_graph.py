"""CUDA graphs of a network in inference: record its kernel launches once per input shape, replay them as one.

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
"""Runs before recording: libraries load, and kernels are compiled."""


class CudaGraphed(nn.Module):
    """A network that replays a CUDA graph for each shape, dtype and memory format of its one input.

    Outputs are copies, which later calls do not change. Parameters and buffers may change in place but not be replaced.
    Threads take turns. All must use one stream: on another the input could be overwritten while it is read.

    Args:
        module: in evaluation mode, on a GPU. It launches the same kernels whatever the input's values, and returns a
            tensor or a tuple, list or dict of tensors.
        example: an input on that GPU, recorded at once.
        limit: how many graphs are kept; inputs of further shapes run without one.

    Raises:
        ConfigError: a limit below 1, or a call that a graph cannot replay: an input that is not on a GPU or requires a
            gradient, a module in training, autocast.
    """

    def __init__(self, module: nn.Module, example: Tensor, limit: int = 8) -> None:
        super().__init__()
        if limit < 1:
            raise ConfigError(f"limit: {limit} is too small; expected: 1 or above")
        self.module = module
        self.limit = limit
        self.graphs: dict[tuple, _Graph] = {}
        self.lock = Lock()
        self(example)

    def forward(self, x: Tensor) -> Any:
        """Output of the module for x, replayed if a graph of its shape is or can be kept."""
        if not x.is_cuda:
            raise ConfigError(f"x: on {x.device}; expected: a tensor on a CUDA device")
        if x.requires_grad and torch.is_grad_enabled():
            raise ConfigError("x: requires a gradient; a CUDA graph replays inference: call it under torch.no_grad()")
        if self.module.training:
            raise ConfigError("module: in training; a CUDA graph replays inference: call eval() first")
        if torch.is_autocast_enabled("cuda"):
            raise ConfigError("autocast: its casts would be recorded; convert module and input to the dtype instead")
        key = (x.shape, x.stride(), x.dtype, x.device)
        with torch.no_grad():
            with self.lock:
                if key not in self.graphs and len(self.graphs) < self.limit:
                    # Graphs replay one after another and outputs are copied at once, so all share memory.
                    like = next((graph for graph in self.graphs.values() if graph.x.device == x.device), None)
                    self.graphs[key] = _Graph(self.module, x, like)
                if key in self.graphs:
                    return self.graphs[key](x)
            return self.module(x)


class _Graph:
    """One recording, with its input and outputs at fixed addresses.

    like: another graph on the device, whose memory this one shares.
    """

    def __init__(self, module: nn.Module, x: Tensor, like: _Graph | None) -> None:
        # Tensors created in inference mode could not be written outside of it.
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
