"""Faults of attention units that no loss curve shows: `doctor(model)`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.diagnosis.discovery import Subject, Watch, ends, find
from senet.diagnosis.judge import Judge, saturated, some
from senet.diagnosis.placement import misplaced
from senet.diagnosis.report import Report, UnitRow
from senet.errors import ConfigError
from senet.models.net import Net
from senet.models.network import Network, StageMaps
from senet.tracing import untouched
from senet.units.unit import Unit


def doctor(model: nn.Module, batch: Tensor | None = None) -> Report:
    """Look for faults in the attention units of any network, with one forward and one backward pass in its own mode.

    model: networks of ours, with or without `insert_`, and anyone else's.
    batch: `(N, C, H, W)` images, two or more; None: 4 of noise, of the size that the network was designed for.

    The kinds of fault:

    - `never-run`: the unit is registered, and no forward pass calls it.
    - `not-applied`: it runs, and its gates multiply nothing.
    - `wrong-width`: its gates are not one for each channel of the map they multiply, or the pass stops in it.
    - `mixes-images`: another image in the batch moves the gates of this one, in evaluation mode.
    - `wrong-branch`: in a residual block it gates the shortcut, the sum, or what branch and shortcut both get, and no
      table of ours says so.
    - `half-overflow`: half precision cannot hold its map, or a channel's sum over space; or a gate is not a number.
    - `saturated`: 99 of 100 gates are within 1e-3 of an end of their range.
    - `constant`: the gates are the same for all images, and the squeeze is not.
    - `no-gradient`: a loss of classification gives one of its parameters no gradient.

    A unit at its start is a note and no fault: inserted and still the identity; in front of or behind a norm whose
    scale is zero; or with a hidden layer that is zero for all images, in a network that has seen no training (with one
    hidden channel chance makes half of all units so), or on noise in one that has. Buffers, gradients, flags and the
    random state are as before when this returns or raises, and no hook stays.

    Raises ConfigError for a batch that is none, a network on the meta device, and where the network does not run for a
    reason that is in none of its units.

    >>> from senet import create_model
    >>> report = doctor(create_model("se_resnet20"), torch.randn(4, 3, 16, 16))
    >>> len(report.units), report.healthy
    (9, True)
    """
    model = getattr(model, "_orig_mod", model)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(()))
    if like.is_meta:
        raise ConfigError("model: its weights are on the meta device, and doctor runs the network; give it weights")
    images = (_noise(model) if batch is None else _checked(batch)).to(like.device, like.dtype)
    said = f"{len(images)} images{' of noise' if batch is None else ''}, {' x '.join(map(str, images.shape[1:]))}"
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    is_new = all(not m.num_batches_tracked for m in norms)
    with _undisturbed(model, like.device):
        watch = Watch(model, find(model))
        if watch.subjects:
            watch.run(images.clone())
    is_frozen = not any(p.requires_grad for p in model.parameters())
    judge = Judge(watch, is_noise=batch is None, is_new=is_new, is_frozen=is_frozen)
    for s in watch.subjects:
        judge.look(s)
    if not watch.subjects:
        judge.note("no units: a plain network, or units of a kind that is not known here")
    elif watch.stopped:
        judge.note("the pass stopped there: gradients and what comes behind were not looked at; mend it, look again")
    else:
        try:
            judge.findings += misplaced(model, watch.subjects, images[:1])
        except ConfigError as error:
            judge.note(f"whether the units are on the right branch was not looked at: {error}")
    for name, count, missing in _missing(model):
        judge.note(f"{name}its table says {count} units, {count - len(missing)} are there: not {some(missing)}")
    if watch.subjects and is_frozen:
        judge.note("gradients were not looked at: every parameter is frozen")
    if watch.subjects and is_new and norms and not model.training:
        judge.note("batch norm's statistics are as new; before training look in training mode, model.train()")
    rows = tuple(_row(s) for s in watch.subjects)
    return Report(units=rows, findings=tuple(judge.findings), notes=judge.lines(), batch=said)


def _checked(batch: Tensor) -> Tensor:
    if batch.dim() < 3 or len(batch) < 2 or not batch.is_floating_point():
        what = f"{tuple(batch.shape)} of {str(batch.dtype).removeprefix('torch.')}"
        raise ConfigError(f"batch: {what} is none; expected: (N, C, H, W) images as floats, N of 2 or more")
    if not batch.isfinite().all():
        raise ConfigError("batch: has values that are infinite or not numbers")
    return batch


def _noise(model: nn.Module) -> Tensor:
    """Four images of the size that a network of ours or of timm's names, else of 224 pixels a side."""
    net, theirs = getattr(model, "net", None), getattr(model, "pretrained_cfg", None)
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if isinstance(net, Net):
        shape = (net.in_channels, net.image_size, net.image_size)
    elif isinstance(theirs, dict) and "input_size" in theirs:
        shape = theirs["input_size"]
    elif first is not None:
        shape = (first.in_channels, 224, 224)
    else:
        raise ConfigError("batch: the network has no convolution to take its shape from; give one")
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """With gradients, on copies of the buffers and from a random state of its own; then everything is as it was."""
    # Out of inference mode, which also turns gradients on.
    with torch.inference_mode(False), untouched(model):
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.manual_seed_all(0)
        yield


def _missing(model: nn.Module) -> Iterator[tuple[str, int, list[str]]]:
    """Networks of ours that lack units of their tables: how many the table says, and the names of those missing."""
    for name, net in model.named_modules():
        if not isinstance(net, (Network, StageMaps)) or net.net.se is None:
            continue
        with torch.device("meta"):
            twin = net.net.build() if isinstance(net, Network) else StageMaps(net.net, net.stages)
        meant = [path for path, m in twin.named_modules() if isinstance(m, Unit)]
        there = dict(net.named_modules())
        missing = [path for path in meant if path not in there or next(there[path].parameters(), None) is None]
        if missing:
            yield f"{name}: " * bool(name), len(meant), missing


def _row(s: Subject) -> UnitRow:
    gate = s.gate if s.gate is not None and bool(s.gate.isfinite().all()) else None
    two = len(s.layers) == 2
    return UnitRow(
        name=s.name,
        kind=s.kind + " inserted" * s.inserted,
        channels=s.channels or (ends(s.layers[0])[0] if two else None),
        hidden=ends(s.layers[0])[1] if two else None,
        runs=s.runs,
        mean_gate=None if gate is None else float(gate.mean()),
        over_images=None if gate is None else float(gate.std(0, correction=0).mean()),
        over_channels=None if gate is None else float(gate.std(1, correction=0).mean()),
        saturated=None if gate is None else saturated(s, gate),
        alive=s.alive,
    )
