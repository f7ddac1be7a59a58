"""Cache logits on disk.

The name of a file is a hash of all that the logits depend on, including the contents of weights and images. So logits
of other weights, images or views are never found.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from senet.errors import RunError
from senet.evaluation.accuracy import Answers
from senet.evaluation.crops import Views
from senet.files import write_atomically

VERSION = 2


def weights_digest(model: nn.Module) -> str:
    """Hash a network: its layers, and name, type, shape and values of each tensor."""
    digest = blake2b(f"{model!r}\0{getattr(model, 'net', '')!r}".encode(), digest_size=16)
    for name, t in model.state_dict().items():
        digest.update(f"\0{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        digest.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def about(
    model: nn.Module,
    images: str,
    views: Views | None,
    device: str | torch.device,
    outputs: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return all that the logits of a network depend on.

    Args:
        model: The network.
        images: The split's `fingerprint()`, which depends on the part and on the numbers of the classes.
        views: Of each image.
        device: Where it computes.
        outputs: Indices of the outputs that are kept; None for all.
    """
    return {
        "version": VERSION,
        "weights": weights_digest(model),
        "images": images,
        "views": asdict(views) if views else None,
        "outputs": None if outputs is None else list(outputs),
        # The last bits differ between these.
        "device": torch.device(device).type,
        "torch": torch.__version__,
    }


def cached(folder: Path, key: dict[str, Any], make: Callable[[], Answers]) -> Answers:
    """Return the answers for a key of `about`: from the folder, bit for bit, or from `make`, which are then stored.

    Damaged files are replaced. Raises RunError if the folder or file cannot be written.
    """
    text = json.dumps(key, sort_keys=True)
    path = folder / f"{blake2b(text.encode(), digest_size=16).hexdigest()}.npz"
    found = _read(path, text)
    if found is not None:
        return found
    made = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to the cache {folder}: {error.strerror}") from error

    def write(file: IO[bytes]) -> None:
        words = {"key": np.array(text), "skipped": np.array(json.dumps(made.skipped))}
        np.savez(file, logits=made.logits.numpy(), targets=made.targets.numpy(), **words)  # type: ignore[arg-type]

    write_atomically(path, write)
    return made


def _read(path: Path, text: str) -> Answers | None:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != text:
                return None
            logits, targets = (torch.from_numpy(arrays[name]) for name in ("logits", "targets"))
            return Answers(logits, targets, tuple(json.loads(str(arrays["skipped"]))))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
