"""The modules built from a `Net` table (Table 1 of arXiv:1709.01507v4): `Network` and `FeatureExtractor`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from senet.errors import ConfigError
from senet.initialization import draw_
from senet.models.net import Net, Preprocessing, StageOutput


def feature_info(outputs: tuple[StageOutput, ...]) -> list[dict[str, Any]]:
    """Describe feature maps with timm's keys: `module`, `num_chs` (channels) and `reduction` (stride to the image)."""
    return [{"module": f"features.stage{s.stage}", "num_chs": s.channels, "reduction": s.stride} for s in outputs]


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
    """

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.preprocessing: Preprocessing | None = None
        self.features = net.build_features()
        self.head = net.build_head()
        self.num_features = net.num_features
        self.dropout = nn.Dropout(net.dropout)
        self.classifier = self._classifier(net.num_classes)

    def _classifier(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 if there is none."""
        return self.net.num_classes

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """For each stage: `module` (its name), `num_chs` (channels) and `reduction` (stride to the image)."""
        return feature_info(self.net.stage_outputs)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map: `(N, in_channels, H, W) -> (N, C, h, w)`."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Apply head and classifier: `(N, C, h, w) -> (N, num_classes)`.

        Args:
            x: The last feature map.
            pre_logits: Stop before the classifier: `(N, num_features)`.
        """
        x = self.dropout(self.head(x))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, *, seed: int = 0) -> None:
        """Replace the classifier by a freshly drawn one.

        Args:
            num_classes: Its outputs; 0 for no classifier, so that the network returns its pooled features.
            seed: Seed of its weights.

        Raises:
            ConfigError: For a negative number of classes.
        """
        self.net = replace(self.net, num_classes=num_classes)
        where = next(self.features.parameters())
        # On the CPU in float32 whatever torch's defaults: weights are the same for a seed.
        head = self._classifier(num_classes).to_empty(device="cpu").float()
        draw_(head, seed, "classifier")
        self.classifier = head.to(where.device, where.dtype)


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
        self.feature_info = feature_info(outputs)
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
