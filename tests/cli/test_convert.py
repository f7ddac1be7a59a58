"""`senet convert`, from another library's file to a checkpoint that predicts, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from senet import create_model, get_net, load
from senet.cli.convert import LIBRARIES
from senet.recipes.recipe import DataRecipe, Recipe
from senet.runs.checkpoint import save
from senet.weights.export import write_network
from senet.weights.ilsvrc import names
from senet.weights.load import CONVENTIONS

Call = Callable[..., tuple[int, str, str]]


def test_the_libraries_are_the_conventions() -> None:
    assert set(LIBRARIES) == {convention.name for convention in CONVENTIONS}


def test_timm_to_a_checkpoint_and_back(senet: Call) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("seresnet18", num_classes=5).eval()
    torch.save({"state_dict": theirs.state_dict()}, "net.pth")
    status, out, _ = senet("convert", "net.pth", "--table")
    assert status == 0
    assert "net.pth: weights in the names of timm" in out
    assert "note: the source does not name its classes: they are numbered" in out
    assert "renamed   layer1.0.se.fc1.weight  " not in out
    assert "reshaped  layer1.0.se.fc1.weight  " in out
    assert out.splitlines()[-1].startswith("se_resnet18-senet.safetensors: se_resnet18, 11,")

    checkpoint = load("se_resnet18-senet.safetensors")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.model(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert checkpoint.classes == ("0", "1", "2", "3", "4")
    data = checkpoint.recipe.data
    assert (data.mean, data.std, data.image_size) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)

    status, out, _ = senet("convert", "se_resnet18-senet.safetensors", "--to", "timm", "--json")
    told = json.loads(out)
    assert (status, told["from"], told["to"], told["out"]) == (0, "senet", "timm", "se_resnet18-timm.safetensors")
    assert (told["model"], told["missing"], told["unused"]) == ("se_resnet18", 0, 0)
    back, original = load_file("se_resnet18-timm.safetensors"), theirs.state_dict()
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)


def test_caffe_to_a_checkpoint_that_predicts(senet: Call) -> None:
    model = create_model("se_bn_inception", seed=3).eval()
    write_network("net.caffemodel", model, "caffe")
    assert senet("convert", "net.caffemodel", "--out", "net.safetensors")[0] == 0
    checkpoint = load("net.safetensors")
    assert checkpoint.classes == names()
    data = checkpoint.recipe.data
    assert (data.mean, data.std, data.resize) == ((123 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3, 256)
    assert all(torch.equal(t, checkpoint.model.state_dict()[name]) for name, t in model.state_dict().items())

    Image.new("RGB", (260, 260), "red").save("red.png")
    status, out, _ = senet("predict", "net.safetensors", "red.png", "--json")
    assert status == 0
    assert json.loads(out)[0]["classes"][0]["class"] in names()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.pth", "--to", "tim"], "--to: 'tim' is not known (did you mean 'timm'?); expected: senet, timm, "),
        (["x.pth", "--from", "tim"], "--from: 'tim' is not known (did you mean 'timm'?)"),
        (["x.pth", "--model", "se_resnet51"], "model: 'se_resnet51' is not known"),
        (["x.pth", "--to", "timm", "--out", "y.tar"], "--out: the ending of 'y.tar' is not known; endings for timm: "),
        (["x.pth", "--to", "caffe", "--out", "y.pth"], "endings for caffe: .caffemodel"),
        (["x.pth", "--out", "there.safetensors"], "there.safetensors: exists already; overwrite it with --force"),
        (["x.pth"], "x.pth: no such file or folder"),
        (["part.pth"], "no network here has these"),
        (["part.pth", "--model", "se_resnet20"], "tensors missing"),
        (["whole.pth", "--to", "timm"], "timm"),
        (["whole.pth", "--to", "akamaster"], "se is SEConfig("),
        (["whole.pth", "--allow", "nec"], "allow: 'nec' names no tensor"),
    ],
)
def test_mistakes_write_nothing(words: list[str], message: str, senet: Call) -> None:
    state = create_model("se_resnet20").state_dict()
    torch.save(state, "whole.pth")
    torch.save({name: t for name, t in state.items() if "stage3" not in name}, "part.pth")
    Path("there.safetensors").write_bytes(b"mine")
    before = {path.name: path.stat().st_size for path in Path().iterdir()}
    status, out, err = senet("convert", *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert {path.name: path.stat().st_size for path in Path().iterdir()} == before


def test_what_a_file_cannot_tell_must_be_said(senet: Call) -> None:
    net = get_net("se_resnet50")
    torch.save(create_model(net, pool="pad", stride_on="3x3", num_classes=2).state_dict(), "net.pth")
    status, _, err = senet("convert", "net.pth")
    assert status == 2
    assert "does not tell pool and stride_on of se_resnet50; add --pool ceil|pad --stride-on 1x1|3x3" in err
    assert "does not tell pool of se_resnet50; " in senet("convert", "net.pth", "--stride-on", "3x3")[2]
    assert "--pool: 'same' is not known" in senet("convert", "net.pth", "--pool", "same")[2]
    assert not Path("se_resnet50-senet.safetensors").exists()
    assert senet("convert", "net.pth", "--stride-on", "3x3", "--pool", "pad", "--out", "a.safetensors")[0] == 0
    model = load("a.safetensors").model
    assert (model.net.pool, model.net.stride_on) == ("pad", "3x3")  # type: ignore[attr-defined]
    # What the file itself says is not overruled.
    err = senet("convert", "a.safetensors", "--pool", "ceil")[2]
    assert "pool: 'ceil' has no effect, a.safetensors says 'pad'" in err
    write_network("seresnet50.pth", model, "pytorchcv")
    Path("net.pth").write_bytes(Path("seresnet50.pth").read_bytes())
    assert "does not tell stride_on of se_resnet50" in senet("convert", "net.pth")[2]
    assert senet("convert", "seresnet50.pth", "--out", "b.safetensors")[0] == 0


def test_a_grey_run_keeps_its_moments(senet: Call) -> None:
    recipe = Recipe(name="x", model=get_net("se_resnet20"), data=DataRecipe())
    recipe = replace(recipe, model=replace(recipe.model, in_channels=1), data=DataRecipe(mean=(0.13,), std=(0.224,)))
    save("run.safetensors", create_model(recipe.model), recipe=recipe, classes=tuple("abcdefghij"))
    status, out, _ = senet("convert", "run.safetensors", "--out", "b.safetensors")
    assert status == 0
    assert "does not state its preprocessing" not in out
    data = load("b.safetensors").recipe.data
    assert (data.mean, data.std) == ((0.13,), (0.224,))


def test_force_writes_over_a_file(senet: Call) -> None:
    model = create_model("se_resnet20")
    torch.save(model.state_dict(), "net.pth")
    Path("new.safetensors").write_bytes(b"old")
    status, out, _ = senet("convert", "net.pth", "--force", "--out", "new.safetensors")
    assert status == 0
    assert "the source does not state its preprocessing" in out
    assert torch.equal(load("new.safetensors").model.classifier.weight, model.classifier.weight)  # type: ignore[arg-type]
