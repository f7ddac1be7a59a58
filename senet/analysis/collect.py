"""Collect the gates of all units of a network over a data set in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn

from senet.analysis.statistics import Gates
from senet.analysis.streaming import StreamingUnit, linear_cka
from senet.diagnosis.discovery import CallNames, Candidate, find, per_channel, watch_products
from senet.errors import ConfigError, DataError
from senet.outputs import logits_of
from senet.tracing import evaluating

Batches = Iterable[tuple[Tensor, Tensor, Tensor]]
"""Batches of images (n, ...), their classes, (n,) or, of images with several or none, (n, K) bool, and their indices in
the data set (n,)."""


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
    """Measure the gates of a network in one pass in evaluation mode (arXiv:1709.01507v4, section 7.2).

    Memory does not depend on the number of images: 16 bytes per class and channel and 0.5 kB per channel, which is
    250 MB for SE-ResNet-50 with the 1,000 classes of ImageNet.

    Args:
        model: Any network; its units are found by their structure, as `senet.doctor` finds them.
        batches: Images on the model's device, their classes and their indices, in any order. An image of several
            classes counts once for each of them, also in what is measured over all; one of none does not count.
        classes: Names of the K classes.
        chosen: Indices of the classes to draw; () for the first four with images.
        sampled: Number of channels of each unit to draw.
        top: Number of images to keep for each sampled channel, with the largest and with the smallest gates.
        outputs: Index of the network's output for each class; None if it has none, then no error is measured.
        source: Where the images come from, in words.
        name: Name of the network.

    Returns:
        The statistics of all units.

    Raises:
        ConfigError: For options out of range, a network without units, or gates that are NaN or infinite.
        DataError: If there are no images.

    >>> import torch
    >>> from senet import create_model
    >>> images = torch.randn(4, 3, 16, 16, generator=torch.Generator("cpu").manual_seed(0))
    >>> batches = [(images, torch.tensor([0, 0, 1, 1]), torch.arange(4))]
    >>> gates = collect_gates(create_model("se_resnet20", num_classes=2), batches, ["cat", "dog"])
    >>> [u.label for u in gates.drawn], gates.units[0].mean.shape
    (['SE_2_3', 'SE_3_3', 'SE_4_1', 'SE_4_2', 'SE_4_3'], (2, 16))
    """
    _check(classes, chosen, sampled, top, outputs)
    candidates = find(model)
    running: dict[str, StreamingUnit] = {}
    wrong = scored = counted = 0

    def record(
        unit: Candidate, _u: Tensor, s: Tensor, *, calls: CallNames, rows: np.ndarray, of: np.ndarray, which: np.ndarray
    ) -> None:
        called = calls.name(unit)
        gates = per_channel(s).mean(2).cpu().numpy()
        if not np.isfinite(gates).all():
            raise ConfigError(f"model: gates of {called} are NaN or infinite; senet doctor says more")
        if called not in running:
            running[called] = StreamingUnit.start(
                called, unit.kind, channels=gates.shape[1], classes=len(classes), sampled=sampled, top=top
            )
        running[called].add(gates[rows], of, which)

    with evaluating(model):
        for images, targets, numbers in batches:
            if not len(images):
                continue
            of = targets.cpu().numpy()
            rows, of = of.nonzero() if of.ndim == 2 else (np.arange(len(of)), of)
            if not len(of):
                continue
            if of.min() < 0 or of.max() >= len(classes):
                raise DataError(
                    f"targets: {of.min()} to {of.max()}; expected: 0 to {len(classes) - 1}, for {len(classes)} classes"
                )
            counted += len(np.unique(rows))
            seen = {"rows": rows, "of": of, "which": numbers.cpu().numpy()[rows]}
            with watch_products(model, candidates, partial(record, calls=CallNames(), **seen)):
                out = model(images)
            if outputs is not None:
                wrong += int((logits_of(out)[:, outputs].argmax(1).cpu() != targets.cpu()).sum())
                scored += len(images)
            if not running:
                raise ConfigError(
                    "model: has no units whose gates multiply a feature map, so there is nothing to analyze"
                )
    if not running:
        raise DataError("none of the images can be read")
    first = next(iter(running.values())).moments
    has_images = first.count > 0
    return Gates(
        units=tuple(unit.read() for unit in running.values()),
        classes=tuple(classes),
        chosen=tuple(chosen) or tuple(np.flatnonzero(has_images)[:4].tolist()),
        images=counted,
        per_class=first.count,
        similarity=linear_cka([unit.moments.mean[has_images] for unit in running.values()]),
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
        raise ConfigError(f"chosen: {wrong[0]} is not a class; expected: 0 to {len(classes) - 1}")
    if outputs is not None and len(outputs) != len(classes):
        raise ConfigError(f"outputs: {len(outputs)} for {len(classes)} classes; expected: one for each, or None")
