"""Networks that are not ours: of timm, of torchvision, or made by a function in a user's file.

Their table is an `OtherNet`. `build` makes the module: an object of the library's own class, under the library's own
names, with the classifier, units and weights that are asked for.
"""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import CheckpointError, ConfigError, MissingExtraError
from senet.models.describe import Description, Row, describe
from senet.models.detector import DetectorNet
from senet.models.net import Net, Preprocessing
from senet.models.other import OtherNet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from senet.weights.load_report import LoadReport

PRETRAINED = "pretrained"
"""The word for the weights that the library itself released."""

CODE = "SENET_CODE"
"""Environment variable: the files whose functions may be called, as in PATH. Processes that we start share it."""


def allow_code(file: str | Path) -> None:
    """Allow networks to be made by the functions of this file. Whoever calls this trusts the file.

    Raises:
        ConfigError: If there is no such file.
    """
    path = Path(file).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"{file}: no such Python file")
    others = [p for p in os.environ.get(CODE, "").split(os.pathsep) if p and Path(p).name != path.name]
    os.environ[CODE] = os.pathsep.join([*others, str(path)])


def allow_named_code(model: str) -> None:
    """Allow the file of "FILE.py:FUNCTION": whoever types its name wants it to run."""
    if ".py:" in model:
        allow_code(model.partition(".py:")[0] + ".py")


def code_option(model: str) -> str:
    """What a command about a checkpoint of this network needs besides: " --code net.py", or "" if no file made it."""
    path = _allowed().get(model.partition(":")[0])
    if path is None:
        return ""
    here = Path.cwd()
    return f" --code {shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))}"


def _allowed() -> dict[str, Path]:
    """The files that may run, by their names."""
    return {Path(p).name: Path(p) for p in os.environ.get(CODE, "").split(os.pathsep) if p}


def build(
    net: OtherNet,
    *,
    seed: int = 0,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    own_classifier: bool = False,
    images: Tensor | None = None,
) -> tuple[nn.Module, LoadReport | None]:
    """Make a network that is not ours, on the CPU, in training mode. The global random state is not touched.

    Args:
        net: Its table.
        seed: For the weights that are drawn. Networks that differ in their inserted unit alone share all others.
        weights: `PRETRAINED`, or what `senet.weights.files.read` takes: weights of this very network under its own
            names, with or without inserted units. The classifier is drawn, whatever the weights have there.
        own_classifier: Keep the library's classifier, with its released weights and its number of classes.
        images: (N, C, H, W), prepared, over which the gates of units are averaged that `own_units="mean"` takes out.

    Returns:
        The library's module, with an attribute `preprocessing` that says what its weights expect (None if they are
        drawn), and what became of the weights.

    Raises:
        ConfigError: For an unknown network, or a field that this one does not have.
        CheckpointError: If the weights are not this network's or cannot be downloaded.
        MissingExtraError: If the library is not installed.
    """
    import torch

    from senet.insert import insert_
    from senet.outputs import reason
    from senet.weights.load_report import LoadReport

    is_released = weights == PRETRAINED
    # The libraries draw their weights from the global generator, on the default device in the default type.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), _default_dtype(torch.float32):
        torch.manual_seed(seed)
        try:
            model, preprocessing = _make(net, is_released, None if own_classifier else net.num_classes)
        except (OSError, RuntimeError) as error:
            if not is_released:
                raise
            raise CheckpointError(
                f"{net.source}: its weights cannot be loaded ({reason(error)}); a file with them works too"
            ) from error
        released = list(model.state_dict())
        keeps, size = net.own_units == "keep", net.image_size
        example = torch.zeros(2, net.in_channels, size, size)
        # The weights have the units that are taken out.
        report = None if keeps or is_released or weights is None else _load_(model, weights, preprocessing)
        if not keeps:
            averaged = images if net.own_units == "mean" and weights is not None else None
            take_out_units_(model, example, averaged)
        if net.se is not None:
            insert_(model, net.se, net.where, example=example, seed=seed)
    if is_released:
        head = classifier_name(model)
        notes = () if own_classifier else (f"the classifier {head!r} is drawn",)
        # Not what was drawn, inserted or taken out since.
        kept = [n for n in released if n in model.state_dict() and (own_classifier or not n.startswith(f"{head}."))]
        report = LoadReport(
            source=f"{net.source}, released weights",
            convention=net.library,
            loaded=tuple(kept),
            missing=tuple(n for n in model.state_dict() if n not in kept),
            notes=notes,
            preprocessing=preprocessing,
        )
    elif weights is not None and report is None:
        report = _load_(model, weights, preprocessing)
    # Drawn weights expect no particular preprocessing; the library's own network is used as the library says.
    expected = report.preprocessing if report else preprocessing if own_classifier else None
    model.preprocessing = expected  # type: ignore[assignment]
    return model, report


def _load_(model: nn.Module, weights: str | Path | Mapping[str, Tensor], own: Preprocessing | None) -> LoadReport:
    """Load weights, but for the classifier. `own`: what the library says of its images, where the weights do not."""
    from senet.weights.by_name import load_by_name_
    from senet.weights.load import as_source, covers

    head = classifier_name(model)
    report = load_by_name_(model, as_source(weights, covers(model)), drawn=[head], preprocessing=own)
    return replace(report, notes=(*report.notes, f"the classifier {head!r} is drawn"))


