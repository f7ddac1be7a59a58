"""Start a training from weights: the network that they belong to, and how they expect their images."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from torch import Tensor, nn

from senet.create import create_model
from senet.data.images import BUILT_IN
from senet.errors import CheckpointError, ConfigError
from senet.foreign_models import PRETRAINED, build
from senet.kernels.fuse import fuse_
from senet.models.detector import DetectorNet
from senet.models.net import Preprocessing
from senet.models.other import OtherNet
from senet.recipes.recipe import DataRecipe, Recipe
from senet.weights.identify import identify, name_of
from senet.weights.load import as_source, load_weights_
from senet.weights.load_report import LoadReport


def initial_network(recipe: Recipe, images: Tensor | None = None) -> tuple[nn.Module, LoadReport | None]:
    """The network at the start of a recipe's training, and what became of its weights.

    Its table is `recipe.model`; call `with_weights` first, which changes that to what the weights belong to. The
    classifier is drawn with the recipe's seed.

    Args:
        recipe: What is trained.
        images: (N, C, H, W), prepared, over which gates are averaged (`OtherNet.own_units`).

    Raises:
        CheckpointError: The weights are not this network's, or cannot be read.
        ConfigError: The network has no released weights.
    """
    t = recipe.train
    if isinstance(recipe.model, DetectorNet):
        return initial_detector(recipe, recipe.model)
    if not t.weights:
        return create_model(recipe.model, seed=t.seed, fused=t.fused), None
    if isinstance(recipe.model, OtherNet):
        try:
            model, report = build(recipe.model, seed=t.seed, weights=t.weights, images=images)
        except CheckpointError as error:
            raise _of_another(recipe, error) from error
        if t.fused:
            fuse_(model)
        return model, report
    if t.weights == PRETRAINED:
        raise ConfigError(
            f"train.weights: 'pretrained' means weights that timm or torchvision released, and {recipe.name} is ours; "
            "name them, such as timm:seresnet50.ra2_in1k, or a file"
        )
    network = create_model(recipe.model, seed=t.seed, fused=t.fused)
    try:
        report = load_weights_(network, t.weights, allow=("classifier",), quiet=True)
    except CheckpointError as error:
        raise _of_another(recipe, error) from error
    network.reset_classifier(recipe.model.num_classes, seed=t.seed)
    return network, replace(report, notes=(*report.notes, "the classifier starts from random weights"))


def _of_another(recipe: Recipe, error: CheckpointError) -> CheckpointError:
    """The error for weights that did not load: whose they are, where that is known, else the error itself."""
    weights, wanted = recipe.train.weights, recipe.model
    if weights == PRETRAINED:
        return error
    try:
        found = as_source(weights)
        held = found.header.model if found.header else None
        name = held.source if isinstance(held, OtherNet) else name_of(held) if held else identify(found)[0]
    except CheckpointError:
        return error
    if name == (wanted.source if isinstance(wanted, OtherNet) else name_of(wanted)):
        return error
    own = ", under its own names" if isinstance(wanted, OtherNet) else ""
    # A network of ours has its units in its table, so these are not its weights.
    adds_units = recipe.name.startswith(f"{name}+")
    units = "; timm:NAME+se and torchvision:NAME+se add units to trained weights" if adds_units else ""
    return CheckpointError(
        f"train.weights: {weights} has the weights of {name}, and the network is {recipe.name}; expected: weights of "
        f"this network{own}, or {name} in its place{units}"
    )


def with_weights(recipe: Recipe, named: Collection[str] = ()) -> Recipe:
    """The recipe with the network that its weights belong to, and their preparation of images.

    A recipe without weights is returned as it is. Reads the weights.

    Args:
        recipe: What is to be trained.
        named: Fields that the user has set, "data.mean": they stay. So does the size of images that are kept in memory.

    Raises:
        CheckpointError, ConfigError: As `initial_network`.
    """
    if not recipe.train.weights:
        return recipe
    network, report = initial_network(recipe)
    assert report is not None
    if not isinstance(recipe.model, OtherNet):
        recipe = replace(recipe, model=network.net)  # type: ignore[arg-type]
    return replace(recipe, data=_prepared(recipe.data, report.preprocessing, named))


def initial_detector(recipe: Recipe, net: DetectorNet) -> tuple[nn.Module, LoadReport | None]:
    """The detector at the start of a recipe's training, and what became of its weights.

    They are those of its trunk, of a classifier; or of a whole detector, ours or torchvision's. What is not in them is
    drawn, and so are the layers that know classes where these are others in number.

    Raises:
        CheckpointError: The weights are not this network's.
    """
    t = recipe.train
    if not t.weights:
        return create_model(net, seed=t.seed, fused=t.fused), None
    if isinstance(net.trunk, OtherNet):
        model = create_model(net, seed=t.seed, fused=t.fused)
        report = _load_other_trunk(model, net, t.weights)
        return model, report
    source = torchvision_detector(t.weights) if t.weights.startswith("torchvision:") else None
    if source is None and t.weights != PRETRAINED:
        # Not by the conventions of classifiers, which take the trunk out of it.
        found = as_source(t.weights, is_detector)
        if is_detector(found.tensors):
            source = dict(found.tensors)
    if t.weights == PRETRAINED:
        raise ConfigError(
            f"train.weights: 'pretrained' means weights that timm or torchvision released, and the trunk of "
            f"{recipe.name} is ours; name them, such as timm:seresnet50.ra2_in1k, or a file"
        )
    whole = create_model(replace(net.whole_trunk, num_classes=1000), seed=t.seed)
    if source is None:
        report = load_weights_(whole, t.weights, allow=("classifier",), quiet=True)
    else:
        report = load_weights_(whole, _trunk_of(source), allow=("classifier",), quiet=True)
    net = replace(net, trunk=replace(whole.net, se=None, num_classes=net.trunk.num_classes), se=whole.net.se)
    model = create_model(net, seed=t.seed, fused=t.fused)
    trunk: nn.Module = model.backbone.trunk  # type: ignore[assignment, union-attr]
    trunk.load_state_dict({n: whole.state_dict()[n] for n in trunk.state_dict()})
    notes = [*report.notes, "pyramid and heads are drawn"]
    if source is not None:
        own = {n: v for n, v in model.state_dict().items() if not n.startswith("backbone.trunk.")}
        same = {n: v for n, v in source.items() if n in own and v.shape == own[n].shape}
        others = sorted(own.keys() - same.keys())
        model.load_state_dict(same, strict=False)
        notes[-1] = f"drawn, since other classes are wanted: {', '.join(others)}" if others else "all of the detector"
    report = replace(report, notes=tuple(notes))
    model.preprocessing = report.preprocessing  # type: ignore[assignment]
    return model, report


def is_detector(names: Collection[str]) -> bool:
    """Whether these are the names of a detector's weights, ours or torchvision's."""
    return any(name.startswith(("rpn.", "roi_heads.", "head.classification_head.")) for name in names)


def _load_other_trunk(model: nn.Module, net: DetectorNet, weights: str) -> LoadReport:
    """Load the trunk of timm or torchvision, with its released weights or those of a file."""
    network, report = build(replace(net.whole_trunk, num_classes=1000), weights=weights)  # type: ignore[arg-type]
    assert report is not None
    trunk: nn.Module = model.backbone.trunk.network  # type: ignore[assignment, union-attr]
    state = network.state_dict()
    trunk.load_state_dict({n: state[n] for n in trunk.state_dict()})
    model.preprocessing = report.preprocessing  # type: ignore[assignment]
    return replace(report, notes=(*report.notes, "pyramid and heads are drawn"))


def torchvision_detector(name: str) -> dict[str, Tensor] | None:
    """The weights of COCO that torchvision released for a detector of its own; None for another network's name."""
    from torchvision.models import detection, get_model_weights

    word = name.partition(":")[2]
    if not hasattr(detection, word):
        return None
    try:
        state = get_model_weights(word)["DEFAULT"].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise CheckpointError(f"{name}: its weights cannot be loaded ({error}); a file with them works too") from error
    return dict(state)


