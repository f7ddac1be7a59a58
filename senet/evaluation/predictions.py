"""Classify image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from senet.data import FileSplit
from senet.data.folders import describe, list_images, no_images, printable
from senet.errors import DataError
from senet.evaluation.accuracy import predict
from senet.progress import Bar
from senet.recipes.recipe import DataRecipe

BATCH = 64
"""Images in a forward pass; for fewer files no worker processes are started."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one file.

    Attributes:
        file: Its path.
        classes: (index of the output, probability), most likely first; empty for a file that cannot be read.
        error: Why it cannot be read, or "".
    """

    file: str
    classes: tuple[tuple[int, float], ...] = ()
    error: str = ""


def find_files(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """List image files: those that are named, and those of folders at any depth.

    Returns:
        The files, and for each folder that has more than images a line on what is not read.

    Raises:
        DataError: For a folder without images, or one that cannot be listed.
    """
    files: list[str] = []
    notes: list[str] = []
    for path in paths:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            files.append(path)
            continue
        found, unread = list_images(folder)
        if not found:
            raise DataError(f"{printable(folder)}: has no images; {no_images(unread)}")
        files += found
        if unread:
            notes.append(f"{printable(folder)}: {describe(unread)}")
    return files, notes


def predict_files(
    model: nn.Module, files: Sequence[str], recipe: DataRecipe, *, top: int = 5, progress: bool = False
) -> Iterator[Prediction]:
    """Yield the most likely classes of each file, in order.

    Args:
        model: The network.
        files: Paths of images.
        recipe: How they are prepared.
        top: Number of classes.
        progress: Whether to show a bar after two seconds.
    """
    names = [str(Path(file).expanduser()) for file in files]
    split = FileSplit(names, torch.zeros(len(files), dtype=torch.int64), replace(recipe, on_bad_image="skip"), None)
    device = next(model.parameters()).device
    keys = split.order(BATCH)
    workers = split.workers if len(files) > BATCH else 0
    batches = DataLoader(split, sampler=keys, batch_size=None, num_workers=workers)  # type: ignore[arg-type]
    with Bar(total=len(files), unit="image", delay=2, show=progress) as bar:
        for (_, indices), batch in zip(keys, batches, strict=True):
            images, _ = split.prepare(batch, device)
            answers = iter(predict(model, images, top) if len(images) else [])
            errors, read = iter(batch.skipped), set(batch.indices.tolist())
            wanted: list[int] = torch.as_tensor(indices).tolist()
            for index in wanted:
                if index in read:
                    yield Prediction(files[index], classes=tuple(next(answers)))
                else:
                    yield Prediction(files[index], error=next(errors))
            bar.update(len(wanted))
