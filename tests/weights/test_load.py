"""Loading: all or nothing, in place, with an account; what must be refused is, and leaves the model as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from senet import ECAConfig, SEConfig, create_model, insert_
from senet.config import to_dict
from senet.errors import CheckpointError, ConfigError
from senet.models.net import Preprocessing, ResidualNet, Stage, Stem
from senet.models.network import Network
from senet.recipes.recipe import DataRecipe, Recipe
from senet.runs.checkpoint import header
from senet.weights.export import state_as
from senet.weights.identify import identify
from senet.weights.load import become_, changes, detect, load_weights_
from tests.weights.sources import equal, random_

TINY = ResidualNet(
    stem=Stem(width=8, kernel=7, stride=2),
    stages=(
        Stage(block="bottleneck", depth=1, mid=4, out=16),
        Stage(block="bottleneck", depth=1, mid=8, out=32, stride=2),
        Stage(block="bottleneck", depth=12, mid=8, out=32, stride=2),
        Stage(block="bottleneck", depth=1, mid=8, out=32, stride=2),
    ),
    se=SEConfig(),
    num_classes=7,
)
ALL = len(create_model(TINY, device="meta").state_dict())


def tiny(seed: int = 0, **fields) -> Network:
    return random_(create_model(TINY, **fields), seed)


def cadene(**fields) -> dict[str, Tensor]:
    """A source with names, and random numbers, of its own."""
    return {name: t.clone() for name, t in state_as(tiny(seed=1, **fields), "cadene").items()}


def load(model: Network, source, **options):
    return load_weights_(model, source, quiet=True, **options)


def snapshot(model: Network):
    return model.net, model.preprocessing, list(model.modules()), {n: t.clone() for n, t in model.state_dict().items()}


def assert_untouched(model: Network, before) -> None:
    net, preprocessing, modules, state = before
    assert (model.net, model.preprocessing) == (net, preprocessing)
    assert [id(m) for m in model.modules()] == [id(m) for m in modules]
    assert equal(dict(model.state_dict()), state)


def test_every_block_of_two_digits_is_found_and_written_back():
    source, model = cadene(), tiny()
    report = load(model, source)
    assert ("layer3.11.conv1.weight", "features.stage4.block12.conv1.weight") in report.renamed
    assert len(report.renamed) == ALL == len(source)
    assert equal(state_as(model, "cadene"), source)


def test_a_loader_that_forgets_two_digit_blocks_is_found_out():
    # MONAI's fault: layer3.10 and layer3.11 keep the names of before.
    source = {
        name.replace("layer3.1", "l3.1") if name.startswith(("layer3.10", "layer3.11")) else name: t
        for name, t in cadene().items()
    }
    model = tiny()
    before = snapshot(model)
    each = 3 + 3 * 5 + 4
    missing = rf"{2 * each} of {ALL} tensors missing \(features.stage4.block11.*, \.\.\.\)"
    with pytest.raises(CheckpointError, match=rf"{missing}, {2 * each} of {ALL} unused \(l3.10"):
        load(model, source)
    assert_untouched(model, before)


FAULTS = {
    "missing": (lambda s: s.pop("layer1.0.bn1.running_mean"), "features.stage2.block1.norm1.running_mean"),
    "unused": (
        lambda s: s.update({"layer1.1.conv1.weight": torch.ones(1)}),
        r"1 of \d+ unused \(layer1.1.conv1.weight",
    ),
    "shape": (
        lambda s: s.update({"layer0.conv1.weight": torch.ones(8, 1, 7, 7)}),
        r"1 of another shape \(features.stem.conv.weight is \(8, 1, 7, 7\) in the source and \(8, 3, 7, 7\) in",
    ),
    "names": (
        lambda s: s.clear() or s.update({"a.weight": torch.ones(1)}),
        r"names of no known convention \(a.weight\)",
    ),
    "nothing": (lambda s: s.clear(), "holds no weights"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_partial_load_is_refused_and_changes_nothing(fault):
    # The model would also have to become another table.
    source, model = cadene(), tiny(pool="pad", stride_on="3x3")
    before = snapshot(model)
    spoil, says = FAULTS[fault]
    spoil(source)
    with pytest.raises(CheckpointError, match=says):
        load(model, source)
    assert_untouched(model, before)


def test_other_classes_need_permission_and_keep_the_models_values():
    source, model = cadene(num_classes=1000), tiny()
    with pytest.raises(
        CheckpointError,
        match=r"2 of another shape \(classifier.weight is \(1000, 32\) in the source and \(7, 32\)",
    ):
        load(model, source)
    kept = model.classifier.weight.clone()
    report = load(model, source, allow="classifier")
    assert torch.equal(model.classifier.weight, kept)
    assert report.missing == ("classifier.weight", "classifier.bias")
    assert report.unused == ("last_linear.weight", "last_linear.bias")
    assert "classifier.bias is (1000,) in the source and (7,) in the network; kept as it was" in report.notes
    assert torch.equal(model.features.stem.conv.weight, source["layer0.conv1.weight"])


def test_a_network_without_classifier_takes_one_with_permission():
    model = tiny(num_classes=0)
    with pytest.raises(CheckpointError, match=r"2 of \d+ unused"):
        load(model, cadene())
    assert load(model, cadene(), allow=["classifier"]).unused == ("last_linear.weight", "last_linear.bias")


def test_plain_weights_into_an_se_network_with_a_pattern():
    plain = create_model(replace(TINY, se=None), pool="pad", stride_on="3x3", seed=1)
    source, model = state_as(plain, "torchvision"), tiny(pool="pad", stride_on="3x3")
    with pytest.raises(CheckpointError, match=r"60 of \d+ tensors missing"):
        load(model, source)
    report = load(model, source, allow=["features.*.se"])
    assert len(report.missing) == 60
    assert not report.changed
    # Into units that its library does not know, too.
    eca = tiny(pool="pad", stride_on="3x3", se=ECAConfig())
    assert all(".se." in name for name in load(eca, source, allow="features.*.se").missing)
    assert torch.equal(eca.features.stem.conv.weight, source["conv1.weight"])
    with pytest.raises(CheckpointError, match=r"has no names for ECAConfig units; to keep .*'features\.\*\.se'"):
        load(eca, source)
    # A source without units has no say in ours.
    model = tiny(pool="pad", stride_on="3x3", se=SEConfig(gate="tanh", placement="pre"))
    assert not load(model, source, allow=["features.*.se"]).changed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"allow": ["clasifier"]}, "allow: 'clasifier' names no tensor"),
        ({"convention": "tim"}, "convention: 'tim' is not known.*'timm'"),
    ],
)
def test_an_option_without_effect_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        load(tiny(), cadene(), **options)


def test_the_wrong_convention_is_refused_and_the_right_one_taken():
    with pytest.raises(CheckpointError, match="these are the names of cadene, not of timm"):
        load(tiny(), cadene(), convention="timm")
    assert load(tiny(), cadene(), convention="cadene").convention == "cadene"


def test_one_of_two_conventions_that_share_names_can_be_asked_for():
    plain = state_as(create_model(replace(TINY, se=None), pool="pad", stride_on="3x3"), "torchvision")
    shapes = {name: tuple(t.shape) for name, t in plain.items()}
    assert detect(shapes).name == "torchvision"
    assert detect(shapes, "timm").name == "timm"


def test_a_unit_that_a_library_does_not_have_is_refused():
    for se, says in ((ECAConfig(), "ECAConfig units"), (SEConfig(gate="tanh"), "se.gate is 'tanh'")):
        with pytest.raises(CheckpointError, match=says):
            load(create_model(replace(TINY, se=se)), cadene())


def test_a_model_that_is_no_longer_its_table_is_refused():
    model = create_model(replace(TINY, se=None))
    insert_(model, SEConfig(), "features.stage2.block1.conv3")
    with pytest.raises(ConfigError, match="its tensors are no longer those of its table"):
        load(model, cadene())
    with pytest.raises(ConfigError, match="meta device"):
        load(create_model(TINY, device="meta"), cadene())
    with pytest.raises(ConfigError, match=r"senet\.remove_ them, or torch\.save its state dict"):
        state_as(model, "torchvision")


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (nn.DataParallel, r"a DataParallel; pass the network inside, its \.module"),
        (torch.compile, r"a OptimizedModule; pass the network inside, its \._orig_mod"),
        (lambda model: model.state_dict(), r"a OrderedDict; expected: a torch\.nn\.Module"),
        (lambda model: "resnet50", r"a str; expected: a torch\.nn\.Module"),
    ],
)
def test_anything_but_an_unwrapped_module_is_refused(wrap, says):
    with pytest.raises(ConfigError, match=says):
        load(wrap(tiny()), cadene())


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5)).eval()


def test_any_module_takes_weights_under_its_own_names(tmp_path):
    x = torch.randn(2, 3, 6, 6)
    trained, model = two_layers(), two_layers()
    want = trained(x)
    assert not torch.equal(model(x), want)
    state = {f"module.{name}": t for name, t in trained.state_dict().items() if not name.endswith("tracked")}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "net.pth")
    report = load_weights_(model, tmp_path / "net.pth", quiet=True)
    assert torch.equal(model(x), want)
    assert len(report.loaded) == 8
    assert "without the prefix 'module.'" in report.notes
    # A classifier of other classes keeps its values where that is allowed; nothing is loaded where it is not.
    other = {
        **trained.state_dict(),
        "3.weight": torch.zeros(7, 64),
        "3.bias": torch.zeros(7),
        "head.bias": torch.ones(1),
    }
    before = {name: t.clone() for name, t in model.state_dict().items()}
    for allow in ([], ["3"], ["head"]):
        with pytest.raises(CheckpointError, match="not the weights of this Sequential"):
            load_weights_(model, other, allow=allow)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    report = load_weights_(model, other, allow=["3", "head.*"], quiet=True)
    assert (report.missing, report.unused) == (("3.weight", "3.bias"), ("3.weight", "3.bias", "head.bias"))
    for words, says in (
        ({"allow": ["4"]}, "'4' names no tensor"),
        ({"convention": "timm"}, "convention: has no effect"),
    ):
        with pytest.raises(ConfigError, match=says):
            load_weights_(model, trained, **words)


def test_units_keep_their_values_where_weights_have_none():
    model = torchvision.models.resnet18(num_classes=3)
    insert_(model, SEConfig(), example=torch.zeros(1, 3, 32, 32))
    report = load_weights_(model, torchvision.models.resnet18(num_classes=3), quiet=True)
    assert report.missing
    assert all(".se" in name or "unit" in name for name in report.missing)
    load_weights_(model, model.state_dict(), quiet=True)


def test_an_optimiser_still_holds_the_parameters_that_became_another_function():
    model = tiny(pool="pad", stride_on="3x3", se=SEConfig(bias=False))
    parameters = dict(model.named_parameters())
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model.features.stem.eval()
    report = load(model.train(), cadene())
    assert "30 parameters are new objects: make the optimiser after loading" in report.notes
    assert report.changed == ("se.bias: False -> True", "pool: pad -> ceil", "stride_on: 3x3 -> 1x1")
    now = dict(model.named_parameters())
    assert all(now[name] is p for name, p in parameters.items())
    assert {name.rpartition(".")[2] for name in now.keys() - parameters.keys()} == {"bias"}
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    before = now["features.stem.conv.weight"].clone()
    optimiser.step()
    assert not torch.equal(now["features.stem.conv.weight"], before)


def test_becoming_another_table_keeps_modes_types_and_frozen_parameters():
    model = tiny().double().train()
    model.features.stage2.eval()
    model.features.stem.conv.weight.requires_grad_(False)
    model.features.stage2.block1.se.requires_grad_(False)
    becomes = replace(TINY, se=SEConfig(reduction=8))
    # Of each of the 15 units, both weights and the first bias have other shapes.
    assert become_(model, becomes) == 45
    assert not any(p.requires_grad for p in model.features.stage2.block1.se.parameters())
    assert all(p.requires_grad for p in model.features.stage3.parameters())
    assert model.training
    assert model.features.stage3.training
    assert not model.features.stage2.block1.training
    assert not model.features.stem.conv.weight.requires_grad
    drawn = create_model(becomes).features.stage2.block1.se.fc1.weight
    assert torch.equal(model.features.stage2.block1.se.fc1.weight, drawn.double())
    assert model.net == becomes
    # New biases beside frozen weights are frozen too.
    frozen = tiny(se=SEConfig(bias=False)).requires_grad_(False)
    assert become_(frozen, TINY) == 30
    assert not any(p.requires_grad for p in frozen.parameters())
    wider = replace(becomes, stages=(*becomes.stages[:-1], replace(becomes.stages[-1], out=48)))
    become_(model, wider)
    assert model.num_features == model.classifier.in_features == 48


def test_absent_counters_other_types_and_what_is_not_finite_are_noted():
    source = {name: t.half() for name, t in cadene().items() if not name.endswith("num_batches_tracked")}
    source["layer1.0.conv1.weight"][0, 0] = float("nan")
    model = tiny()
    report = load(model, source)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert f"{norms} num_batches_tracked are missing, set to 0" in report.notes
    assert "cast from torch.float16" in report.notes
    assert "1 tensors hold NaN or infinity (layer1.0.conv1.weight)" in report.notes
    assert model.features.stem.norm.num_batches_tracked == 0
    assert model.features.stem.conv.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.to("meta"), "is on the meta device, which holds no numbers"),
        (lambda t: t.to(torch.int8), r"is of torch\.int8, not of floats"),
        (lambda t: t.to(torch.complex64), r"is of torch\.complex64, not of floats"),
    ],
)
def test_what_holds_no_real_numbers_is_refused(change, says):
    source, model = cadene(), tiny(pool="pad")
    before = snapshot(model)
    source["layer1.0.conv1.weight"] = change(source["layer1.0.conv1.weight"])
    with pytest.raises(CheckpointError, match=f"'layer1.0.conv1.weight' {says}"):
        load(model, source)
    assert_untouched(model, before)


def test_images_of_other_channels_are_not_taken_for_the_networks():
    source, model = cadene(), tiny(in_channels=1)
    report = load(model, source, allow="features.stem.conv")
    assert model.preprocessing is None
    assert "the source's images have other channels: its preprocessing does not apply" in report.notes


def test_the_load_report_is_printed_unless_quiet(capsys):
    report = load_weights_(tiny(pool="pad"), cadene())
    assert capsys.readouterr().out == f"{report}\n"
    assert str(report).splitlines()[:3] == [
        "a mapping: weights in the names of cadene",
        f"  {ALL} tensors loaded: {ALL} renamed, 30 reshaped, 0 permuted; 0 new, 0 unused",
        "  changed: pool: pad -> ceil",
    ]
    assert len(report.table().splitlines()) == ALL
    assert "reshaped  layer1.0.se_module.fc1.weight" in report.table()
    load(tiny(), cadene())
    assert not capsys.readouterr().out


# Files


def hub_folder(tmp_path: Path, source: dict[str, Tensor], name: str, **pretrained) -> Path:
    save_file({n: t.contiguous() for n, t in source.items()}, tmp_path / "model.safetensors")
    config = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "input_size": [3, 288, 288], "crop_pct": 0.95}
    text = json.dumps({"architecture": name, "pretrained_cfg": config | {"interpolation": "bicubic"} | pretrained})
    (tmp_path / "config.json").write_text(text)
    return tmp_path


def test_timms_config_says_how_images_are_wanted(tmp_path):
    model = tiny()
    report = load(model, hub_folder(tmp_path, cadene(), "legacy_seresnet50"))
    # 288 / 0.95 = 303.2
    want = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), image_size=288, resize=303, interpolation="bicubic")
    assert model.preprocessing == report.preprocessing == want
    assert "expects images: 303 -> 288 pixels, bicubic" in str(report)


def test_what_a_config_says_in_other_terms_is_noted(tmp_path):
    report = load(tiny(), hub_folder(tmp_path, cadene(), "legacy_seresnet50", interpolation="lanczos"))
    assert any("'lanczos' is not known" in note for note in report.notes)
    assert report.preprocessing == Preprocessing()


def test_a_network_whose_name_alone_says_that_it_blurs_is_refused(tmp_path):
    plain = create_model(replace(TINY, se=None), pool="pad", stride_on="3x3")
    folder = hub_folder(tmp_path, state_as(plain, "timm"), "resnet50")
    assert load(plain, folder).notes == ()
    blur, images = load(plain, folder / "model.safetensors").notes
    assert "blur pooling (timm's resnetblur50) and dilation cannot be told" in blur
    assert "timm's vary" in images
    hub_folder(tmp_path, state_as(plain, "timm"), "resnetblur50")
    with pytest.raises(CheckpointError, match="'resnetblur50' blurs where it strides"):
        load(plain, folder)


@pytest.mark.parametrize("text", ["", "https://host/net.pth", "IMAGENET1K_V1", "/no/such/folder"])
def test_what_is_neither_file_nor_name_is_said_to_be(text):
    with pytest.raises(CheckpointError, match=f"{text}.* nor a name on the Hub, 'timm:NAME' or 'hf:OWNER/NAME'"):
        load(tiny(), text)


# Our own files


def own_file(path: Path, net: ResidualNet, **data) -> Path:
    model = random_(create_model(net), 1)
    recipe = Recipe(name="x", model=net, data=DataRecipe(mean=(1.0,) * 3, std=(0.2,) * 3, image_size=224, **data))
    text = header(recipe, tuple("abcdefg"), {})
    if path.suffix == ".ckpt":
        state = {f"{part}{n}": t for part in ("network.", "average.module.") for n, t in model.state_dict().items()}
        torch.save({"senet": text, "state_dict": state | {"network.classifier.bias": torch.zeros(7)}}, path)
    else:
        save_file(dict(model.state_dict()), path, metadata={"senet": text})
    return path


@pytest.mark.parametrize("name", ["best.safetensors", "last.ckpt"])
def test_our_own_file_says_its_table_and_its_images(tmp_path, name):
    written = replace(TINY, pool="pad", stride_on="3x3", se=SEConfig(gate="tanh", reduction=8))
    path = own_file(tmp_path / name, written, resize=256)
    model = tiny()
    report = load(model, path)
    assert report.convention == "senet"
    assert model.net == written
    assert set(report.changed) == {
        "pool: ceil -> pad",
        "stride_on: 1x1 -> 3x3",
        "se.gate: sigmoid -> tanh",
        "se.reduction: 16 -> 8",
    }
    assert equal(dict(model.state_dict()), dict(random_(create_model(written), 1).state_dict()))
    assert model.preprocessing == Preprocessing(mean=(1.0,) * 3, std=(0.2,) * 3, image_size=224, resize=256)  # type: ignore[arg-type]
    assert load(tiny(), tmp_path).renamed == ()


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (TINY.depths(1, 1, 1, 1), "senet: stages is"),
        (replace(TINY, se=ECAConfig()), "senet: se is SEConfig"),
        (replace(TINY, se=None), "60 of .* missing"),
        (replace(TINY, num_classes=9), r"2 of another shape \(classifier.weight is \(9, 32\)"),
    ],
)
def test_our_own_file_of_another_network_is_refused(tmp_path, written, says):
    path = own_file(tmp_path / "best.safetensors", written)
    model = tiny()
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=says):
        load(model, path)
    assert_untouched(model, before)


def test_preprocessing_of_grey_images_comes_back(tmp_path):
    net = replace(TINY, in_channels=1)
    data = DataRecipe(mean=(0.5,), std=(0.224,), image_size=32, resize=32)
    text = header(Recipe(name="x", model=net, data=data), tuple("abcdefg"), {})
    save_file(dict(create_model(net).state_dict()), tmp_path / "best.safetensors", metadata={"senet": text})
    model = tiny(in_channels=1)
    load(model, tmp_path)
    assert model.preprocessing == Preprocessing(mean=(0.5,), std=(0.224,), image_size=32, resize=32)


def test_our_names_without_a_table_are_taken_at_the_models_word(tmp_path):
    report = load(tiny(), tiny(seed=1, se=SEConfig(bias=False)).state_dict())
    assert report.changed == ("se.bias: True -> False",)
    assert report.notes[0].startswith("the file does not state its table")
    assert len(report.loaded) == len(create_model(TINY, se=SEConfig(bias=False)).state_dict())


def test_changes_are_told_by_path():
    assert changes(TINY, replace(TINY, pool="none", se=None)) == (
        f"se: {to_dict(TINY.se)} -> None",
        "pool: ceil -> none",
    )
    assert changes(TINY, TINY) == ()


def test_a_mapping_of_ours_is_identified_whatever_its_classes():
    state = create_model("resnet34", num_classes=33, in_channels=1, device="meta").state_dict()
    assert identify(state) == ("resnet34", "senet")
