"""The gates of all units of a network over a data set, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn

from senet.analysis.statistics import Gates
from senet.analysis.streaming import Running, linear_cka
from senet.diagnosis.discovery import Calls, Subject, find, per_channel, watching
from senet.errors import ConfigError, DataError
from senet.tracing import evaluating

Batches = Iterable[tuple[Tensor, Tensor, Tensor]]
"""Images (n, ...), their classes (n,) and their numbers (n,)."""


def collect_gates(
    model: nn.Module,
    batches: Batches,
    classes: Sequence[str],
    *,
    chosen: Sequence[int] = (),
    sampled: int = 50,
    top: int = 9,
    outputs: Sequence[int] | None = None,
    source: str = "",
    name: str = "",
) -> Gates:
    """What the gates of a network do, in one pass in evaluation mode (arXiv:1709.01507v4, section 7.2).

    model: anyone's; its units are found by their structure, as `senet.doctor` finds them.
    batches: images, on the model's device, their classes and their numbers, in any order.
    classes: names of the K classes.  chosen: those to draw; () for the first four.
    sampled: channels of each unit to draw.  top: images to name at either end of each.
    outputs: which of the network's outputs the classes are, so that it has an error here; None for none.
    source, name: of the images and the network, in words.

    What is kept does not grow with the images: 16 bytes for each class and channel, and half a kilobyte for each
    channel; with the 1,000 classes of ImageNet 250 MB for SE-ResNet-50.

    Raises ConfigError for options out of range, a network without units, and gates that are not numbers; DataError for
    no images.

    >>> import torch
    >>> from senet import create_model
    >>> images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> batches = [(images, torch.tensor([0, 0, 1, 1]), torch.arange(4))]
    >>> gates = collect_gates(create_model("se_resnet20", num_classes=2), batches, ["cat", "dog"])
    >>> [u.label for u in gates.drawn], gates.units[0].mean.shape
    (['SE_2_3', 'SE_3_3', 'SE_4_1', 'SE_4_2', 'SE_4_3'], (2, 16))
    """
    _check(classes, chosen, sampled, top, outputs)
    subjects = find(model)
    running: dict[str, Running] = {}
    wrong = scored = 0

    def record(unit: Subject, _u: Tensor, s: Tensor, *, calls: Calls, of: np.ndarray, which: np.ndarray) -> None:
        called = calls.name(unit)
        gates = per_channel(s).mean(2).cpu().numpy()
        if not np.isfinite(gates).all():
            raise ConfigError(f"model: gates of {called} are not numbers; senet doctor says more")
        if called not in running:
            running[called] = Running.start(
                called, unit.kind, channels=gates.shape[1], classes=len(classes), sampled=sampled, top=top
            )
        running[called].add(gates, of, which)

    with evaluating(model):
        for images, targets, numbers in batches:
            if not len(images):
                continue
            of = targets.cpu().numpy()
            if of.min() < 0 or of.max() >= len(classes):
                raise DataError(f"targets: {of.min()} to {of.max()} are no numbers of the {len(classes)} classes")
            with watching(model, subjects, partial(record, calls=Calls(), of=of, which=numbers.cpu().numpy())):
                out = model(images)
            if outputs is not None:
                wrong += int((out[:, outputs].argmax(1).cpu() != targets.cpu()).sum())
                scored += len(images)
            if not running:
                raise ConfigError("model: has no units whose gates multiply a map, so there is nothing to analyze")
    if not running:
        raise DataError("none of the images can be read, so there are no gates")
    first = next(iter(running.values())).moments
    there = first.count > 0
    return Gates(
        units=tuple(unit.read() for unit in running.values()),
        classes=tuple(classes),
        chosen=tuple(chosen) or tuple(range(min(4, len(classes)))),
        images=int(first.count.sum()),
        per_class=first.count,
        similarity=linear_cka([unit.moments.mean[there] for unit in running.values()]),
        top1_error=100 * wrong / scored if scored else None,
        source=source,
        model=name,
    )


def _check(
    classes: Sequence[str], chosen: Sequence[int], sampled: int, top: int, outputs: Sequence[int] | None
) -> None:
    for field, value in (("sampled", sampled), ("top", top)):
        if value < 1:
            raise ConfigError(f"{field}: {value} is too small; expected: 1 or more")
    if not classes:
        raise ConfigError("classes: none; expected: the names of one or more")
    wrong = [k for k in chosen if not 0 <= k < len(classes)]
    if wrong:
        raise ConfigError(f"chosen: {wrong[0]} is no number of a class; expected: 0 to {len(classes) - 1}")
    if outputs is not None and len(outputs) != len(classes):
        raise ConfigError(f"outputs: {len(outputs)} for {len(classes)} classes; expected: one for each, or None")
