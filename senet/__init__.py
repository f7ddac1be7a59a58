"""Squeeze-and-Excitation networks (Hu, Shen, Albanie, Sun, Wu; arXiv:1709.01507) for PyTorch.

    import senet
    model = senet.create_model("se_resnet50", num_classes=10)

Names load when they are first used, so `import senet` costs nothing and a command line can answer before torch is
there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from senet.config import UnitConfig as UnitConfig
    from senet.config import from_dict as from_dict
    from senet.config import override as override
    from senet.config import to_dict as to_dict
    from senet.create import create_model as create_model
    from senet.deploy.onnx import export_onnx as export_onnx
    from senet.deploy.optimize import optimize as optimize
    from senet.diagnosis.doctor import doctor as doctor
    from senet.errors import ConfigError as ConfigError
    from senet.errors import SenetError as SenetError
    from senet.insert import insert_ as insert_
    from senet.insert import remove_ as remove_
    from senet.models.describe import describe as describe
    from senet.models.net import Net as Net
    from senet.models.network import FeatureExtractor as FeatureExtractor
    from senet.models.network import Network as Network
    from senet.models.registry import get_net as get_net
    from senet.models.registry import list_models as list_models
    from senet.recipes.recipe import Recipe as Recipe
    from senet.runs.checkpoint import load as load
    from senet.runs.checkpoint import save as save
    from senet.units.config import ECAConfig as ECAConfig
    from senet.units.config import NoSqueezeConfig as NoSqueezeConfig
    from senet.units.config import SEConfig as SEConfig
    from senet.units.config import SharedConfig as SharedConfig
    from senet.units.se import SqueezeExcite as SqueezeExcite
    from senet.units.unit import Unit as Unit
    from senet.weights.hub import from_pretrained as from_pretrained
    from senet.weights.hub import save_pretrained as save_pretrained
    from senet.weights.load import load_weights_ as load_weights_

__version__ = "0.2.0"

_HOMES = {
    "senet.runs.checkpoint": ("load", "save"),
    "senet.config": ("UnitConfig", "from_dict", "override", "to_dict"),
    "senet.create": ("create_model",),
    "senet.deploy.onnx": ("export_onnx",),
    "senet.deploy.optimize": ("optimize",),
    "senet.errors": ("ConfigError", "SenetError"),
    "senet.diagnosis.doctor": ("doctor",),
    "senet.insert": ("insert_", "remove_"),
    "senet.models.describe": ("describe",),
    "senet.models.net": ("Net",),
    "senet.models.network": ("Network", "FeatureExtractor"),
    "senet.models.registry": ("get_net", "list_models"),
    "senet.recipes.recipe": ("Recipe",),
    "senet.units.config": ("ECAConfig", "NoSqueezeConfig", "SEConfig", "SharedConfig"),
    "senet.units.se": ("SqueezeExcite",),
    "senet.units.unit": ("Unit",),
    "senet.weights.hub": ("from_pretrained", "save_pretrained"),
    "senet.weights.load": ("load_weights_",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'senet' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
