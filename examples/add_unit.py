"""A unit of one's own: gates from each channel's mean and deviation, in SE-ResNet-20, trained for a few steps.

    python examples/add_unit.py

A config says what the unit is (`kind` gives it a name, so that a recipe can write it down and read it back), builds
the module and counts what it costs. The module computes the gates, and `Unit` applies them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import senet


@dataclass(frozen=True, kw_only=True)
class StyleConfig(senet.UnitConfig, kind="style"):
    """One linear layer from (mean, deviation) to the gate, the same for every channel."""

    def build(self, channels: int) -> "Style":
        return Style()

    def cost(self, channels: int, positions: int) -> tuple[int, int]:
        return 3, 2 * channels


class Style(senet.Unit):
    """`s_c = sigmoid(w1 mean(u_c) + w2 std(u_c) + b)`. `(N, C, *) -> (N, C, *)`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def gate(self, u: Tensor) -> Tensor:
        flat = u.flatten(2)
        z = torch.stack([flat.mean(-1), flat.std(-1)], dim=-1)
        return torch.sigmoid(self.fc(z)).squeeze(-1)


model = senet.create_model("se_resnet20", se=StyleConfig(), in_channels=1)
plain = senet.create_model("resnet20", in_channels=1)
own, common = dict(model.named_parameters()), dict(plain.named_parameters())
assert all(torch.equal(own[name], weight) for name, weight in common.items())
print(f"{len(common)} tensors as in resnet20, bit for bit; {len(own) - len(common)} of the units")

# It is in every written recipe by its name.
assert senet.from_dict(senet.UnitConfig, senet.to_dict(StyleConfig(stages=(2, 3)))) == StyleConfig(stages=(2, 3))

optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
images, targets = torch.randn(16, 1, 32, 32), torch.arange(16) % 10
for step in range(5):
    loss = F.cross_entropy(model(images), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}  loss {loss.item():.3f}")
