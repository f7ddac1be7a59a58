"""What a training run is, as one frozen value: network, data, optimiser, schedule, training.

Every field can be set from the command line by its path, `--optim.lr 0.05`, or by its last word where only one field
ends so, `--lr 0.05`. Defaults here are neutral; the values that reproduce results are in the recipes' files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Literal

from senet.config import check_at_least, check_at_most, check_types
from senet.device import Device
from senet.errors import ConfigError
from senet.models.detector import DetectorNet
from senet.models.net import Net, Preprocessing, ResidualNet
from senet.models.other import OtherNet
from senet.recipes.task import CLASSIFICATION, DETECTION, Task

PARTS = {"train": "training", "val": "validation", "test": "test"}
"""The parts of a data set, and the words for their images."""


MOST_PIXELS, MOST_IMAGES, MOST_THREADS = 65_535, 2**31 - 1, 1024
"""Largest side of an image, number of images in a batch, and number of threads: what more would overflow."""


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Images, batches and augmentation.

    Attributes:
        name: "digits" (in the package), "cifar10", "cifar100" (downloaded), or a folder of images: with train/ and
            val/ or test/, each with one folder per class, or with the class folders themselves; or a folder that `senet
            shard` wrote, or its URL.
        root: folder that CIFAR is in, or is downloaded to.
        labels: what is known of the images: "classes", one of each image; or the objects in it, by "boxes" or also by
            "masks", in a folder of COCO's or YOLO's format, which detectors need.
        image_size: height and width of the network's input in pixels; of images with objects the shorter side.
        max_size: longest side of an image with objects, in pixels; 0 for 1333/800 of the shorter one.
        scales: shorter sides of which one is drawn for each training image with objects; by default `image_size`.
        keep_empty: train on images without an object too.
        batch_size: images in a training step, of all processes together.
        eval_batch_size: images in an evaluation step.
        in_memory: "yes" keeps the images as tensors and augments whole batches on the device; "no" decodes each image
            in a worker process when it is needed; "auto" is "yes" up to 64 pixels.
        workers: processes that decode images, at most one per processor; 0 decodes in the main process.
        val_fraction: share of the training images that is held out for validation, class by class; 0 for a fifth where
            there are neither validation nor test images, as in a folder that is not split, and for none elsewhere.
        split_seed: seed of the choice of these images, and of `train_fraction`.
        train_fraction: share of the training images to use, class by class; a smaller share is a subset of a larger
            one.
        shuffle_window: shards that are shuffled together: their order is drawn in each epoch, and that of the images of
            each so many; 0 shuffles all images.
        shard_cache_gb: space on the disk for whole shards of a URL; 0 reads each image by a request of its own.
        shard_cache: the folder for them, by default `~/.cache/senet/shards`; processes may share it.
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
        auto_augment: "none"; "randaugment" (arXiv:1909.13719), `randaugment_ops` random operations of strength
            `randaugment_magnitude`; or "trivialaugment", one of random strength (arXiv:2103.10158). torchvision's.
        randaugment_ops: operations on each image.
        randaugment_magnitude: strength of the operations, 0 to 30.
        color_jitter: largest random change of brightness, contrast and saturation, as a share: 0.4 is a factor from 0.6
            to 1.4; 0 for none.
        random_erasing: probability that a random rectangle of a training image is blanked (arXiv:1708.04896).
        mixup: alpha of MixUp (arXiv:1710.09412): each training image is averaged with another one, and so are their
            targets; its weight is drawn from Beta(alpha, alpha). 0 for none.
        cutmix: alpha of CutMix (arXiv:1905.04899): a rectangle of another image replaces that part of each image; the
            share of the rest is drawn from Beta(alpha, alpha). 0 for none. Beside `mixup`, each image has one of the
            two, with equal chance.
        balanced: draw as many training images of each class in each epoch, some of them more than once and others not
            at all; an epoch stays as long as it is.
        resize: shorter side in pixels before the central crop of evaluation, for images that are not in memory; 0 for
            the paper's proportion, 256 for 224.
        keep_aspect: scale both sides alike and crop the centre; false scales each side to `resize`.
        interpolation: of resizing in evaluation, "bilinear" or "bicubic", both antialiased.
        background: grey value, 0 to 255, that transparent pixels show.
        pixel_range: values of black and white in images of 16 bits, 32 bits and floats, such as 0,4095 for 12 bits; by
            default 0,65535 for integers and 0,1 for floats.
        mean: of each channel, for pixel values from 0 to 1; 1 number for grey images, 3 for RGB.
        std: of each channel, like `mean`.
    """

    name: str = "digits"
    root: str = "data"
    labels: Literal["classes", "boxes", "masks"] = "classes"
    image_size: int = 32
    max_size: int = 0
    scales: tuple[int, ...] = ()
    keep_empty: bool = False
    batch_size: int = 128
    eval_batch_size: int = 256
    in_memory: Literal["auto", "yes", "no"] = "auto"
    workers: int = 2
    val_fraction: float = 0.0
    split_seed: int = 0
    train_fraction: float = 1.0
    shuffle_window: int = 0
    shard_cache_gb: float = 0.0
    shard_cache: str = ""
    on_bad_image: Literal["error", "skip"] = "error"
    crop: Literal["none", "pad", "resized"] = "none"
    crop_padding: int = 4
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    rotate: float = 0.0
    jitter: float = 0.0
    cutout: int = 0
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = "none"
    randaugment_ops: int = 2
    randaugment_magnitude: int = 9
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    balanced: bool = False
    resize: int = 0
    keep_aspect: bool = True
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    background: int = 255
    pixel_range: tuple[float, ...] = ()
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 1, "image_size", "batch_size", "eval_batch_size", "randaugment_ops")
        check_at_most(self, MOST_PIXELS, "image_size", "resize", "crop_padding", "cutout", "max_size")
        check_at_most(self, MOST_IMAGES, "batch_size", "eval_batch_size")
        check_at_least(self, 0, "resize", "max_size", "workers", "crop_padding", "cutout", "rotate", "jitter")
        check_at_least(self, 0, "shuffle_window", "shard_cache_gb")
        check_at_least(self, 0, "randaugment_magnitude", "color_jitter", "random_erasing", "mixup", "cutmix")
        for name, most in (("randaugment_magnitude", 30), ("color_jitter", 1), ("random_erasing", 1)):
            if getattr(self, name) > most:
                raise ConfigError(f"{name}: {getattr(self, name)!r} is too large; expected: 0 to {most}")
        if any(not 1 <= side <= MOST_PIXELS for side in self.scales):
            raise ConfigError(f"scales: {self.scales!r} are not sides of images; expected: 1 to {MOST_PIXELS:,} pixels")
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(f"val_fraction: {self.val_fraction!r} is not at least 0 and below 1")
        if not 0 <= self.background <= 255:
            raise ConfigError(f"background: {self.background!r} is out of range; expected: 0 (black) to 255 (white)")
        if self.pixel_range and not (len(self.pixel_range) == 2 and self.pixel_range[0] < self.pixel_range[1]):
            raise ConfigError(f"pixel_range: {self.pixel_range!r} is not the value of black and a larger one of white")
        for name in ("name", "root"):
            # A run's files could not be written.
            if getattr(self, name) != getattr(self, name).encode("utf-8", "replace").decode():
                raise ConfigError(f"{name}: {getattr(self, name)!a} is not UTF-8 text; rename the folder")
        if not 0 < self.train_fraction <= 1:
            raise ConfigError(f"train_fraction: {self.train_fraction!r} is not above 0 and at most 1")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ConfigError(f"crop_scale: {self.crop_scale!r} is not a range within 0 to 1")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ConfigError(f"crop_ratio: {self.crop_ratio!r} is not a range of positive numbers")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ConfigError(
                f"mean, std: {len(self.mean)} and {len(self.std)} numbers, {self.mean!r} and {self.std!r}; expected: 1 "
                "each for grey images or 3 each for RGB, so set both"
            )
        if min(self.std) <= 0:
            raise ConfigError(f"std: {self.std!r} is too small; expected: above 0")
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
        is_small = self.labels == "classes" and self.image_size <= 64
        return self.in_memory == "yes" or (self.in_memory == "auto" and is_small)

    @property
    def augments_each(self) -> bool:
        """Whether torchvision's transforms change the training images one by one."""
        return self.auto_augment != "none" or self.color_jitter > 0 or self.random_erasing > 0

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with others."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def preprocessing(self) -> Preprocessing:
        """How evaluation prepares images; in memory they have the size of the crop already."""
        resize = self.image_size if self.is_in_memory else self.shorter_side
        return Preprocessing(**{**_shared(self), "resize": resize})

    def with_preprocessing(self, preprocessing: Preprocessing) -> DataRecipe:
        """A copy whose evaluation prepares images this way."""
        return replace(self, resize=preprocessing.resize, **_shared(preprocessing))


