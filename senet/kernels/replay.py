"""Run a chain of the kernels in C by one call: at batch 1 each call from Python costs as much as a small layer.

A chain runs once through torch for each shape of its inputs, and its calls are recorded: functions, addresses and
numbers. Replayed, only the addresses of inputs and outputs change. Memory is planned as it is recorded: what a later
operation does not read is used again. All chains of a thread work in the same memory.
"""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from collections.abc import Sequence
from ctypes import c_int64, c_void_p, cast
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from senet.kernels.cc import THREADS, compiled, library
from senet.kernels.packed import recording
from senet.kernels.pages import Arena, is_dense

MOST = 8
"""Recordings that a thread keeps for a chain, each with memory of its own; the least recently used goes."""


def available() -> bool:
    """Whether `threads.c` is or can be compiled here."""
    return library(THREADS) is not None


class Chain(torch.nn.Module):
    """A graph of kernels in C, which takes float32 tensors and returns a tuple of them.

    any_strides: for each input, whether the kernels that read it take any strides.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph
        given = (n for n in graph.graph.nodes if n.op == "placeholder")
        self.any_strides = [all(map(_is_planar, n.users)) for n in given]
        object.__setattr__(self, "_kept", threading.local())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Results for inputs of any memory format."""
        if torch.compiler.is_compiling() or not all(x.numel() for x in inputs):
            return self.graph(*inputs)
        inputs = tuple(
            x
            if is_any and is_dense(x.shape, x.stride())
            else x.contiguous(memory_format=torch.channels_last)
            if x.dim() == 4
            else x.contiguous()
            for x, is_any in zip(inputs, self.any_strides, strict=True)
        )
        kept: OrderedDict[Any, Recording] = vars(self._kept).setdefault("recordings", OrderedDict())
        key = (torch.get_num_threads(), *((x.shape, x.stride()) for x in inputs))
        made = kept.get(key)
        if made is None:
            made = kept[key] = Recording(self.graph, inputs)
            if len(kept) > MOST:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return made(inputs)


