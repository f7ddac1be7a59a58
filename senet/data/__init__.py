"""Images and labels, in batches that are a function of (seed, epoch, index) alone.

    data = open_data(DataRecipe(name="digits"), seed=0)
    order = data.train.order(batch_size=128)
    loader = DataLoader(data.train, sampler=order, batch_size=None, num_workers=data.train.workers)
    for epoch in range(10):
        order.set_epoch(epoch)
        for batch in loader:
            images, targets = data.train.prepare(batch, device)

The loader only transports indices and decoded files. `prepare` augments whole batches on the device.
"""

from __future__ import annotations

from senet.data.augment import Draws
from senet.data.images import load_image, normalise
from senet.data.objects import ObjectSplit
from senet.data.sources import Counts, Data, Part, count_data, open_data, open_part
from senet.data.splits import Batch, FileSplit, Order, Split, TensorSplit

__all__ = [
    "Batch",
    "Counts",
    "Data",
    "Draws",
    "FileSplit",
    "ObjectSplit",
    "Order",
    "Part",
    "Split",
    "TensorSplit",
    "count_data",
    "load_image",
    "normalise",
    "open_data",
    "open_part",
]
