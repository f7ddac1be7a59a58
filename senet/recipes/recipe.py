"""What a training run is, as one frozen value: network, data, optimiser, schedule, training.

Every field can be set from the command line by its path, `--optim.lr 0.05`, or by its last word where only one field
ends so, `--lr 0.05`. Defaults here are neutral; the values that reproduce results are in the recipes' files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Literal

from senet.config import check_at_least, check_types
from senet.device import Device
from senet.errors import ConfigError
from senet.models.net import Net, Preprocessing


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Which images, in which batches, how augmented.

    name: "digits" (in the package), "cifar10", "cifar100" (downloaded), or the path of an image folder: one with
        train/ and val/ or test/, each with one folder per class, or one with the class folders, which is then split.
    root: where CIFAR is, or goes when downloaded.
    image_size: pixels a side that the network sees.
    batch_size: images in a training step.  eval_batch_size: images in an evaluation step.
    in_memory: keep the images as tensors and augment whole batches on the device ("yes"), or decode each when its turn
        comes, in worker processes ("no"); "auto" is "yes" up to 64 pixels a side.
    workers: processes that decode images that are not in memory, at most one per processor; 0 decodes in the main one.
    val_fraction: part of an unsplit folder (or of the digits) that is held out, by class.  split_seed: which part.
    train_fraction: part of the training images that is used, the same of every class, for a trial; `split_seed` says
        which, and a smaller part lies within a larger one.
    on_bad_image: an image that cannot be read stops the run by name ("error"), or is left out and counted ("skip").
    crop: training crop: "none", "pad" (zero padding by `crop_padding`, random crop back: the paper's for CIFAR) or
        "resized" (random area and aspect ratio: the paper's for ImageNet).
    crop_padding: pixels.  crop_scale: range of the area, a part of the image.  crop_ratio: range of the aspect ratio.
    flip: mirror half of the training images.
    rotate: turn each training image about its centre, by up to so many degrees either way; 0 for none.
    jitter: add noise to each pixel and channel of the training images, uniform from minus to plus so many pixel values;
        0 for none. The released models have both, 10 and 20 (hujie-frank/SENet, README).
    cutout: side in pixels of the square that is blanked in each training image (arXiv:1708.04552); 0 for none.
    resize: shorter side before the central crop in evaluation, for images that are not in memory; 0: in the paper's
        proportion to `image_size`, 256 for 224.
    keep_aspect: scale both sides alike, then cut out the centre; false scales each side to `resize` by itself.
    interpolation: of the resizing in evaluation, "bilinear" or "bicubic", both antialiased.
    mean, std: of each channel, of values 0 to 1; their length is the number of channels (1 grey, 3 RGB).
    """

    name: str = "digits"
    root: str = "data"
    image_size: int = 32
    batch_size: int = 128
    eval_batch_size: int = 256
    in_memory: Literal["auto", "yes", "no"] = "auto"
    workers: int = 2
    val_fraction: float = 0.2
    split_seed: int = 0
    train_fraction: float = 1.0
    on_bad_image: Literal["error", "skip"] = "error"
    crop: Literal["none", "pad", "resized"] = "none"
    crop_padding: int = 4
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    rotate: float = 0.0
    jitter: float = 0.0
    cutout: int = 0
    resize: int = 0
    keep_aspect: bool = True
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 1, "image_size", "batch_size", "eval_batch_size")
        check_at_least(self, 0, "resize", "workers", "crop_padding", "cutout", "rotate", "jitter")
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"val_fraction: {self.val_fraction!r} is not between 0 and 1")
        if not 0 < self.train_fraction <= 1:
            raise ConfigError(f"train_fraction: {self.train_fraction!r} is not above 0 and at most 1")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ConfigError(f"crop_scale: {self.crop_scale!r} is not a range within 0 to 1")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ConfigError(f"crop_ratio: {self.crop_ratio!r} is not a range of positive numbers")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std, default=0) <= 0:
            raise ConfigError(f"mean, std: {self.mean!r}, {self.std!r} must be 1 or 3 numbers each, std above 0")
        if not all(0 <= value <= 1 for value in self.mean):
            raise ConfigError(f"mean: {self.mean!r} is out of range; expected: 0 to 1, that is pixel values over 255")

    @property
    def channels(self) -> int:
        """Channels of an image: 1 grey, 3 RGB."""
        return len(self.mean)

    @property
    def shorter_side(self) -> int:
        """`resize` in pixels."""
        return self.resize or round(self.image_size * 256 / 224)

    @property
    def label(self) -> str:
        """The data set's name as a part of a folder's name."""
        return PurePath(self.name).name or "images"

    @property
    def is_in_memory(self) -> bool:
        """Whether the images are kept as tensors."""
        return self.in_memory == "yes" or (self.in_memory == "auto" and self.image_size <= 64)

    @property
    def preprocessing(self) -> Preprocessing:
        """How evaluation prepares images; in memory they have the size of the crop already."""
        resize = self.image_size if self.is_in_memory else self.shorter_side
        return Preprocessing(**_shared(self) | {"resize": resize})

    def with_preprocessing(self, preprocessing: Preprocessing) -> DataRecipe:
        """A copy whose evaluation prepares images this way."""
        return replace(self, resize=preprocessing.resize, **_shared(preprocessing))


