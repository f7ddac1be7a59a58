"""From what was seen of a unit to its fault."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from senet.diagnosis.discovery import Subject, Watch, ends
from senet.diagnosis.report import Finding, Kind

HALF = 65504.0
"""The largest number of half precision."""

NEAR = 1e-3
"""How near an end of its range a gate is saturated."""


@dataclass
class Judge:
    """Judges units one after the other, in the order of the network.

    is_noise: whether the images are noise.  is_new: whether the network has seen no training.
    is_frozen: whether none of its parameters learns.
    findings: the faults so far.  notes: what is no fault, with the units that it is about.
    """

    watch: Watch
    is_noise: bool
    is_new: bool
    is_frozen: bool
    findings: list[Finding] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def fault(self, kind: Kind, s: Subject, message: str) -> None:
        """Keep a fault."""
        self.findings.append(Finding(kind=kind, unit=s.name, message=message))

    def note(self, text: str, *units: str) -> None:
        """Keep what is no fault, of a unit or of the network."""
        self.notes.setdefault(text, []).extend(units)

    def lines(self) -> tuple[str, ...]:
        """The notes, one line each."""
        return tuple(": ".join(filter(None, (some(names), text))) for text, names in self.notes.items())

    def look(self, s: Subject) -> None:
        """Keep the first fault of a unit; those behind it would be its consequences."""
        stopped = self.watch.stopped
        if s.runs > 1:
            self.note(
                f"called {s.runs} times in one pass, as where blocks share a unit; the last call was looked at", s.name
            )
        if stopped and s is stopped[0]:
            self.fault("wrong-width", s, _stopped(s, stopped[1]))
        elif not s.runs:
            if not stopped:
                self.fault("never-run", s, "no forward pass calls it; call it in its block's forward, or take it out")
        elif s.gate is None and (s.lost or s.instead):
            how = f"they {s.instead}" if s.instead else "the loss reaches none of its parameters"
            self.fault(
                "not-applied", s, f"it runs and its gates multiply nothing: {how}; return the map times its gates"
            )
        elif s.gate is None:
            self.note("called, and nothing was seen that the gates multiply, so they were not checked", s.name)
        elif s.width != s.channels:
            fix = f"give it {s.channels} outputs and its gates the shape (N, {s.channels}, 1, 1)"
            self.fault("wrong-width", s, f"it has gates for {s.width}, and its map has {s.channels} channels; {fix}")
        elif s.mixes:
            fix = "look for a softmax, a roll or a view over the batch"
            self.fault("mixes-images", s, f"another first image moves what it makes of the other images; {fix}")
        elif s.largest != s.largest and any(f.kind == "half-overflow" for f in self.findings):
            self.note(f"the map holds NaN, a consequence of the fault of {self.findings[-1].unit}", s.name)
        elif overflow := _overflow(s, s.gate):
            self.fault("half-overflow", s, overflow)
        elif not s.largest:
            self.note("the map is zero, as behind a norm that begins with a scale of zero", s.name)
        else:
            self.gates(s, s.gate)

    def gates(self, s: Subject, gate: Tensor) -> None:
        """Judge the values of the gates, then the gradients."""
        is_drawn = self.is_new and all(map(_is_drawn, s.layers))
        is_dead = s.alive == 0
        if is_dead and is_drawn:
            self.note(
                "the hidden layer is zero for all images, by chance of the draw; train a little, look again", s.name
            )
            return
        if is_dead and self.is_noise and not self.is_new:
            self.note("the hidden layer is zero for noise; only real images say whether it is dead", s.name)
            return
        if (part := saturated(s, gate)) >= 0.99:
            fix = "look at its biases, and at the scales of its weights and of its map"
            self.fault("saturated", s, f"{part:.0%} of its gates are within {NEAR} of an end of their range; {fix}")
            return
        last_is_zero = bool(s.layers) and not s.layers[-1].weight.any()  # type: ignore[operator]
        is_start = (is_drawn and last_is_zero) or (s.inserted and bool((gate == 1).all()))
        tolerance = max(1e-6, s.eps)
        if is_start:
            self.note("the last layer is zero, so nothing changes yet", s.name)
        elif float((gate.amax(0) - gate.amin(0)).amax()) <= tolerance:
            if s.moved > 1e3 * tolerance:
                why = "its hidden layer is zero" if is_dead else "its weights are zero, or too small"
                fix = "draw it again with more hidden channels, or scale the channels by these constants instead"
                self.fault("constant", s, f"its gates are the same for all images, their squeeze is not: {why}; {fix}")
                return
            self.note("the squeeze hardly differs between these images; give others", s.name)
        if not self.is_frozen and not self.watch.stopped:
            self.gradient(s, is_start)

    def gradient(self, s: Subject, is_start: bool) -> None:
        """Judge the gradients; at the identity those of the layers before the last are zero."""
        frozen = [name for name, p in s.params.items() if not p.requires_grad]
        missing = [name for name in s.params if name not in s.reached]
        if frozen:
            self.fault("no-gradient", s, f"{', '.join(frozen)} cannot learn; undo it with requires_grad_(True)")
        elif not s.tracked or s.back is None:
            fix = "look for detach(), no_grad() and outputs that nothing uses"
            self.fault("no-gradient", s, f"the loss does not reach its output; {fix}")
        elif not s.back:
            self.note("the gradient of the output is zero, as before a norm that begins with a scale of zero", s.name)
        elif missing and not (is_start and s.reached):
            fix = "look for detach() and no_grad() between them and its gates"
            self.fault("no-gradient", s, f"the loss gives {', '.join(missing)} no gradient; {fix}")


def some(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _stopped(s: Subject, error: str) -> str:
    made = f", made for {ends(s.layers[0])[0]} channels" if len(s.layers) == 2 else ""
    given = "" if s.given is None else f", with a map of shape {tuple(s.given.shape)}"
    return f"the forward pass stops in it{made}{given}; build it for the map's channels ({error})"


def _overflow(s: Subject, gate: Tensor) -> str | None:
    bad = int((~gate.isfinite()).sum())
    if not s.largest <= HALF:
        return f"its map reaches {s.largest:.3g}, and half precision ends at {HALF:g}; scale what is before it"
    if bad:
        return f"{bad} of {gate.numel()} gates are infinite or not a number; look at its weights"
    if not s.total <= HALF:
        fix = "keep the squeeze in float32, or take the mean in two steps"
        return f"a channel's sum over space reaches {s.total:.3g}, and half precision ends at {HALF:g}; {fix}"
    return None


def _is_drawn(layer: nn.Module) -> bool:
    """Whether a layer's biases are where the draw puts them: at zero in ours, within 1/sqrt(inputs) in torch's."""
    bias, weight = layer.bias, layer.weight
    return not isinstance(bias, Tensor) or bool((bias.abs() <= weight[0].numel() ** -0.5).all())  # type: ignore[index,operator]


def saturated(s: Subject, gate: Tensor) -> float:
    """The part of the gates at an end of their range; another's is taken for a sigmoid's."""
    function = getattr(getattr(s.unit, "config", None), "gate", "sigmoid")
    if s.inserted:
        range_ends = (0.0, 2.0)
    elif s.unit is None and bool((gate > 1 + NEAR).any()):
        range_ends = (0.0,)
    else:
        range_ends = {"relu": (0.0,), "tanh": (-1.0, 0.0, 1.0)}.get(function, (0.0, 1.0))
    return float(torch.stack([(gate - end).abs() < NEAR for end in range_ends]).any(0).float().mean())