class Recording:
    """The calls of a chain for inputs of one shape.

    Args:
        chain: its graph; every operation calls kernels of `senet.kernels`, or is `getitem`.
        inputs: an example; feature maps are channels-last, others contiguous.
    """

    def __init__(self, chain: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        self.calls: list[tuple[Any, Sequence[Tensor | None], Sequence[int]]] = []
        self.blocks: list[Tensor] = []
        self.free: list[int] = []
        self.taken: list[int] = []
        # Copies: an address tells what a call reads, and two inputs may be one tensor this time.
        inputs = [x.new_empty_strided(x.shape, x.stride()).copy_(x) for x in inputs]
        self._compile(inputs, self._record(chain, inputs))

    def _record(self, chain: fx.GraphModule, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run the chain once; its results."""
        given, values, owned = iter(inputs), dict[fx.Node, Any](), dict[fx.Node, list[int]]()
        last = {_owner(n): user for user in chain.graph.nodes for n in user.all_input_nodes}
        with torch.no_grad(), recording(self):
            for node in chain.graph.nodes:
                args = fx.map_arg(node.args, values.__getitem__)
                if node.op == "placeholder":
                    values[node] = next(given)
                elif node.op == "get_attr":
                    values[node] = getattr(chain, str(node.target))
                elif node.op == "output":
                    return args[0]  # type: ignore[return-value]
                else:
                    made = values[node] = node.target(*args)  # type: ignore[operator]
                    addresses = {t.data_ptr() for t in (made if isinstance(made, tuple) else (made,))}
                    owned[node] = [b for b in self.taken if self.blocks[b].data_ptr() in addresses]
                    # What is no result was to work in.
                    self.free += [b for b in self.taken if b not in owned[node]]
                    self.taken = []
                    for n in [n for n in owned if last.get(n) is node]:
                        self.free += owned.pop(n)
        raise AssertionError("a graph without an output")

    def add(self, function: Any, tensors: Sequence[Tensor | None], numbers: Sequence[int]) -> None:
        """Record a call."""
        self.calls.append((function, tensors, numbers))

    def empty(self, shape: Sequence[int]) -> Tensor:
        """Memory that no later call reads: the smallest free block that is large enough, or a new one."""
        size = max(1, prod(shape))
        block = min(
            (b for b in self.free if len(self.blocks[b]) >= size), key=lambda b: len(self.blocks[b]), default=None
        )
        if block is None:
            block = len(self.blocks)
            # While it is recorded; then blocks become places in the thread's memory.
            self.blocks.append(torch.empty(-(-size // 16) * 16, dtype=torch.float32, device="cpu"))
        else:
            self.free.remove(block)
        self.taken.append(block)
        return _shaped(self.blocks[block], shape)

    def _compile(self, inputs: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Write the calls as one array of numbers, with the places of the addresses that change."""
        places: dict[int, list[int]] = {x.data_ptr(): [] for x in (*inputs, *results)}
        starts = [block.data_ptr() for block in self.blocks]
        ends = list(accumulate(4 * len(block) for block in self.blocks))
        sizes = dict(zip(starts, map(len, self.blocks), strict=True))
        array: list[int] = []
        # Places in the array, and bytes from the start of the thread's memory.
        self.inner: list[tuple[int, int]] = []
        for function, tensors, numbers in self.calls:
            array += [cast(function, c_void_p).value or 0, len(tensors) + len(numbers)]
            for t in tensors:
                address = 0 if t is None else t.data_ptr()
                if address in places:
                    places[address].append(len(array))
                else:
                    for start, end in zip(starts, ends, strict=True):
                        if start <= address < start + 4 * sizes[start]:
                            self.inner.append((len(array), end - 4 * sizes[start] + address - start))
                array.append(address)
            array += numbers
        self.array, self.count = (c_int64 * len(array))(*array), len(self.calls)
        self.inputs = [places[x.data_ptr()] for x in inputs]
        self.results = [(places[t.data_ptr()], sizes[t.data_ptr()], tuple(t.shape)) for t in results]
        self.size, self.base = ends[-1] // 4 if ends else 0, 0
        # What the calls hold are constants; blocks are not needed any more.
        constants = (t for _, tensors, _ in self.calls for t in tensors if t is not None)
        self.calls, self.constants = [], [t for t in constants if not self._is_inside(t, inputs)]
        self.blocks = []
        self.replay = compiled(THREADS).replay

    def _is_inside(self, t: Tensor, inputs: Sequence[Tensor]) -> bool:
        memory = t.untyped_storage().data_ptr()
        return any(memory == other.untyped_storage().data_ptr() for other in (*self.blocks, *inputs))

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Replay the calls."""
        array, results = self.array, []
        base = _memory(self.size)
        if base != self.base:
            for i, offset in self.inner:
                array[i] = base + offset
            self.base = base
        for x, places in zip(inputs, self.inputs, strict=True):
            address = x.data_ptr()
            for i in places:
                array[i] = address
        for places, size, shape in self.results:
            # Earlier results may have had this block: it is as large.
            y = torch.empty(size, dtype=torch.float32, device="cpu")
            address = y.data_ptr()
            for i in places:
                array[i] = address
            results.append(_shaped(y, shape))
        self.replay(array, c_int64(self.count))
        return tuple(results)


_kept = threading.local()


def _memory(size: int) -> int:
    """Address of this thread's memory for what chains compute on the way, at least `size` floats."""
    memory = getattr(_kept, "memory", None)
    if memory is None or len(memory) < size:
        memory = _kept.memory = Arena().take(size)
        _kept.address = memory.data_ptr()
    return _kept.address


def _is_planar(node: fx.Node) -> bool:
    """Whether an operation reads its input with any strides."""
    return node.target is torch.ops.senet.direct.default and bool(node.args[7])


def _owner(node: fx.Node) -> fx.Node:
    """The operation that made a node's memory: of `getitem` the one that it takes an item of."""
    return node.args[0] if node.target is operator.getitem else node  # type: ignore[return-value]


def _shaped(block: Tensor, shape: Sequence[int]) -> Tensor:
    """The first numbers of a block in this shape, channels-last if it has four axes."""
    flat = block[: prod(shape)]
    if len(shape) != 4:
        return flat.view(tuple(shape))
    n, c, h, w = shape
    return flat.view(n, h, w, c).permute(0, 3, 1, 2)
