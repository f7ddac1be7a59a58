"""The modules built from a `Net` table (Table 1 of arXiv:1709.01507v4): `Network` and `FeatureExtractor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from senet.errors import ConfigError, unknown
from senet.initialization import check_not_inference, draw_
from senet.models.net import Net, Preprocessing, StageOutput


class FeatureInfo(list[dict[str, Any]]):
    """The feature maps of a network, with timm's keys and methods.

    Each item has `module` (the stage's name), `num_chs` (channels) and `reduction` (stride to the image).
    """

    @classmethod
    def of(cls, outputs: tuple[StageOutput, ...]) -> FeatureInfo:
        """Describe the feature maps at the ends of stages."""
        return cls(
            {"module": f"features.stage{s.stage}", "num_chs": s.channels, "reduction": s.stride} for s in outputs
        )

    def channels(self, index: int | None = None) -> Any:
        """Channels of each feature map, or of one."""
        return self._get("num_chs", index)

    def reduction(self, index: int | None = None) -> Any:
        """Stride of each feature map to the image, or of one."""
        return self._get("reduction", index)

    def module_name(self, index: int | None = None) -> Any:
        """Name of each stage, or of one."""
        return self._get("module", index)

    def _get(self, key: str, index: int | None) -> Any:
        return [item[key] for item in self] if index is None else self[index][key]


class Network(nn.Module):
    """A network built from its table: `(N, in_channels, H, W) -> (N, num_classes)`, any height and width.

    An SE network and its plain twin are both of this class; they differ in `net.se`.

    Attributes:
        net: The table.
        features: `nn.Sequential` of `stem`, `stage2`, `stage3`, ..., up to the last feature map.
        head: From the last feature map to the classifier's input: the mean over space, and VGG's hidden layers.
        classifier: `nn.Linear`, or `nn.Identity` if num_classes is 0.
        num_features: Inputs of the classifier.
        preprocessing: How to prepare images for the loaded weights; None if the weights were drawn.
        global_pool: "avg", or "" after `reset_classifier(0, "")`: the network then returns its last feature map.
        grad_checkpointing: See `set_grad_checkpointing`.
    """

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.preprocessing: Preprocessing | None = None
        self.features = net.build_features()
        self.head = net.build_head()
        self.num_features = net.num_features
        self.dropout = nn.Dropout(net.dropout)
        self.global_pool, self.grad_checkpointing = "avg", False
        self.classifier = self._classifier(net.num_classes)

    def _classifier(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 if there is none."""
        return self.net.num_classes

    @property
    def feature_info(self) -> FeatureInfo:
        """For each stage: `module` (its name), `num_chs` (channels) and `reduction` (stride to the image)."""
        return FeatureInfo.of(self.net.stage_outputs)

    @property
    def head_hidden_size(self) -> int:
        """Inputs of the classifier, as timm calls `num_features`."""
        return self.num_features

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What `timm.data.resolve_data_config(model=...)` asks for: how to prepare images."""
        p = self.preprocessing or Preprocessing(image_size=self.net.image_size, resize=self.net.image_size)
        return {
            "input_size": (self.net.in_channels, p.image_size, p.image_size),
            "mean": p.mean,
            "std": p.std,
            "interpolation": p.interpolation,
            "crop_pct": p.image_size / p.resize,
            "num_classes": self.num_classes,
            "classifier": "classifier",
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training: keep the feature maps between stages only, and compute the others again.

        Gradients do not change, nor do batch norm's running statistics, which the second computation leaves alone.
        """
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names from the image to the classifier, by which timm groups layers (layer decay).

        Args:
            coarse: One group for each stage instead of one for each block.
        """
        block = r"^features\.stage(\d+)" if coarse else r"^features\.stage(\d+)\.(?:block)?(\d+)?"
        return {"stem": r"^features\.stem", "blocks": block}

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map: `(N, in_channels, H, W) -> (N, C, h, w)`."""
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return self.features(x)
        for stage in self.features:
            x = checkpoint(stage, x, use_reentrant=False, context_fn=partial(_second_time, stage))
        return x

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, *, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute the last feature map, and those at the ends of stages.

        Args:
            x: (N, in_channels, H, W).
            indices: Which of `feature_info`; a number for so many of the last ones, None for all.
            intermediates_only: Return only those.

        Raises:
            ConfigError: For an index that no stage has.
        """
        names = self.feature_info.module_name()
        chosen = [*range(len(names))[-indices:]] if isinstance(indices, int) else [*(indices or range(len(names)))]
        try:
            wanted = [names[i] for i in chosen]
        except IndexError:
            raise ConfigError(f"indices: {indices!r}; expected: some of 0 to {len(names) - 1}") from None
        found = {}
        for name, part in self.features.named_children():
            x = part(x)
            found[f"features.{name}"] = x
        maps = [found[name] for name in wanted]
        return maps if intermediates_only else (x, maps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Apply head and classifier: `(N, C, h, w) -> (N, num_classes)`.

        Args:
            x: The last feature map.
            pre_logits: Stop before the classifier: `(N, num_features)`.
        """
        if not self.global_pool:
            return x
        x = self.dropout(self.head(x))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, *, seed: int = 0) -> None:
        """Replace the classifier by a freshly drawn one.

        Args:
            num_classes: Its outputs; 0 for no classifier, so that the network returns its pooled features.
            global_pool: "" to return the last feature map `(N, C, h, w)`, with 0 classes; "avg" to pool it again.
            seed: Seed of its weights.

        Raises:
            ConfigError: For a negative number of classes, and for pooling that the network does not have.
        """
        check_not_inference(self, "reset_classifier")
        if global_pool not in (None, "", "avg"):
            raise unknown("global_pool", global_pool, ("avg", ""))
        if global_pool == "" and num_classes:
            raise ConfigError(f"global_pool: '' returns a feature map, so there is no place for {num_classes} classes")
        if num_classes or global_pool is not None:
            self.global_pool = "avg" if num_classes else global_pool or ""
        self.net = replace(self.net, num_classes=num_classes)
        where = next(self.features.parameters())
        # On the CPU in float32 whatever torch's defaults: weights are the same for a seed.
        head = self._classifier(num_classes).to_empty(device="cpu").float()
        draw_(head, seed, "classifier")
        self.classifier = head.to(where.device, where.dtype)


