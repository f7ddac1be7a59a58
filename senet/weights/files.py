"""Read files of weights without executing anything: safetensors, torch's, Caffe's, and folders as on the Hub."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from senet.errors import CheckpointError, ConfigError
from senet.models.net import Preprocessing
from senet.weights.fetch import fetch, is_spec
from senet.weights.header import KEY, Header
from senet.weights.timm import read_preprocessing

WRAPPERS = ("state_dict_ema", "ema", "state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
SPECS = "a name on the Hub, 'timm:NAME' or 'hf:OWNER/NAME'"
FILES = ("model.safetensors", "pytorch_model.bin", "best.safetensors", "last.ckpt")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Tensors under their own names, and what else their file says.

    Attributes:
        name: The path, or "a mapping".
        tensors: On the CPU.
        hint: The file's name without its ending, or the architecture that its config.json states, for
            `Convention.infer_from_name`.
        notes: What was unpacked.
        header: What a file of ours says; None for other files.
        preprocessing: From the header or a config.json; None if neither states it.
    """

    name: str
    tensors: Mapping[str, Tensor]
    hint: str = ""
    notes: tuple[str, ...] = ()
    header: Header | None = None
    preprocessing: Preprocessing | None = None


def read(path: str | Path) -> Source:
    """Read the tensors of a file, on the CPU.

    Args:
        path: A file (`.safetensors`, `.caffemodel`, or torch's `.pth`, `.pt`, `.bin`, `.ckpt`); a folder with such a
            file and perhaps a config.json, or a run's folder; or "timm:NAME" or "hf:OWNER/NAME", which is fetched
            from the Hugging Face Hub (`fetch`).

    Raises:
        CheckpointError: For a file that is absent, damaged or holds no weights, and for a pickle that could run code,
            which is not unpickled.
    """
    if not str(path) or "://" in str(path):
        raise CheckpointError(f"weights: {str(path)!r} is neither a file or folder on this machine nor {SPECS}")
    if is_spec(path):
        return replace(read(fetch(path)), name=str(path))
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder, nor {SPECS}")
    text: object = None
    if path.suffix == ".caffemodel":
        from senet.weights import caffe

        source = Source(name=str(path), tensors=caffe.read(path))
    elif path.suffix == ".safetensors":
        text, tensors = _read_safetensors(path)
        source = Source(name=str(path), tensors=tensors)
    else:
        data = read_torch(path)
        text = data.get(KEY) if isinstance(data, Mapping) else None
        source = unwrap(data, str(path))
    header = Header.loads(text, path) if isinstance(text, str) else None
    preprocessing = header.preprocessing if header else None
    return replace(source, hint=path.stem.lower(), header=header, preprocessing=preprocessing)


def _read_folder(path: Path) -> Source:
    name = next((name for name in FILES if (path / name).is_file()), None)
    if name is None:
        raise CheckpointError(f"{path}: none of {', '.join(FILES)} is in this folder")
    source = read(path / name)
    if not (path / "config.json").is_file():
        return source
    try:
        config = json.loads((path / "config.json").read_text("utf-8"))
        pretrained = config.get("pretrained_cfg") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path / 'config.json'}: cannot be read: {error}") from error
    source = replace(source, hint=str(config.get("architecture") or source.hint).lower())
    if source.preprocessing or not pretrained:
        return source
    try:
        return replace(source, preprocessing=read_preprocessing(pretrained))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        note = f"the preprocessing in config.json cannot be read: {error}"
        return replace(source, notes=(*source.notes, note))


def _read_safetensors(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """The text under `KEY` in the metadata, None if there is none, and the tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return (file.metadata() or {}).get(KEY), tensors
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged, or not a safetensors file: {error}") from error


def read_torch(path: Path) -> Any:
    """Read what `torch.save` wrote, tensors on the CPU; CheckpointError if it is damaged or could run code."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # torch writes zip files, or bare pickles. Of any other file it says that it may run code.
            if not file.read(4).startswith((b"PK\x03\x04", b"\x80")):
                raise CheckpointError(f"{path}: cannot be read: not a file written by torch.save")
            file.seek(0)
            # torch warns about old pickles before it refuses them.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        # torch raises a dozen types for damaged files; the first line says which kind this is.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnpicklingError) or "Weights only load failed" in str(error):
            reason = "refused: it is damaged, or holds objects that could run code"
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error


def unwrap(data: Any, name: str = "a mapping") -> Source:
    """Find the tensors inside what people save around them: wrappers like "state_dict", prefixes like "module.".

    If both the weights and their moving average are there, the average is taken.

    Raises:
        CheckpointError: If there are no tensors inside.
    """
    notes: list[str] = []
    while isinstance(data, Mapping):
        wrapper = next((w for w in WRAPPERS if isinstance(data.get(w), Mapping)), None)
        if wrapper is None:
            break
        notes.append(f"taken from {wrapper!r}")
        data = data[wrapper]
    if not isinstance(data, Mapping) or not data:
        raise CheckpointError(f"{name}: holds no weights, but a {type(data).__name__}")
    odd = next((key for key, value in data.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise CheckpointError(f"{name}: not a mapping of names to tensors: {odd!r} is a {type(data[odd]).__name__}")
    tensors = {str(key): tensor for key, tensor in data.items()}
    prefix, tensors = evaluated_weights(tensors)
    if prefix:
        notes.append(f"only {prefix!r} of a training module")
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None):
        notes.append(f"without the prefix {prefix!r}")
        tensors = {key.removeprefix(prefix): t for key, t in tensors.items()}
    if any(key.startswith("encoder.") for key in tensors):
        # The encoder of a segmentation network; the decoder's names are kept.
        notes.append("without the prefix 'encoder.'")
        tensors = {key.removeprefix("encoder."): t for key, t in tensors.items()}
    return Source(name=name, tensors=tensors, notes=tuple(notes))


def evaluated_weights(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The weights of our training module that are evaluated: the moving average if it has one, else the network's.

    Returns:
        The prefix that was removed, "" for the state of another module, and the tensors.
    """
    for prefix in ("average.module.", "network."):
        if any(name.startswith(prefix) for name in state):
            return prefix, {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    return "", dict(state)
