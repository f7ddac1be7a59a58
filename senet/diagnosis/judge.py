"""Turn the observations of a unit into a fault or a note."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from senet.diagnosis.discovery import Candidate, Watch, ends
from senet.diagnosis.labels import label
from senet.diagnosis.report import Finding, Kind

HALF = 65504.0
"""The largest number of half precision."""

NEAR = 1e-3
"""A gate this close to an end of its range is saturated."""


@dataclass
class Judge:
    """Collects faults and notes of units, in the order of the network.

    Attributes:
        watch: The pass that observed the units.
        is_noise: Whether the images are noise.
        is_new: Whether the network is untrained.
        is_frozen: Whether none of its parameters requires a gradient.
        frozen_to: The last stage that its table freezes with its units; 0 for none.
        findings: The faults.
        notes: Text of each note -> the units it is about.
    """

    watch: Watch
    is_noise: bool
    is_new: bool
    is_frozen: bool
    frozen_to: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def fault(self, kind: Kind, s: Candidate, message: str) -> None:
        """Add a fault."""
        self.findings.append(Finding(kind=kind, unit=s.name, message=message))

    def note(self, text: str, *units: str) -> None:
        """Add a note on units or on the whole network."""
        self.notes.setdefault(text, []).extend(units)

    def lines(self) -> tuple[str, ...]:
        """The notes, one line each."""
        named = ((some([label(name) for name in units]), text) for text, units in self.notes.items())
        return tuple(": ".join(filter(None, words)) for words in named)

    def look(self, s: Candidate) -> None:
        """Add the first fault of a unit; later ones would be consequences of it."""
        stopped = self.watch.stopped
        if s.runs > 1:
            self.note(
                f"called {s.runs} times in one pass, as if blocks share it; only the last call was checked", s.name
            )
        if stopped and s is stopped[0]:
            self.fault("wrong-width", s, _stopped(s, stopped[1]))
        elif not s.runs:
            if not stopped:
                self.fault("never-run", s, "no forward pass calls it; call it in its block's forward, or remove it")
        elif s.gate is None and (s.lost or s.instead):
            how = f"they {s.instead}" if s.instead else "the loss reaches none of its parameters"
            self.fault("not-applied", s, f"its gates multiply nothing: {how}; return the feature map times the gates")
        elif s.gate is None:
            self.note("no product with its gates was observed, so they were not checked", s.name)
        elif s.width != s.channels:
            fix = f"give it {s.channels} outputs, and its gates the shape (N, {s.channels}, 1, 1)"
            self.fault("wrong-width", s, f"it has {s.width} gates for a feature map of {s.channels} channels; {fix}")
        elif s.mixes:
            fix = "look for a softmax, a roll or a view over the batch"
            self.fault("mixes-images", s, f"changing the first image changes its output for the others; {fix}")
        elif s.largest != s.largest and any(f.kind == "half-overflow" for f in self.findings):
            self.note(f"its feature map contains NaN, a consequence of the fault of {self.findings[-1].unit}", s.name)
        elif overflow := _overflow(s, s.gate):
            self.fault("half-overflow", s, overflow)
        elif not s.largest:
            self.note("its feature map is zero, as after a norm with scale zero", s.name)
        elif s.undone:
            fix = "move it behind the norm and its activation"
            self.fault("undone", s, f"a norm behind it divides each channel by its size, which undoes its gates; {fix}")
        else:
            self.gates(s, s.gate)

    def gates(self, s: Candidate, gate: Tensor) -> None:
        """Check the values of the gates, then the gradients."""
        is_drawn = self.is_new and all(map(_is_drawn, s.layers))
        is_dead = s.alive == 0
        if is_dead and is_drawn:
            self.note(
                "its hidden layer is zero for all images, by chance of the initialization; check again after training",
                s.name,
            )
            return
        if is_dead and self.is_noise and not self.is_new:
            self.note("its hidden layer is zero for noise; only real images show whether it is dead", s.name)
            return
        if (part := saturated(s, gate)) >= 0.99:
            fix = "check its biases, and the scale of its weights and of its input"
            share = f"{100 * part:.0f} % of its gates"
            self.fault("saturated", s, f"{share} are within {NEAR} of an end of their range; {fix}")
            return
        last_is_zero = bool(s.layers) and not s.layers[-1].weight.any()  # type: ignore[operator]
        is_start = (is_drawn and last_is_zero) or (s.inserted and bool((gate == 1).all()))
        tolerance = max(1e-6, s.eps)
        if is_start:
            self.note("its last layer is zero: the initial state, in which all gates are equal", s.name)
        elif float((gate.amax(0) - gate.amin(0)).amax()) <= tolerance:
            if s.moved > 1e3 * tolerance:
                why = "its hidden layer is zero" if is_dead else "its weights are zero or too small"
                fix = "initialize it again with more hidden channels, or fold these constants into the layer before"
                self.fault(
                    "constant",
                    s,
                    f"its gates are equal for all images although the squeezed values are not: {why}; {fix}",
                )
                return
            self.note("the squeezed values hardly differ between these images; use others", s.name)
        if not self.is_frozen and not self.watch.stopped:
            self.gradient(s, is_start)

    def gradient(self, s: Candidate, is_start: bool) -> None:
        """Check the gradients; while the last layer is zero those of the layers before it are zero too."""
        frozen = [name for name, p in s.params.items() if not p.requires_grad]
        missing = [name for name in s.params if name not in s.reached]
        if len(frozen) == len(s.params) and self.frozen_to:
            self.note(f"does not learn, since the detector freezes its stages up to {self.frozen_to}", s.name)
        elif frozen:
            self.fault("no-gradient", s, f"{', '.join(frozen)} cannot learn; set requires_grad_(True)")
        elif not s.tracked or s.back is None:
            fix = "look for detach(), no_grad() and unused outputs"
            self.fault("no-gradient", s, f"the loss does not reach its output; {fix}")
        elif not s.back:
            self.note("the gradient of its output is zero, as before a norm with scale zero", s.name)
        elif missing and not (is_start and s.reached):
            fix = "look for detach() and no_grad() between them and its gates"
            self.fault("no-gradient", s, f"the loss gives {', '.join(missing)} no gradient; {fix}")


def some(names: list[str]) -> str:
    """Join the first three names of a list."""
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _stopped(s: Candidate, error: str) -> str:
    made = f", built for {ends(s.layers[0])[0]} channels" if len(s.layers) == 2 else ""
    given = "" if s.given is None else f", given a feature map of shape {tuple(s.given.shape)}"
    return f"the forward pass fails in it{made}{given}; build it for the channels of its input ({error})"


def _overflow(s: Candidate, gate: Tensor) -> str | None:
    bad = int((~gate.isfinite()).sum())
    if not s.largest <= HALF:
        return f"its feature map reaches {s.largest:.3g}, above half precision's {HALF:g}; scale the layer before it"
    if bad:
        return f"{bad} of {gate.numel()} gates are infinite or NaN; check its weights"
    if not s.total <= HALF:
        fix = "compute the mean in float32, or in two steps"
        return f"a channel's sum over space reaches {s.total:.3g}, above half precision's {HALF:g}; {fix}"
    return None


def _is_drawn(layer: nn.Module) -> bool:
    """Whether a layer's biases look untrained: zero as we initialize them, or within 1/sqrt(inputs) as torch does."""
    bias, weight = layer.bias, layer.weight
    return not isinstance(bias, Tensor) or bool((bias.abs() <= weight[0].numel() ** -0.5).all())  # type: ignore[index,operator]


def saturated(s: Candidate, gate: Tensor) -> float:
    """Return the share of the gates at an end of their range; gates of unknown units are taken for sigmoids."""
    function = getattr(getattr(s.unit, "config", None), "gate", "sigmoid")
    if s.inserted:
        range_ends = (0.0, 2.0)
    elif s.unit is None and bool((gate > 1 + NEAR).any()):
        range_ends = (0.0,)
    else:
        range_ends = {"relu": (0.0,), "tanh": (-1.0, 0.0, 1.0)}.get(function, (0.0, 1.0))
    return float(torch.stack([(gate - end).abs() < NEAR for end in range_ends]).any(0).float().mean())
