"""The module that a `Net` table becomes: stem, stages, mean over space, classifier (Table 1 of arXiv:1709.01507v4)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from senet import functional as sf
from senet.blocks.residual import Basic, Bottleneck, ResidualSpec
from senet.errors import ConfigError
from senet.initialization import draw_
from senet.models.net import Net, Preprocessing, ResidualNet, StageMap

BLOCKS = {"basic": Basic, "bottleneck": Bottleneck}


class StemBlock(nn.Module):
    """Convolution, batch norm, ReLU, pooling: `(N, in_channels, H, W) -> (N, width, h, w)`."""

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, net: ResidualNet) -> None:
        super().__init__()
        stem = net.stem
        channels, stride, before = net.in_channels, stem.stride, OrderedDict[str, nn.Module]()
        for i, width in enumerate(stem.before, start=1):
            before[f"conv{i}"] = nn.Conv2d(channels, width, stem.kernel, stride, stem.kernel // 2, bias=False)
            before[f"norm{i}"] = nn.BatchNorm2d(width)
            before[f"relu{i}"] = nn.ReLU(inplace=True)
            channels, stride = width, 1
        self.before = nn.Sequential(before)
        self.conv = nn.Conv2d(channels, stem.width, stem.kernel, stride, stem.kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(stem.width)
        self.pool = {
            "ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
            "pad": nn.MaxPool2d(3, 2, padding=1),
            "none": nn.Identity(),
        }[net.pool]

    def forward(self, x: Tensor) -> Tensor:
        """The first feature map."""
        return self.pool(self.norm_relu(self.conv(self.before(x)), self.norm))


def residual_features(net: ResidualNet) -> nn.Sequential:
    """Stem and stages of a residual network, named as the paper counts: `stem`, `stage2.block1`, ..."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=StemBlock(net))
    channels = net.stem.width
    for number, row in zip(net.stage_numbers, net.stages, strict=True):
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(row.depth):
            spec = ResidualSpec(
                in_channels=channels,
                mid=row.mid,
                out=row.out,
                stride=row.stride if i == 0 else 1,
                first=net.first_width(row),
                groups=row.groups,
                stride_on=net.stride_on,
                shortcut=net.shortcut,
                projection=net.projection,
                se=net.unit_in(number),
            )
            blocks[f"block{i + 1}"] = BLOCKS[row.block](spec)
            channels = row.out
        parts[f"stage{number}"] = nn.Sequential(blocks)
    return nn.Sequential(parts)


def feature_info(maps: tuple[StageMap, ...]) -> list[dict[str, Any]]:
    """Stage maps in the words of timm: `module`, `num_chs` (channels) and `reduction` (stride to the image)."""
    return [{"module": f"features.stage{m.stage}", "num_chs": m.channels, "reduction": m.stride} for m in maps]


class Network(nn.Module):
    """A network built from its table: `(N, in_channels, H, W) -> (N, num_classes)`, any height and width.

    net: the table; an SE network and its plain twin are of this one class and differ in `net.se`.
    features: `nn.Sequential` of `stem` and `stage2`, `stage3`, ... to the last feature map.
    classifier: `nn.Linear`, or `nn.Identity` where num_classes is 0.
    head: from the last map to the classifier's input; the mean over space, unless the network has hidden layers there.
    num_features: the classifier's inputs, by default the channels of the last map.
    preprocessing: how loaded weights want their images; None where the weights were drawn.
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
        """Outputs of the classifier; 0 where there is none."""
        return self.net.num_classes

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Of each stage: `module` (its name), `num_chs` (channels) and `reduction` (stride to the image)."""
        return feature_info(self.net.maps)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map: `(N, in_channels, H, W) -> (N, C, h, w)`."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The head, by default the mean over space, and the classifier: `(N, C, h, w) -> (N, num_classes)`.

        pre_logits: stop before the classifier, `(N, num_features)`.
        """
        x = self.dropout(self.head(x))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, *, seed: int = 0) -> None:
        """Replace the classifier by a freshly drawn one of `num_classes` outputs; 0 leaves the pooled features.

        Raises ConfigError for a negative number.
        """
        self.net = replace(self.net, num_classes=num_classes)
        where = next(self.features.parameters())
        head = self._classifier(num_classes)
        draw_(head, seed, "classifier")
        self.classifier = head.to(where.device, where.dtype)


class StageMaps(nn.Module):
    """Features only: `(N, in_channels, H, W) ->` the list of the chosen stages' maps, for detectors and segmenters.

    stages: the paper's numbers, in order.  channels, strides: of each map.
    preprocessing: how loaded weights want their images; None where the weights were drawn.
    The parameters have the names they have in `Network`, so its weights load.

    Raises ConfigError for stages that the network does not have, or that leave out every unit it has.
    """

    def __init__(self, net: Net, stages: tuple[int, ...]) -> None:
        super().__init__()
        wrong = [s for s in stages if s not in net.stage_numbers]
        if wrong or not stages or list(stages) != sorted(set(stages)):
            legal = ", ".join(map(str, net.stage_numbers))
            raise ConfigError(f"out_stages: {stages!r} must be some of this network's stages, in order: {legal}")
        if net.se and net.se.stages and min(net.se.stages) > stages[-1]:
            raise ConfigError(f"out_stages: {stages!r} ends before the first unit, se.stages={net.se.stages!r}")
        self.net = net
        self.preprocessing: Preprocessing | None = None
        self.stages = stages
        maps = tuple(m for m in net.maps if m.stage in stages)
        self.channels = tuple(m.channels for m in maps)
        self.strides = tuple(m.stride for m in maps)
        self.feature_info = feature_info(maps)
        features = net.build_features()
        names = [name for name, _ in features.named_children()]
        # Stages behind the last one asked for would never run.
        self.features = features[: names.index(f"stage{stages[-1]}") + 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, shallowest first."""
        maps = []
        wanted = {f"stage{s}" for s in self.stages}
        for name, part in self.features.named_children():
            x = part(x)
            if name in wanted:
                maps.append(x)
        return maps
