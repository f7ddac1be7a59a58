"""Single-crop errors of a network on a set of images."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from senet.errors import DataError
from senet.images import Split
from senet.models.network import Network
from senet.tally import Tally


@torch.no_grad()
def evaluate(
    model: Network,
    split: Split,
    *,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Errors of the network, in evaluation mode, over all images of a split; DataError where none can be read.

    Returns `top1_error`, `top5_error` (percent), `loss` (mean cross entropy, nats), `images` and `skipped_images`.
    """
    device = torch.device(device)
    model = model.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    tally = Tally()
    batches = DataLoader(split, sampler=split.order(batch_size), batch_size=None, num_workers=split.workers)  # type: ignore[arg-type]
    for batch in tqdm(batches, desc="evaluating", unit="batch", leave=False, disable=None if progress else True):
        images, targets = split.prepare(batch, device)
        if len(targets):
            tally.add(model(images), targets)
    measured = tally.read()
    if not measured["images"]:
        raise DataError(f"none of the {len(split):,} images can be read")
    return measured | {"skipped_images": list(split.skipped)}


@torch.no_grad()
def predict(model: Network, images: torch.Tensor, top: int = 5) -> list[list[tuple[int, float]]]:
    """The `top` classes of each image with their probabilities, most likely first. `(N, C, S, S) -> N lists`."""
    device = next(model.parameters()).device
    p = model.eval()(images.to(device)).softmax(1)
    best = p.topk(min(top, p.shape[1]), dim=1)
    return [list(zip(i.tolist(), v.tolist(), strict=True)) for v, i in zip(best.values, best.indices, strict=True)]
