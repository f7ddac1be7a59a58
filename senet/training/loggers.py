"""Lightning's loggers: where the figures of a run go beside its own files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from senet.config import to_dict
from senet.errors import MissingExtraError
from senet.recipes.recipe import Recipe


def logger_of(recipe: Recipe, folder: Path) -> Any:
    """The logger of a recipe, False for none; it has been told every field of the recipe.

    "wandb" and "mlflow" take their server and key from the variables that they document; without `MLFLOW_TRACKING_URI`
    MLflow's files are in the run folder.

    Raises:
        MissingExtraError: Its library is not installed.
    """
    kind = recipe.train.logger
    if kind == "none":
        return False
    if kind != "csv" and find_spec(kind) is None:
        raise MissingExtraError(f"{kind} logs", kind)
    from lightning.pytorch import loggers

    if kind in ("tensorboard", "csv"):
        made: Any = (loggers.TensorBoardLogger if kind == "tensorboard" else loggers.CSVLogger)(
            folder, name="", version=kind
        )
    elif kind == "wandb":
        made = loggers.WandbLogger(project="senet", name=folder.name, save_dir=folder)
    else:
        import os

        own = (folder / "mlruns").resolve().as_uri()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or own
        made = loggers.MLFlowLogger(experiment_name="senet", run_name=folder.name, tracking_uri=uri)
    made.log_hyperparams(to_dict(recipe))
    return made
