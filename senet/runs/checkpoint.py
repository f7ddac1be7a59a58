"""Checkpoints: a network, how it was trained and what was measured, in one file that is read without running code.

The file is safetensors: the weights under the network's own names, and a `Header` as JSON. A run's `last.ckpt`, which
also holds the optimiser, is read too.
"""

from __future__ import annotations

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
from senet.models.net import Net, Preprocessing
from senet.models.network import Network
from senet.recipes.recipe import DataRecipe, Recipe
from senet.runs.folder import BEST, LAST, RUNS
from senet.weights import files, ilsvrc
from senet.weights.header import KEY, Header


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        model: The network with its weights, in evaluation mode.
        recipe: How it was trained.
        classes: Names of the outputs, in order.
        measurements: What was measured when it was written, such as `{"top1_error": 1.9, "epoch": 12}`.
    """

    model: Network
    recipe: Recipe
    classes: tuple[str, ...]
    measurements: Mapping[str, Any] = field(default_factory=dict)


def header(recipe: Recipe, classes: tuple[str, ...], measurements: Mapping[str, Any]) -> str:
    """The text that a checkpoint holds beside its tensors."""
    sections = to_dict(recipe)
    return Header(
        name=sections.pop("name"),
        model=from_dict(Net, sections.pop("model")),
        preprocessing=recipe.data.preprocessing,
        classes=classes,
        measurements=measurements,
        recipe=sections,
    ).dumps()


def save(
    path: str | Path,
    weights: Network | Mapping[str, Tensor],
    *,
    recipe: Recipe,
    classes: tuple[str, ...],
    measurements: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint. An existing file stays as it is until the new one is complete.

    Args:
        path: The file, `.safetensors`.
        weights: The network, or its state dict.
        recipe: How it was trained.
        classes: Names of the outputs, in order.
        measurements: What was measured.

    Raises:
        RunError: If the file cannot be written.
    """
    state = weights.state_dict() if isinstance(weights, Network) else weights
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    data = to_bytes(tensors, metadata={KEY: header(recipe, classes, measurements or {})})
    write_atomically(Path(path), lambda file: file.write(data))


def find(path: str | Path) -> Path:
    """The checkpoint a path means: the file itself, or in a run folder the best one, else the last; or a Hub folder's.

    Raises:
        CheckpointError: If there is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in (BEST, LAST, "model.safetensors"):
            if (path / name).is_file():
                return path / name
        inner = sorted(str(p.parent.relative_to(path)) for p in path.glob(f"{RUNS}/*/{BEST}"))
        hint = f"; it has runs in {', '.join(inner)}: name one of them" if inner else ""
        raise CheckpointError(f"{path}: no {BEST} or {LAST} in this folder{hint}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder")
    return path


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint (`.safetensors`, or a run's `last.ckpt`) or a run folder, and rebuild its network.

    A file of `save_pretrained` is a checkpoint too if it names its classes and its preprocessing.

    Raises:
        CheckpointError: For a file that is absent, damaged or not written by this version of senet, and if its weights
            or classes do not fit its network. Nothing in the file is ever executed.
    """
    path = find(path)
    source = files.read(path)
    about = source.header
    if about is None:
        raise CheckpointError(f"{path}: has weights but no header of senet, so it is not a checkpoint; senet convert")
    if about.recipe is not None:
        try:
            recipe = from_dict(Recipe, {**about.recipe, "name": about.name, "model": to_dict(about.model)})
        except ConfigError as error:
            raise CheckpointError(f"{path}: its header cannot be read: {error}") from error
    elif about.preprocessing is None or not about.classes:
        raise CheckpointError(f"{path}: states no preprocessing or no classes; senet.from_pretrained reads it")
    else:
        recipe = untrained_recipe(about.name, about.model, about.preprocessing, about.classes)
    outputs = about.model.num_classes
    if outputs and len(about.classes) != outputs:
        raise CheckpointError(f"{path}: names {len(about.classes)} classes, but its network has {outputs} outputs")
    model = _rebuild(about.name, about.model, source.tensors, path)
    model.preprocessing = about.preprocessing
    return Checkpoint(model, recipe, about.classes, about.measurements)


def untrained_recipe(name: str, net: Net, preprocessing: Preprocessing | None, classes: tuple[str, ...]) -> Recipe:
    """A recipe for weights that were not trained here, so that they can be evaluated: only its data counts.

    Args:
        name: What the network is called.
        net: The network.
        preprocessing: How it expects its images; None: pixels from -1 to 1.
        classes: Names of its outputs.
    """
    halves = (0.5,) * net.in_channels
    images = "imagenet" if ilsvrc.named(classes) == ilsvrc.names() else "images"
    data = DataRecipe(name=images, image_size=net.image_size, mean=halves, std=halves)
    return Recipe(name=name, model=net, data=data.with_preprocessing(preprocessing) if preprocessing else data)


def _rebuild(name: str, net: Net, state: Mapping[str, Tensor], path: Path) -> Network:
    try:
        with torch.device("meta"):
            model = Network(net)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its network cannot be built: {error}") from error
    want = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    have = {name: tuple(t.shape) for name, t in state.items()}
    if want != have:
        wrong = sorted(n for n in want.keys() | have.keys() if want.get(n) != have.get(n))
        first = wrong[0]
        raise CheckpointError(
            f"{path}: not the weights of {name}: {len(wrong)} tensors differ, the first is {first!r} "
            f"(expected {want.get(first, 'none')}, found {have.get(first, 'none')})"
        )
    model.to_empty(device="cpu")
    model.load_state_dict(dict(state))
    return model.eval()


def read_ckpt(path: Path) -> dict[str, Any]:
    """Read the whole of a `last.ckpt`, to resume it; CheckpointError if it is damaged or could run code."""
    data = files.read_torch(path)
    if not isinstance(data, dict) or not isinstance(data.get(KEY), str) or not isinstance(data.get("state_dict"), dict):
        raise CheckpointError(f"{path}: not a checkpoint written by senet")
    return data


def kept_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a training module that are evaluated and kept: the moving average's if it has one."""
    return files.evaluated_weights(state)[1]
