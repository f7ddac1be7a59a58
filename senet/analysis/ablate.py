"""Measure what gates are worth: the error with the gates of each unit replaced, and of all units."""

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
from senet.diagnosis.discovery import CallNames, Candidate, find, watch_products
from senet.outputs import logits_of
from senet.tracing import evaluating

Ablation = Literal["mean", "other", "one"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)


def ablate(model: nn.Module, batches: Batches, gates: Gates, outputs: Sequence[int], *, seed: int = 0) -> Gates:
    """Add the ablations to measured gates: top-1 errors in percent with replaced gates, in evaluation mode.

    Each batch takes 3 (U + 1) forward passes for U units. The replacements:

    - "mean": the channel's mean over the images of `gates`, a scale that does not depend on the image. What the error
      rises by is what the per-image part of gating is worth.
    - "other": the gates of another image of the batch, the same image in all units. A single image keeps its own.
      Mix the batches: sorted by class, the other image would have the same class.
    - "one": ones, which also removes a scale that the network was trained with.

    Args:
        model: The network.
        batches: As for `collect_gates`.
        gates: What `collect_gates` measured.
        outputs: As for `collect_gates`.
        seed: For the shuffling.

    Returns:
        The same gates with `ablation` filled in, for each unit and for all together.

    >>> from senet import create_model
    >>> from senet.analysis.collect import collect_gates
    >>> images = torch.randn(4, 3, 16, 16, generator=torch.Generator("cpu").manual_seed(0))
    >>> batches = [(images, torch.tensor([0, 0, 1, 1]), torch.arange(4))]
    >>> model = create_model("se_resnet20", num_classes=2)
    >>> gates = ablate(model, batches, collect_gates(model, batches, ["cat", "dog"]), [0, 1])
    >>> sorted(gates.ablation), len(gates.units[0].ablation)
    (['mean', 'one', 'other'], 3)
    """
    candidates = find(model)
    generator = torch.Generator("cpu").manual_seed(seed)
    names = [u.name for u in gates.units]
    means = {u.name: torch.from_numpy(u.overall_mean) for u in gates.units}
    # The unit, None for all at once.
    wrong = Counter[tuple[Ablation, str | None]]()
    count = 0

    def instead(
        unit: Candidate, _u: Tensor, s: Tensor, *, calls: CallNames, how: Ablation, which: str | None, donors: Tensor
    ) -> Tensor | None:
        name = calls.name(unit)
        return _replacement(how, s, means[name], donors) if which in (None, name) else None

    with evaluating(model):
        for images, targets, _ in batches:
            if not len(images):
                continue
            count += len(images)
            order = torch.randperm(len(images), generator=generator, device="cpu")
            # Each image gets the gates of its predecessor in a random cycle, so never its own.
            donors = torch.empty_like(order).scatter_(0, order, order.roll(1))
            for how in ABLATIONS:
                for which in (None, *names):
                    replace_gates = partial(instead, calls=CallNames(), how=how, which=which, donors=donors)
                    with watch_products(model, candidates, replace_gates):
                        out = logits_of(model(images))
                    wrong[how, which] += int((out[:, outputs].argmax(1) != targets).sum())
    errors = {key: 100 * n / count for key, n in wrong.items()}
    return replace(
        gates,
        units=tuple(replace(u, ablation={how: errors[how, u.name] for how in ABLATIONS}) for u in gates.units),
        ablation={how: errors[how, None] for how in ABLATIONS},
    )


def _replacement(how: Ablation, s: Tensor, mean: Tensor, donors: Tensor) -> Tensor:
    """Return the replacement of gates that were expanded to their feature map."""
    if how == "one":
        return s.new_ones(1)
    if how == "mean":
        return mean.to(s).reshape(1, -1, *(1,) * (s.dim() - 2))
    return s[donors.to(s.device)]
