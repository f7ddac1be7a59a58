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
    """Images, batches and augmentation.

    Attributes:
        name: "digits" (in the package), "cifar10", "cifar100" (downloaded), or a folder of images: with train/ and
            val/ or test/, each with one folder per class, or with the class folders themselves, which are then split.
        root: folder that CIFAR is in, or is downloaded to.
        image_size: height and width of the network's input in pixels.
        batch_size: images in a training step.
        eval_batch_size: images in an evaluation step.
        in_memory: "yes" keeps the images as tensors and augments whole batches on the device; "no" decodes each image
            in a worker process when it is needed; "auto" is "yes" up to 64 pixels.
        workers: processes that decode images, at most one per processor; 0 decodes in the main process.
        val_fraction: share of an unsplit folder, or of the digits, that is held out, class by class.
        split_seed: seed of the choice of these images, and of `train_fraction`.
        train_fraction: share of the training images to use, class by class; a smaller share is a subset of a larger
            one.
        on_bad_image: "error" stops at an image that cannot be read and names it; "skip" leaves it out and counts it.
        crop: training crop: "none", "pad" (pad with zeros by `crop_padding`, then crop at random; the paper's for
            CIFAR) or "resized" (random area and aspect ratio; the paper's for ImageNet).
        crop_padding: pixels on each side.
        crop_scale: range of the crop's area, as a share of the image.
        crop_ratio: range of the crop's aspect ratio.
        flip: mirror half of the training images.
        rotate: largest random rotation of a training image in degrees, either way; 0 for none. The released models
            have 10 (hujie-frank/SENet, README).
        jitter: largest random change of each pixel value of a training image, in units of 0 to 255; 0 for none. The
            released models have 20.
        cutout: side in pixels of the square that is blanked in each training image (arXiv:1708.04552); 0 for none.
        resize: shorter side in pixels before the central crop of evaluation, for images that are not in memory; 0 for
            the paper's proportion, 256 for 224.
        keep_aspect: scale both sides alike and crop the centre; false scales each side to `resize`.
        interpolation: of resizing in evaluation, "bilinear" or "bicubic", both antialiased.
        mean: of each channel, for pixel values from 0 to 1; 1 number for grey images, 3 for RGB.
        std: of each channel, like `mean`.
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
        return Preprocessing(**{**_shared(self), "resize": resize})

    def with_preprocessing(self, preprocessing: Preprocessing) -> DataRecipe:
        """A copy whose evaluation prepares images this way."""
        return replace(self, resize=preprocessing.resize, **_shared(preprocessing))


def _shared(config: DataRecipe | Preprocessing) -> dict[str, Any]:
    """The fields that both types have and that mean the same in both."""
    return {name: getattr(config, name) for name in ("mean", "std", "image_size", "interpolation", "keep_aspect")}


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """Stochastic gradient descent.

    Attributes:
        lr: highest learning rate of the schedule, above 0.
        momentum: momentum factor.
        nesterov: use Nesterov momentum.
        weight_decay: L2 penalty, added to the gradient times the weight.
        decay: which parameters decay: "all"; "no_shift", all but the biases of batch norm (hujie-frank/SENet, issue
            8); or "weights", those of convolutions and linear layers only.
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
    """Learning rate schedule.

    Attributes:
        kind: "constant"; "step": times `gamma` at each of `milestones`; "cosine": lr/2 (1 + cos(pi t/T)), per step;
            "plateau": times `gamma` when the validation loss has not fallen for `patience` epochs, at most `cuts`
            times.
        milestones: shares of the run, rising: 0.5,0.75 cuts at one half and at three quarters of the epochs.
        gamma: factor of a cut.
        patience: epochs without improvement before a cut.
        cuts: most cuts of a plateau schedule.
        warmup_epochs: warm-up epochs; 0.5 is half an epoch.
        warmup_start: learning rate at the start of the warm-up, as a share of its value.
        warmup_shape: "linear" rises to the end of the warm-up, "constant" stays at the start value until then.
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

    Attributes:
        epochs: passes over the training images.
        seed: of the initial weights, the order of the images and their augmentation.
        label_smoothing: share of the target that is spread over all classes (arXiv:1512.00567).
        ema: decay of an exponential moving average of the weights, which is then evaluated and saved; 0 for none.
        accumulate: batches per optimizer step; the last step of an epoch may have fewer and counts for as much less.
        precision: "fp32", "bf16", or "fp16" with loss scaling, which needs a GPU.
        channels_last: memory format; on a CPU 2 to 3 times faster.
        compile: use `torch.compile`.
        fused: compute batch norm, unit, sum and ReLU in one operation: Triton on a GPU, C in float32 on a CPU.
        freeze_bn_epochs: number of last epochs in which batch norm's parameters and statistics are frozen (Appendix
            (f)).
        device: "auto", a GPU if there is one, "cpu" or "cuda".
        threads: CPU threads; 0 for torch's own number.
        limit_batches: for a trial, the most batches per epoch of training and of evaluation; 0 for all.
        save_batches: also write the resumable checkpoint every that many batches; 0 writes it after each epoch only.
        tensorboard: also write TensorBoard logs; needs the extra `tensorboard`.
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
    """A training run, complete: `senet train` needs nothing else.

    Attributes:
        name: of the network, in tables and folders.
        model: the network as a table.
        data: images, batches and augmentation.
        optim: optimizer.
        schedule: learning rate schedule.
        train: training loop.
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
