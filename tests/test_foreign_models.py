"""Networks of timm and torchvision by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from senet import ConfigError
from senet.foreign_models import is_foreign, load_foreign
from senet.models.net import Preprocessing
from senet.recipes.recipe import DataRecipe


@pytest.mark.parametrize("source", ["timm:mobilenetv3_small_050", "torchvision:efficientnet_b0"])
def test_a_network_and_how_it_expects_its_images(source: str) -> None:
    pytest.importorskip(source.partition(":")[0])
    before = torch.get_rng_state()
    found = load_foreign(source)
    assert torch.equal(torch.get_rng_state(), before)
    # Both libraries say: 224 of 256 pixels, bicubic, ImageNet's mean and deviation.
    assert found.preprocessing == Preprocessing(interpolation="bicubic")
    assert DataRecipe(in_memory="no").with_preprocessing(found.preprocessing).preprocessing == found.preprocessing
    assert (found.name, found.pretrained, len(found.classes), found.classes[1]) == (source, False, 1000, "n01443537")
    with torch.inference_mode():
        assert found.model.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_outputs_without_names_are_numbered() -> None:
    pytest.importorskip("timm")
    found = load_foreign("timm:mobilenetv3_large_100.miil_in21k")
    assert (len(found.classes), found.classes[-1]) == (11221, "class 11220")


def test_what_is_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_foreign("timm:seresnet50", pretrained=True)
    assert not is_foreign("runs/se_resnet20")
    (tmp_path / "a:b").touch()
    assert not is_foreign("a:b")
    for source, pretrained, message in (
        ("tim:resnet18", False, r"CHECKPOINT: 'tim' is not known \(did you mean 'timm'\?\); libraries: timm, torchv"),
        ("runs/a", True, "--pretrained: has no effect on a checkpoint"),
    ):
        with pytest.raises(ConfigError, match=message):
            is_foreign(source, pretrained)
    for source, near in (("timm:seresnet5", "seresnet50"), ("torchvision:efficientnet", "efficientnet_b7")):
        with pytest.raises(ConfigError, match=f"CHECKPOINT: {source.partition(':')[0]} has no .*{near}"):
            load_foreign(source)
