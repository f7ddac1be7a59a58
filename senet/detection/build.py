"""Build a detector: torchvision's own class, with our trunk, and with the original's rules where it differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_area

from senet.detection.trunk import Pyramid
from senet.initialization import number
from senet.models.detector import DetectorNet

IMAGES = 2
"""Images of a GPU in Detectron, of which the best proposals together are trained on."""

CROWD = 0.7
"""Share of a proposal within a crowd from which it is left out of training (Detectron, TRAIN.CROWD_FILTER_THRESH)."""


class AsPrepared(GeneralizedRCNNTransform):
    """Puts images that are scaled and normalised already into one batch, padded with zeros to multiples of 32.

    Attributes:
        at_least: Height and width to which a batch is padded in training: of the largest image of all processes.
    """

    def __init__(self) -> None:
        super().__init__(min_size=0, max_size=0, image_mean=[0.0], image_std=[1.0])
        self.at_least = 0, 0

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        """Images (C, H, W) as (N, C, H, W)."""
        if self.training:
            first = images[0]
            below, right = (max(0, n - own) for n, own in zip(self.at_least, first.shape[1:], strict=True))
            images = [F.pad(first, (0, right, 0, below)), *images[1:]]
        return super().batch_images(images, size_divisible)

    def normalize(self, image: Tensor) -> Tensor:
        """Return the image."""
        return image

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Return the arguments."""
        return image, target


class ImageByImage(BalancedPositiveNegativeSampler):
    """Draws an image's boxes by random numbers of its own, so that they are the same however processes share a batch.

    Attributes:
        first: Images of the batch that other processes have, before those of this one.
        positives: Boxes of objects that were drawn last.
        drawn: All boxes that were drawn last.
    """

    def __init__(self, per_image: int, positive: float) -> None:
        super().__init__(per_image, positive)
        self.first = self.positives = self.drawn = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the boxes of objects, and of the others, that are trained on, image by image."""
        start = int(torch.randint(2**62, (), device="cpu"))
        found = []
        with torch.random.fork_rng(devices={m.device for m in matched_idxs if m.is_cuda}):
            for number, matched in enumerate(matched_idxs, self.first):
                torch.manual_seed(start + number)
                (positive,), (negative,) = super().__call__([matched])
                found.append((positive, negative))
        self.positives = sum(int(positive.sum()) for positive, _ in found)
        self.drawn = self.positives + sum(int(negative.sum()) for _, negative in found)
        return [positive for positive, _ in found], [negative for _, negative in found]


class BestOfBatch(RegionProposalNetwork):
    """Detectron's choice of proposals in training: the best of each two images together, not of each image."""

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, image_shapes: list[tuple[int, int]], num_anchors_per_level: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Choose the proposals of each image, and among them those of each two images."""
        boxes, scores = super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)
        for start in range(0, len(boxes) if self.training else 0, IMAGES):
            group = range(start, min(start + IMAGES, len(boxes)))
            among = torch.cat([scores[i] for i in group])
            if len(among) > (most := self.post_nms_top_n()):
                kept = torch.zeros_like(among, dtype=torch.bool)
                kept[among.topk(most).indices] = True
                for i, part in zip(group, kept.split([len(scores[i]) for i in group]), strict=True):
                    boxes[i], scores[i] = boxes[i][part], scores[i][part]
        return boxes, scores


class DetectronHeads(RoIHeads):
    """Detectron's second stage in training: box loss with beta 1, and no proposals inside crowds.

    A target may have boxes of `crowd`, (k, 4).
    """

    def select_training_samples(self, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None) -> Any:
        """Choose boxes and what they should become."""
        assert targets is not None
        proposals = [outside(p, t["crowd"]) if "crowd" in t else p for p, t in zip(proposals, targets, strict=True)]
        self.chosen = super().select_training_samples(proposals, targets)
        return self.chosen

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Any, targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detect, or compute the losses."""
        answers: list[tuple[Tensor, Tensor]] = []
        watch = self.box_predictor.register_forward_hook(lambda module, inputs, output: answers.append(output))
        try:
            found, losses = super().forward(features, proposals, image_shapes, targets)
        finally:
            watch.remove()
        if self.training:
            _, _, labels, wanted = self.chosen
            losses["loss_box_reg"] = box_loss(answers[0][1], torch.cat(labels), torch.cat(wanted), beta=1.0)
        return found, losses


