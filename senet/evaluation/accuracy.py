"""What a network gets wrong on a set of images, in all and class by class, and what that costs in time and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from senet.counting import Tally
from senet.data import Split
from senet.errors import ConfigError, DataError
from senet.evaluation.calibration import calibration, tempered
from senet.evaluation.crops import Viewed, Views


@dataclass(frozen=True)
class Answers:
    """A network's logits for the images of a split: `(n, K)` float32, on the CPU; and the targets, `(n,)` int64.

    skipped: names of the images that could not be read, and have no row.
    """

    logits: Tensor
    targets: Tensor
    skipped: tuple[str, ...] = ()


@dataclass
class Meter:
    """The speed and the memory of an evaluation that is given it.

    rates: images per second of each batch in the network, without fetching, decoding and cropping. All views of an
        image count as one image, and their normalisation is in the time.
    """

    rates: list[float] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def start(self, device: torch.device) -> None:
        """Forget the peak of before."""
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """Time one batch."""
        start = self._now()
        yield
        self.rates.append(images / (self._now() - start))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def read(self) -> dict[str, Any]:
        """`images_per_second` (median of the batches), `batches`, `memory_mib` (peak), and `memory`: what that is."""
        if self.device.type == "cuda":
            peak, what = torch.cuda.max_memory_allocated(self.device) / 2**20, "peak of the GPU memory that torch holds"
        else:
            peak, what = _resident_mib(), "peak of the process's resident memory since it started"
        return {
            "images_per_second": median(self.rates) if self.rates else None,
            "batches": len(self.rates),
            "memory_mib": peak,
            "memory": what,
        }


def _resident_mib() -> float | None:
    """None where the system does not say, as Windows."""
    try:
        import resource
    except ImportError:
        return None
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@torch.no_grad()
def run(
    model: nn.Module,
    split: Split,
    *,
    views: Views | None = None,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    progress: bool = False,
    meter: Meter | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The network's logits `(n, K)` and the targets `(n,)` of each batch of a split, on the device, in order.

    views: several views of each image, averaged; None: the split's own, single crop.
    batch_size: views in one forward pass.

    Raises DataError for a class that the network has no output for, and for an image that cannot be read.
    """
    device, meter = torch.device(device), meter or Meter()
    meter.start(device)
    model = model.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    viewed = Viewed(split, views) if views is not None else None
    source: Any = viewed or split
    keys = source.order(batch_size)
    batches = DataLoader(source, sampler=keys, batch_size=None, num_workers=split.workers)
    largest = int(split.targets.max()) if len(split) else 0
    for batch in tqdm(batches, desc="evaluating", unit="batch", leave=False, disable=None if progress else True):
        if viewed is not None:
            viewed.check(batch)
            images, targets = None, split.targets[batch.indices].to(device)
        else:
            images, targets = split.prepare(batch, device)
        if not len(targets):
            continue
        with meter.batch(len(targets)):
            logits = viewed.answer(model, batch, batch_size, device) if viewed is not None else model(images)
        if largest >= logits.shape[1]:
            raise DataError(f"the images have a class {largest} and the network has {logits.shape[1]} outputs")
        yield logits.float(), targets


def answers(model: nn.Module, split: Split, **options: Any) -> Answers:
    """The network's logits for all images of a split. options: those of `run`. DataError where none can be read."""
    found = [(logits.cpu(), targets.cpu()) for logits, targets in run(model, split, **options)]
    if not found:
        raise DataError(f"none of the {len(split):,} images can be read")
    logits, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Answers(logits, targets, tuple(split.skipped))


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    views: Views | None = None,
    details: bool = False,
    classes: Sequence[str] = (),
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    progress: bool = False,
    meter: Meter | None = None,
) -> dict[str, Any]:
    """Errors of any classifier, in evaluation mode, over all images of a split.

    views: several views of each image, averaged; None: the single crop.
    details: also what `describe_answers` gives; it needs 4 bytes for each image and class.
    classes: names of the outputs, for the details; none: their numbers.
    batch_size: views in one forward pass.
    meter: is told the time of each batch; `meter.read()` gives speed and memory.

    Returns `top1_error`, `top5_error` (percent), `loss` (mean cross entropy, nats), `images` and `skipped_images`.
    Raises DataError where no image can be read, or for a class that the network has no output for.
    """
    tally, kept = Tally(), []
    for logits, targets in run(
        model, split, views=views, batch_size=batch_size, device=device, progress=progress, meter=meter
    ):
        tally.add(logits, targets)
        if details:
            kept.append((logits.cpu(), targets.cpu()))
    measured = tally.read()
    if not measured["images"]:
        raise DataError(f"none of the {len(split):,} images can be read")
    found = measured | {"skipped_images": list(split.skipped)}
    if not details:
        return found
    logits, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return found | describe_answers(logits, targets, classes)


def measure(answers: Answers) -> dict[str, Any]:
    """What `evaluate` returns, of answers that are there already."""
    tally = Tally()
    tally.add(answers.logits, answers.targets)
    return tally.read() | {"skipped_images": list(answers.skipped)}


def describe_answers(logits: Tensor, targets: Tensor, classes: Sequence[str] = ()) -> dict[str, Any]:
    """Where the errors are: logits `(n, K)`, targets `(n,)`.

    Returns `per_class`, a row for each class with its `class`, `images`, `top1_error` and `top5_error` (percent, None
    without images); `confusion`, K x K counts of images whose rows are the truth and columns the answer; `calibration`,
    and `tempered`, see there; None of no and of less than two images. Logits that are no numbers are errors, and no
    answers: they are in `per_class` alone. Raises ConfigError where `classes` are not K names.
    """
    k = logits.shape[1]
    if classes and len(classes) != k:
        raise ConfigError(f"classes: {len(classes)} names for {k} outputs")
    is_answer = ~logits.isnan().any(1)
    best = logits.topk(min(5, k), dim=1).indices
    hits = (best == targets[:, None]) & is_answer[:, None]
    confusion = torch.bincount((targets * k + best[:, 0])[is_answer], minlength=k * k).view(k, k)
    count, top1, top5 = (
        torch.zeros(k).index_add_(0, targets, v.float()).tolist()
        for v in (torch.ones_like(hits[:, 0]), hits[:, 0], hits.any(1))
    )
    names = classes or [str(i) for i in range(k)]
    logits, targets = logits[is_answer], targets[is_answer]
    return {
        "per_class": [
            {
                "class": name,
                "images": int(n),
                "top1_error": 100 * (n - a) / n if n else None,
                "top5_error": 100 * (n - b) / n if n else None,
            }
            for name, n, a, b in zip(names, count, top1, top5, strict=True)
        ],
        "confusion": confusion.tolist(),
        "calibration": calibration(logits, targets) if len(targets) else None,
        "tempered": tempered(logits, targets) if len(targets) > 1 else None,
    }


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, top: int = 5) -> list[list[tuple[int, float]]]:
    """The `top` classes of each image with their probabilities, most likely first. `(N, C, S, S) -> N lists`."""
    device = next(model.parameters()).device
    p = model.eval()(images.to(device)).softmax(1)
    best = p.topk(min(top, p.shape[1]), dim=1)
    return [list(zip(i.tolist(), v.tolist(), strict=True)) for v, i in zip(best.values, best.indices, strict=True)]