def _second_time(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a checkpoint's first and second forward pass."""
    return nullcontext(), _untracked(stage)


@contextmanager
def _untracked(stage: nn.Module) -> Iterator[None]:
    """Leave batch norm's running statistics alone, which would otherwise count each batch twice."""
    norms = [m for m in stage.modules() if isinstance(m, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, counter in before:
            norm.momentum, norm.num_batches_tracked = momentum, counter


class FeatureExtractor(nn.Module):
    """A network without head: `(N, in_channels, H, W) ->` the list of feature maps of the chosen stages.

    For detection and segmentation. The parameters have the names they have in `Network`, so its weights load.

    Attributes:
        stages: The chosen stages, in the paper's numbering.
        channels: Channels of each feature map.
        strides: Stride of each feature map to the image.
        preprocessing: How to prepare images for the loaded weights; None if the weights were drawn.

    Raises:
        ConfigError: If the network does not have a stage, or if no unit is before the last chosen stage.
    """

    def __init__(self, net: Net, stages: tuple[int, ...]) -> None:
        super().__init__()
        wrong = [s for s in stages if s not in net.stage_numbers]
        if wrong or not stages or list(stages) != sorted(set(stages)):
            known = ", ".join(map(str, net.stage_numbers))
            raise ConfigError(f"out_stages: {stages!r} must be some of this network's stages, in order: {known}")
        if net.se and net.se.stages and min(net.se.stages) > stages[-1]:
            raise ConfigError(f"out_stages: {stages!r} ends before the first unit, se.stages={net.se.stages!r}")
        self.net = net
        self.preprocessing: Preprocessing | None = None
        self.stages = stages
        outputs = tuple(s for s in net.stage_outputs if s.stage in stages)
        self.channels = tuple(s.channels for s in outputs)
        self.strides = tuple(s.stride for s in outputs)
        self.feature_info = FeatureInfo.of(outputs)
        features = net.build_features()
        names = [name for name, _ in features.named_children()]
        # Stages after the last one asked for would never run.
        self.features = features[: names.index(f"stage{stages[-1]}") + 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps, shallowest first."""
        outputs = []
        wanted = {f"stage{s}" for s in self.stages}
        for name, part in self.features.named_children():
            x = part(x)
            if name in wanted:
                outputs.append(x)
        return outputs