def _shared(config: DataRecipe | Preprocessing) -> dict[str, Any]:
    """The fields that both types have and that mean the same in both."""
    return {name: getattr(config, name) for name in ("mean", "std", "image_size", "interpolation", "keep_aspect")}


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """Stochastic gradient descent.

    lr: learning rate at the top of the schedule, above 0.
    momentum: part of the last step that is kept.  nesterov: look ahead by the momentum.
    weight_decay: L2 penalty, added to the gradient times the weight.
    decay: what the weight decay touches: "all" parameters; "no_shift", all but batch norm's shifts (hujie-frank/SENet,
        issue 8); or the "weights" of convolutions and linear layers alone, which spares norms and biases.
    clip_norm: largest norm of the whole gradient; 0 for no clipping.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay: Literal["all", "no_shift", "weights"] = "all"
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 0, "momentum", "weight_decay", "clip_norm")
        if not self.lr > 0:
            raise ConfigError(f"lr: {self.lr!r} is too small; expected: above 0")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov: true needs a momentum above 0")


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """How the learning rate changes over the run.

    kind: "constant"; "step": times `gamma` at each of `milestones`; "cosine": lr/2 (1 + cos(pi t/T)), per step;
        "plateau": times `gamma` when the validation loss has not fallen for `patience` epochs, at most `cuts` times.
    gamma: factor of a cut.  patience: epochs that a plateau lasts.  cuts: of a plateau schedule, at most.
    milestones: parts of the run, rising: (0.5, 0.75) cuts at half and at three quarters of the epochs, however many.
    warmup_epochs: the rate is lower in so many first epochs, 0.5 for half of one.
    warmup_start: what it begins with, as a part of its value.
    warmup_shape: it climbs from there in a straight line ("linear"), or stays there until the end of the warm-up
        ("constant").
    """

    kind: Literal["constant", "step", "cosine", "plateau"] = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    patience: int = 10
    cuts: int = 3
    warmup_epochs: float = 0.0
    warmup_start: float = 0.1
    warmup_shape: Literal["linear", "constant"] = "linear"

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 0, "warmup_epochs")
        check_at_least(self, 1, "patience", "cuts")
        if not 0 < self.gamma < 1:
            raise ConfigError(f"gamma: {self.gamma!r} is not between 0 and 1")
        if self.kind == "step" and not self.milestones:
            raise ConfigError("milestones: kind='step' needs at least one, for example (0.5, 0.75)")
        if list(self.milestones) != sorted(set(self.milestones)) or not all(0 < m < 1 for m in self.milestones):
            raise ConfigError(f"milestones: {self.milestones!r} must be parts of the run between 0 and 1, rising")
        if self.kind != "step" and self.milestones:
            raise ConfigError(
                f"milestones: {self.milestones!r} have no effect with kind={self.kind!r}; use kind='step'"
            )
        if not 0 < self.warmup_start <= 1:
            raise ConfigError(f"warmup_start: {self.warmup_start!r} is not above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """The training loop.

    epochs: passes over the training images.
    seed: of the initial weights, the order of the images and their augmentation.
    label_smoothing: part of the target spread over all classes (arXiv:1512.00567).
    ema: decay of an exponential moving average of the weights, which is then what is evaluated and kept; 0 for none.
    accumulate: batches per optimiser step; an epoch's last step may have fewer, which then count for as much less.
    precision: "fp32", "bf16" or "fp16" (with loss scaling; needs a GPU).
    channels_last: memory format, 2 to 3 times faster on CPUs.  compile: with `torch.compile`.
    fused: run batch norm, unit, sum and ReLU of a block as one operation: Triton on a GPU, C in float32 on a CPU.
    freeze_bn_epochs: batch norm's parameters and statistics stay as they are in that many last epochs (Appendix (f)).
    device: "auto" is a GPU where there is one.  threads: of the CPU; 0 leaves torch's choice.
    limit_batches: a trial run: at most that many batches in each epoch of training and of evaluation; 0 for all.
    save_batches: write the resumable checkpoint also every that many batches; 0 for the ends of epochs alone.
    tensorboard: also write TensorBoard logs (needs the extra).
    """

    epochs: int = 10
    seed: int = 0
    label_smoothing: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    fused: bool = False
    freeze_bn_epochs: int = 0
    device: Device = "auto"
    threads: int = 0
    limit_batches: int = 0
    save_batches: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 1, "epochs", "accumulate")
        check_at_least(
            self, 0, "label_smoothing", "ema", "freeze_bn_epochs", "threads", "save_batches", "limit_batches"
        )
        for name in ("label_smoothing", "ema"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"{name}: {getattr(self, name)!r} is not below 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: what `senet train` needs to know, and all of it.

    name: what the network is called in tables and folders.  model: the network itself, a table.
    """

    name: str
    model: Net
    data: DataRecipe = field(default_factory=DataRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)

    def __post_init__(self) -> None:
        check_types(self)
        if self.train.freeze_bn_epochs > self.train.epochs:
            raise ConfigError(
                f"train.freeze_bn_epochs: {self.train.freeze_bn_epochs} is more than train.epochs={self.train.epochs}"
            )
        if self.schedule.warmup_epochs > self.train.epochs:
            raise ConfigError(
                f"schedule.warmup_epochs: {self.schedule.warmup_epochs:g} is more than train.epochs={self.train.epochs}"
            )
