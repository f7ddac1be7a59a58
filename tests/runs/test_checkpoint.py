"""One file = recipe + weights + measurements: what comes back, and everything that must not."""

from __future__ import annotations

import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from senet import ECAConfig, Network, Recipe, SEConfig, create_model, load, save
from senet.errors import CheckpointError, RunError
from senet.recipes.registry import get_recipe, recipe_for
from senet.runs.checkpoint import KEY, find, header, kept_weights, read_ckpt, write_ckpt

CLASSES = tuple("0123456789")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """SE-ResNet-8, so that files are small."""
    digits = get_recipe("digits")
    return replace(digits, name="se_resnet8", model=replace(digits.model.depths(1, 1, 1), in_channels=1))


@pytest.fixture(scope="module")
def model(recipe: Recipe) -> Network:
    """With statistics and biases that are not their starting values, in evaluation mode; tests do not change it."""
    model = create_model(recipe.model, seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
        model(torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    return model.eval()


@pytest.fixture
def file(tmp_path: Path, model: Network, recipe: Recipe) -> Path:
    path = tmp_path / "best.safetensors"
    save(path, model, recipe=recipe, classes=CLASSES, measurements={"top1_error": 1.5, "epoch": 3})
    return path


def ckpt(path: Path, model: Network, recipe: Recipe, **changes: Any) -> Path:
    """A `last.ckpt` as a run writes it."""
    state = {f"network.{k}": v for k, v in model.state_dict().items()}
    data = {KEY: header(recipe, CLASSES, {"epoch": 3}), "state_dict": state, "optimizer_states": [{"lr": 0.1}]}
    write_ckpt(path, data | changes)
    return path


def rewritten(path: Path, **changes: Any) -> Path:
    """The file with parts of its description changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:
        meta = json.loads(f.metadata()[KEY])
    for name, value in changes.items():
        if value is ...:
            del meta[name]
        else:
            meta[name] = value
    save_file(load_file(path), path, metadata={KEY: json.dumps(meta)})
    return path


def test_round_trip_is_bit_equal(file: Path, model: Network, recipe: Recipe) -> None:
    found = load(file)
    assert found.recipe == recipe
    assert found.classes == CLASSES
    assert found.measurements == {"top1_error": 1.5, "epoch": 3}
    assert not found.model.training
    assert found.model.net == recipe.model
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.model(x), model(x))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name
    assert all(p.requires_grad for p in found.model.parameters())


@pytest.mark.parametrize("unit", [None, SEConfig(reduction=2, bias=False, placement="pre"), ECAConfig()], ids=str)
def test_round_trip_of_other_units(unit: Any, recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, model=replace(recipe.model, se=unit))
    model = create_model(recipe.model).eval()
    save(tmp_path / "a.safetensors", model.state_dict(), recipe=recipe, classes=CLASSES)
    found = load(str(tmp_path / "a.safetensors"))
    assert found.recipe == recipe
    assert found.measurements == {}
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.model(x), model(x))


def test_any_memory_format_is_written(model: Network, recipe: Recipe, tmp_path: Path) -> None:
    import copy

    moved = copy.deepcopy(model).to(memory_format=torch.channels_last)
    save(tmp_path / "a.safetensors", moved, recipe=recipe, classes=CLASSES)
    state = load(tmp_path / "a.safetensors").model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_the_network_knows_how_its_images_are_prepared(tmp_path: Path) -> None:
    recipe = recipe_for("cifar10")
    save(tmp_path / "a.safetensors", create_model(recipe.model), recipe=recipe, classes=tuple("0123456789"))
    p = load(tmp_path / "a.safetensors").model.preprocessing
    assert p is not None
    assert p.mean == pytest.approx((125.3 / 255, 123.0 / 255, 113.9 / 255))
    # Images in memory are resized to what the network sees.
    assert (p.image_size, p.resize) == (32, 32)
    digits = replace(get_recipe("digits"), model=replace(get_recipe("digits").model, in_channels=1))
    save(tmp_path / "b.safetensors", create_model(digits.model), recipe=digits, classes=tuple("0123456789"))
    grey = load(tmp_path / "b.safetensors").model.preprocessing
    assert grey is not None
    assert (*grey.mean, *grey.std) == pytest.approx((77.7 / 255, 82.5 / 255))


def test_others_can_read_the_file(file: Path, model: Network, recipe: Recipe) -> None:
    """Plain safetensors under the network's own names, with JSON in the header."""
    assert load_file(file).keys() == model.state_dict().keys()
    from safetensors import safe_open

    with safe_open(file, framework="pt") as f:
        assert set(json.loads(f.metadata()["senet"])) == {
            *("format", "senet", "name", "model", "preprocessing", "classes", "measurements", "recipe", "images"),
        }


def test_loading_leaves_the_random_state_alone(file: Path) -> None:
    before = torch.get_rng_state()
    load(file)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_failed_write_leaves_the_old_checkpoint(
    file: Path, model: Network, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device; the best.safetensors from before is intact"):
        save(file, create_model(recipe.model, seed=9), recipe=recipe, classes=CLASSES)
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert load(file).measurements["epoch"] == 3


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_cut_file(kind: str, part: float, file: Path, model: Network, recipe: Recipe) -> None:
    if kind == "ckpt":
        file = ckpt(file.with_name("last.ckpt"), model, recipe)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(CheckpointError, match=rf"{file.name}: (damaged|cannot be read)"):
        load(file)
    file.write_bytes(data)
    assert load(file).classes == CLASSES


@pytest.mark.parametrize("data", [b"", b'{"a": 1}', b"\x89PNG\r\n", pickle.dumps(3, protocol=0)], ids=str)
def test_what_is_no_zip_and_no_pickle_is_not_called_dangerous(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"last.ckpt: cannot be read: (it is empty|JSON text|no file of weights, it begins with)"
    ):
        load(path)
    # Its neighbours are a pickle's first byte and a zip's.
    for start in (b"\x80", b"PK\x03\x04"):
        path.write_bytes(start + data)
        with pytest.raises(
            CheckpointError, match=r"last.ckpt: (cannot be read: damaged|refused: a pickle that torch.save)"
        ):
            load(path)
    with pytest.raises(CheckpointError, match=r"nowhere.ckpt: cannot be read: .*No such file"):
        read_ckpt(tmp_path / "nowhere.ckpt")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.ckpt"):
        (tmp_path / name).write_text("not a checkpoint at all\n" * 50)
        with pytest.raises(
            CheckpointError, match=rf"{name}: (damaged, or not a safetensors file|cannot be read: no file of weights)"
        ):
            load(tmp_path / name)


def test_another_networks_weights(model: Network, recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    plain = create_model(recipe.model, se=None)
    save(path, plain, recipe=recipe, classes=CLASSES)
    message = (
        "not the weights of se_resnet8: 12 tensors differ, the first is 'features.stage2.block1.se.fc1.bias' "
        r"\(expected \(1,\), found none\)"
    )
    with pytest.raises(CheckpointError, match=message):
        load(path)
    save(path, create_model(recipe.model, num_classes=7), recipe=recipe, classes=CLASSES)
    message = r"2 tensors differ, the first is 'classifier.bias' \(expected \(10,\), found \(7,\)\)"
    with pytest.raises(CheckpointError, match=message):
        load(path)
    save(path, {**model.state_dict(), "extra": torch.zeros(1)}, recipe=recipe, classes=CLASSES)
    with pytest.raises(CheckpointError, match=r"the first is 'extra' \(expected none, found \(1,\)\)"):
        load(path)
    save(path, model, recipe=recipe, classes=CLASSES)
    assert load(path).recipe == recipe


def test_safetensors_of_others(model: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    for metadata in (None, {"format": "pt"}):
        save_file(state, path, metadata=metadata)
        with pytest.raises(CheckpointError, match="has weights but no header of senet"):
            load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 9, "senet": "7.0"}, "written by senet 7.0; this is senet .*, which cannot read it"),
        ({"format": ..., "senet": ...}, "written by senet 0.1; this is senet"),
        ({"model": ...}, "its header cannot be read: Header: the field 'model' is missing"),
        ({"recipe": 3}, "its header cannot be read: recipe: 3 is not a mapping"),
        ({"recipe": {"data": 3}}, "its header cannot be read: data: 3 is not a mapping of fields"),
        ({"model": {"family": "vit"}}, "its header cannot be read: model.family: 'vit'"),
        ({"classes": None}, "its header cannot be read: classes"),
        ({"measurements": 5}, "its header cannot be read: measurements"),
        ({"recipe": None, "preprocessing": None}, "states no preprocessing or no classes; senet.from_pretrained"),
    ],
    ids=str,
)
def test_a_header_that_cannot_be_read(changes: dict[str, Any], message: str, file: Path) -> None:
    rewritten(file)
    assert load(file).classes == CLASSES
    with pytest.raises(CheckpointError, match=f"best.safetensors: {message}"):
        load(rewritten(file, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_a_header_that_is_no_json_object(text: str, file: Path) -> None:
    save_file(load_file(file), file, metadata={KEY: text})
    with pytest.raises(CheckpointError, match="its header cannot be read"):
        load(file)


def test_a_recipe_whose_network_cannot_be_built(file: Path, recipe: Recipe) -> None:
    from senet import to_dict

    wrong = to_dict(recipe.model)
    wrong["se"] = {"unit": "shared", "groups": 5}
    with pytest.raises(CheckpointError, match="its network cannot be built: groups: 5 does not divide the 16 channels"):
        load(rewritten(file, model=wrong))
    wrong["se"], wrong["stages"][0]["groups"] = None, 7
    message = r"its header cannot be read: model.stages\[0\].groups: 7 does not divide 16"
    with pytest.raises(CheckpointError, match=message):
        load(rewritten(file, model=wrong))


class Trap:
    """What a malicious file holds: unpickling it runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["pickle", "torch", "within"])
def test_a_malicious_file_is_refused_and_not_executed(how: str, model: Network, recipe: Recipe, tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "last.ckpt"
    trap = Trap(mark)
    if how == "pickle":
        path.write_bytes(pickle.dumps(trap))
    elif how == "torch":
        torch.save(trap, path)
    else:
        ckpt(path, model, recipe, optimizer_states=[trap])
    with pytest.raises(
        CheckpointError,
        match=r"last.ckpt: refused: (it would call builtins.getattr, which|a pickle that .* names pathlib)",
    ):
        load(path)
    assert not mark.exists()
    # The trap works where nothing guards.
    pickle.loads(pickle.dumps(trap))
    assert mark.exists()


def test_last_ckpt(model: Network, recipe: Recipe, tmp_path: Path) -> None:
    found = load(ckpt(tmp_path / "last.ckpt", model, recipe))
    assert found.recipe == recipe
    assert found.measurements == {"epoch": 3}
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.model(x), model(x))
    assert read_ckpt(tmp_path / "last.ckpt")["optimizer_states"] == [{"lr": 0.1}]


def test_last_ckpt_with_a_moving_average(model: Network, recipe: Recipe, tmp_path: Path) -> None:
    """What is evaluated is the average, so it is what comes back."""
    average = {f"average.module.{k}": v for k, v in model.state_dict().items()}
    other = {f"network.{k}": torch.zeros_like(v) for k, v in model.state_dict().items()}
    state = {**other, **average, "average.n_averaged": torch.tensor(3)}
    assert kept_weights(state).keys() == model.state_dict().keys()
    path = ckpt(tmp_path / "last.ckpt", model, recipe, state_dict=state)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(load(path).model(x), model(x))


@pytest.mark.parametrize(
    "changes", [{KEY: None}, {KEY: 3}, {"state_dict": None}, {"state_dict": [1]}], ids=lambda c: str(c)
)
def test_a_ckpt_of_others(changes: dict[str, Any], model: Network, recipe: Recipe, tmp_path: Path) -> None:
    path = ckpt(tmp_path / "last.ckpt", model, recipe, **changes)
    with pytest.raises(CheckpointError, match=r"last.ckpt: (has weights but no header|holds no weights)"):
        load(path)
    with pytest.raises(CheckpointError, match=r"last.ckpt: not a checkpoint written by senet"):
        read_ckpt(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match=r"last.ckpt: holds no weights"):
        load(path)


def test_a_run_folder_means_its_best(file: Path, model: Network, recipe: Recipe) -> None:
    folder = file.parent
    ckpt(folder / "last.ckpt", model, recipe)
    assert find(folder) == find(str(folder)) == file
    assert load(folder).measurements["top1_error"] == 1.5
    file.unlink()
    assert find(folder) == folder / "last.ckpt"
    assert load(folder).measurements == {"epoch": 3}
    assert find(folder / "last.ckpt") == folder / "last.ckpt"


def test_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such file or folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no best.safetensors, last.safetensors, .* in this folder$"):
        load(tmp_path)
    for name in ("b-seed1", "a-seed0"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "best.safetensors").touch()
    with pytest.raises(CheckpointError, match="; it has runs in runs/a-seed0, runs/b-seed1: name one of them"):
        load(tmp_path)


def test_a_named_recipe_is_enough(tmp_path: Path) -> None:
    recipe = recipe_for("digits", model="resnet20")
    save(tmp_path / "a.safetensors", create_model(recipe.model), recipe=recipe, classes=CLASSES)
    assert load(tmp_path / "a.safetensors").recipe.name == "resnet20"


@pytest.mark.parametrize("count", [0, 9, 11])
def test_a_class_for_every_output(count: int, file: Path, model: Network, recipe: Recipe) -> None:
    names = [str(i) for i in range(count)]
    with pytest.raises(CheckpointError, match=rf"names {count} classes, but its network has 10 outputs"):
        load(rewritten(file, classes=names))
    # Features have no names, or whatever names they are given.
    body = replace(recipe, model=replace(recipe.model, num_classes=0))
    save(file, create_model(body.model), recipe=body, classes=tuple(names))
    assert load(file).classes == tuple(names)
