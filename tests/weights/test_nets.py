"""Trained networks with SE units that nobody here made, in the folder that SENET_TEST_NETS names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v3_small

import senet
from senet import SEConfig
from senet.errors import CheckpointError
from senet.weights import files


@pytest.fixture
def nets() -> Path:
    folder = Path(os.environ.get("SENET_TEST_NETS", "/nowhere"))
    if not folder.is_dir():
        pytest.skip("SENET_TEST_NETS names no folder with mobilenetv3_small_fundus.pth and minifasnet_v1se.pth")
    return folder


@pytest.mark.slow
def test_features_of_fundus_photographs_are_torchvisions(nets: Path) -> None:
    source = files.read(nets / "mobilenetv3_small_fundus.pth")
    model = mobilenet_v3_small(num_classes=11)
    mine = {name: t for name, t in source.tensors.items() if name.startswith("features.")}
    result = model.load_state_dict(mine, strict=False)
    assert not result.unexpected_keys
    assert all(name.startswith("classifier.") for name in result.missing_keys)
    foreign = source.tensors.keys() - mine.keys()
    assert foreign
    assert all(name.startswith("classifier.") for name in foreign)
    assert senet.load_weights_(model, nets / "mobilenetv3_small_fundus.pth", allow=["classifier"], quiet=True).loaded
    # It is another network than ours, and every attempt says so by the file's name.
    with pytest.raises(CheckpointError, match=r"mobilenetv3_small_fundus\.pth: names of no known convention"):
        senet.load_weights_(senet.create_model("resnet20"), nets / "mobilenetv3_small_fundus.pth")

    x = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    report = senet.doctor(model.train(), x)
    assert len(report.units) == 9
    model.eval()
    with torch.no_grad():
        before = model(x)
        fast = senet.optimize(model, x)
        torch.testing.assert_close(fast(x), before, rtol=1e-3, atol=1e-3)
    senet.insert_(model, SEConfig(), "features.0")
    with torch.no_grad():
        torch.testing.assert_close(model(x), before)


def test_every_key_of_minifasnet_is_read(nets: Path) -> None:
    path = nets / "minifasnet_v1se.pth"
    raw = torch.load(path, map_location="cpu", weights_only=True)
    source = files.read(path)
    assert {f"module.{name}" for name in source.tensors} | set(source.outside) == set(raw)
    assert source.notes == ("without the prefix 'module.'",)
    assert sum(name.endswith("running_mean") for name in source.tensors) > 20
    with pytest.raises(CheckpointError, match=r"minifasnet_v1se\.pth: names of no known convention"):
        senet.load_weights_(senet.create_model("resnet20"), path)
