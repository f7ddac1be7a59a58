"""Run any network on one image with some of its units switched off.

A unit that is off has other gates than its own: given ones, such as means over images, or ones. Units are found as the
doctor finds them.

The class activation map says which places of the image the answer comes from. It is Grad-CAM (arXiv:1610.02391, Eq. 1
and 2) without its ReLU, on the last feature map; behind average pooling and one linear layer, that is CAM
(arXiv:1512.04150, Eq. 2).
Shapes: K classes, C channels of a unit's feature map, H x W of the last feature map.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from senet.diagnosis.discovery import CallNames, Candidate, find, per_channel, watch_products
from senet.errors import ConfigError, unknown
from senet.outputs import logits_of


@dataclass(frozen=True, eq=False)
class Result:
    """A network's output for one image.

    Attributes:
        logits: (K,).
        gates: Name of each unit -> (C,), in the order in which they ran; gates per position are averaged over space. A
            unit that is off has the gates that it computed, although they were not applied.
        places: (H, W), what each place of the last feature map adds to the logit of the most likely class, or takes
            from it; None in a network that has no such map.
    """

    logits: Tensor
    gates: dict[str, Tensor]
    places: Tensor | None = None

    @property
    def probabilities(self) -> Tensor:
        """(K,), the softmax of the logits."""
        return self.logits.float().softmax(0)


@dataclass(frozen=True, eq=False)
class Averages:
    """Mean gates over a data set.

    Attributes:
        of_class: Name of each unit -> (K, C), the mean over the images of each class.
        overall: Name of each unit -> (C,), the mean over all images.
    """

    of_class: Mapping[str, np.ndarray]
    overall: Mapping[str, np.ndarray]

    def check(self, units: Mapping[str, int], classes: int) -> None:
        """Raise ConfigError unless these are averages of a network with these units (name -> channels) and classes."""
        for name, channels in units.items():
            if name not in self.of_class or name not in self.overall:
                raise ConfigError(f"gates: has no unit {name!r}; expected: averages of this network")
            shapes = self.of_class[name].shape, self.overall[name].shape
            if shapes != ((classes, channels), (channels,)):
                raise ConfigError(
                    f"gates: averages of {name} have the shapes {shapes[0]} and {shapes[1]}; expected: "
                    f"{(classes, channels)} and {(channels,)}"
                )


class Switchboard:
    """Runs a network with any of its units off.

    Args:
        model: Any image classifier. It is set to evaluation mode and not changed otherwise.
        example: (1, C, H, W), an image of the size that the network takes, for finding the units; zeros will do.

    Attributes:
        units: Name of each unit -> its channels, in the order in which they run; "#2" is appended for a second call.

    Raises:
        ConfigError: For a network that does not return logits, or without units that multiply a feature map.

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
        self._last: nn.Module | None = None
        with ExitStack() as hooks:
            for module in self.model.modules():
                hooks.enter_context(module.register_forward_hook(self._note))
            gates = self.run(example).gates
        self.units = {name: len(s) for name, s in gates.items()}
        if not self.units:
            raise ConfigError(
                "model: has no attention unit that multiplies a feature map: a plain network, or an unknown kind"
            )

    def run(
        self, image: Tensor, off: Collection[str] = (), instead: Mapping[str, Tensor | np.ndarray] | None = None
    ) -> Result:
        """Run one image with units off; with all on, the logits equal those of `model(image)` to the last bit.

        Args:
            image: (1, C, H, W).
            off: Names of units.
            instead: Name of a unit -> (C,) gates that it has when it is off; None for ones.

        Raises:
            ConfigError: For unknown names.
        """
        for name in off:
            if name not in self.units:
                raise unknown("off", name, self.units, kind="units")
        like = next((p for p in self.model.parameters() if p.is_floating_point()), image)
        calls = CallNames()
        gates: dict[str, Tensor] = {}

        def switch(unit: Candidate, _u: Tensor, s: Tensor) -> Tensor | None:
            name = calls.name(unit)
            gates[name] = per_channel(s)[0].mean(1).cpu()
            if name not in off:
                return None
            if instead is None:
                return s.new_ones(1)
            return torch.as_tensor(instead[name]).to(s).reshape(1, -1, *(1,) * (s.dim() - 2))

        last: list[Tensor] = []

        def from_here(_module: nn.Module, _inputs: object, u: Tensor) -> Tensor:
            torch.set_grad_enabled(True)
            last[:] = [u.detach().requires_grad_()]
            # What follows may write into it.
            return last[0].clone()

        # The threads of a server share the network and its hooks.
        with self._lock, watch_products(self.model, find(self.model), switch):
            hook = self._last.register_forward_hook(from_here) if self._last else nullcontext()
            with torch.no_grad(), hook:
                logits = logits_of(self.model(image.to(like.device, like.dtype)))
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
            raise ConfigError("model: does not return logits (1, K) for an image (1, C, H, W)")
        return Result(logits[0].detach().cpu(), gates, _places(logits, last[0]) if last else None)

    def _note(self, module: nn.Module, _inputs: object, output: object) -> None:
        """Note the module that returns the last feature map of more than one place."""
        if isinstance(output, Tensor) and output.dim() == 4 and output.is_floating_point() and output[0, 0].numel() > 1:
            self._last = module


def _places(logits: Tensor, u: Tensor) -> Tensor | None:
    """Weigh the channels of a map (1, C, H, W) by the mean gradient of the largest logit, and sum: (H, W)."""
    if not logits.requires_grad:
        return None
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(logits.max(), u)
    return (gradient.mean((2, 3), keepdim=True) * u.detach()).sum(1)[0].float().cpu()
