"""Our parameter names as timm's legacy SE networks and torchvision's ResNets call them."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from senet import Network


def their_name(name: str, *, stem: str, head: str) -> str:
    """`features.stage3.block1.se.fc1.weight` -> `layer2.0.se_module.fc1.weight`."""
    name = re.sub(r"features\.stem\.conv", f"{stem}conv1", name)
    name = re.sub(r"features\.stem\.norm", f"{stem}bn1", name)
    name = re.sub(r"features\.stage(\d+)\.block(\d+)\.", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.", name)
    name = name.replace("shortcut.conv", "downsample.0").replace("shortcut.norm", "downsample.1")
    name = re.sub(r"\.norm(\d)\.", r".bn\1.", name).replace(".se.", ".se_module.")
    return name.replace("classifier", head)


def copy_weights(ours: Network, theirs: nn.Module, *, stem: str = "", head: str = "fc") -> None:
    """Give `theirs` the weights of `ours`; every one of both must be used."""
    is_basic = ours.net.stages[0].block == "basic"
    want = theirs.state_dict()
    state: dict[str, Tensor] = {}
    for name, tensor in ours.state_dict().items():
        # The last batch norm of a block is its epilogue's: bn2 of a basic block, bn3 of a bottleneck.
        name = re.sub(r"(block\d+)\.norm\.", rf"\1.norm{2 if is_basic else 3}.", name)
        name = their_name(name, stem=stem, head=head)
        state[name] = tensor.reshape(want[name].shape)
    theirs.load_state_dict(state, strict=True)


def randomise_(model: nn.Module) -> None:
    """Biases, batch norm's parameters and statistics random too, so that a swapped one shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dim() == 1:
                draw = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
                is_scale = name.endswith(("weight", "running_var"))
                tensor.copy_(0.75 + 0.5 * draw if is_scale else 0.2 * (draw - 0.5))
