"""Small networks with the parts that insertion has to find its way through."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn


def draw_gates_(model: nn.Module) -> None:
    """Make gates that are not one."""
    for name, p in model.named_parameters():
        if "unit.fc2.weight" in name:
            nn.init.normal_(p)


def light_vgg() -> nn.Module:
    """Return a VGG with few layers and a head of one."""
    model = tv.VGG(tv.vgg.make_layers([16, "M", 32, "M", 64], batch_norm=True), init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(64 * 49, 10))
    return model


def light_densenet() -> nn.Module:
    """Return a DenseNet with few layers; the sites of "concat" are containers."""
    return tv.DenseNet(8, (1, 1, 2, 2), 16)


def light_resnet() -> nn.Module:
    """Return a ResNet of four basic blocks."""
    return tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


class Depthwise(nn.Module):
    """A depthwise pair, its norms before functional activations, then ECA and a ReLU that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.dw, self.norm1 = nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
        self.pw, self.norm2 = nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)
        self.last, self.relu, self.eca = nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm2(self.pw(F.relu6(self.norm1(self.dw(x))))))
        x = self.relu(self.relu(self.last(x)))
        return x * self.eca(x.mean((2, 3))[:, None]).sigmoid().mT[..., None]


class Join(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.other(x)], dim=1)


class Mixed(nn.Module):
    """A residual branch of two convolutions whose maps are joined, as in Inception-ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.join, self.conv = Join(), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.join(x))


class Scaled(nn.Module):
    """Inception-ResNet's way: the branch is scaled outside modules."""

    def __init__(self, last: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(width, width, 3, padding=1), last

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + 0.17 * self.last(self.conv(x)))


class Steps(nn.Module):
    """Takes each of its children for a step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(8, 8, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for step in self.children():
            x = step(x)
        return x


class Odd(nn.Module):
    """A shared ReLU, an unused convolution, a container, a name that is taken, tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu, self.unused = nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)
        self.taken, self.se_taken = nn.Sequential(nn.Conv2d(8, 8, 1)), None
        self.steps, self.box = Steps(), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.tokens, self.fc = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.taken(self.box(self.steps(self.relu(self.relu(self.stem(x))))))
        x = self.tokens(x.flatten(2).mT)
        return self.fc(x.mean(1))


class Last(nn.Module):
    """A branch whose layer has channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Twice(nn.Module):
    """A branch whose one layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.conv(x))


class Norms(nn.Module):
    """Norms that torch does not have, written by hand: each divides by statistics of the image."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.scale = kind, nn.Parameter(torch.ones(1, 16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer norm":
            return F.layer_norm(x.permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2) * self.scale
        if self.kind == "rms over channels":
            return x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt() * self.scale
        if self.kind == "filter response":
            return torch.maximum(x * (x.square().mean((2, 3), keepdim=True) + 1e-6).rsqrt(), 0 * self.scale)
        if self.kind == "global response":
            size = x.norm(dim=(2, 3), keepdim=True)
            return x + self.scale * (x * (size / (size.mean(1, keepdim=True) + 1e-6))) + 0.1
        return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()


class Activation(nn.Module):
    """Activations that torch has no module for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "swish":
            return x * x.sigmoid()
        if self.kind == "mish":
            return x * F.softplus(x).tanh()
        return x * F.relu6(x + 3) / 6


class FunctionalNorm(nn.Module):
    """Instance norm and activation as functions, behind a convolution; only the block returns what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(F.instance_norm(self.conv(x)))


class HiddenNorm(FunctionalNorm):
    """The same where no module returns it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3))
