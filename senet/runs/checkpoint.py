"""Checkpoints: a network, how it was trained and what was measured, in one file that is read without running code.

The file is safetensors: the weights under the network's own names, and a `Header` as JSON. A run's `last.ckpt`, which
also holds the optimiser, is read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from senet.config import from_dict, to_dict
from senet.create import create_model
from senet.errors import CheckpointError, ConfigError
from senet.files import write_atomically
from senet.foreign_models import PRETRAINED, build, outputs_of
from senet.models.detector import DetectorNet
from senet.models.net import Net, Preprocessing
from senet.models.network import Network
from senet.models.other import OtherNet, is_other
from senet.models.registry import get_net
from senet.recipes.recipe import DataRecipe, Recipe, TrainedOn
from senet.runs.folder import PREVIOUS
from senet.weights import archive, files, ilsvrc
from senet.weights.header import KEY, Header

DIGEST = "digest"
"""Where a `last.ckpt` has the digest of all else in it."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        model: The network with its weights, in evaluation mode; for an `OtherNet` the library's own module.
        recipe: How it was trained.
        classes: Names of the outputs, in order.
        measurements: What was measured when it was written, such as `{"top1_error": 1.9, "epoch": 12}`.
        trained_on: The images that it was trained on; None if it was not trained here.
    """

    model: nn.Module
    recipe: Recipe
    classes: tuple[str, ...]
    measurements: Mapping[str, Any] = field(default_factory=dict)
    trained_on: TrainedOn | None = None


def header(recipe: Recipe, classes: tuple[str, ...], measurements: Mapping[str, Any], images: str = "") -> str:
    """The text that a checkpoint holds beside its tensors."""
    sections = to_dict(recipe)
    return Header(
        name=sections.pop("name"),
        model=from_dict(Net, sections.pop("model")),
        preprocessing=recipe.data.preprocessing,
        classes=classes,
        measurements=measurements,
        recipe=sections,
        images=images,
    ).dumps()


def save(
    path: str | Path,
    weights: nn.Module | Mapping[str, Tensor],
    *,
    recipe: Recipe,
    classes: tuple[str, ...],
    measurements: Mapping[str, Any] | None = None,
    images: str = "",
) -> None:
    """Write a checkpoint. An existing file stays as it is until the new one is complete.

    Args:
        path: The file, `.safetensors`.
        weights: The network, or its state dict.
        recipe: How it was trained.
        classes: Names of the outputs, in order.
        measurements: What was measured.
        images: `Data.digest` of what it was trained on; "" if that was no folder.

    Raises:
        RunError: If the file cannot be written.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    data = to_bytes(tensors, metadata={KEY: header(recipe, classes, measurements or {}, images)})
    write_atomically(Path(path), lambda file: file.write(data))


