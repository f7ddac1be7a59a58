"""Files of weights, read without executing anything: safetensors, torch's, Caffe's, and folders as on the Hub."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from senet.config import from_dict
from senet.errors import CheckpointError, ConfigError
from senet.models.net import Net, Preprocessing
from senet.weights.fetch import fetch, is_spec

KEY = "senet"
"""Where our own files describe themselves, as JSON: in the header of safetensors, beside the weights of torch's."""

WRAPPERS = ("state_dict_ema", "ema", "state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
SPECS = "a name on the Hub, 'timm:NAME' or 'hf:OWNER/NAME'"
FILES = ("model.safetensors", "pytorch_model.bin", "best.safetensors", "last.ckpt")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Tensors under their own names, and what else their file says.

    name: the path, or "a mapping".  hint: the file's name without its ending, or the architecture that its config.json
    states: what `Convention.by_file` reads.
    notes: of what was unpacked.  net, preprocessing, classes: where the file says them.
    """

    name: str
    tensors: Mapping[str, Tensor]
    hint: str = ""
    notes: tuple[str, ...] = ()
    net: Net | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()


def read(path: str | Path) -> Source:
    """The tensors of a file, on the CPU: `.safetensors`, `.caffemodel`, else torch's (`.pth`, `.pt`, `.bin`, `.ckpt`).

    A folder: its model.safetensors or pytorch_model.bin and the config.json beside it, or a run's best checkpoint.
    "timm:NAME" or "hf:OWNER/NAME": such a folder, fetched from the Hugging Face Hub (`fetch`).

    Raises CheckpointError for a file that is absent, damaged or holds no weights, and for a pickle that would run code,
    which is refused unread.
    """
    if not str(path) or "://" in str(path):
        raise CheckpointError(f"weights: {str(path)!r} is neither a file or folder on this machine nor {SPECS}")
    if is_spec(path):
        return replace(read(fetch(path)), name=str(path))
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder, nor {SPECS}")
    hint = path.stem.lower()
    if path.suffix == ".caffemodel":
        from senet.weights import caffe

        return Source(name=str(path), tensors=caffe.read(path), hint=hint)
    if path.suffix == ".safetensors":
        text, tensors = read_safetensors(path)
        return _described(Source(name=str(path), tensors=tensors, hint=hint), text)
    data = read_torch(path)
    source = replace(unwrap(data, str(path)), hint=hint)
    return _described(source, data.get(KEY) if isinstance(data, Mapping) else None)


def _folder(path: Path) -> Source:
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
        return replace(source, preprocessing=timm_preprocessing(pretrained))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        note = f"config.json does not say in our terms how the images are wanted: {error}"
        return replace(source, notes=(*source.notes, note))


def timm_preprocessing(pretrained: Mapping[str, Any]) -> Preprocessing:
    """What timm's `pretrained_cfg` says: the shorter side is the crop's over `crop_pct`, rounded down."""
    side = pretrained["input_size"][-1]
    return from_dict(
        Preprocessing,
        {
            "mean": list(pretrained["mean"]),
            "std": list(pretrained["std"]),
            "image_size": side,
            "resize": math.floor(side / pretrained["crop_pct"]),
            "interpolation": pretrained["interpolation"],
        },
    )


def read_safetensors(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """The text under `KEY` in the header, None where there is none, and the tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return (file.metadata() or {}).get(KEY), tensors
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged, or not a safetensors file: {error}") from error


def read_torch(path: Path) -> Any:
    """What torch saved, tensors on the CPU; CheckpointError where it is damaged or would run code."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # A zip file, as torch writes them, or a bare pickle; of anything else torch says that it may run code.
            if not file.read(4).startswith((b"PK\x03\x04", b"\x80")):
                raise CheckpointError(f"{path}: cannot be read: not a file of torch's")
            file.seek(0)
            # torch warns of old pickles before it refuses them.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        # torch raises a dozen types for damaged files; the first line says which kind this is.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnpicklingError) or "Weights only load failed" in str(error):
            reason = "refused, for it holds objects that could run code, or is damaged"
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error


def unwrap(data: Any, name: str = "a mapping") -> Source:
    """The tensors inside what people save around them: wrappers such as "state_dict", prefixes such as "module.".

    Moving averages are preferred where both are there. Raises CheckpointError where there are no tensors inside.
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
    for part in ("average.module.", "network."):
        # Our own training module holds both, and its moving average is what was evaluated.
        if any(key.startswith(part) for key in tensors):
            notes.append(f"only {part!r} of a training module")
            tensors = {key.removeprefix(part): t for key, t in tensors.items() if key.startswith(part)}
            break
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None):
        notes.append(f"without the prefix {prefix!r}")
        tensors = {key.removeprefix(prefix): t for key, t in tensors.items()}
    if any(key.startswith("encoder.") for key in tensors):
        # A segmentation network, whose decoder keeps its names.
        notes.append("without the prefix 'encoder.'")
        tensors = {key.removeprefix("encoder."): t for key, t in tensors.items()}
    return Source(name=name, tensors=tensors, notes=tuple(notes))


def _described(source: Source, text: object) -> Source:
    """The source with what our own files say of themselves."""
    if not isinstance(text, str):
        return source
    try:
        meta = json.loads(text)
        table = meta["model"] if "model" in meta else meta["recipe"]["model"]
        wanted = meta.get("preprocessing")
        return replace(
            source,
            net=from_dict(Net, table, path="model"),
            preprocessing=from_dict(Preprocessing, wanted, path="preprocessing")
            if wanted
            else recipe_preprocessing(meta.get("recipe", {}).get("data", {})),
            classes=tuple(map(str, meta.get("classes", ()))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source.name}: its description cannot be read: {error}") from error


def recipe_preprocessing(data: Mapping[str, Any]) -> Preprocessing | None:
    """What a written recipe's evaluation does with images, their moments in pixel values; None where there is none."""
    if "mean" not in data:
        return None
    side = data["image_size"]
    # As in `DataRecipe`: images that are kept in memory have the crop's size already.
    in_memory = data["in_memory"] == "yes" or (data["in_memory"] == "auto" and side <= 64)
    return from_dict(
        Preprocessing,
        {
            # Rounded, so that 57.12 is 0.224 and not a digit less in the last place.
            **{name: [round(value / 255, 12) for value in data[name]] for name in ("mean", "std")},
            "image_size": side,
            "resize": side if in_memory else data["resize"] or round(side * 256 / 224),
            "interpolation": data.get("interpolation", "bilinear"),
        },
    )
