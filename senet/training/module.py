"""A network in training, as Lightning wants it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from senet.create import create_model
from senet.data import Data
from senet.initialization import number
from senet.processes import counted, gathered, rank, world
from senet.recipes.recipe import Recipe
from senet.training.drop_path import drop_paths_
from senet.training.schedule import Plateau, make_optimizer, per_step
from senet.training.sharded import begin_, same_buffers_, shard_
from senet.training.sync_norm import still_, synchronise_
from senet.training.tasks import task_of
from senet.training.trunk import freeze_trunk_
from senet.training.whole_batch import DrawnForAll


class TrainingModule(pl.LightningModule):
    """Trains `recipe.model` on batches of `data`; all that is random in it is a function of (seed, step)."""

    def __init__(self, recipe: Recipe, data: Data, steps_per_epoch: int, network: nn.Module | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.images = data
        self.steps_per_epoch = steps_per_epoch
        self.network = (
            network
            if network is not None
            else create_model(recipe.model, seed=recipe.train.seed, fused=recipe.train.fused)
        )
        self.is_sharded = recipe.train.strategy == "fsdp" and world() > 1
        # The parts of a parameter are cut from its memory as a vector.
        if recipe.train.channels_last and not self.is_sharded:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.is_synchronised = recipe.train.sync_batch_norm and world() > 1
        if self.is_synchronised:
            synchronise_(self.network)
        if recipe.train.drop_path:
            drop_paths_(self.network, recipe.train.drop_path)
        self.trainable = [p for p in self.network.parameters() if p.requires_grad]
        # The average is part of the module's state, so a checkpoint holds both.
        ema = recipe.train.ema
        self.average = (
            AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True) if ema else None
        )
        if self.average is not None:
            # No process waits for gradients of it.
            self.average.requires_grad_(False)
        if recipe.train.compile:
            self.network.compile()
        self.task = task_of(recipe, data)
        self.plateau: Plateau | None = None
        self.frozen_in = -1
        self.train_sums: Tensor | None = None
        self.train_count = 0
        self.val_tally = self.task.tally()
        # Images that cannot be read may leave one of a batch.
        self.fewest = fewest_images(recipe) if recipe.data.on_bad_image == "skip" and not self.is_synchronised else 1
        self.left_out = 0
        self.has_gradient = False
        self.batch: Any = None

    def configure_model(self) -> None:
        """Divide the weights where the strategy says so, before the optimizer is made of them."""
        if self.is_sharded:
            assert self.device_mesh is not None
            shard_(self.network, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """The optimizer and the per-step schedule."""
        r = self.recipe
        optimizer = make_optimizer(self.network, r.optim)
        if self.is_sharded:
            begin_(optimizer)
        scheduler = per_step(optimizer, r.schedule, r.train, self.steps_per_epoch)
        if r.schedule.kind == "plateau":
            self.plateau = Plateau(r.schedule, scheduler)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> tuple[Any, Any]:
        """Augment and normalise on the device."""
        split = self.images.train if self.trainer.training else self.images.measured
        self.batch = batch
        images, targets = split.prepare(batch, device)
        if not self.recipe.train.channels_last and isinstance(images, Tensor):
            images = images.contiguous()
        return images, targets

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Freeze what the epoch freezes; let dropout draw from (seed, step), so a resumed run draws the same."""
        # Not at the epoch's start, which a run resumed in mid-epoch does not pass.
        if self.frozen_in != self.current_epoch:
            self.freeze_(self.current_epoch)
            self.frozen_in = self.current_epoch
        torch.manual_seed(number(self.recipe.train.seed, "step", self.trainer.fit_loop.total_batch_idx))

    def freeze_(self, epoch: int) -> None:
        """Freeze what the recipe freezes in an epoch, and nothing else: the trunk at first, batch norm at the end."""
        t = self.recipe.train
        if t.freeze_epochs:
            self.network.train()
            for p in self.trainable:
                p.requires_grad_(True)
            if epoch < t.freeze_epochs:
                freeze_trunk_(self.network)
        if epoch >= t.epochs - t.freeze_bn_epochs:
            freeze_batch_norm_(self.network)

    def training_step(self, batch: tuple[Any, Any], batch_idx: int) -> Tensor | None:
        """The task's loss of one batch; None, and no step, where too few of its images can be read."""
        images, targets = batch
        n = len(targets) if len(targets) >= self.fewest else 0
        self.left_out += len(targets) - n
        if self.is_left_out:
            n = 0
        else:
            self.has_gradient = True
        if world() > 1:
            return self.shared_step(images, targets, n)
        if not n:
            return None
        loss, sums = self.task.step(self.network, images, targets)
        self.count(sums, n)
        return loss

    def shared_step(self, images: Any, targets: Any, n: int) -> Tensor:
        """The share of n images in the mean loss of a batch of all processes, whose gradients are averaged.

        A process without an image takes part, with gradients of 0.
        """
        counts = counted(n)
        first, total = sum(counts[: rank()]), sum(counts)
        with DrawnForAll(first, n, total):
            if n:
                loss, sums = self.task.step(self.network, images, targets)
                self.count(sums, n)
                return loss * (n * world() / total)
            stilled = still_(self.network, synchronised=not total)
            loss = self.task.absent(self.network, images)
            for norm in stilled:
                norm.train()
            return loss

    @property
    def names(self) -> list[str]:
        """The training images of the batch at hand."""
        split, which = self.images.train, self.images.train.images_in(self.batch.epoch)
        return [split.name(i) for i in which[self.batch.indices].tolist()]

    def count(self, sums: Tensor, n: int) -> None:
        """Add a batch to the sums of the epoch."""
        self.train_sums = sums if self.train_sums is None else self.train_sums + sums
        self.train_count += n

    @property
    def is_left_out(self) -> bool:
        """Whether the recipe leaves out this batch (`train.skip_batches`)."""
        left_out = self.recipe.train.skip_batches
        return bool(left_out) and self.number in left_out

    @property
    def number(self) -> int:
        """Of the batch at hand in the run, from 1."""
        return self.trainer.fit_loop.total_batch_idx + 1

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None, **kwargs: Any
    ) -> None:
        """Step, and let the average follow the weights; no step where all of its batches are left out."""
        if self.is_left_out and not self.has_gradient:
            # Processes still meet, with gradients of 0, which momentum and weight decay must not see.
            optimizer_closure()
            optimizer.zero_grad()
            return
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure, **kwargs)
        self.has_gradient = False
        if self.average is not None:
            self.average.update_parameters(self.network)

    def read_train(self) -> tuple[dict[str, float], int]:
        """Means over the training images since the last reading, and how many they were, of all processes."""
        names = ("loss", *self.task.terms)
        found, n = self.gathered_sums()
        sums = [float("nan")] * len(names) if found is None else found.tolist()
        self.train_sums, self.train_count = None, 0
        return {name: value / max(1, n) for name, value in zip(names, sums, strict=True)}, n

    def gathered_sums(self) -> tuple[Tensor | None, int]:
        """The sums of the epoch, and the number of its images so far, of all processes."""
        if world() == 1:
            return self.train_sums, self.train_count
        sums = None if self.train_sums is None else self.train_sums.cpu()
        found = gathered((sums, self.train_count))
        parts = [part for part, _ in found if part is not None]
        return torch.stack(parts).sum(0) if parts else None, sum(n for _, n in found)

    def on_validation_epoch_start(self) -> None:
        """Measure with the statistics that are saved."""
        if self.is_sharded:
            same_buffers_(self.network)

    def validation_step(self, batch: tuple[Any, Any], batch_idx: int) -> None:
        """Measure one batch; a process without an image gives the others its part of the weights."""
        images, targets = batch
        if not len(targets) and not self.is_sharded:
            return
        network = self.network if self.average is None else self.average
        answer = self.task.answer(network, images)
        if len(targets):
            self.val_tally.add(answer, targets)

    def on_validation_epoch_end(self) -> None:
        """Count what all processes measured."""
        self.val_tally.gather_()

    def read_val(self) -> tuple[dict[str, float | None], int]:
        """The task's figures on the evaluated images since the last reading, and how many they were."""
        measured = self.val_tally.read()
        self.val_tally = self.task.tally()
        return measured, measured.pop("images")

    def sums(self) -> dict[str, Any]:
        """What has been counted of an unfinished epoch, for the checkpoint."""
        sums, count = self.gathered_sums()
        return {"sums": sums, "count": count}

    def load_sums(self, state: dict[str, Any]) -> None:
        """Go on from `sums()`, which the first process keeps for all."""
        if not rank():
            self.train_sums, self.train_count = state["sums"], state["count"]


def fewest_images(recipe: Recipe) -> int:
    """The smallest batch that a recipe's network can train on: 2 where a batch norm sees a feature map of 1x1."""
    if recipe.task.name == "detection":
        # The last feature map of an image that has objects is larger.
        return 1
    if recipe.train.freeze_epochs + recipe.train.freeze_bn_epochs >= recipe.train.epochs:
        return 1
    network = create_model(recipe.model, device="meta").eval()
    sizes: list[int] = []
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0][0, 0].numel()))
    side = recipe.data.image_size
    network(torch.empty(1, recipe.model.in_channels, side, side, device="meta"))
    return 2 if 1 in sizes else 1


def freeze_batch_norm_(network: nn.Module) -> list[nn.Module]:
    """Stop batch norm's statistics and parameters where they are (paper, Appendix (f)); return the layers."""
    norms: list[nn.Module] = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.eval()
        norm.requires_grad_(False)
    return norms