def box_loss(deltas: Tensor, labels: Tensor, wanted: Tensor, beta: float) -> Tensor:
    """Smooth L1 loss of the boxes of objects, over all boxes: deltas `(n, 4 K)`, labels `(n,)`, wanted `(n, 4)`."""
    positive = labels > 0
    own = deltas.view(len(labels), -1, 4)[positive, labels[positive]]
    return F.smooth_l1_loss(own, wanted[positive], beta=beta, reduction="sum") / len(labels)


def outside(proposals: Tensor, crowd: Tensor) -> Tensor:
    """The proposals (n, 4) that are not inside one of the crowds (k, 4)."""
    if not len(crowd) or not len(proposals):
        return proposals
    low = torch.maximum(proposals[:, None, :2], crowd[None, :, :2])
    high = torch.minimum(proposals[:, None, 2:], crowd[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    return proposals[(shared / box_area(proposals).clamp(min=1e-6)[:, None]).amax(1) <= CROWD]


def build_detector(net: DetectorNet, trunk: nn.Module, seed: int = 0) -> nn.Module:
    """Build torchvision's detector over a trunk. It takes images that are scaled and normalised.

    `detector(images, targets)` in training returns the loss terms, `detector(images)` in evaluation the detections, as
    torchvision's do: `images` is a list of (3, H, W) of any sizes, labels count from 1.

    Args:
        net: The table.
        trunk: Gives the feature maps, `FeatureExtractor` or `OtherFeatures`; its weights stay.
        seed: Of the weights of pyramid and heads.

    Raises:
        ConfigError: For a trunk with too few stages.
    """
    outputs = net.num_classes + 1
    with torch.random.fork_rng(devices=()), torch.device("cpu"):
        torch.manual_seed(number(seed, "detector"))
        pyramid = Pyramid(net, trunk)
        if net.head == "retinanet":
            detector: Any = RetinaNet(pyramid, outputs)
        else:
            sizes = tuple((2**k,) for k in range(5, 10))
            anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
            cls = MaskRCNN if net.head == "maskrcnn" else FasterRCNN
            train, test = net.proposals
            limits = {
                f"rpn_{when}_nms_top_n_{m}": n
                for when in ("pre", "post")
                for m, n in (("train", train), ("test", test))
            }
            detector = cls(pyramid, outputs, rpn_anchor_generator=anchors, box_batch_size_per_image=net.rois, **limits)
            for part in (detector.rpn, detector.roi_heads):
                old = part.fg_bg_sampler
                part.fg_bg_sampler = ImageByImage(old.batch_size_per_image, old.positive_fraction)
        if net.protocol == "detectron":
            _as_detectron_(detector)
    detector.transform = AsPrepared()
    detector.net = net
    detector.preprocessing = getattr(trunk, "preprocessing", None)
    return detector


def _as_detectron_(detector: Any) -> None:
    """Give an R-CNN Detectron's rules of training and its initial values."""
    # The parts are torchvision's; only their training differs, so the class alone changes.
    detector.rpn.__class__, detector.roi_heads.__class__ = BestOfBatch, DetectronHeads
    heads = detector.roi_heads
    for layer in (heads.box_head.fc6, heads.box_head.fc7):
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
    for layer, std in ((heads.box_predictor.cls_score, 0.01), (heads.box_predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)


def set_thresholds_(detector: nn.Module, score: float | None, nms: float | str | None) -> None:
    """Set the score above which boxes are kept, and the overlap above which the lower one of two is dropped."""
    of: Any = getattr(detector, "roi_heads", detector)
    if score is not None:
        of.score_thresh = score
    if nms not in (None, ""):
        of.nms_thresh = float(nms)


def batch_of(images: Sequence[Tensor]) -> Tensor:
    """The images (C, H, W) as the trunk of a detector gets them: (N, C, H, W), padded to multiples of 32."""
    return AsPrepared()(list(images))[0].tensors
