"""The trunk of a detector and its feature pyramid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from senet.errors import ConfigError
from senet.models.detector import WIDTH, DetectorNet
from senet.outputs import reason
from senet.tracing import evaluating
from senet.units.unit import Unit

STRIDES = (4, 8, 16, 32)
"""Of the feature maps that a trunk that is not ours gives."""


class OtherFeatures(nn.Module):
    """The feature maps of any network: `(N, C, H, W) ->` those of strides 4, 8, 16 and 32.

    They are at the ends of stages as timm says them; elsewhere of each stride the last feature map that the network
    computes. The parameters keep the network's names.

    Attributes:
        channels: Of each feature map.
        places: Name of the module whose output each feature map is.

    Args:
        network: Its classifier is not needed and may have been taken out.
        source: What messages call it.
        in_channels: Of an image.
    """

    def __init__(self, network: nn.Module, source: str, in_channels: int) -> None:
        super().__init__()
        self.network = network
        side = 4 * STRIDES[-1]
        found: dict[int, tuple[str, int]] = {}

        def note(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] == output.shape[3]:
                    found[side // output.shape[2]] = name, output.shape[1]

            return hook

        # timm says where its stages end.
        said: Any = getattr(network, "feature_info", None)
        ends = [info["module"] for info in said if info["reduction"] in STRIDES] if said else []
        wanted = [(n, m) for n, m in network.named_modules() if n and (n in ends or not ends)]
        handles = [m.register_forward_hook(note(name)) for name, m in wanted]
        try:
            with evaluating(network):
                network(torch.zeros(1, in_channels, side, side))
        # Whatever a network raises for a size that it was not made for.
        except Exception as error:
            raise ConfigError(f"trunk: {source} does not take images of {side}x{side}: {reason(error)}") from error
        finally:
            for handle in handles:
                handle.remove()
        if missing := [stride for stride in STRIDES if stride not in found]:
            raise ConfigError(
                f"trunk: {source} has no feature map of stride {missing[0]}; expected: a convolutional network with "
                f"feature maps (N, C, H, W) of strides {', '.join(map(str, STRIDES))}"
            )
        self.places = [found[stride][0] for stride in STRIDES]
        self.channels = tuple(found[stride][1] for stride in STRIDES)
        self._maps: dict[str, Tensor] = {}
        for place in self.places:
            # A method, so that the hook of a copy, as of a moving average, is the copy's.
            network.get_submodule(place).register_forward_hook(partial(self._keep, place))

    def _keep(self, place: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._maps[place] = output

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps, shallowest first."""
        self.network(x)
        return [self._maps.pop(place) for place in self.places]

    def stage_of(self, name: str) -> int:
        """The number of the stage of one of the network's modules, counted as in the paper: conv2_x is 2."""
        # What the network computes before the end of a stage, by the order of its modules.
        names = [n for n, _ in self.network.named_modules()]
        ends = [max(i for i, n in enumerate(names) if n == p or n.startswith(f"{p}.")) for p in self.places]
        at = names.index(name)
        return next((2 + k for k, end in enumerate(ends) if at <= end), 1 + len(ends))


class Pyramid(nn.Module):
    """Trunk and feature pyramid: `(N, C, H, W) ->` feature maps of 256 channels, and coarser ones.

    Args:
        net: The table of the detector.
        trunk: Gives the feature maps, shallowest first; has their `channels`.

    Attributes:
        trunk: The argument.
        fpn: torchvision's pyramid.
    """

    def __init__(self, net: DetectorNet, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk, self.levels, self.freeze_norm = trunk, net.levels, net.freeze_norm
        channels: Sequence[int] = trunk.channels  # type: ignore[assignment]
        if len(channels) < net.levels:
            raise ConfigError(f"trunk: has {len(channels)} stages; expected: {net.levels} or more")
        last = LastLevelP6P7(WIDTH, WIDTH) if net.head == "retinanet" else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(list(channels[-net.levels :]), WIDTH, last)
        self.out_channels = WIDTH
        self.frozen = [m for m in trunk.modules() if isinstance(m, _BatchNorm)] if net.freeze_norm else []
        for module in self.frozen:
            module.requires_grad_(False)
        for number, module in _stages(trunk):
            if number > net.freeze_at:
                continue
            module.requires_grad_(False)
            self.frozen += [m for m in module.modules() if isinstance(m, _BatchNorm)]
        for module in trunk.modules():
            if isinstance(module, Unit) and not net.freeze_units:
                module.requires_grad_(True)
        # Lightning trains modules in the modes that they have.
        for module in self.frozen:
            module.eval()

    def train(self, mode: bool = True) -> Pyramid:
        """Set the mode as in every module, but keep frozen norms in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Return the feature maps by name, finest first, as torchvision's detectors take them."""
        maps = self.trunk(x)[-self.levels :]
        return self.fpn(OrderedDict((str(i), u) for i, u in enumerate(maps)))


def _stages(trunk: nn.Module) -> list[tuple[int, nn.Module]]:
    """The parts of a trunk with the numbers of their stages; the stem is 1."""
    if isinstance(trunk, OtherFeatures):
        leaves = [(n, m) for n, m in trunk.network.named_modules() if n and not list(m.children())]
        return [(1 if _is_stem(n, trunk) else trunk.stage_of(n), m) for n, m in leaves]
    named = trunk.features.named_children()  # type: ignore[union-attr, operator]
    return [(1 if name == "stem" else int(name.removeprefix("stage")), part) for name, part in named]


def _is_stem(name: str, trunk: OtherFeatures) -> bool:
    """Whether a layer is none of a container of blocks: it stands alone before the first one."""
    return "." not in name and trunk.stage_of(name) == 2
