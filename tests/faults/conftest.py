"""The tiny recipe, its plain twin and the few digits of the tests of training."""

from __future__ import annotations

from tests.training.conftest import no_curves, open_small, plain, recipe

__all__ = ["no_curves", "open_small", "plain", "recipe"]
