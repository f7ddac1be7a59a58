"""The named recipes, the rules by which a data set gets one, and recipes as YAML files."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import senet.recipes
from senet import ConfigError, Recipe, SEConfig, create_model, get_net, list_models, override, to_dict
from senet.cli.parse import Parser
from senet.cli.train import twins
from senet.cli.training_options import chosen_recipe, network_options, run_options
from senet.errors import RunError
from senet.models.registry import canonical_name
from senet.recipes.recipe import DataRecipe, OptimRecipe, ScheduleRecipe, TrainRecipe
from senet.recipes.registry import FILES, from_scratch, get_recipe, recipe_for, recipes
from senet.recipes.scaling import scaled
from senet.runs.folder import RECIPE
from senet.runs.recipe_file import read_recipe, write_recipe

RECIPE_MODULES = [import_module(f"senet.recipes.{file}") for file in FILES]


def test_the_registry() -> None:
    cifar = [f"{network}_{data}" for network in ("preact", "wrn", "shake") for data in ("cifar10", "cifar100")]
    imagenet = ["imagenet", "imagenet299", "ablation", "ablation_plateau", "released", "mobile", "shufflenet"]
    others = ["places365", "senet154", "senet154_320", "folder", "finetune", "coco", "boxes"]
    assert list(recipes()) == ["digits", "cifar10", "cifar100", *cifar, "student", *imagenet, *others]
    with pytest.raises(ConfigError, match=r"recipe: 'cifar' is not known \(did you mean 'cifar10'\?\); expected"):
        get_recipe("cifar")


def test_every_file_of_recipes_is_listed() -> None:
    folder = Path(senet.recipes.__path__[0])
    modules = {p.stem: import_module(f"senet.recipes.{p.stem}") for p in folder.glob("*.py") if p.stem != "__init__"}
    assert {n for n, m in modules.items() if any(isinstance(v, Recipe) for v in vars(m).values())} == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_each_file_opens_with_its_command(file: str) -> None:
    first, _, text = (import_module(f"senet.recipes.{file}").__doc__ or "").partition("\n")
    assert first.startswith("senet train ")
    assert text.strip()


@pytest.mark.parametrize("name", recipes())
def test_each_recipe_by_the_command_line(name: str) -> None:
    """`senet train --recipe NAME` is that recipe and its plain twin; its file says the command and names it."""
    base = get_recipe(name)
    # Without weights nothing of a detector's trunk is frozen.
    base = replace(base, model=from_scratch(base.model, ""))
    parser = Parser("train", "[MODEL]", "test", base=lambda line: chosen_recipe(line, ""))
    network_options(parser)
    run_options(parser)
    line = parser.read(["--recipe", name, "--epochs", "5000"])
    assert (line.base, line.config) == (base, override(base, "train.epochs=5000"))
    plain, se = twins(base)
    assert (plain.model, se) == (replace(base.model, se=None), base)
    assert get_net(plain.name).se is None
    (text,) = {m.__doc__ or "" for m in RECIPE_MODULES if isinstance(getattr(m, name, None), Recipe)}
    assert f"--recipe {name}" in text or f"`{name}`" in text or f"--data {name}" in text or name == "folder"


@pytest.mark.parametrize("name", recipes())
def test_each_recipe_fits_its_network(name: str) -> None:
    recipe = get_recipe(name)
    plain = replace(recipe.model, se=None)
    assert plain == replace(get_net(recipe.name), se=None)
    assert recipe.data.image_size in (recipe.model.image_size, 32) or name in ("senet154_320", "boxes")
    assert recipe.data.channels in (1, 3)
    create_model(recipe.model, device="meta")


def test_published_schedules() -> None:
    """Section 5.1: 0.6, batch 1024, a tenth every 30 of 100 epochs; section 6, footnote 2: 270 with cuts as here."""
    imagenet, ablation, cifar = (get_recipe(name) for name in ("imagenet", "ablation", "cifar10"))
    assert (imagenet.optim.lr, imagenet.optim.momentum, imagenet.data.batch_size) == (0.6, 0.9, 1024)
    assert imagenet.schedule.gamma == 0.1
    assert [m * imagenet.train.epochs for m in imagenet.schedule.milestones] == pytest.approx([30, 60, 90])
    assert imagenet.data.crop_scale == (0.08, 1.0)
    assert imagenet.data.crop_ratio == (3 / 4, 4 / 3)
    assert ablation.train.epochs == 270
    assert [m * 270 for m in ablation.schedule.milestones] == pytest.approx([125, 200, 250])
    assert ablation.model.se == SEConfig(bias=False)
    assert (cifar.data.batch_size, cifar.optim.lr, cifar.data.crop, cifar.data.crop_padding) == (128, 0.1, "pad", 4)
    for name in ("cifar10", "preact_cifar10", "wrn_cifar10"):
        base, other = get_recipe(name), get_recipe(f"{name}0")
        assert other == replace(base, data=replace(base.data, name="cifar100"))


SCHEDULES = {
    # Name: network, images in a batch, learning rate, weight decay, Nesterov, epochs, cuts, factor.
    "imagenet": ("se_resnet50", 1024, 0.6, 1e-4, False, 100, [30, 60, 90], 0.1),
    "imagenet299": ("se_inception_resnet_v2", 1024, 0.6, 1e-4, False, 100, [30, 60, 90], 0.1),
    "ablation": ("se_resnet50", 256, 0.1, 1e-4, False, 270, [125, 200, 250], 0.1),
    "ablation_plateau": ("se_resnet50", 256, 0.1, 1e-4, False, 300, "plateau", 0.1),
    "released": ("se_resnet50", 256, 0.1, 1e-4, False, 300, "plateau", 0.1),
    "mobile": ("se_mobilenet", 256, 0.1, 1e-4, False, 400, "plateau", 0.1),
    "shufflenet": ("se_shufflenet_g3", 256, 0.1, 4e-5, False, 400, "plateau", 0.1),
    "places365": ("se_resnet152", 1024, 0.6, 1e-4, False, 100, [30, 60, 90], 0.1),
    "senet154": ("senet154", 2048, 1.0, 1e-4, False, 100, [30, 60, 90], 0.1),
    "senet154_320": ("senet154", 2048, 1.0, 1e-4, False, 100, [30, 60, 90], 0.1),
    "cifar10": ("se_resnet20", 128, 0.1, 1e-4, False, 164, [82, 123], 0.1),
    "preact_cifar10": ("se_preresnet110", 128, 0.1, 1e-4, False, 164, [82, 123], 0.1),
    "wrn_cifar10": ("se_wrn_16_8", 128, 0.1, 5e-4, True, 200, [60, 120, 160], 0.2),
    "shake_cifar10": ("se_shake_shake_26_2x96d", 128, 0.2, 1e-4, True, 1800, "cosine", 0.1),
    "shake_cifar100": ("se_shake_even_29_2x4x64d", 32, 0.025, 5e-4, True, 1800, "cosine", 0.1),
    "student": ("se_resnet20", 64, 0.1, 1e-4, False, 300, [150, 225], 0.1),
}
"""The paper's protocols and, where it refers to them, its sources'."""


@pytest.mark.parametrize("name", SCHEDULES)
def test_protocols_in_numbers(name: str) -> None:
    r = get_recipe(name)
    network, batch, lr, decay, nesterov, epochs, cuts, factor = SCHEDULES[name]
    found = (r.name, r.data.batch_size, r.optim.lr, r.optim.weight_decay, r.optim.nesterov, r.train.epochs)
    assert found == (network, batch, lr, decay, nesterov, epochs)
    assert (r.optim.momentum, r.schedule.gamma) == (0.9, factor)
    if isinstance(cuts, list):
        assert [m * epochs for m in r.schedule.milestones] == pytest.approx(cuts)
    assert r.schedule.kind == (cuts if isinstance(cuts, str) else "step")


def test_what_single_protocols_have_of_their_own() -> None:
    data = {name: recipe.data for name, recipe in recipes().items()}
    papers = {name: d for name, d in data.items() if name not in ("folder", "finetune", "coco", "boxes")}
    assert {n: (d.shorter_side, d.image_size) for n, d in papers.items() if d.image_size > 100} == {
        **dict.fromkeys(("imagenet", "ablation", "ablation_plateau", "released", "mobile", "shufflenet"), (256, 224)),
        **{"places365": (256, 224), "imagenet299": (352, 299), "senet154": (256, 224), "senet154_320": (320, 320)},
    }
    assert [n for n, d in data.items() if not d.keep_aspect] == ["places365"]
    decays = {n: r.optim.decay for n, r in recipes().items()}
    assert {n for n, decay in decays.items() if decay == "no_shift"} == {
        *("imagenet", "imagenet299", "places365", "released", "senet154", "senet154_320")
    }
    assert {n: d.cutout for n, d in data.items() if d.cutout} == {"shake_cifar10": 16, "shake_cifar100": 8}
    assert [(n, d.rotate, d.jitter) for n, d in data.items() if d.rotate or d.jitter] == [("released", 10, 20)]
    assert {n: d.crop_scale[0] for n, d in papers.items() if d.crop == "resized" and d.crop_scale[0] != 0.08} == {
        **dict.fromkeys(("mobile", "shufflenet"), 0.25)
    }
    train = {name: recipe.train for name, recipe in recipes().items()}
    smoothed = ("ablation", "ablation_plateau", "senet154", "senet154_320", "folder", "finetune")
    assert {n: t.label_smoothing for n, t in train.items() if t.label_smoothing} == dict.fromkeys(smoothed, 0.1)
    assert {n: t.freeze_bn_epochs for n, t in train.items() if t.freeze_bn_epochs} == {"senet154": 5, "senet154_320": 5}
    assert get_recipe("senet154").model.dropout == 0.2
    # 0.01 in the first 400 steps, of 391 in an epoch.
    warm = get_recipe("preact_cifar10").schedule
    assert (warm.warmup_epochs * 391, warm.warmup_start, warm.warmup_shape) == (pytest.approx(400), 0.1, "constant")


@pytest.mark.parametrize(("batch", "lr"), [(256, 0.15), (1024, 0.6), (32, 0.01875)])
def test_linear_scaling(batch: int, lr: float) -> None:
    """arXiv:1706.02677: k times the batch, k times the rate; nothing else changes."""
    base = get_recipe("imagenet")
    new, line = scaled(base, batch)
    assert new.optim.lr == pytest.approx(lr)
    assert new == override(override(base, f"data.batch_size={batch}"), f"optim.lr={new.optim.lr}")
    said = f"learning rate 0.6 for batches of 1024 becomes {lr:g} for batches of {batch}, in proportion"
    assert line == ("" if batch == 1024 else said)
    # The optimiser's step is what counts: of batches that are accumulated, all.
    parts, line = scaled(base, batch // 16, accumulate=32)
    assert parts.optim.lr == pytest.approx(2 * lr)
    assert (parts.data.batch_size, parts.train.accumulate) == (batch // 16, 32)
    assert scaled(parts, batch)[0] == new


@pytest.mark.parametrize(
    ("data", "asked", "like", "model"),
    [
        ("digits", {}, "digits", "se_resnet20"),
        ("digits", {"model": "resnet20"}, "digits", "resnet20"),
        ("digits", {"model": "SE-ResNet-56"}, "digits", "se_resnet56"),
        ("cifar10", {}, "cifar10", "se_resnet20"),
        ("cifar100", {"model": "seresnet110"}, "cifar100", "se_resnet110"),
        ("my/images", {}, "folder", "se_resnet18"),
        ("my/images", {"model": "resnet50"}, "folder", "resnet50"),
        ("my/images", {"model": "resnet20"}, "cifar10", "resnet20"),
        ("my/images", {"recipe": "imagenet"}, "imagenet", "se_resnet50"),
        ("my/images", {"recipe": "imagenet", "model": "se_resnext50"}, "imagenet", "se_resnext50_32x4d"),
        ("digits", {"recipe": "cifar10"}, "cifar10", "se_resnet20"),
    ],
)
def test_recipe_for(data: str, asked: dict[str, str], like: str, model: str) -> None:
    found, base = recipe_for(data, **asked), get_recipe(like)
    assert found.name == model
    assert found.model == get_net(model)
    assert found.data == replace(base.data, name=data)
    assert (found.optim, found.schedule, found.train) == (base.optim, base.schedule, base.train)


def test_recipe_for_takes_the_recipes_unit_along() -> None:
    """The ablations speak of biases; another SE network gets the same unit, a plain one none."""
    assert recipe_for("x", recipe="ablation", model="se_resnet101").model.se == SEConfig(bias=False)
    assert recipe_for("x", recipe="ablation", model="se_resnet50").model.se == SEConfig(bias=False)
    assert recipe_for("x", recipe="ablation", model="resnet50").model.se is None
    assert recipe_for("x", recipe="imagenet", model="se_resnet101").model.se == SEConfig()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"recipe": "imagnet"}, r"recipe: 'imagnet' is not known \(did you mean 'imagenet'\?\)"),
        ({"model": "vgg11"}, "model: 'vgg11' is not known"),
    ],
)
def test_recipe_for_refuses(asked: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_for("digits", **asked)


def test_recipe_for_changes_no_recipe() -> None:
    before = to_dict(get_recipe("digits"))
    recipe_for("other", recipe="digits", model="resnet56")
    assert to_dict(get_recipe("digits")) == before


STAMP = {"format": 2, "senet": senet.__version__}
"""What every file of a run begins with."""


@pytest.mark.parametrize("name", recipes())
def test_round_trip_through_a_file(name: str, tmp_path: Path) -> None:
    recipe = get_recipe(name)
    write_recipe(tmp_path / RECIPE, recipe)
    assert read_recipe(tmp_path) == recipe
    assert read_recipe(tmp_path / RECIPE) == recipe
    # Whole: nothing is left to a default that may change.
    assert yaml.safe_load((tmp_path / RECIPE).read_text()) == {**STAMP, **to_dict(recipe)}
    assert [p.name for p in tmp_path.iterdir()] == [RECIPE]


@pytest.mark.parametrize("model", list_models())
def test_every_network_in_a_file(model: str, tmp_path: Path) -> None:
    recipe = replace(get_recipe("digits"), name=model, model=get_net(model))
    write_recipe(tmp_path / "a.yaml", recipe)
    assert read_recipe(tmp_path / "a.yaml") == recipe
    assert canonical_name(recipe.name) == model


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a:\n  - [1", RunError, ", line 2: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: \0", RunError, ": not YAML: unacceptable character #x0000"),
        ("", ConfigError, ": empty; expected: a recipe"),
        ("# nothing\n", ConfigError, ": empty; expected: a recipe"),
        ("- 1\n", ConfigError, r": \[1\] is not a recipe"),
        ("format: 2\n1: 2\n", ConfigError, ": 1: no field '1'"),
        ("format: 2\nname: x\n", ConfigError, ": Recipe: the field 'model' is missing"),
        ("format: 2\nname: x\nmodel: {family: residual}\n", ConfigError, ": model: the field 'stages' is missing"),
        ("!!python/object/apply:os.system ['true']\n", RunError, ", line 1: not YAML: could not determine"),
    ],
)
def test_files_that_are_no_recipes(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(error, match=rf"a\.yaml{message}") as caught:
        read_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(to_dict(get_recipe("digits"))))
    with pytest.raises(RunError, match=r"a\.yaml: written by senet 0\.1; this is senet .*, which cannot read it"):
        read_recipe(tmp_path / "a.yaml")


def test_no_file_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.yaml: no such file or folder$"):
        read_recipe(tmp_path / "a.yaml")
    with pytest.raises(RunError, match=r"not the folder of a run: it has no recipe\.yaml$"):
        read_recipe(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(RunError, match=r"b\.yaml: cannot be read"):
        read_recipe(tmp_path / "b.yaml")


def test_a_file_with_a_wrong_field_names_it(tmp_path: Path) -> None:
    data: dict[str, Any] = {**STAMP, **to_dict(get_recipe("digits"))}
    data["model"]["se"]["reductoin"] = data["model"]["se"].pop("reduction")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(
        ConfigError, match=r"a.yaml: model.se.reductoin: no field 'reductoin' \(did you mean 'reduction'"
    ):
        read_recipe(tmp_path / "a.yaml")


PARTS: list[tuple[type, dict[str, Any], str | None]] = [
    (DataRecipe, {"image_size": 0}, "image_size: 0 is too small; expected: 1 or more"),
    (DataRecipe, {"batch_size": 0}, "batch_size: 0 is too small"),
    (DataRecipe, {"batch_size": 1}, None),
    (DataRecipe, {"workers": -1}, "workers: -1 is too small; expected: 0 or more"),
    (DataRecipe, {"workers": 0}, None),
    (DataRecipe, {"val_fraction": -0.1}, "val_fraction: -0.1 is not at least 0 and below 1"),
    (DataRecipe, {"val_fraction": 1}, "val_fraction: 1 is not at least 0 and below 1"),
    (DataRecipe, {"val_fraction": 0.99}, None),
    (DataRecipe, {"background": 256}, r"background: 256 is out of range; expected: 0 \(black\) to 255 \(white\)"),
    (DataRecipe, {"background": 0, "pixel_range": (-1024.0, 3071.0)}, None),
    (DataRecipe, {"pixel_range": (4095.0,)}, r"pixel_range: \(4095.0,\) is not the value of black and a larger one"),
    (DataRecipe, {"pixel_range": (1.0, 1.0)}, r"pixel_range: \(1.0, 1.0\) is not the value of black and a larger one"),
    (DataRecipe, {"pixel_range": (0.0, float("inf"))}, r"pixel_range\[1\]: inf is not a finite number"),
    (DataRecipe, {"name": "x\udcb9"}, r"name: 'x\\udcb9' is not UTF-8 text; rename the folder"),
    (DataRecipe, {"name": "猫"}, None),
    (DataRecipe, {"train_fraction": 0.0}, "train_fraction: 0.0 is not above 0 and at most 1"),
    (DataRecipe, {"train_fraction": 1.01}, "train_fraction: 1.01 is not above 0 and at most 1"),
    (DataRecipe, {"train_fraction": 1.0}, None),
    (DataRecipe, {"rotate": -1.0}, "rotate: -1.0 is too small; expected: 0 or more"),
    (DataRecipe, {"jitter": -1.0}, "jitter: -1.0 is too small; expected: 0 or more"),
    (DataRecipe, {"rotate": 10.0, "jitter": 20.0}, None),
    (DataRecipe, {"crop_scale": (0.0, 1.0)}, r"crop_scale: \(0.0, 1.0\) is not a range within 0 to 1"),
    (DataRecipe, {"crop_scale": (0.5, 0.25)}, "crop_scale: .* is not a range"),
    (DataRecipe, {"crop_scale": (0.5, 0.5)}, None),
    (DataRecipe, {"crop_ratio": (2.0, 1.0)}, "crop_ratio: .* is not a range of positive numbers"),
    (DataRecipe, {"crop_ratio": (1.0, 1.0)}, None),
    (DataRecipe, {"mean": (1.0, 2.0), "std": (1.0, 2.0)}, r"mean, std: 2 and 2 numbers, .* and .*; expected: 1 each"),
    (DataRecipe, {"std": (0.0,)}, r"std: \(0.0,\) is too small; expected: above 0"),
    (DataRecipe, {"mean": (), "std": ()}, "mean, std"),
    (DataRecipe, {"mean": (1.0,) * 3}, "mean, std: 3 and 1 numbers, .* so set both"),
    (DataRecipe, {"mean": (1.0,) * 3, "std": (1.0,) * 3}, None),
    (DataRecipe, {"crop": "random"}, "crop: 'random' is not known; expected: none, pad, resized"),
    (OptimRecipe, {"lr": 0.0}, "lr: 0.0 is too small; expected: above 0"),
    (OptimRecipe, {"lr": 1e-9}, None),
    (OptimRecipe, {"lr": float("nan")}, "lr: nan is not a finite number"),
    (OptimRecipe, {"lr": float("inf")}, "lr: inf is not a finite number"),
    (OptimRecipe, {"nesterov": True, "momentum": 0.0}, "nesterov: true needs a momentum above 0"),
    (OptimRecipe, {"nesterov": True}, None),
    (OptimRecipe, {"decay": "none"}, "decay: 'none' is not known; expected: all, no_shift, weights"),
    (ScheduleRecipe, {"kind": "step"}, "milestones: kind='step' needs at least one"),
    (ScheduleRecipe, {"kind": "step", "milestones": (0.5, 0.25)}, "milestones: .* between 0 and 1, rising"),
    (ScheduleRecipe, {"kind": "step", "milestones": (0.5, 0.5)}, "milestones: .* rising"),
    (ScheduleRecipe, {"kind": "step", "milestones": (30.0,)}, "milestones: .* parts of the run between 0 and 1"),
    (ScheduleRecipe, {"kind": "step", "milestones": (0.5,)}, None),
    (ScheduleRecipe, {"milestones": (0.5,)}, "milestones: .* have no effect with kind='cosine'; use kind='step'"),
    (ScheduleRecipe, {"warmup_start": 0.0}, "warmup_start: 0.0 is not above 0 and at most 1"),
    (ScheduleRecipe, {"warmup_start": 1.0}, None),
    (ScheduleRecipe, {"warmup_shape": "cosine"}, "warmup_shape: 'cosine' is not known; expected: linear, constant"),
    (TrainRecipe, {"epochs": 0}, "epochs: 0 is too small; expected: 1 or more"),
    (TrainRecipe, {"epochs": 1.0}, "epochs: 1.0 is not a whole number"),
    (TrainRecipe, {"epochs": 1}, None),
    (TrainRecipe, {"label_smoothing": 1.0}, "label_smoothing: 1.0 is not below 1"),
    (TrainRecipe, {"ema": 1.0}, "ema: 1.0 is not below 1"),
    (TrainRecipe, {"ema": 0.999, "label_smoothing": 0.5}, None),
    (TrainRecipe, {"precision": "fp8"}, "precision: 'fp8' is not known.*; expected: fp32, bf16, fp16"),
]


@pytest.mark.parametrize(("cls", "fields", "message"), PARTS, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_values_and_their_neighbours(cls: type, fields: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert {name: getattr(cls(**fields), name) for name in fields} == fields
    else:
        with pytest.raises(ConfigError, match=f"^{message}"):
            cls(**fields)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.freeze_bn_epochs=13", "train.freeze_bn_epochs: 13 is more than train.epochs=12"),
        ("schedule.warmup_epochs=12.5", "schedule.warmup_epochs: 12.5 is more than train.epochs=12"),
    ],
)
def test_values_that_only_clash_together(assignment: str, message: str) -> None:
    recipe = override(get_recipe("digits"), "train.epochs=12")
    path = assignment.partition("=")[0]
    override(recipe, f"{path}=12")
    with pytest.raises(ConfigError, match=message):
        override(recipe, assignment)


@pytest.mark.parametrize(
    ("fields", "in_memory"),
    [
        ({"image_size": 64}, True),
        ({"image_size": 65}, False),
        ({"image_size": 65, "in_memory": "yes"}, True),
        ({"image_size": 32, "in_memory": "no"}, False),
    ],
    ids=str,
)
def test_small_images_live_in_memory(fields: dict[str, Any], in_memory: bool) -> None:
    assert DataRecipe(**fields).is_in_memory is in_memory


def test_a_recipe_needs_a_name_and_a_network() -> None:
    with pytest.raises(TypeError, match="model"):
        Recipe(name="x")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="model: 'resnet20' is not a Net"):
        Recipe(name="x", model="resnet20")  # type: ignore[arg-type]
    assert Recipe(name="x", model=get_net("resnet20")).data == DataRecipe()
