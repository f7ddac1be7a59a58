"""Networks of timm and torchvision by name: the module, how its images are prepared, and its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from senet.errors import CheckpointError, ConfigError, MissingExtraError, unknown
from senet.models.net import Preprocessing

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("timm", "torchvision")


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """Another library's network.

    Attributes:
        name: "timm:resnet50".
        pretrained: Whether the weights are the library's released ones; otherwise they are drawn with seed 0.
        model: The module.
        preprocessing: How the network expects its images.
        classes: A name for each output, in order: the synsets of ILSVRC where there are 1,000 outputs.
    """

    name: str
    pretrained: bool
    model: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]


def is_foreign(source: str, pretrained: bool = False) -> bool:
    """Whether this is "timm:NAME" or "torchvision:NAME", and not the path of a checkpoint.

    Raises:
        ConfigError: For another library, and for `pretrained` with a path, where it has no effect.

    >>> is_foreign("timm:resnet50"), is_foreign("runs/se_resnet20")
    (True, False)
    """
    library, colon, _ = source.partition(":")
    if not colon or Path(source).expanduser().exists():
        if pretrained:
            raise ConfigError("--pretrained: has no effect on a checkpoint; use it with timm:NAME or torchvision:NAME")
        return False
    if library not in LIBRARIES:
        raise unknown("CHECKPOINT", library, LIBRARIES, kind="libraries")
    return True


def load_foreign(source: str, *, pretrained: bool = False) -> ForeignModel:
    """Build a network of timm or torchvision. The global random state is not touched.

    Args:
        source: "timm:NAME" or "torchvision:NAME".
        pretrained: Download the library's released weights.

    Raises:
        ConfigError: For an unknown library or network.
        CheckpointError: If the weights cannot be downloaded or read.
        MissingExtraError: If the library is not installed.
    """
    import torch

    from senet.weights.ilsvrc import synsets

    library, _, name = source.partition(":")
    # The libraries draw their weights from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model, preprocessing = (_timm if library == "timm" else _torchvision)(name, pretrained)
        except (OSError, RuntimeError) as error:
            if not pretrained:
                raise
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{source}: its weights cannot be loaded ({reason})") from error
    outputs = next((m.out_features for m in reversed(list(model.modules())) if isinstance(m, torch.nn.Linear)), 0)
    classes = synsets() if outputs == 1000 else tuple(f"class {k}" for k in range(outputs))
    return ForeignModel(name=source, pretrained=pretrained, model=model, preprocessing=preprocessing, classes=classes)


def _timm(name: str, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    try:
        import timm
        from timm.data.config import resolve_data_config
    except ImportError as error:
        raise ConfigError("CHECKPOINT: timm is not installed: pip install timm") from error
    if not timm.is_model(name):
        raise _unknown_name("timm", name, timm.list_models())
    model = timm.create_model(name, pretrained=pretrained)
    config = resolve_data_config({}, model=model)
    size = config["input_size"][-1]
    return model, _preprocessing(
        size, int(size / config["crop_pct"]), config["mean"], config["std"], config["interpolation"]
    )


def _torchvision(name: str, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtraError("networks of torchvision", "train") from error
    if name not in models.list_models(models):
        raise _unknown_name("torchvision", name, models.list_models(models))
    weights = models.get_model_weights(name)["DEFAULT"]
    steps = weights.transforms()
    model = models.get_model(name, weights=weights if pretrained else None)
    return model, _preprocessing(
        steps.crop_size[0], steps.resize_size[0], steps.mean, steps.std, steps.interpolation.value
    )


def _preprocessing(
    size: int, resize: int, mean: Sequence[float], std: Sequence[float], interpolation: str
) -> Preprocessing:
    return Preprocessing(
        mean=tuple(mean),
        std=tuple(std),
        image_size=size,
        resize=max(size, resize),
        # Both libraries also have filters that we do not; bicubic is the nearest to them.
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
    )


def _unknown_name(library: str, name: str, names: Sequence[str]) -> ConfigError:
    near = get_close_matches(name, names, n=5, cutoff=0.3)
    return ConfigError(f"CHECKPOINT: {library} has no {name!r}; the nearest of {len(names):,}: {', '.join(near)}")
