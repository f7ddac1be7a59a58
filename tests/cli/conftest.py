"""The command line, called in this process, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from senet.cli import main

TINY = ["--image-size", "8", "--epochs", "1", "--limit-batches", "2", "--batch-size", "16", "--threads", "1"]
"""Options that make a run of ResNet-20 on the digits take a second."""


@pytest.fixture
def senet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """`senet("info", "resnet20")` -> (exit status, standard output, standard error), run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(w) for w in words])
        out = capsys.readouterr()
        return status, out.out, out.err

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one short run of SE-ResNet-20 on the digits; not to be written to."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "se_resnet20", *TINY, "--out", str(folder)]) == 0
    return folder
