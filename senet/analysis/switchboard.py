"""A network's units as switches: one image's answer and gates, with any of the units off.

Off means that the gates are one, so the map goes through unchanged. Units are found as the doctor finds them, by what
they do in a pass; so they may be anybody's. Letters: K classes, C channels of a unit's map.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from senet.diagnosis.discovery import Calls, Subject, find, per_channel, watching
from senet.errors import ConfigError, unknown


@dataclass(frozen=True, eq=False)
class Result:
    """What a network says to one image.

    logits: (K,).
    gates: (C,) of each unit by name, in the order in which they ran; of one that is off those that it asked for. The
        mean over space where a unit has a gate for each place.
    """

    logits: Tensor
    gates: dict[str, Tensor]

    @property
    def probabilities(self) -> Tensor:
        """(K,), the softmax of the logits."""
        return self.logits.float().softmax(0)


@dataclass(frozen=True, eq=False)
class Averages:
    """Gates over a data set.

    of_class: (K, C) for each unit, the mean over the images of each class.  overall: (C,), the mean over all images.
    """

    of_class: Mapping[str, np.ndarray]
    overall: Mapping[str, np.ndarray]

    def check(self, units: Mapping[str, int], classes: int) -> None:
        """Raise ConfigError where these are not the averages of a network with such units and so many classes."""
        for name, channels in units.items():
            if name not in self.of_class or name not in self.overall:
                raise ConfigError(f"gates: has no unit {name!r}; it is another network's")
            shapes = self.of_class[name].shape, self.overall[name].shape
            if shapes != ((classes, channels), (channels,)):
                raise ConfigError(
                    f"gates: {name} has averages of the shapes {shapes[0]} and {shapes[1]}, and this network's are "
                    f"{(classes, channels)} and {(channels,)}"
                )


class Switchboard:
    """Runs a network with any of its units off.

    model: any network of images; it is put into evaluation mode and otherwise left as it is.
    example: `(1, C, H, W)`, an image of the size that it takes, zeros too, for finding the units.
    units: the channels of each unit by name, in the order in which they run; a second call's with "#2" behind it.

    Raises ConfigError for a network that does not answer with logits, or without a unit that multiplies a map.

    >>> from senet import create_model
    >>> board = Switchboard(create_model("se_resnet20"), torch.zeros(1, 3, 32, 32))
    >>> len(board.units), board.units["features.stage2.block1.se"]
    (9, 16)
    >>> off = board.run(torch.zeros(1, 3, 32, 32), off={"features.stage2.block1.se"})
    >>> off.probabilities.shape, off.gates["features.stage2.block1.se"].shape
    (torch.Size([10]), torch.Size([16]))
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model = model.eval()
        self.units: dict[str, int] = {}
        self._lock = Lock()
        self.units = {name: len(s) for name, s in self.run(example).gates.items()}
        if not self.units:
            raise ConfigError(
                "model: has no attention unit that multiplies a map: a plain network, or a kind not known"
            )

    @torch.no_grad()
    def run(self, image: Tensor, off: Collection[str] = ()) -> Result:
        """One image `(1, C, H, W)` through the network, the units of these names off.

        With none off the logits are those of `model(image)` to the last bit. Raises ConfigError for an unknown name.
        """
        for name in off:
            if name not in self.units:
                raise unknown("off", name, self.units, kind="units")
        like = next((p for p in self.model.parameters() if p.is_floating_point()), image)
        calls = Calls()
        gates: dict[str, Tensor] = {}

        def see(unit: Subject, _u: Tensor, s: Tensor) -> Tensor | None:
            name = calls.name(unit)
            gates[name] = per_channel(s)[0].mean(1).cpu()
            return s.new_ones(1) if name in off else None

        # Hooks belong to the network, which the threads of a server share.
        with self._lock, watching(self.model, find(self.model), see):
            logits = self.model(image.to(like.device, like.dtype))
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
            raise ConfigError("model: does not answer an image (1, C, H, W) with logits (1, K)")
        return Result(logits[0].cpu(), gates)
