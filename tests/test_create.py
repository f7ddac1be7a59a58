"""`create_model(weights=...)`: what is loaded, what stays as drawn, and that this is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from senet import CheckpointError, ConfigError, Network, StageMaps, create_model


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
    assert "classifier.weight is (10, 64) there and (4, 64) here" in capsys.readouterr().out
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
    assert isinstance(maps, StageMaps)
    assert all(p.requires_grad and not p.is_meta for p in maps.parameters())
    stage2, stage4 = maps(images())
    assert torch.equal(stage4, theirs.features(images()))
    assert stage2.shape == (2, 16, 32, 32)


def test_weights_that_cannot_be() -> None:
    state = source().state_dict()
    with pytest.raises(ConfigError, match="weights: have no effect with device='meta'"):
        create_model("se_resnet20", weights=state, device="meta")
    with pytest.raises(CheckpointError, match=r"resnet20|not the weights of this network"):
        create_model("resnet20", weights=state)