def find(path: str | Path) -> Path:
    """The checkpoint at a path: the file itself, or the one in a folder (`files.find`; a run's are those that it kept).

    Raises:
        CheckpointError: If there is none.
    """
    path = Path(path)
    if path.is_dir():
        return files.find(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder")
    return path


def load(path: str | Path, classes: tuple[str, ...] = (), *, pretrained: bool = False) -> Checkpoint:
    """Read a checkpoint (`.safetensors`, or a run's `last.ckpt`) or a run folder, and rebuild its network.

    A file of `save_pretrained` is a checkpoint too if it names its classes and its preprocessing.

    Args:
        path: The file or folder; or a network that is not ours, "timm:resnet18".
        classes: Names of the outputs, instead of those in the file; () for those.
        pretrained: Take the library's released weights for a network that is not ours; else they are drawn, seed 0.

    Raises:
        ConfigError: `pretrained` beside a path, and for an unknown network.
        CheckpointError: For a file that is absent, damaged or not written by this version of senet, and if its weights
            or classes do not fit its network. Nothing in the file is ever executed.
    """
    if is_other(str(path)) and not Path(path).exists():
        other = _load_other(str(path), pretrained)
        _check_names(classes, len(other.classes), str(path))
        return replace(other, classes=classes or other.classes)
    if pretrained:
        raise ConfigError("--pretrained: has no effect on a checkpoint; use it with timm:NAME or torchvision:NAME")
    path = find(path)
    source = files.read(path)
    about = source.header
    if about is None:
        raise CheckpointError(f"{path}: has weights but no header of senet, so it is not a checkpoint; senet convert")
    _check_names(classes, about.model.num_classes, str(path))
    about = replace(about, classes=classes or about.classes)
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
    model.preprocessing = about.preprocessing  # type: ignore[assignment]
    trained_on = TrainedOn(recipe.data.name, about.images) if about.images or "epoch" in about.measurements else None
    return Checkpoint(model, recipe, about.classes, about.measurements, trained_on)


def _check_names(classes: tuple[str, ...], outputs: int, path: str) -> None:
    if classes and len(classes) != outputs:
        raise ConfigError(f"--classes: {len(classes)} names for the {outputs} outputs of {path}")


def _load_other(word: str, pretrained: bool) -> Checkpoint:
    net = get_net(word)
    assert isinstance(net, OtherNet)
    model, _ = build(net, weights=PRETRAINED if pretrained else None, own_classifier=True)
    outputs = outputs_of(model)
    classes = ilsvrc.synsets() if outputs == 1000 else tuple(f"class {k}" for k in range(outputs))
    preprocessing: Preprocessing | None = model.preprocessing  # type: ignore[assignment]
    net = replace(net, num_classes=outputs, image_size=preprocessing.image_size if preprocessing else net.image_size)
    return Checkpoint(model.eval(), untrained_recipe(word, net, preprocessing, classes), classes)


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


def _rebuild(name: str, net: Net, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    try:
        if isinstance(net, DetectorNet):
            model: nn.Module = create_model(net)
        elif isinstance(net, OtherNet):
            model, _ = build(net)
        else:
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
    if isinstance(model, Network):
        model.to_empty(device="cpu")
    model.load_state_dict(dict(state))
    return model.eval()


def write_ckpt(path: Path, state: Mapping[str, Any]) -> None:
    """Write the whole of a `last.ckpt` with a digest of its content; the one before stays as `previous.ckpt`.

    Raises:
        RunError: It cannot be written; the one before is intact.
    """
    sealed = {**state, DIGEST: digest_of(state)}
    write_atomically(path, lambda file: torch.save(sealed, file), keep_as=path.with_name(PREVIOUS))


def read_ckpt(path: Path) -> dict[str, Any]:
    """Read the whole of a `last.ckpt`, to resume it; CheckpointError if it is damaged or could run code."""
    data, _ = archive.open_tensors(path)
    if not isinstance(data, dict) or not isinstance(data.get(KEY), str) or not isinstance(data.get("state_dict"), dict):
        raise CheckpointError(f"{path}: not a checkpoint written by senet")
    if DIGEST not in data:
        raise CheckpointError(f"{path}: written by an earlier senet, whose unfinished runs cannot be resumed")
    if data.pop(DIGEST) != digest_of(data):
        raise CheckpointError(f"{path}: is damaged: its content has another digest than when it was written")
    return data


def digest_of(value: Any) -> str:
    """A digest of tensors, numbers and text in dicts and lists.

    >>> digest_of({"a": [1, torch.zeros(2)]}) == digest_of({"a": [1, torch.zeros(3)]})
    False
    """
    digest = blake2b(digest_size=16)

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            digest.update(b"{")
            for key, item in value.items():
                add(key)
                add(item)
        elif isinstance(value, (list, tuple)):
            digest.update(b"[")
            for item in value:
                add(item)
        else:
            digest.update(f"{value!r};".encode())

    add(value)
    return digest.hexdigest()


def kept_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a training module that are evaluated and kept: the moving average's if it has one."""
    return files.evaluated_weights(state)[1]
