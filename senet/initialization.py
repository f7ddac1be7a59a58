"""Weights drawn by name: each parameter's random numbers depend on (seed, its own name) and on nothing else.

So a plain network and its SE twin share every common weight bit for bit at step 0, and the order in which layers are
made, other libraries' draws and the global random state do not matter.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from senet.errors import ConfigError


def number(*key: object) -> int:
    """A whole number below 2^63 for a key, the same on every machine: the seed of what the key names."""
    digest = blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(*key: object) -> torch.Generator:
    """The random stream of a key, the same on every machine: `stream(seed, "stem.conv.weight")`."""
    return torch.Generator("cpu").manual_seed(number(*key))


def check_not_inference(model: nn.Module, call: str) -> None:
    """Raise ConfigError if new parameters would be inference tensors, which never train, in a network that can."""
    if torch.is_inference_mode_enabled() and not all(p.is_inference() for p in model.parameters()):
        raise ConfigError(f"{call}: in torch.inference_mode(), where new parameters never train; call it outside")


@torch.no_grad()
def draw_(module: nn.Module, seed: int, prefix: str = "") -> None:
    """Draw every parameter of `module` and reset its buffers, in place.

    Convolutions and the SE unit's FC layers: He et al. (arXiv:1502.01852), Gaussian of variance 2/fan_in; the
    classifier: Gaussian of deviation 0.01; biases 0; batch norm scale 1, shift 0. The authors use MSRA (He) and report
    no effect of the SE layers' initialisation (hujie-frank/SENet issue 74).

    A module whose first weights are not random has a method `reset_constants_()`.

    prefix: the module's name in its network, so that a part draws what it would draw within the whole.
    Raises TypeError for any other module with parameters of its own.
    """
    for name, layer in module.named_modules(prefix=prefix):
        if isinstance(layer, (_ConvNd, nn.Linear)):
            is_classifier = name.rpartition(".")[2] == "classifier"
            std = 0.01 if is_classifier else (2.0 / layer.weight[0].numel()) ** 0.5
            # Drawn on the CPU in float32 whatever the device: the same numbers everywhere.
            weight = torch.randn(
                layer.weight.shape, generator=stream(seed, f"{name}.weight"), dtype=torch.float32, device="cpu"
            ).mul_(std)
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, _BatchNorm):
            layer.reset_parameters()
        elif hasattr(layer, "reset_constants_"):
            layer.reset_constants_()  # type: ignore[operator]
        elif next(layer.parameters(recurse=False), next(layer.buffers(recurse=False), None)) is not None:
            raise TypeError(f"{name}: no rule to draw the weights of a {type(layer).__name__}")