def _trunk_of(detector: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's weights of a detector, ours or torchvision's; gives the rest torchvision's names of now, in place."""
    for old in list(detector):
        new = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.(weight|bias)$", r"\1.\2.0.\3", old)
        new = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", new)
        detector[new] = detector.pop(old)
    for prefix in ("backbone.body.", "backbone.trunk."):
        found = {n.removeprefix(prefix): v for n, v in detector.items() if n.startswith(prefix)}
        if found:
            return found
    raise CheckpointError("train.weights: a detector without a trunk; expected: backbone.body.* as in torchvision")


def _prepared(data: DataRecipe, preprocessing: Preprocessing | None, named: Collection[str]) -> DataRecipe:
    if preprocessing is None:
        return data
    fields = ["mean", "std"]
    # Images with objects have sizes of their own.
    if data.name not in BUILT_IN and data.labels == "classes":
        fields += ["image_size", "resize", "interpolation", "keep_aspect"]
        if "data.image_size" in named:
            # In proportion to the size that the weights were trained with.
            resize = round(preprocessing.resize * data.image_size / preprocessing.image_size)
            preprocessing = replace(preprocessing, resize=resize, image_size=data.image_size)
    return replace(data, **{f: getattr(preprocessing, f) for f in fields if f"data.{f}" not in named})
