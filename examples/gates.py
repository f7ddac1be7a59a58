"""Read the gates of an SE network for an image: one unit by hand, and all of them at once.

    python examples/gates.py [CHECKPOINT]

Without a checkpoint the weights are random and the gates say nothing; the way to read them is the same.
"""

import sys

import torch

import senet
from senet.blocks.residual import ResidualBlock
from senet.data import open_data
from senet.recipes.registry import get_recipe


def all_gates(model: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gates of every unit, `(N, C)` each, by the unit's name in the network."""
    gates: dict[str, torch.Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, senet.Unit):

            def keep(unit: senet.Unit, inputs: tuple[torch.Tensor, ...], _out: object, name: str = name) -> None:
                gates[name] = unit.gate(inputs[0])

            hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return gates


if len(sys.argv) > 1:
    checkpoint = senet.load(sys.argv[1])
    model, recipe = checkpoint.model, checkpoint.recipe
else:
    recipe = get_recipe("digits")
    model = senet.create_model(recipe.model, in_channels=1).eval()

data = open_data(recipe.data, seed=0)
images, targets = data.measured.prepare(data.measured[0, range(8)], torch.device("cpu"))

# One unit, without hooks: a unit called with return_gate gives its output and its gates.
with torch.no_grad():
    x = model.get_submodule("features.stem")(images)
    block = model.get_submodule("features.stage2.block1")
    assert isinstance(block, ResidualBlock)
    assert block.se is not None
    u = block.norm(block.branch(x))
    y, gate = block.se(u, return_gate=True)
print(f"stage2.block1: feature map {tuple(u.shape)}, gates {tuple(gate.shape)}")

gates = all_gates(model, images)
assert torch.allclose(gates["features.stage2.block1.se"], gate)
for name, gate in gates.items():
    print(f"{name:<28}{gate.shape[1]:>4} channels  mean {gate.mean():.3f}  between images {gate.std(0).mean():.4f}")