def classifier_name(model: nn.Module) -> str:
    """The name of the layer that computes the logits: what timm says it is, else the last linear layer.

    Raises:
        ConfigError: If there is none.
    """
    from torch import nn

    names = {module: name for name, module in model.named_modules()}
    get_classifier: Any = getattr(model, "get_classifier", None)
    own = get_classifier() if callable(get_classifier) else None
    if isinstance(own, nn.Module) and own in names:
        return names[own]
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    # SqueezeNet's is a convolution.
    layers = layers or [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not layers:
        raise ConfigError(f"model: a {type(model).__name__} has no layer that could be its classifier")
    return layers[-1]


def without_classifier_(model: nn.Module) -> nn.Module:
    """Replace a network's classifier by nothing, in place; return the network."""
    from torch import nn

    parent, _, child = classifier_name(model).rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def describe_network(net: Net, image_size: int | None = None) -> Description:
    """Count parameters and multiply-adds of any network; of one that is not ours, it is built and run once.

    Raises:
        ConfigError: As `describe` and `build`.
    """
    if isinstance(net, DetectorNet) and isinstance(net.trunk, OtherNet):
        return _describe_other_detector(net, image_size or net.image_size)
    return (
        _describe_other(net, image_size or net.image_size) if isinstance(net, OtherNet) else describe(net, image_size)
    )


@cache
def _describe_other_detector(net: DetectorNet, side: int) -> Description:
    from senet.blocks.cost import Shape

    sides = net.sides(side)
    source = net.trunk.source  # type: ignore[attr-defined]
    trunk, params, macs = _count_trunk(net, sides)
    plain_params, plain_macs = params, macs
    if net.se is not None:
        _, plain_params, plain_macs = _count_trunk(replace(net, se=None, freeze_units=True), sides)
    both = zip(trunk.channels, (4, 8, 16, 32), strict=True)
    maps = [Shape(channels, -(-sides[0] // stride), -(-sides[1] // stride)) for channels, stride in both]
    parts = net.head_parts(maps[-net.levels :])
    last = maps[-1]
    rows = [
        Row(
            part="trunk",
            layers=source,
            channels=last.channels,
            height=last.height,
            width=last.width,
            params=params,
            macs=macs,
            se_params=params - plain_params,
            se_macs=macs - plain_macs,
        ),
        *(Row.of(part, layers, shape, cost) for part, layers, shape, cost in parts),
    ]
    more_params, more_macs = (sum(getattr(row, n) for row in rows[1:]) for n in ("params", "macs"))
    return Description(
        image_size=sides,
        params=params + more_params,
        params_se_bias_true=params + more_params,
        params_se_bias_false=params + more_params,
        params_without_se=plain_params + more_params,
        macs=macs + more_macs,
        macs_without_se=plain_macs + more_macs,
        bn_statistics=_statistics(trunk),
        rows=tuple(rows),
    )


def _count_trunk(net: DetectorNet, sides: tuple[int, int]) -> tuple[Any, int, int]:
    """A detector's trunk that is not ours, its parameters, and its multiply-adds for an image."""
    from senet.detection.trunk import OtherFeatures

    network, _ = build(replace(net.whole_trunk, num_classes=1))  # type: ignore[arg-type, call-arg]
    trunk = OtherFeatures(without_classifier_(network), net.trunk.source, net.in_channels)  # type: ignore[attr-defined]
    return trunk, *_count(trunk, net.in_channels, *sides)


@cache
def _describe_other(net: OtherNet, size: int) -> Description:

    model, _ = build(net)
    params, macs = _count(model, net.in_channels, size, size)
    plain_params, plain_macs = params, macs
    if net.se is not None:
        plain_params, plain_macs = _count(build(replace(net, se=None))[0], net.in_channels, size, size)
    row = Row(
        part="network",
        layers=net.source,
        channels=net.num_classes,
        height=1,
        width=1,
        params=params,
        macs=macs,
        se_params=params - plain_params,
        se_macs=macs - plain_macs,
    )
    return Description(
        image_size=(size, size),
        params=params,
        params_se_bias_true=params,
        params_se_bias_false=params,
        params_without_se=plain_params,
        macs=macs,
        macs_without_se=plain_macs,
        bn_statistics=_statistics(model),
        rows=(row,),
    )


def _statistics(model: nn.Module) -> int:
    """Running means and variances of batch norms."""
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    return sum(2 * m.num_features for m in norms)


def _count(model: nn.Module, channels: int, height: int, width: int) -> tuple[int, int]:
    """Parameters, and multiply-adds of an image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    params = sum(p.numel() for p in model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.to("meta").eval()(torch.zeros(1, channels, height, width, device="meta"))
    return params, counter.get_total_flops() // 2


def outputs_of(model: nn.Module) -> int:
    """The number of classes of a network, by its classifier."""
    layer = model.get_submodule(classifier_name(model))
    return int(getattr(layer, "out_features", 0) or getattr(layer, "out_channels", 0))


def _make(net: OtherNet, is_released: bool, classes: int | None) -> tuple[nn.Module, Preprocessing | None]:
    """The module with this number of classes, or with its own, and how its released weights expect their images."""
    file, _, name = net.source.rpartition(":")
    if net.library:
        return (_timm if net.library == "timm" else _torchvision)(name, net, is_released, classes)
    if is_released:
        raise ConfigError(f"weights: {net.source} has no released ones; expected: a file")
    return _of_file(file, name, net, classes), None


def _timm(name: str, net: OtherNet, is_released: bool, classes: int | None) -> tuple[nn.Module, Preprocessing]:
    try:
        import timm
        from timm.data.config import resolve_data_config
    except ImportError as error:
        raise ConfigError(f"{net.source}: timm is not installed: pip install timm") from error
    if not timm.is_model(name):
        raise _unknown_name("timm", name, timm.list_models())
    # timm's own number of classes is what it takes for None.
    model = timm.create_model(name, pretrained=is_released, num_classes=classes, in_chans=net.in_channels)
    config = resolve_data_config({}, model=model)
    size = config["input_size"][-1]
    return model, _preprocessing(
        size, int(size / config["crop_pct"]), config["mean"], config["std"], config["interpolation"]
    )


def _torchvision(name: str, net: OtherNet, is_released: bool, classes: int | None) -> tuple[nn.Module, Preprocessing]:
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtraError("networks of torchvision", "train") from error
    if name not in models.list_models(models):
        raise _unknown_name("torchvision", name, models.list_models(models))
    if net.in_channels != 3:
        raise ConfigError(f"in_channels: {net.in_channels}, and {net.source} takes RGB; expected: 3")
    weights = models.get_model_weights(name)["DEFAULT"]
    steps = weights.transforms()
    if is_released or classes is None:
        model = models.get_model(name, weights=weights if is_released else None)
        _reset_classifier_(model, classes)
    else:
        model = models.get_model(name, num_classes=classes)
    return model, _preprocessing(
        steps.crop_size[0], steps.resize_size[0], steps.mean, steps.std, steps.interpolation.value
    )


def _of_file(file: str, name: str, net: OtherNet, classes: int | None) -> nn.Module:
    """Call the function of a user's file; CheckpointError if the user has not named the file."""
    from torch import nn

    path = _allowed().get(file)
    if path is None:
        raise CheckpointError(
            f"{net.source}: this network is made by a file of yours, which runs only if you name it: --code {file}, "
            "in Python senet.foreign_models.allow_code"
        )
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function = vars(module).get(name)
        if function is None:
            own = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
            raise ConfigError(f"{path}: has no function {name!r}; it has: {', '.join(own) or 'none'}")
        taken = inspect.signature(function).parameters
        wanted = {"num_classes": classes, "in_channels": net.in_channels}
        model = function(**{field: v for field, v in wanted.items() if field in taken and v is not None})
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: {name} makes no network: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{path}: {name} returns a {type(model).__name__}; expected: a torch.nn.Module")
    if "num_classes" not in taken:
        _reset_classifier_(model, classes)
    return model


def _reset_classifier_(model: nn.Module, classes: int | None) -> None:
    """Give a network another last linear layer; None keeps it."""
    from torch import nn

    if classes is None:
        return
    name = classifier_name(model)
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise ConfigError(f"model: its last layer {name!r} is a {type(layer).__name__}; expected: nn.Linear")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Linear(layer.in_features, classes, layer.bias is not None))


def take_out_units_(model: nn.Module, example: Tensor, images: Tensor | None = None) -> list[str]:
    """Replace a network's attention units by constant gates, in place; return their names.

    Args:
        model: Any network; its units are found by their structure, as `senet.doctor` finds them.
        example: (N, C, H, W), with which it is run once.
        images: Over which each channel's gates are averaged; None: gates of one.

    Raises:
        ConfigError: If there are none, or one is not a module that multiplies its own input.
    """
    import torch

    from senet.diagnosis.discovery import Candidate, find, per_channel, watch_products
    from senet.tracing import evaluating
    from senet.units.constant import ConstantGate

    means: dict[Candidate, Tensor] = {}

    def record(unit: Candidate, _u: Tensor, s: Tensor) -> None:
        means[unit] = per_channel(s).mean((0, 2))

    with torch.no_grad(), evaluating(model), watch_products(model, find(model), record):
        model(example if images is None else images)
    if not means:
        raise ConfigError("own_units: the network has no attention units to take out")
    for unit in means:
        if len(unit.sites) > 1:
            raise ConfigError(f"own_units: {unit.name} is not a module of its own, so it cannot be taken out")
    for unit, mean in means.items():
        gate = ConstantGate(mean if images is not None else torch.ones_like(mean))
        parent, _, child = unit.name.rpartition(".")
        setattr(model.get_submodule(parent), child, gate)
    return [unit.name for unit in means]


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
    nearest = f"; the nearest of {len(names):,}: {', '.join(near)}" if near else f" among its {len(names):,} networks"
    return ConfigError(f"model: {library} has no {name!r}{nearest}")
