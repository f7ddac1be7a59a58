"""Batch norm with the statistics of the images of all processes, on GPUs and CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.errors import ConfigError
from senet.processes import world


class Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, each of which has its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The sum."""
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Every process has used the sum."""
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the batch of all processes; in evaluation, and in a process alone, torch's own.

    torch's `nn.SyncBatchNorm` computes the same on GPUs only. A process may have no image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, ...) -> (N, C, ...)`; every process must call it."""
        if not self.training or world() == 1:
            return super().forward(x)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        own = torch.full((1,), x.numel() / x.shape[1], dtype=wide.dtype, device=x.device)
        sums = Sum.apply(torch.cat([wide.sum(dims), own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean.view(shape)
        var = Sum.apply(centred.square().sum(dims)) / count
        self._follow(mean.detach(), var.detach() * count / (count - 1))
        y = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor) -> None:
        """Update the running statistics as torch does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(var.to(self.running_var.dtype), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""


def synchronise_(network: nn.Module) -> list[str]:
    """Let each batch norm of a network take the statistics of all processes, in place; returns their names.

    The modules stay, and with them parameters, buffers, hooks and who knows them; only their class changes.

    Raises:
        ConfigError: A batch norm computes more than that.
    """
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    for name, norm in found:
        if type(norm) not in PLAIN:
            raise ConfigError(
                f"train.sync_batch_norm: {name} is a {type(norm).__name__}; expected: a network with torch's own "
                "batch norm"
            )
    for _, norm in found:
        norm.__class__ = SyncBatchNorm
    return [name for name, _ in found]


PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SyncBatchNorm)


def still_(network: nn.Module, *, synchronised: bool = False) -> list[nn.Module]:
    """Put batch norms in evaluation mode; returns those that were in training mode.

    Args:
        network: In training.
        synchronised: Also those that take the statistics of all processes, where none of these has an image.
    """
    norms: list[nn.Module] = [
        m
        for m in network.modules()
        if isinstance(m, _BatchNorm) and m.training and (synchronised or not isinstance(m, SyncBatchNorm))
    ]
    for norm in norms:
        norm.eval()
    return norms
