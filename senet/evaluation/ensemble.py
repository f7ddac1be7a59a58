"""Combine networks, or views of one network, to one classifier: the weighted mean of their probabilities.

The paper's 2.251 % top-5 error is of "a small ensemble of SENets", with "multi-scale and multi-crop fusion"
(arXiv:1709.01507v4, section 5.4). It does not give members, scales and weights; `search` finds them.

Shapes: n images, K classes, M members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from senet.errors import ConfigError, DataError, unknown
from senet.evaluation.accuracy import Answers, measure
from senet.initialization import stream
from senet.runs.evaluation import Evaluation

MEASURES = ("top1_error", "top5_error", "loss")
_ROUNDS = 200


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The ensemble that `search` found on one half of the images, measured on the other.

    Attributes:
        weights: One per member; their sum is 1.
        path: The members in the order in which they were added.
        refined: Whether the weights are refined, not votes.
        search: Errors of the ensemble on the half that was searched on.
        result: Errors of the ensemble on the other half.
        equal: Errors of all members with equal weights on the other half.
        members: Errors of each member on the other half.
    """

    weights: tuple[float, ...]
    path: tuple[int, ...]
    refined: bool
    search: Evaluation
    result: Evaluation
    equal: Evaluation
    members: tuple[Evaluation, ...]


def ensemble(members: Sequence[Answers], weights: Sequence[float] | None = None) -> Answers:
    """Return the weighted mean of the members' probabilities, as logits whose softmax it is.

    Args:
        members: Their answers for the same images.
        weights: One per member, not negative; they are divided by their sum. None: all equal.

    Raises:
        ConfigError: For no members, or for weights of another number, negative or all 0.
        DataError: If a member has other images or classes than the first, or logits that are NaN or infinite.
    """
    first = _check(members)
    shares = _shares(weights, len(members))
    mixed = torch.full_like(first.logits, -math.inf)
    for member, share in zip(members, shares, strict=True):
        if share:
            mixed = torch.logaddexp(mixed, member.logits.log_softmax(1) + math.log(share))
    return Answers(mixed, first.targets, first.skipped)


def search(
    members: Sequence[Answers],
    *,
    by: str = "top1_error",
    steps: int = 20,
    refine: bool = True,
    seed: int = 0,
) -> SearchResult:
    """Find the members and weights that do best on one half of the images, and measure them on the other half.

    Greedy forward selection with replacement (Caruana et al., 2004): `steps` times, add a vote to the member that
    lowers `by` most, ties by the loss; the best ensemble on the way is taken. With `refine`, its weights are then
    optimised for the loss on the same half, by expectation maximisation, and kept if `by` does not rise.

    Args:
        members: Their answers for the same images.
        by: "top1_error", "top5_error" or "loss".
        steps: Number of votes.
        refine: Whether to refine the weights.
        seed: Chooses the halves.

    Raises:
        ConfigError: For no members, an unknown measure or no steps.
        DataError: If the members do not fit each other, or for fewer than 2 images.
    """
    if by not in MEASURES:
        raise unknown("by", by, MEASURES)
    if steps < 1:
        raise ConfigError(f"steps: {steps} is too small; expected: 1 or more")
    n = len(_check(members).targets)
    if n < 2:
        raise DataError(f"{n} image is not enough to search on one half and measure on the other")
    halves = torch.randperm(n, generator=stream(seed, "ensemble search"), device="cpu").split(-(-n // 2))
    searched, judged = ([_part(m, half.sort().values) for m in members] for half in halves)
    path = _greedy(searched, by, steps)
    weights = [path.count(i) / len(path) for i in range(len(members))]
    refined = _refine(searched, weights) if refine else weights
    is_better = _score(searched, refined, by) <= _score(searched, weights, by) and refined != weights
    weights = refined if is_better else weights
    return SearchResult(
        weights=tuple(weights),
        path=tuple(path),
        refined=is_better,
        search=measure(ensemble(searched, weights)),
        result=measure(ensemble(judged, weights)),
        equal=measure(ensemble(judged)),
        members=tuple(map(measure, judged)),
    )


def _greedy(members: Sequence[Answers], by: str, steps: int) -> list[int]:
    targets = members[0].targets
    probabilities = [m.logits.softmax(1) for m in members]
    total = torch.zeros_like(probabilities[0])
    path: list[int] = []
    best: tuple[tuple[float, float], int] | None = None
    for step in range(1, steps + 1):
        scores = [_rank(total + p, targets, step, by) for p in probabilities]
        chosen = min(range(len(members)), key=scores.__getitem__)
        path.append(chosen)
        total += probabilities[chosen]
        if best is None or scores[chosen] < best[0]:
            best = scores[chosen], step
    assert best is not None
    return path[: best[1]]


def _refine(members: Sequence[Answers], weights: Sequence[float]) -> list[float]:
    """Minimise the cross entropy from these weights on; zeros stay 0, and the sum stays 1."""
    rows = torch.arange(len(members[0].targets), device="cpu")
    truth = torch.stack([m.logits.double().softmax(1)[rows, m.targets] for m in members], 1).clamp(min=1e-300)
    w = torch.tensor(weights, dtype=torch.float64, device="cpu")
    for _ in range(_ROUNDS):
        w = (w * truth / (truth @ w)[:, None]).mean(0)
    return (w / w.sum()).tolist()


def _score(members: Sequence[Answers], weights: Sequence[float], by: str) -> tuple[float, float]:
    return _rank(ensemble(members, weights).logits.exp(), members[0].targets, 1, by)


def _rank(total: Tensor, targets: Tensor, votes: int, by: str) -> tuple[float, float]:
    """Return the measure and the loss of probabilities (n, K) that are a sum over votes; smaller is better."""
    truth = total.gather(1, targets[:, None])
    loss = -float((truth.double() / votes).clamp(min=1e-300).log().mean())
    if by == "loss":
        return loss, loss
    # Ties count as wrong, so that a member with constant answers is not right.
    place = (total >= truth).sum(1)
    return float((place > (1 if by == "top1_error" else min(5, total.shape[1]))).double().mean()), loss


def _part(member: Answers, indices: Tensor) -> Answers:
    return Answers(member.logits[indices], member.targets[indices])


def _check(members: Sequence[Answers]) -> Answers:
    if not members:
        raise ConfigError("members: none; expected: one or more")
    first = members[0]
    for i, other in enumerate(members):
        # False for NaN too.
        if not (other.logits < math.inf).all():
            raise DataError(f"member {i} has logits that are NaN or infinite; senet doctor says more")
        if other.logits.shape[1] != first.logits.shape[1]:
            raise DataError(f"member {i} has {other.logits.shape[1]} classes and member 0 {first.logits.shape[1]}")
        if not torch.equal(other.targets, first.targets) or other.skipped != first.skipped:
            raise DataError(f"member {i} answers for other images than member 0")
    return first


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise ConfigError(f"weights: {len(weights)} numbers for {count} members")
    if min(weights) < 0 or not all(map(math.isfinite, weights)) or not sum(weights):
        raise ConfigError(f"weights: {tuple(weights)!r}; expected: 0 or more, and not all 0")
    return [w / sum(weights) for w in weights]
