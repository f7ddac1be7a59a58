"""Create a network by name, with drawn or loaded weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from senet.config import check_concrete
from senet.errors import ConfigError, unknown
from senet.models.detector import DetectorNet
from senet.models.net import Net, with_fields
from senet.models.other import OtherNet
from senet.models.registry import get_net

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Unpack

    from senet.models.network import FeatureExtractor, Network
    from senet.models.registry import NetFields


@overload
def create_model(
    model: str | Net,
    *,
    weights: str | Path | Mapping[str, Tensor] | None = ...,
    allow: Sequence[str] = ...,
    seed: int = ...,
    device: str | torch.device = ...,
    fused: bool = ...,
    features_only: Literal[False] = ...,
    **fields: Unpack[NetFields],
) -> Network: ...
@overload
def create_model(
    model: str | Net,
    *,
    weights: str | Path | Mapping[str, Tensor] | None = ...,
    allow: Sequence[str] = ...,
    seed: int = ...,
    device: str | torch.device = ...,
    fused: bool = ...,
    features_only: Literal[True],
    out_stages: tuple[int, ...] | None = ...,
    **fields: Unpack[NetFields],
) -> FeatureExtractor: ...
def create_model(
    model: str | Net,
    *,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    allow: Sequence[str] = (),
    seed: int = 0,
    device: str | torch.device = "cpu",
    fused: bool = False,
    features_only: bool = False,
    out_stages: tuple[int, ...] | None = None,
    **fields: object,
) -> Network | FeatureExtractor:
    """Create a network in training mode, with freshly drawn weights or those of a file.

    Args:
        model: A name of `list_models()`, an alias such as "seresnet50", or a `Net`; a detector over any of them,
            "fasterrcnn_se_resnet50_fpn", which returns torchvision's class; or a network that is not ours,
            "timm:NAME", "torchvision:NAME", which returns the library's own module. A suffix puts a unit into it:
            "timm:resnet18+se", "resnet50+eca:kernel=5".
        weights: What `load_weights_` reads: a file or folder, "timm:seresnet50.a1_in1k", "hf:owner/name", or tensors
            by name. The table changes to the network that they were trained as, and a report of the loading is
            printed. With `num_classes` the file's classifier may have other classes; it is then skipped.
        allow: Names of further parts that may stay as drawn if the weights lack them or have other shapes:
            "features.stem.conv" for other input channels.
        seed: Seed of the drawn weights. They are drawn by name, so twins of one seed share all common weights, and the
            global random state does not change.
        device: Device of the weights; "meta" allocates none.
        fused: Run batch norm, unit, sum and ReLU of a block as one operation (`senet.kernels.fuse_`).
        features_only: Return a `FeatureExtractor`, which gives feature maps instead of logits. It has no head, so
            `num_classes` and `dropout` cannot be set.
        out_stages: Stages whose feature maps it returns; None for all.
        fields: Fields of the table to change, for example `num_classes=10, in_channels=1,
            se=SEConfig(reduction=8), se=None, shortcut="projection", stride_on="3x3", pool="pad", dropout=0.2`.

    Raises:
        ConfigError: For an unknown name, field or value, or one that has no effect.
        CheckpointError: If the weights are not this network's.

    >>> model = create_model("se_resnet20", num_classes=100)
    >>> sum(p.numel() for p in model.parameters())
    277945
    """
    import torch

    from senet.initialization import draw_
    from senet.kernels.fuse import fuse_, fuse_like_
    from senet.models.network import FeatureExtractor, Network

    check_concrete("model", model)
    if not isinstance(fused, bool):
        raise unknown("fused", fused, (True, False))
    net = with_fields(model if isinstance(model, Net) else get_net(model), fields)
    if out_stages is not None and not features_only:
        raise ConfigError("out_stages: needs features_only=True")
    for name in ("num_classes", "dropout"):
        if features_only and name in fields:
            raise ConfigError(f"{name}: has no effect with features_only=True, which has no classifier")
    if allow and weights is None:
        raise ConfigError(f"allow: {allow!r} has no effect without weights")
    if isinstance(net, DetectorNet):
        without = {"allow": allow, "features_only": features_only, "weights": weights is not None}
        return _create_detector(net, seed, device, fused, without)
    if isinstance(net, OtherNet):
        return _create_other(net, weights, seed, device, fused, {"allow": allow, "features_only": features_only})
    is_meta = torch.device(device).type == "meta"
    if is_meta and weights is not None:
        raise ConfigError("weights: have no effect with device='meta', which holds none")
    stages = net.stage_numbers if out_stages is None else out_stages
    # On the meta device, so that torch draws no weights that ours would replace.
    with torch.device("meta"):
        module = FeatureExtractor(net, stages) if features_only else Network(net)
    # torch's default type may be another one.
    module.float()
    if fused:
        fuse_(module)
    if is_meta:
        return module
    if weights is None or isinstance(module, Network):
        module.to_empty(device=device)
        draw_(module, seed)
    if weights is None:
        return module

    from senet.weights.load import load_weights_

    if isinstance(module, Network):
        allow = (allow,) if isinstance(allow, str) else tuple(allow)
        load_weights_(module, weights, allow=(*allow, *["classifier"] * ("num_classes" in fields)))
        return module
    whole = create_model(net, weights=weights, allow=allow, seed=seed, device=device, fused=fused, num_classes=0)
    with torch.device("meta"):
        module = FeatureExtractor(whole.net, stages)
    fuse_like_(module, whole)
    wanted = module.state_dict().keys()
    module.preprocessing = whole.preprocessing
    module.load_state_dict({name: t for name, t in whole.state_dict().items() if name in wanted}, assign=True)
    return module


def _create_other(
    net: OtherNet,
    weights: str | Path | Mapping[str, Tensor] | None,
    seed: int,
    device: str | torch.device,
    fused: bool,
    without_effect: Mapping[str, object],
) -> Network:
    """Build a network that is not ours, of its library's class: any `nn.Module`, although the type says `Network`."""
    from senet.foreign_models import build
    from senet.kernels.fuse import fuse_

    for name, value in without_effect.items():
        if value:
            raise ConfigError(f"{name}: has no effect on {net.source}, a network that is not ours")
    module, report = build(net, seed=seed, weights=weights)
    if report is not None:
        print(report)
    if fused:
        fuse_(module)
    return module.to(device)  # type: ignore[return-value]


def _create_detector(
    net: DetectorNet, seed: int, device: str | torch.device, fused: bool, without_effect: Mapping[str, object]
) -> Network:
    """Build a detector, of torchvision's class, although the type says `Network`."""

    from senet.detection.build import build_detector
    from senet.detection.trunk import OtherFeatures
    from senet.foreign_models import build, without_classifier_
    from senet.kernels.fuse import fuse_

    for name, value in without_effect.items():
        if value:
            raise ConfigError(f"{name}: has no effect on a detector; its weights: senet.training.weights")
    if isinstance(net.trunk, OtherNet):
        network, _ = build(replace(net.whole_trunk, num_classes=1), seed=seed)  # type: ignore[arg-type]
        trunk: torch.nn.Module = OtherFeatures(without_classifier_(network), net.trunk.source, net.in_channels)
    else:
        trunk = create_model(net.whole_trunk, seed=seed, features_only=True)
    if fused:
        fuse_(trunk)
    return build_detector(net, trunk, seed).to(device)  # type: ignore[return-value]
