"""The network as a module: sizes, heads, features, classifiers, copies, and what torch does to it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from senet import ConfigError, ECAConfig, FeatureExtractor, Network, SEConfig, create_model, get_net, list_models
from tests.models.small import FAMILIES, pixels, small

# Every warning is an error here; torch's own, from inside its tracers, are not ours to fix.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning:torch")


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> Network:
    """SE-ResNet-20 with its batch norms moved off their start, in evaluation mode; tests do not change it."""
    model = create_model("se_resnet20")
    with torch.no_grad():
        for _ in range(3):
            model(images(4, 3, 32, 32))
    return model.eval()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (5, 9), (1, 1), (64, 20)], ids=str)
def test_any_size_of_image(model: Network, size: tuple[int, int]) -> None:
    logits = model(images(2, 3, *size))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", [(31, 33), (65, 97), (224, 160)], ids=str)
def test_any_size_of_image_for_imagenet_networks(size: tuple[int, int]) -> None:
    small = get_net("se_resnet50").depths(1, 1, 1, 1)
    assert create_model(small, num_classes=4).eval()(images(1, 3, *size)).shape == (1, 4)


def test_images_of_a_batch_do_not_mix_in_evaluation(model: Network) -> None:
    x = images(3, 3, 32, 32)
    one_by_one = torch.cat([model(x[i : i + 1]) for i in range(3)])
    assert torch.allclose(model(x), one_by_one, rtol=1e-4, atol=1e-6)


def test_memory_format_does_not_matter(model: Network) -> None:
    x = images(2, 3, 32, 32)
    moved = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert torch.allclose(moved(x.contiguous(memory_format=torch.channels_last)), model(x), rtol=1e-4, atol=1e-6)


def test_grey_images() -> None:
    grey = create_model("se_resnet20", in_channels=1).eval()
    assert grey(images(2, 1, 32, 32)).shape == (2, 10)
    with pytest.raises(RuntimeError, match="to have 1 channels, but got 3"):
        grey(images(2, 3, 32, 32))


def test_forward_is_features_then_head(model: Network) -> None:
    x = images(2, 3, 32, 32)
    maps = model.forward_features(x)
    assert maps.shape == (2, 64, 8, 8)
    pooled = model.forward_head(maps, pre_logits=True)
    assert torch.allclose(pooled, maps.double().mean((2, 3)).float(), rtol=1e-5, atol=1e-6)
    want = pooled @ model.classifier.weight.T + model.classifier.bias
    assert torch.allclose(model.forward_head(maps), want, rtol=1e-5, atol=1e-7)
    assert torch.equal(model.forward_head(maps), model(x))


def test_no_classes_leaves_the_features(model: Network) -> None:
    body = create_model("se_resnet20", num_classes=0).eval()
    assert isinstance(body.classifier, nn.Identity)
    assert (body.num_classes, body.num_features) == (0, 64)
    body.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("classifier")})
    x = images(2, 3, 32, 32)
    assert torch.equal(body(x), model.forward_head(model.forward_features(x), pre_logits=True))


def test_dropout_stands_before_the_classifier() -> None:
    model = create_model("resnet20", dropout=0.5)
    maps = torch.ones(4, 64, 2, 2)
    pooled = model.train().forward_head(maps, pre_logits=True)
    assert set(pooled.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(model.eval().forward_head(maps, pre_logits=True), torch.ones(4, 64))


def test_reset_classifier(model: Network) -> None:
    tuned = copy.deepcopy(model)
    before = {k: v.clone() for k, v in tuned.state_dict().items()}
    tuned.reset_classifier(3)
    assert (tuned.num_classes, tuned.net.num_classes) == (3, 3)
    assert tuned(images(2, 3, 32, 32)).shape == (2, 3)
    assert tuned.get_classifier() is tuned.classifier
    assert all(torch.equal(before[k], v) for k, v in tuned.state_dict().items() if "classifier" not in k)
    # The classifier that a new network of three classes would have had.
    assert torch.equal(tuned.classifier.weight, create_model("se_resnet20", num_classes=3).classifier.weight)
    first = tuned.classifier.weight.clone()
    tuned.reset_classifier(3, seed=1)
    assert not torch.equal(tuned.classifier.weight, first)
    tuned.reset_classifier(0)
    assert tuned(images(2, 3, 32, 32)).shape == (2, 64)
    tuned.reset_classifier(2)
    assert tuned(images(2, 3, 32, 32)).shape == (2, 2)
    with pytest.raises(ConfigError, match="num_classes: -2 is too small; expected: 0 or more"):
        tuned.reset_classifier(-2)
    assert model.num_classes == 10


def test_reset_classifier_keeps_type_and_place() -> None:
    half = create_model("se_resnet20").bfloat16()
    half.reset_classifier(3)
    assert half.classifier.weight.dtype == torch.bfloat16
    nowhere = create_model("se_resnet20", device="meta")
    nowhere.reset_classifier(3)
    assert nowhere.classifier.weight.is_meta


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_feature_info_is_what_comes_out(name: str) -> None:
    """Channels and strides that the table promises, against the maps of a network without weights."""
    maps = create_model(name, features_only=True, device="meta")
    size = 64 if get_net(name).image_size < 299 else 299
    outs = maps(torch.empty(1, 3, size, size, device="meta"))
    assert maps.stages == get_net(name).stage_numbers
    assert [m.shape[1] for m in outs] == list(maps.channels)
    sides = [size // s for s in maps.strides]
    if get_net(name).image_size == 299:
        sides = [35, 17, 8]  # not all of its convolutions are padded
    assert [tuple(m.shape[2:]) for m in outs] == [(side, side) for side in sides]
    info = create_model(name, device="meta").feature_info
    assert info == maps.feature_info
    assert [(i["num_chs"], i["reduction"]) for i in info] == list(zip(maps.channels, maps.strides, strict=True))
    network = create_model(name, device="meta")
    for entry in info:
        assert isinstance(network.get_submodule(entry["module"]), nn.Sequential)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_channels_any_classes_any_size(family: str) -> None:
    net = small(FAMILIES[family])
    side = pixels(net)
    model = create_model(net, in_channels=5, num_classes=0, se=SEConfig(), device="meta").eval()
    out = model(torch.empty(2, 5, side, side + 11, device="meta"))
    assert out.shape == (2, model.num_features)
    model.reset_classifier(7)
    assert model(torch.empty(2, 5, side + 2, side, device="meta")).shape == (2, 7)
    last = model.forward_features(torch.empty(2, 5, side, side, device="meta"))
    assert model.forward_head(last, pre_logits=True).shape == (2, model.num_features)


def test_feature_info_of_resnet50() -> None:
    assert create_model("se_resnet50", device="meta").feature_info == [
        {"module": "features.stage2", "num_chs": 256, "reduction": 4},
        {"module": "features.stage3", "num_chs": 512, "reduction": 8},
        {"module": "features.stage4", "num_chs": 1024, "reduction": 16},
        {"module": "features.stage5", "num_chs": 2048, "reduction": 32},
    ]


@pytest.mark.parametrize("stages", [(2,), (4,), (2, 4), (2, 3, 4)], ids=str)
def test_out_stages(model: Network, stages: tuple[int, ...]) -> None:
    maps = create_model("se_resnet20", features_only=True, out_stages=stages)
    assert isinstance(maps, FeatureExtractor)
    own = set(maps.state_dict())
    assert own <= set(model.state_dict())
    # Nothing behind the last stage is carried along.
    assert max(int(k.split(".")[1][-1]) for k in own if "stage" in k) == stages[-1]
    maps.load_state_dict({k: v for k, v in model.state_dict().items() if k in own})
    maps.eval()
    x = images(2, 3, 32, 32)
    outs, wanted = maps(x), {}
    for name, part in model.features.named_children():
        x = part(x)
        wanted[name] = x
    assert len(outs) == len(stages)
    for stage, out in zip(stages, outs, strict=True):
        assert torch.equal(out, wanted[f"stage{stage}"])


@pytest.mark.parametrize("stages", [(1,), (5,), (3, 2), (2, 2)], ids=str)
def test_out_stages_that_are_not_there(stages: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"out_stages: .* must be some of this network's stages, in order: 2, 3, 4"):
        create_model("resnet20", features_only=True, out_stages=stages)


def test_out_stages_need_features_only() -> None:
    with pytest.raises(ConfigError, match="out_stages: needs features_only=True"):
        create_model("resnet20", out_stages=(2,))


@pytest.mark.parametrize(("field", "value"), [("num_classes", 7), ("num_classes", 0), ("dropout", 0.5)])
def test_features_only_has_no_head(field: str, value: float) -> None:
    assert getattr(create_model("resnet20", **{field: value}).net, field) == value
    with pytest.raises(ConfigError, match=rf"^{field}: has no effect with features_only=True"):
        create_model("resnet20", features_only=True, **{field: value})


def test_out_stages_without_any_unit_that_was_asked_for() -> None:
    maps = create_model("resnet20", se=SEConfig(stages=(3, 4)), features_only=True, out_stages=(3,))
    assert [name for name in maps.state_dict() if ".se." in name]
    with pytest.raises(ConfigError, match=r"^out_stages: \(2,\) ends before the first unit, se.stages=\(3, 4\)$"):
        create_model("resnet20", se=SEConfig(stages=(3, 4)), features_only=True, out_stages=(2,))


def test_features_only_draws_the_networks_weights() -> None:
    network, maps = create_model("se_resnet20", seed=4), create_model("se_resnet20", seed=4, features_only=True)
    state = network.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in maps.state_dict().items())


def test_state_dict_names() -> None:
    names = list(create_model("se_resnet50", device="meta").state_dict())
    assert len(names) == len(set(names))
    for name in (
        "features.stem.conv.weight",
        "features.stem.norm.running_var",
        "features.stage2.block1.conv1.weight",
        "features.stage2.block1.shortcut.conv.weight",
        "features.stage5.block3.norm.bias",
        "features.stage5.block3.se.fc2.bias",
        "classifier.weight",
        "classifier.bias",
    ):
        assert name in names
    assert {name.split(".")[0] for name in names} == {"features", "classifier"}


def test_meta_device_makes_no_weights() -> None:
    model = create_model("se_resnet152", device="meta")
    assert all(p.is_meta for p in model.parameters())
    assert create_model("se_resnet20", device=torch.device("cpu")).classifier.weight.device.type == "cpu"


def test_new_networks_are_in_training_mode_and_float32() -> None:
    model = create_model("se_resnet20")
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())
    assert type(get_net("se_resnet20").build()) is Network


def test_default_dtype_is_respected_or_left_alone() -> None:
    assert torch.get_default_dtype() == torch.float32
    create_model("se_resnet20")
    assert torch.get_default_dtype() == torch.float32


def test_copies(model: Network) -> None:
    x = images(2, 3, 32, 32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.net == model.net
        assert torch.equal(twin(x), model(x))
        with torch.no_grad():
            twin.classifier.bias.add_(1)
        assert torch.allclose(twin(x), model(x) + 1)


def test_copies_of_stage_maps() -> None:
    maps = create_model("se_resnet20", features_only=True).eval()
    x = images(1, 3, 32, 32)
    again = pickle.loads(pickle.dumps(maps))
    assert all(torch.equal(a, b) for a, b in zip(maps(x), again(x), strict=True))


def test_a_second_backward_is_right() -> None:
    """In-place ReLUs must not overwrite what a gradient needs."""
    model = create_model("se_resnet20").double().eval()
    x = images(1, 3, 8, 8).double().requires_grad_()
    out = model(x)[0, 3]
    (first,) = torch.autograd.grad(out, x, retain_graph=True)
    (second,) = torch.autograd.grad(out, x)
    assert torch.equal(first, second)
    step = 1e-6 * images(1, 3, 8, 8, seed=1).double()
    change = (model(x + step)[0, 3] - model(x - step)[0, 3]) / 2
    assert change.item() == pytest.approx((first * step).sum().item(), rel=1e-5)


@quiet
@pytest.mark.parametrize("unit", [SEConfig(), None, ECAConfig()], ids=str)
def test_export_with_any_batch(unit: SEConfig | ECAConfig | None) -> None:
    model = create_model("resnet20", se=unit).eval()
    x = images(2, 3, 32, 32)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    more = images(5, 3, 32, 32, seed=3)
    assert torch.allclose(exported(more), model(more), rtol=1e-4, atol=1e-6)


@quiet
def test_compile_in_one_graph(model: Network) -> None:
    """`fullgraph` refuses what torch cannot trace; the eager backend runs what it traced."""
    x = images(2, 3, 32, 32)
    torch._dynamo.reset()
    assert torch.allclose(torch.compile(model, backend="eager", fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-6)
    maps = create_model("se_resnet20", features_only=True).eval()
    for a, b in zip(torch.compile(maps, backend="eager", fullgraph=True)(x), maps(x), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()


def test_bfloat16_autocast(model: Network) -> None:
    x = images(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    assert torch.allclose(logits.float(), model(x), rtol=0.2, atol=0.02)


def test_repr_says_what_a_block_is(model: Network) -> None:
    text = repr(model)
    assert "reduction=16, squeeze='avg', gate='sigmoid'" in text
    assert "ZeroPad(extra=16, stride=2)" in text


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("name", "fields"), [("se_resnet20", {}), ("se_resnet18", {"dropout": 0.5})])
def test_checkpointing_changes_neither_gradients_nor_statistics(name: str, fields: Any, fused: bool) -> None:
    """timm's checkpointing counts each batch twice in the running statistics; ours once."""
    results = []
    for checkpointing in (False, True):
        model = create_model(name, num_classes=3, fused=fused, **fields)
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(0)
        model(torch.linspace(-1, 1, 4 * 3 * 32 * 32).view(4, 3, 32, 32).sin()).square().sum().backward()
        results.append([*model.buffers(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_users_of_timm_call() -> None:
    timm_data = pytest.importorskip("timm.data")
    grouping = pytest.importorskip("timm.models._manipulate")
    model = create_model("se_resnet18", num_classes=5).eval()
    x = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64).sin()
    logits = model(x)
    assert model.feature_info.channels() == [64, 128, 256, 512]
    assert (model.feature_info.reduction(), model.feature_info.channels(-1)) == ([4, 8, 16, 32], 512)
    last, maps = model.forward_intermediates(x, 2)
    assert [tuple(t.shape[1:]) for t in maps] == [(256, 4, 4), (512, 2, 2)]
    assert last is maps[-1]
    assert torch.equal(model.forward_head(last), logits)
    assert len(model.forward_intermediates(x, intermediates_only=True)) == 4
    with pytest.raises(ConfigError, match=r"indices: \[9\]; expected: some of 0 to 3"):
        model.forward_intermediates(x, [9])
    # What timm takes for a network with these values.
    found = timm_data.resolve_data_config({}, model=model)
    assert (found["input_size"], found["mean"], found["crop_pct"]) == ((3, 224, 224), (0.485, 0.456, 0.406), 1.0)
    groups = grouping.group_with_matcher(model.named_parameters(), model.group_matcher(), reverse=True)
    assert [groups[f"features.stage{s}.block{b}.norm.weight"] for s in (2, 5) for b in (1, 2)] == [1, 2, 7, 8]
    assert (groups["features.stem.conv.weight"], groups["classifier.weight"]) == (0, 9)
    assert model.head_hidden_size == 512
    model.reset_classifier(0, "")
    assert torch.equal(model(x), last)
    with pytest.raises(ConfigError, match="global_pool: '' returns a feature map, so there is no place for 3 classes"):
        model.reset_classifier(3, "")
    with pytest.raises(ConfigError, match="global_pool: 'max' is not known"):
        model.reset_classifier(0, "max")
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
