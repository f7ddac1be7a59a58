"""Stochastic depth (arXiv:1603.09382): in training, residual branches of single images are left out at random."""

from __future__ import annotations

from torch import Tensor, nn

from senet.blocks.residual import ResidualBlock
from senet.errors import ConfigError


class DropPath:
    """The end of a residual block of ours, with its branch left out with probability `p`, else divided by `1 - p`."""

    def __init__(self, block: ResidualBlock, p: float) -> None:
        self.block, self.p = block, p

    def __call__(self, x: Tensor, norm: nn.Module, se: nn.Module | None, shortcut: Tensor) -> Tensor:
        """As `functional.block_epilogue`."""
        u = norm(x)
        if se is not None:
            u = se(u)
        if self.block.training:
            kept = u.new_empty(len(u), 1, 1, 1).bernoulli_(1 - self.p)
            u = u * kept.div_(1 - self.p)
        return (u + shortcut).relu_()


def drop_paths_(network: nn.Module, rate: float) -> list[str]:
    """Leave out residual branches in training, in place; the probability rises in a line from 0 to `rate`.

    In the ResNets, ResNeXts and SENets of ours, and in other networks where timm's `drop_path` or torchvision's
    `StochasticDepth` have a place. The random numbers are those of torch's generator.

    Returns:
        The names of the places.

    Raises:
        ConfigError: The network has none.
    """
    places: list[tuple[str, nn.Module, str]] = []
    for name, module in network.named_modules():
        if isinstance(module, ResidualBlock):
            places.append((name, module, "epilogue"))
        elif type(module).__name__ == "StochasticDepth":
            places.append((name, module, "p"))
        else:
            # timm's blocks; networks of timm have a list of rates of that name, too.
            names = ("drop_path", "drop_path1", "drop_path2")
            held = [n for n in names if n in vars(module) or n in module._modules]
            places += [(name, module, n) for n in held if isinstance(getattr(module, n), (nn.Module, type(None)))]
    if not places:
        raise ConfigError(
            f"train.drop_path: {rate} has no effect on this {type(network).__name__}, which has no drop path; "
            "expected: 0"
        )
    # Two places of one block have one depth.
    depth = {name: i for i, name in enumerate(dict.fromkeys(name for name, _, _ in places))}
    for name, module, attribute in places:
        p = rate * depth[name] / max(1, len(depth) - 1)
        if attribute == "epilogue":
            assert isinstance(module, ResidualBlock)
            module.epilogue = DropPath(module, p)  # type: ignore[method-assign]
        elif attribute == "p":
            module.p = p  # type: ignore[assignment]
        else:
            from timm.layers.drop import DropPath as TimmDropPath

            setattr(module, attribute, TimmDropPath(p).train(module.training))
    return list(depth)
