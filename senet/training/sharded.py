"""Weights divided among processes by torch's FSDP2, for networks that are large beside a device's memory."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard


def shard_(network: nn.Module, mesh: DeviceMesh) -> list[str]:
    """Leave each process a part of each parameter, and of its gradient and momentum, in place; returns the blocks.

    The parameters of a block are put together while it is computed, forward and backward; those outside of any block
    stay together for the whole step. A block is a member of a sequence that has parts itself, such as a residual block.
    Names stay. Buffers are not divided.
    """
    blocks = [
        (f"{name}.{part}", block)
        for name, sequence in network.named_modules()
        if isinstance(sequence, (nn.Sequential, nn.ModuleList))
        for part, block in sequence.named_children()
        if list(block.children()) and not isinstance(block, (nn.ModuleList, nn.ModuleDict))
    ]
    # The innermost first, as torch asks for.
    for _, block in reversed(blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return [name for name, _ in blocks]


def begin_(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer that has made no step its state, zeros.

    Else torch makes the state when a first checkpoint asks for it, by a step without gradients that counts: it leaves
    weight decay in SGD's momentum, and a step in AdamW's correction.
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            if isinstance(optimizer, torch.optim.AdamW):
                zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[p] = {"step": torch.zeros(()), **zeros}
            elif group["momentum"]:
                optimizer.state[p] = {"momentum_buffer": torch.zeros_like(p)}


def same_buffers_(network: nn.Module) -> None:
    """Give every process the buffers of the first, such as batch norm's running statistics; every process must call it.

    torch's DDP does so in each step.
    """
    for buffer in network.buffers():
        dist.broadcast(buffer, 0)
