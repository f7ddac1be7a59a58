"""What training and evaluation need of images, whatever room they come from: the protocol that `senet.data` fulfils."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Sampler


class Split(Protocol):
    """A data set whose items are whole batches: `split[key]` for each key of `split.order(batch_size)`.

    workers: processes that pay off in fetching.
    targets: (len(self),) int64, the class of each image.
    skipped: names of images left out because they could not be read, as far as is known.
    """

    workers: int
    targets: Tensor

    @property
    def skipped(self) -> list[str]:
        """Names of the images left out so far."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def order(self, batch_size: int) -> Sampler[Any]:
        """The keys of an epoch's batches, in order: a function of (seed, epoch) alone. Has `set_epoch(epoch)`."""
        ...

    def __getitem__(self, key: Any) -> Any:
        """Fetch one batch; runs in a worker process."""
        ...

    def prepare(self, batch: Any, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images `(n, C, S, S)` float32, normalised and augmented, and targets `(n,)` int64, on the device."""
        ...


class Data(Protocol):
    """A data set: the names of its classes, and its two parts. `source` says where the images come from."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the targets."""
        ...

    @property
    def source(self) -> str:
        """One line that says where the images come from."""
        ...

    @property
    def train(self) -> Split:
        """The images to learn from."""
        ...

    @property
    def val(self) -> Split:
        """The images held out."""
        ...