@dataclass(frozen=True)
class TrainedOn:
    """The images that a network was trained on: the name in its recipe, and the digest of the folder then."""

    name: str
    digest: str


def _shared(config: DataRecipe | Preprocessing) -> dict[str, Any]:
    """The fields that both types have and that mean the same in both."""
    return {name: getattr(config, name) for name in ("mean", "std", "image_size", "interpolation", "keep_aspect")}


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """The optimizer.

    Attributes:
        kind: "sgd", stochastic gradient descent, or "adamw" (arXiv:1711.05101), torch's.
        lr: highest learning rate of the schedule, above 0.
        trunk_lr: factor on the learning rate of the trunk, which is all but the classifier and the attention units.
        layer_decay: factor on the learning rate of the trunk for each stage between a layer and the classifier: the
            last stage has `lr * layer_decay`, the one before `lr * layer_decay^2`; 1 for equal rates.
        momentum: momentum factor of SGD.
        nesterov: use Nesterov momentum.
        betas: decay of AdamW's averages of the gradient and of its square.
        weight_decay: L2 penalty, added to the gradient times the weight; with AdamW it is decoupled: each step takes
            this share of the weight, times the learning rate.
        decay: which parameters decay: "all"; "no_shift", all but the biases of batch norm (hujie-frank/SENet, issue
            8); or "weights", those of convolutions and linear layers only.
        clip_norm: largest norm of the whole gradient; 0 for no clipping.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    trunk_lr: float = 1.0
    layer_decay: float = 1.0
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    decay: Literal["all", "no_shift", "weights"] = "all"
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 0, "momentum", "weight_decay", "clip_norm")
        if not self.lr > 0:
            raise ConfigError(f"lr: {self.lr!r} is too small; expected: above 0")
        if not self.trunk_lr > 0:
            raise ConfigError(f"trunk_lr: {self.trunk_lr!r} is too small; expected: above 0; to freeze: freeze_epochs")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay: {self.layer_decay!r} is not above 0 and at most 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas: {self.betas!r} must be two numbers from 0 to below 1")
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
        weights: what training starts from: a file, a run folder, "timm:NAME", "hf:OWNER/NAME" on the Hub, "pretrained"
            for the network's own library; "" draws them. The classifier is always drawn.
        seed: of the weights that are drawn, the order of the images and their augmentation.
        label_smoothing: share of the target that is spread over all classes (arXiv:1512.00567).
        ema: decay of an exponential moving average of the weights, which is then evaluated and saved; 0 for none.
        accumulate: batches per optimizer step; the last step of an epoch may have fewer and counts for as much less.
        precision: "fp32", "bf16", or "fp16" with loss scaling, which needs a GPU.
        channels_last: memory format; on a CPU 2 to 3 times faster.
        compile: use `torch.compile`.
        fused: compute batch norm, unit, sum and ReLU in one operation: Triton on a GPU, C in float32 on a CPU.
        class_weights: "balanced" weighs the loss of each image by n / (classes * images of its class) of the n training
            images, so that a rare class counts as much as a frequent one.
        sync_batch_norm: batch norm's statistics are those of the batch of all processes (`--devices`); false, as in the
            paper: of each process's share of it.
        strategy: how several processes hold the network: "ddp", each has all of it; or "fsdp", each a part of every
            weight and its momentum, which takes less memory and more exchange (torch's FSDP2).
        drop_path: stochastic depth (arXiv:1603.09382): probability that the last residual branch is left out for a
            training image, rising in a line from 0 at the first; 0 for none. In our ResNets, ResNeXts and SENets, and
            in the networks of timm and torchvision that have it.
        early_stopping: stop after so many epochs in which the validation error has not fallen below its lowest; 0 for
            never. Not where networks are compared, which train equally long.
        freeze_epochs: number of first epochs in which the trunk is frozen, with the statistics of its batch norms: only
            the classifier and the attention units are trained. As many as `epochs` for good.
        freeze_bn_epochs: number of last epochs in which batch norm's parameters and statistics are frozen (Appendix
            (f)).
        device: "auto", a GPU if there is one, "cpu" or "cuda".
        threads: CPU threads; 0 for torch's own number.
        limit_batches: for a trial, the most batches per epoch of training and of evaluation; 0 for all.
        skip_batches: training batches that are not trained on, by their number in the run, from 1: for a run that
            stopped at a loss of NaN, which says the number.
        save_batches: also write the resumable checkpoint every that many batches; 0 writes it after each epoch only.
        logger: also log by Lightning's logger: "tensorboard", "wandb", "mlflow" (each an extra of that name) or "csv".
    """

    epochs: int = 10
    weights: str = ""
    seed: int = 0
    label_smoothing: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    fused: bool = False
    class_weights: Literal["none", "balanced"] = "none"
    sync_batch_norm: bool = False
    strategy: Literal["ddp", "fsdp"] = "ddp"
    drop_path: float = 0.0
    early_stopping: int = 0
    freeze_epochs: int = 0
    freeze_bn_epochs: int = 0
    device: Device = "auto"
    threads: int = 0
    limit_batches: int = 0
    skip_batches: tuple[int, ...] = ()
    save_batches: int = 0
    logger: Literal["none", "tensorboard", "csv", "wandb", "mlflow"] = "none"

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 1, "epochs", "accumulate")
        check_at_least(
            self, 0, "label_smoothing", "ema", "freeze_bn_epochs", "threads", "save_batches", "limit_batches"
        )
        check_at_least(self, 0, "drop_path", "early_stopping", "freeze_epochs")
        check_at_most(self, MOST_THREADS, "threads")
        check_at_most(self, MOST_IMAGES, "limit_batches", "accumulate", "save_batches")
        if wrong := [number for number in self.skip_batches if number < 1]:
            raise ConfigError(f"skip_batches: {wrong[0]} is not the number of a batch; expected: 1 or above")
        for name in ("label_smoothing", "ema", "drop_path"):
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

    @property
    def task(self) -> Task:
        """What the network is trained to do."""
        return DETECTION if isinstance(self.model, DetectorNet) else CLASSIFICATION

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("freeze_epochs", "freeze_bn_epochs"):
            if (value := getattr(self.train, name)) > self.train.epochs:
                raise ConfigError(f"train.{name}: {value} is more than train.epochs={self.train.epochs}")
        if self.train.drop_path and self.train.fused:
            raise ConfigError(
                f"train.drop_path: {self.train.drop_path} needs train.fused=false, which ends blocks itself"
            )
        if self.train.sync_batch_norm and self.train.fused:
            raise ConfigError("train.sync_batch_norm: true needs train.fused=false, which computes batch norm itself")
        if self.train.strategy == "fsdp":
            self._check_sharded()
        net = self.model.trunk if isinstance(self.model, DetectorNet) else self.model
        # Whether a network of others has a place is known when it is built.
        if self.train.drop_path and not isinstance(net, (ResidualNet, OtherNet)):
            raise ConfigError(
                f"train.drop_path: {self.train.drop_path} has no effect on {self.name}; expected: 0, or a ResNet, "
                "ResNeXt or SENet, or a network of timm or torchvision with drop paths"
            )
        if self.data.balanced and self.train.class_weights != "none":
            raise ConfigError(
                f"train.class_weights: {self.train.class_weights!r} has no effect with data.balanced, which shows all "
                "classes equally often; expected: one of the two"
            )
        if self.schedule.warmup_epochs > self.train.epochs:
            raise ConfigError(
                f"schedule.warmup_epochs: {self.schedule.warmup_epochs:g} is more than train.epochs={self.train.epochs}"
            )

    def _check_sharded(self) -> None:
        """Raise ConfigError for what is not computed on weights that are divided among processes."""
        if self.task is DETECTION:
            raise ConfigError(f"train.strategy: 'fsdp' is for classifiers, and {self.name} is a detector; use ddp")
        t = self.train
        for name, whole in (
            ("ema", 0.0),
            ("compile", False),
            ("fused", False),
            ("freeze_epochs", 0),
            ("freeze_bn_epochs", 0),
        ):
            if getattr(t, name) != whole:
                raise ConfigError(f"train.strategy: 'fsdp' needs train.{name}={whole}, and it is {getattr(t, name)}")
        if t.precision == "fp16":
            raise ConfigError("train.strategy: 'fsdp' does not scale the loss of fp16; expected: bf16 or fp32")
