"""Measure a network's errors on a set of images, in total and per class, and its speed and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import itemgetter
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from senet.counting import Tally
from senet.data import Split
from senet.errors import ConfigError, DataError
from senet.evaluation.calibration import calibration, tempered
from senet.evaluation.crops import Viewed, Views
from senet.outputs import logits_of
from senet.processes import gathered, merged
from senet.progress import Bar
from senet.runs.evaluation import Evaluation, class_errors


@dataclass(frozen=True)
class Answers:
    """A network's logits for the images of a split, on the CPU.

    Attributes:
        logits: (n, K) float32.
        targets: (n,) int64.
        skipped: A line for each image that could not be read, which has no row.
    """

    logits: Tensor
    targets: Tensor
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What an evaluation took.

    Attributes:
        images_per_second: Median over the batches, without reading, decoding and cropping; None without batches. All
            views of an image count as one image; their normalisation is included.
        batches: Number of batches.
        memory_mib: Peak memory; None where the system does not tell.
        memory: Which memory that is.
    """

    images_per_second: float | None
    batches: int
    memory_mib: float | None
    memory: str


@dataclass
class Meter:
    """Measures speed and memory of the evaluation that it is passed to.

    Attributes:
        rates: Images per second of each batch.
        device: Where the network runs.
        clock: Returns seconds.
    """

    rates: list[float] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    clock: Callable[[], float] = time.perf_counter

    def start(self, device: torch.device) -> None:
        """Reset the peak memory of a GPU."""
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
        return self.clock()

    def read(self) -> Speed:
        """Return speed and memory so far."""
        if self.device.type == "cuda":
            peak, what = torch.cuda.max_memory_allocated(self.device) / 2**20, "peak of the GPU memory that torch holds"
        else:
            peak, what = _resident_mib(), "peak of the process's resident memory since it started"
        return Speed(
            images_per_second=median(self.rates) if self.rates else None,
            batches=len(self.rates),
            memory_mib=peak,
            memory=what,
        )


def _resident_mib() -> float | None:
    """Return the peak resident memory; None where the system does not tell, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    # In KiB on Linux, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@torch.no_grad()
def run(
    model: nn.Module,
    split: Split,
    *,
    views: Views | None = None,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    outputs: Sequence[int] | None = None,
    progress: bool = False,
    meter: Meter | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield each batch of a split: its number, the logits `(n, K)` and the targets `(n,)`, on the device, in order.

    Several processes have a share of each batch.

    Arguments as for `evaluate`. Raises DataError for a class that the network has no output for, and for an image that
    cannot be read.
    """
    device, meter = torch.device(device), meter or Meter()
    meter.start(device)
    model = model.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    viewed = Viewed(split, views) if views is not None else None
    source: Any = viewed or split
    keys = source.order(batch_size)
    batches = DataLoader(source, sampler=keys, batch_size=None, num_workers=split.workers)
    largest = int(split.targets.max()) if len(split) else 0
    for number, batch in enumerate(Bar(batches, desc="evaluating", unit="batch", show=progress)):
        if viewed is not None:
            viewed.check(batch)
            images, targets = None, split.targets[batch.indices].to(device)
        else:
            images, targets = split.prepare(batch, device)
        if not len(targets):
            continue
        with meter.batch(len(targets)):
            logits = viewed.answer(model, batch, batch_size, device) if viewed is not None else logits_of(model(images))
        if outputs is not None:
            logits = logits[:, list(outputs)]
        if largest >= logits.shape[1]:
            raise DataError(f"the images have a class {largest} and the network has {logits.shape[1]} outputs")
        yield number, logits.float(), targets


def answers(model: nn.Module, split: Split, **options: Any) -> Answers:
    """Return the logits for all images of a split; `options` are those of `run`. DataError if there are no images."""
    found = [(logits.cpu(), targets.cpu()) for _, logits, targets in run(model, split, **options)]
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
    outputs: Sequence[int] | None = None,
    progress: bool = False,
    meter: Meter | None = None,
) -> Evaluation:
    """Measure the errors of any classifier on all images of a split, in evaluation mode.

    Of several processes each measures its share of the images, and all return the result for all images.

    Args:
        model: The network.
        split: The images.
        views: Several views of each image, whose answers are averaged; None: the single crop.
        details: Whether to measure confusion and calibration too, which keeps all logits.
        classes: Names of the outputs; (): their indices.
        batch_size: Views in one forward pass.
        device: Where to compute.
        outputs: Indices of the network's outputs that count; None for all.
        progress: Whether to show a progress bar.
        meter: Measures speed and memory.

    Raises:
        DataError: If no image can be read, or for a class that the network has no output for.
        ConfigError: If `classes` has another length than the outputs.
    """
    tally, kept = Tally(), []
    options = {"views": views, "batch_size": batch_size, "device": device, "outputs": outputs}
    for number, logits, targets in run(model, split, progress=progress, meter=meter, **options):  # type: ignore[arg-type]
        tally.add(logits, targets)
        if details:
            kept.append((number, logits.cpu(), targets.cpu()))
    tally.gather_()
    if not tally.count:
        raise DataError(f"none of the {len(split):,} images can be read")
    found = _evaluation(tally, classes, merged(split.skipped))
    if not details:
        return found
    # In the order of the images: a batch's shares follow each other.
    shares = sorted((share for part in gathered(kept) for share in part), key=itemgetter(0))
    _, logits, targets = zip(*shares, strict=True)
    return _with_details(found, torch.cat(logits), torch.cat(targets))


def measure(answers: Answers, *, details: bool = False, classes: Sequence[str] = ()) -> Evaluation:
    """Return what `evaluate` does, from logits that are already computed."""
    tally = Tally()
    tally.add(answers.logits, answers.targets)
    found = _evaluation(tally, classes, answers.skipped)
    return _with_details(found, answers.logits, answers.targets) if details else found


def _evaluation(tally: Tally, classes: Sequence[str], skipped: Sequence[str]) -> Evaluation:
    rows = tally.read_classes()
    if classes and len(classes) != len(rows):
        raise ConfigError(f"classes: {len(classes)} names for {len(rows)} outputs")
    per_class = class_errors(classes or [str(k) for k in range(len(rows))], rows)
    return Evaluation(**tally.read(), skipped_images=tuple(skipped), per_class=per_class)


def _with_details(found: Evaluation, logits: Tensor, targets: Tensor) -> Evaluation:
    """Add confusion and calibration: logits `(n, K)`, targets `(n,)`.

    An answer with a NaN is an error of its class, but is neither in the confusion nor in the calibration.
    """
    k = logits.shape[1]
    is_answer = ~logits.isnan().any(1)
    logits, targets = logits[is_answer], targets[is_answer]
    confusion = torch.bincount(targets * k + logits.argmax(1), minlength=k * k).view(k, k)
    return replace(
        found,
        confusion=tuple(map(tuple, confusion.tolist())),
        calibration=calibration(logits, targets) if len(targets) else None,
        tempered=tempered(logits, targets) if len(targets) > 1 else None,
    )


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, top: int = 5) -> list[list[tuple[int, float]]]:
    """Return the `top` classes of each image with their probabilities, most likely first: (N, C, S, S) -> N lists."""
    device = next(model.parameters()).device
    p = logits_of(model.eval()(images.to(device))).softmax(1)
    best = p.topk(min(top, p.shape[1]), dim=1)
    return [list(zip(i.tolist(), v.tolist(), strict=True)) for v, i in zip(best.values, best.indices, strict=True)]
