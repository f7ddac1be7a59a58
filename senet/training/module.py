"""A network in training, as Lightning wants it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from senet.counting import Tally
from senet.create import create_model
from senet.data import Data
from senet.initialization import number
from senet.recipes.recipe import Recipe
from senet.training.schedule import Plateau, per_step, sgd


class Classifier(pl.LightningModule):
    """Trains `recipe.model` on batches of `data`; all that is random in it is a function of (seed, step)."""

    def __init__(self, recipe: Recipe, data: Data, steps_per_epoch: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.images = data
        self.steps_per_epoch = steps_per_epoch
        self.network = create_model(recipe.model, seed=recipe.train.seed, fused=recipe.train.fused)
        if recipe.train.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # The average is part of the module's state, so a checkpoint holds both.
        ema = recipe.train.ema
        self.average = (
            AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True) if ema else None
        )
        if recipe.train.compile:
            self.network.compile()
        self.plateau: Plateau | None = None
        self.frozen_in = -1
        self.train_sums: Tensor | None = None
        self.train_count = 0
        self.val_tally = Tally()

    def configure_optimizers(self) -> Any:
        """SGD and the per-step schedule."""
        r = self.recipe
        optimizer = sgd(self.network, r.optim)
        scheduler = per_step(optimizer, r.schedule, r.train, self.steps_per_epoch)
        if r.schedule.kind == "plateau":
            self.plateau = Plateau(r.schedule, scheduler)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment and normalise on the device."""
        split = self.images.train if self.trainer.training else self.images.val
        images, targets = split.prepare(batch, device)
        if not self.recipe.train.channels_last:
            images = images.contiguous()
        return images, targets

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Freeze batch norm in the last epochs; let dropout draw from (seed, step), so a resumed run draws the same."""
        t = self.recipe.train
        # Not at the epoch's start, which a run resumed in mid-epoch does not pass.
        if self.current_epoch >= t.epochs - t.freeze_bn_epochs and self.frozen_in != self.current_epoch:
            freeze_batch_norm_(self.network)
            self.frozen_in = self.current_epoch
        torch.manual_seed(number(self.recipe.train.seed, "step", self.trainer.fit_loop.total_batch_idx))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Cross entropy of one batch; None, and no step, where none of its images can be read."""
        images, targets = batch
        if not len(targets):
            return None
        logits = self.network(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.recipe.train.label_smoothing)
        with torch.no_grad():
            wrong = (logits.argmax(1) != targets).sum()
            sums = torch.stack([loss.detach() * len(targets), wrong.to(loss.dtype)]).double()
            self.train_sums = sums if self.train_sums is None else self.train_sums + sums
            self.train_count += len(targets)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the average follow the weights."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.network)

    def read_train(self) -> dict[str, Any]:
        """Mean loss, error (percent) and number of the training images since the last reading."""
        loss, wrong = self.train_sums.tolist() if self.train_sums is not None else (float("nan"), float("nan"))
        n = self.train_count
        self.train_sums, self.train_count = None, 0
        return {"train_loss": loss / max(1, n), "train_error": 100 * wrong / max(1, n), "train_images": n}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count one batch's errors."""
        images, targets = batch
        if not len(targets):
            return
        network = self.network if self.average is None else self.average
        self.val_tally.add(network(images), targets)

    def read_val(self) -> dict[str, Any]:
        """Loss, errors (percent) and number of the validation images since the last reading."""
        measured = self.val_tally.read()
        self.val_tally = Tally()
        return {f"test_{name}": value for name, value in measured.items()}

    def sums(self) -> dict[str, Any]:
        """What has been counted of an unfinished epoch, for the checkpoint."""
        return {"sums": self.train_sums, "count": self.train_count}

    def load_sums(self, state: dict[str, Any]) -> None:
        """Go on from `sums()`."""
        self.train_sums, self.train_count = state["sums"], state["count"]


def freeze_batch_norm_(network: nn.Module) -> list[nn.Module]:
    """Stop batch norm's statistics and parameters where they are (paper, Appendix (f)); return the layers."""
    norms: list[nn.Module] = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.eval()
        norm.requires_grad_(False)
    return norms
