"""Weights divided among processes by torch's FSDP2, for networks that are large beside a device's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from senet.processes import world
from senet.runs.checkpoint import read_ckpt


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


class Divided(ModelParallelStrategy):
    """How Lightning trains with divided weights: each checkpoint is one file, like that of one process."""

    def __init__(self) -> None:
        super().__init__(world(), 1, save_distributed_checkpoint=False)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Give each process its parts of a checkpoint; returns what else is in it.

        Lightning's own takes the parameters of an optimizer to be in the order of the network, which groups change.
        """
        state = read_ckpt(Path(checkpoint_path))
        assert self.model is not None
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, state.pop("state_dict"), options=whole)
        names = {p: name for name, p in self.model.named_parameters()}
        for optimizer, saved in zip(self.optimizers, state["optimizer_states"], strict=True):
            groups = [
                {**old, "params": [names[p] for p in group["params"]]}
                for old, group in zip(saved["param_groups"], optimizer.param_groups, strict=True)
            ]
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            order = dict(zip(numbers, (name for group in groups for name in group["params"]), strict=True))
            moved = {order[number]: value for number, value in saved["state"].items()}
            set_optimizer_state_dict(self.model, optimizer, {"state": moved, "param_groups": groups}, options=whole)
        return state


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
