"""What a network loses with its gates: the error with each unit's replaced, and with all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from senet.analysis.collect import Batches
from senet.analysis.statistics import Gates
from senet.diagnosis.discovery import Calls, Subject, find, watching
from senet.tracing import evaluating

Ablation = Literal["off", "mean", "shuffled"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)


def ablate(model: nn.Module, batches: Batches, gates: Gates, outputs: Sequence[int], *, seed: int = 0) -> Gates:
    """The same gates with their ablations: top-1 error, percent, in evaluation mode.

    "off": gates of one, as if the unit were not there. "mean": the gates' mean over the images of `gates`, one per
    channel: a scale that does not look at the image, so that what is lost is what the squeeze told. "shuffled": the
    gates of another image of the batch, the same in all units; one alone in its batch keeps its own. Of images in the
    order of their classes the other is one of the same class, so mix them.

    That is 3 (U + 1) forward passes for each batch.

    batches, outputs: as for `collect_gates`.  seed: of the shuffling.

    >>> from senet import create_model
    >>> from senet.analysis.collect import collect_gates
    >>> images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> batches = [(images, torch.tensor([0, 0, 1, 1]), torch.arange(4))]
    >>> model = create_model("se_resnet20", num_classes=2)
    >>> gates = ablate(model, batches, collect_gates(model, batches, ["cat", "dog"]), [0, 1])
    >>> sorted(gates.ablation), len(gates.units[0].ablation)
    (['mean', 'off', 'shuffled'], 3)
    """
    subjects = find(model)
    generator = torch.Generator().manual_seed(seed)
    names = [u.name for u in gates.units]
    means = {u.name: torch.from_numpy(u.overall_mean) for u in gates.units}
    # None for all units at once.
    wrong = Counter[tuple[Ablation, str | None]]()
    count = 0

    def instead(
        unit: Subject, _u: Tensor, s: Tensor, *, calls: Calls, how: Ablation, which: str | None, donors: Tensor
    ) -> Tensor | None:
        name = calls.name(unit)
        return _other(how, s, means[name], donors) if which in (None, name) else None

    with evaluating(model):
        for images, targets, _ in batches:
            if not len(images):
                continue
            count += len(images)
            order = torch.randperm(len(images), generator=generator)
            # Each image gets the gates of the one before it in a random round, so none its own.
            donors = torch.empty_like(order).scatter_(0, order, order.roll(1))
            for how in ABLATIONS:
                for which in (None, *names):
                    see = partial(instead, calls=Calls(), how=how, which=which, donors=donors)
                    with watching(model, subjects, see):
                        out = model(images)
                    wrong[how, which] += int((out[:, outputs].argmax(1) != targets).sum())
    errors = {key: 100 * n / count for key, n in wrong.items()}
    return replace(
        gates,
        units=tuple(replace(u, ablation={how: errors[how, u.name] for how in ABLATIONS}) for u in gates.units),
        ablation={how: errors[how, None] for how in ABLATIONS},
    )


def _other(how: Ablation, s: Tensor, mean: Tensor, donors: Tensor) -> Tensor:
    """What multiplies the map in place of gates that were expanded to it."""
    if how == "off":
        return s.new_ones(1)
    if how == "mean":
        return mean.to(s).reshape(1, -1, *(1,) * (s.dim() - 2))
    return s[donors.to(s.device)]
