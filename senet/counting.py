"""Count the errors of a classifier, for training and evaluation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.processes import gathered, world


class Tally:
    """Sums cross entropy, top-1 and top-5 errors over batches; an answer with a NaN counts as wrong.

    Nothing is copied from the device until `read`.

    >>> tally = Tally()
    >>> tally.add(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
    >>> tally.read()["top1_error"]
    50.0
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.by_class: Tensor | None = None
        self.count = 0

    @torch.no_grad()
    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits `(n, classes)`, targets `(n,)`."""
        logits = logits.float()
        loss = F.cross_entropy(logits, targets, reduction="sum")
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        # topk ranks NaN first, so a NaN answer must be excluded.
        hits = (best == targets[:, None]) & ~logits.isnan().any(1, keepdim=True)
        sums = torch.stack([loss.double(), hits[:, :1].sum().double(), hits.sum().double()])
        self.sums = sums if self.sums is None else self.sums + sums
        rows = torch.stack([torch.ones_like(targets), hits[:, 0].long(), hits.any(1).long()], 1)
        if self.by_class is None:
            self.by_class = rows.new_zeros(logits.shape[1], 3)
        self.by_class.index_add_(0, targets, rows)
        self.count += len(targets)

    def gather_(self) -> None:
        """Count what all processes counted; each must call this."""
        if world() == 1:
            return
        own = None if self.sums is None or self.by_class is None else (self.sums.cpu(), self.by_class.cpu())
        found = [part for part in gathered(own) if part is not None]
        if found:
            sums, rows = (torch.stack(parts).sum(0) for parts in zip(*found, strict=True))
            self.sums, self.by_class, self.count = sums, rows, int(rows[:, 0].sum())

    def read_classes(self) -> list[tuple[int, int, int]]:
        """Return for each class the number of its images, of right first answers, and of those right among five."""
        return [] if self.by_class is None else [(n, a, b) for n, a, b in self.by_class.tolist()]

    def read(self) -> dict[str, Any]:
        """Return `loss` (mean, nats), `top1_error`, `top5_error` (percent) and `images`; NaN without images."""
        if self.sums is None:
            return {"loss": float("nan"), "top1_error": float("nan"), "top5_error": float("nan"), "images": 0}
        loss, top1, top5 = self.sums.tolist()
        n = self.count
        return {
            "loss": loss / n,
            "top1_error": 100 * (n - top1) / n,
            "top5_error": 100 * (n - top5) / n,
            "images": n,
        }
