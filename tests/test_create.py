"""`create_model(weights=...)`: what is loaded, what stays as drawn, and that this is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from senet import ConfigError, FeatureExtractor, Network, create_model, get_net
from senet.errors import CheckpointError
from senet.models.net import Preprocessing, ResidualNet
from senet.weights.export import state_as


def source() -> Network:
    """A network of 10 classes whose weights no seed draws."""
    model = create_model("se_resnet20", seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.1
    return model.eval()


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["mapping", "path", "text"])
def test_weights_from_tensors_and_files(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = source()
    path = tmp_path / "net.pth"
    torch.save(theirs.state_dict(), path)
    model = create_model("se_resnet20", weights={"mapping": theirs.state_dict(), "path": path, "text": str(path)}[kind])
    assert model.training
    assert torch.equal(model.eval()(images()), theirs(images()))
    assert "152 tensors loaded" in capsys.readouterr().out


def test_another_number_of_classes_keeps_the_drawn_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    theirs, drawn = source(), create_model("se_resnet20", num_classes=4, seed=9)
    model = create_model("se_resnet20", weights=theirs.state_dict(), num_classes=4, seed=9)
    assert all(
        torch.equal(a, b) for a, b in zip(model.features.parameters(), theirs.features.parameters(), strict=True)
    )
    assert torch.equal(model.classifier.weight, drawn.classifier.weight)  # type: ignore[arg-type]
    assert "classifier.weight is (10, 64) in the source and (4, 64) in the network" in capsys.readouterr().out
    # The same number is no reason to keep it.
    model = create_model("se_resnet20", weights=theirs.state_dict(), num_classes=10)
    assert torch.equal(model.classifier.weight, theirs.classifier.weight)  # type: ignore[arg-type]
    # Nor is another number that nobody asked for.
    five = create_model("se_resnet20", num_classes=5).state_dict()
    with pytest.raises(CheckpointError, match=r"2 of another shape \(classifier"):
        create_model("se_resnet20", weights=five)


def test_stage_maps_of_loaded_weights() -> None:
    theirs = source()
    maps = create_model("se_resnet20", weights=theirs.state_dict(), features_only=True, out_stages=(2, 4)).eval()
    assert isinstance(maps, FeatureExtractor)
    assert all(p.requires_grad and not p.is_meta for p in maps.parameters())
    stage2, stage4 = maps(images())
    assert torch.equal(stage4, theirs.features(images()))
    assert stage2.shape == (2, 16, 32, 32)
    assert maps.preprocessing is None


def test_stage_maps_know_how_their_weights_want_images() -> None:
    net = get_net("resnet18")
    assert isinstance(net, ResidualNet)
    state = state_as(create_model(net.depths(1, 1, 1, 1), pool="pad"), "torchvision")
    maps = create_model(net.depths(1, 1, 1, 1), weights=state, features_only=True)
    assert maps.preprocessing == Preprocessing()


def test_what_else_may_stay_as_drawn() -> None:
    state = source().state_dict()
    drawn = create_model("se_resnet20", in_channels=1, seed=9)
    with pytest.raises(CheckpointError, match=r"features\.stem\.conv\.weight is .* name in `allow`"):
        create_model("se_resnet20", weights=state, in_channels=1)
    model = create_model("se_resnet20", weights=state, in_channels=1, allow="features.stem.conv", seed=9)
    assert torch.equal(model.features.stem.conv.weight, drawn.features.stem.conv.weight)  # type: ignore[union-attr]
    assert torch.equal(model.classifier.weight, state["classifier.weight"])  # type: ignore[arg-type]
    headless = {name: t for name, t in state.items() if not name.startswith("classifier")}
    for classes in (0, 10):
        assert create_model("se_resnet20", weights=headless, num_classes=classes).num_classes == classes
    with pytest.raises(ConfigError, match=r"allow: .* has no effect without weights"):
        create_model("se_resnet20", allow=("features.stem.conv",))


def test_weights_that_cannot_be() -> None:
    state = source().state_dict()
    with pytest.raises(ConfigError, match="weights: have no effect with device='meta'"):
        create_model("se_resnet20", weights=state, device="meta")
    with pytest.raises(CheckpointError, match=r"resnet20|not the weights of this network"):
        create_model("resnet20", weights=state)
