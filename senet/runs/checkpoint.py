"""One file = recipe + weights + measurements. Loading rebuilds the network and never executes anything.

The file is safetensors: the weights under the network's own names, and in the header, under "senet", the recipe, the
class names and the measurements as JSON. `last.ckpt` of a run, which also holds the optimiser, is read too; torch reads
it with weights only, so a pickle that would run code is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from senet.config import from_dict, to_dict
from senet.errors import CheckpointError, ConfigError
from senet.files import write_atomically
from senet.models.network import Network
from senet.recipes.recipe import Recipe
from senet.weights import files

KEY = files.KEY
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: the network with its weights, in evaluation mode, and how it came about.

    classes: names of the outputs, in order.  measurements: what was measured when it was written, for example
    `{"top1_error": 1.9, "epoch": 12}`.
    """

    model: Network
    recipe: Recipe
    classes: tuple[str, ...]
    measurements: dict[str, Any] = field(default_factory=dict)


def header(recipe: Recipe, classes: tuple[str, ...], measurements: Mapping[str, Any]) -> str:
    """The part of a checkpoint that is no tensor, as JSON."""
    return json.dumps(
        {"version": VERSION, "recipe": to_dict(recipe), "classes": list(classes), "measurements": dict(measurements)}
    )


def save(
    path: str | Path,
    weights: Network | Mapping[str, Tensor],
    *,
    recipe: Recipe,
    classes: tuple[str, ...],
    measurements: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint; whatever was at `path` stays until the new file is whole.

    weights: the network, or its state dict.
    Raises RunError where the file cannot be written.
    """
    state = weights.state_dict() if isinstance(weights, Network) else weights
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    data = to_bytes(tensors, metadata={KEY: header(recipe, classes, measurements or {})})
    write_atomically(Path(path), lambda file: file.write(data))


def find(path: str | Path) -> Path:
    """The checkpoint a path means: the file itself, or in a run folder the best one, else the last; or a Hub folder's.

    Raises CheckpointError where there is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("best.safetensors", "last.ckpt", "model.safetensors"):
            if (path / name).is_file():
                return path / name
        inner = sorted(p.parent.name for p in path.glob("*/best.safetensors"))
        hint = f"; it has runs in {', '.join(inner)}: name one of them" if inner else ""
        raise CheckpointError(f"{path}: no best.safetensors or last.ckpt in this folder{hint}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder")
    return path


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint (`.safetensors`, or a run's `last.ckpt`) or a run folder, and rebuild its network.

    Raises CheckpointError for a file that is absent, damaged, no checkpoint of senet, or whose weights or classes do
    not fit the network it names; nothing in the file is ever executed.
    """
    path = find(path)
    text, state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_ckpt(path)
    try:
        meta = json.loads(text)
        if "model" in meta and "recipe" not in meta:
            raise CheckpointError(f"{path}: holds a network but no recipe; senet.from_pretrained reads it")
        version = meta["version"]
        if version > VERSION:
            raise CheckpointError(f"{path}: written by a newer senet (format {version}, this one reads {VERSION})")
        recipe = from_dict(Recipe, meta["recipe"])
        classes = tuple(map(str, meta["classes"]))
        measurements = dict(meta["measurements"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description cannot be read: {error}") from error
    outputs = recipe.model.num_classes
    if outputs and len(classes) != outputs:
        raise CheckpointError(f"{path}: names {len(classes)} classes, but its network has {outputs} outputs")
    model = rebuild(recipe, state, path)
    model.preprocessing = files.recipe_preprocessing(to_dict(recipe.data))
    return Checkpoint(model, recipe, classes, measurements)


def rebuild(recipe: Recipe, state: Mapping[str, Tensor], path: Path) -> Network:
    """The recipe's network with these weights, in evaluation mode; CheckpointError where they do not fit."""
    try:
        with torch.device("meta"):
            model = Network(recipe.model)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its network cannot be built: {error}") from error
    want = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    have = {name: tuple(t.shape) for name, t in state.items()}
    if want != have:
        wrong = sorted(n for n in want.keys() | have.keys() if want.get(n) != have.get(n))
        first = wrong[0]
        raise CheckpointError(
            f"{path}: not the weights of {recipe.name}: {len(wrong)} tensors differ, the first is {first!r} "
            f"(expected {want.get(first, 'none')}, found {have.get(first, 'none')})"
        )
    model.to_empty(device="cpu")
    model.load_state_dict(dict(state))
    return model.eval()


def _read_safetensors(path: Path) -> tuple[str, dict[str, Tensor]]:
    text, state = files.read_safetensors(path)
    if text is None:
        raise CheckpointError(f"{path}: has weights but no recipe, so it was not written by senet")
    return text, state


def read_ckpt(path: Path) -> dict[str, Any]:
    """The whole of a `last.ckpt`, tensors on the CPU; CheckpointError where it is damaged or would run code."""
    data = files.read_torch(path)
    if not isinstance(data, dict) or not isinstance(data.get(KEY), str) or not isinstance(data.get("state_dict"), dict):
        raise CheckpointError(f"{path}: not a checkpoint written by senet")
    return data


def _read_ckpt(path: Path) -> tuple[str, dict[str, Tensor]]:
    data = read_ckpt(path)
    return data[KEY], kept_weights(data["state_dict"])


def kept_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights among a training module's: the moving average's where there is one."""
    prefix = "average.module." if any(n.startswith("average.module.") for n in state) else "network."
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
