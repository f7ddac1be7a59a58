"""What holds for every attention unit, by the registry of kinds: a new one is tested by existing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from senet import ConfigError, SEConfig, Unit, UnitConfig, from_dict, override, to_dict
from senet import functional as sf
from senet.config import Kind
from senet.initialization import draw_, stream

CONFIGS = [cls() for cls in UnitConfig.kinds.values()]
CONFIGS += [SEConfig(squeeze="max", gate="tanh", bias=False, reduction=3, placement="pre", stages=(2, 4))]
every_unit = pytest.mark.parametrize("config", CONFIGS, ids=str)
MAPS = [(3,), (3, 2), (2, 1, 2)]


def built(config: UnitConfig, dtype: torch.dtype = torch.float64) -> Unit:
    unit = config.build(8)
    with torch.no_grad():
        for name, parameter in unit.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream(1, name)))
    return unit.to(dtype)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=stream(1, "map"))


def test_the_kinds() -> None:
    assert list(UnitConfig.kinds) == ["se", "no_squeeze", "eca", "shared"]


@every_unit
@pytest.mark.parametrize("space", MAPS, ids=str)
def test_gradients(config: UnitConfig, space: tuple[int, ...]) -> None:
    unit, u = built(config), draw(2, 8, *space).requires_grad_()
    names, parameters = zip(*unit.named_parameters(), strict=True)

    def function(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(unit, dict(zip(names, values, strict=True)), (x, True))

    assert torch.autograd.gradcheck(function, (u, *(p.detach().requires_grad_() for p in parameters)))


@every_unit
@pytest.mark.parametrize("space", MAPS, ids=str)
def test_shapes_and_the_returned_gate(config: UnitConfig, space: tuple[int, ...]) -> None:
    unit, u = built(config), draw(2, 8, *space)
    kept = u.clone()
    y, s = unit(u, return_gate=True)
    assert isinstance(unit, Unit)
    assert y.shape == u.shape
    assert s.shape in (u.shape, u.shape[:2])
    assert torch.allclose(y, u * s.reshape(*s.shape, *(1,) * (u.dim() - s.dim())), rtol=0, atol=1e-15)
    assert torch.equal(unit(u), y)
    assert torch.equal(unit.gate(u), s)
    assert torch.equal(u, kept)


@every_unit
def test_images_of_a_batch_do_not_mix(config: UnitConfig) -> None:
    unit, u = built(config), draw(3, 8, 4, 4)
    assert torch.allclose(unit(u), torch.cat([unit(u[i : i + 1]) for i in range(3)]), rtol=0, atol=1e-14)


@every_unit
def test_memory_format_does_not_matter(config: UnitConfig) -> None:
    unit, u = built(config), draw(2, 8, 5, 3)
    moved = u.contiguous(memory_format=torch.channels_last)
    y = unit(moved)
    assert torch.allclose(y, unit(u), rtol=0, atol=1e-15)
    # Stays in the format, or the rest of the network would leave it.
    assert y.is_contiguous(memory_format=torch.channels_last)


@every_unit
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_precisions(config: UnitConfig, dtype: torch.dtype, tolerance: float) -> None:
    """Against float64 of the same rounded weights; bfloat16 has 8 bits, and three layers lose a few of them."""
    unit = built(config, dtype)
    exact = copy.deepcopy(unit).double()
    u = draw(2, 8, 4, 4).to(dtype)
    y = unit(u)
    assert y.dtype == dtype
    assert torch.allclose(y.double(), exact(u.double()), rtol=tolerance, atol=tolerance)


@every_unit
def test_copies(config: UnitConfig) -> None:
    unit, u = built(config), draw(2, 8, 3, 3)
    for twin in (copy.deepcopy(unit), pickle.loads(pickle.dumps(unit))):
        assert twin is not unit
        assert twin.config == config
        assert torch.equal(twin(u), unit(u))
    other = config.build(8).double()
    other.load_state_dict(unit.state_dict())
    assert torch.equal(other(u), unit(u))


@every_unit
def test_compiles_and_exports_as_the_reference(config: UnitConfig) -> None:
    unit, u = built(config, torch.float32), draw(2, 8, 4, 4).float()
    exported = torch.export.export(unit, (u,)).module()
    assert torch.allclose(exported(u), unit(u), rtol=0, atol=1e-6)


@every_unit
def test_drawing_covers_every_parameter(config: UnitConfig) -> None:
    unit = config.build(8)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.fill_(torch.nan)
    draw_(unit, 0)
    assert all(torch.isfinite(p).all() for p in unit.parameters())


@every_unit
def test_dicts(config: UnitConfig) -> None:
    written = to_dict(config)
    assert written["unit"] == config.kind
    assert from_dict(UnitConfig, written) == config
    assert hash(from_dict(UnitConfig, written)) == hash(config)
    assert pickle.loads(pickle.dumps(config)) == config


@every_unit
@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("placement=middle", "placement: 'middle' is not known; expected: standard, pre, post, identity, identity"),
        ("stages=[]", r"stages: \(\) must name at least one stage, each once; for no unit at all use se=None"),
        ("stages=[2,2]", r"stages: \(2, 2\) must name at least one stage, each once"),
        ("stages=[2.5]", r"stages\[0\]: '2.5' is not a whole number"),
        ("stages=three", r"stages\[0\]: 'three' is not a whole number"),
        ("gate=sigmoyd", r"gate: 'sigmoyd' is not known \(did you mean 'sigmoid'\?\); expected: sigmoid, tanh"),
        ("rd_ratio=16", "rd_ratio: no field 'rd_ratio'"),
    ],
)
def test_what_no_unit_takes(config: UnitConfig, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(config, assignment)


@every_unit
def test_what_every_unit_takes(config: UnitConfig) -> None:
    assert override(config, "stages=[3,2]").stages == (3, 2)
    assert override(config, "stages=null").stages is None
    assert override(config, "placement=post").placement == "post"
    assert {override(config, f"gate={gate}").gate for gate in sf.GATES} == set(sf.GATES)


def test_a_taken_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unit: the name 'se' is taken by senet.units.config.SEConfig"):

        class Impostor(UnitConfig, kind="se"):
            pass

    assert UnitConfig.kinds["se"] is SEConfig


def test_a_new_kind_reads_back() -> None:
    class Family(Kind, key="family_of_tests"):
        pass

    class Member(Family, kind="member"):
        pass

    assert Family.kinds == {"member": Member}
    assert "member" not in UnitConfig.kinds


def test_abstract_configs_and_units_build_nothing() -> None:
    with pytest.raises(NotImplementedError):
        UnitConfig().build(8)
    with pytest.raises(NotImplementedError):
        Unit()(draw(1, 8, 2))


@every_unit
def test_no_unit_of_no_channels(config: UnitConfig) -> None:
    one = override(config, "groups=1") if config.kind == "shared" else config
    assert one.build(1)(torch.ones(1, 1, 2)).shape == (1, 1, 2)
    for channels in (0, -8):
        with pytest.raises(ConfigError, match=f"channels: {channels} is too small; expected: 1 or more"):
            config.build(channels)


@every_unit
def test_a_vector_has_no_space(config: UnitConfig) -> None:
    unit, z = built(config), draw(2, 8)
    assert unit(z[..., None]).shape == (2, 8, 1)
    with pytest.raises(ValueError, match=r"u: a feature map \(N, C, \*\) has at least one .*; this one is \(2, 8\)"):
        unit(z)


def test_configs_without_their_weights_know_where_they_stand() -> None:
    assert SEConfig().summary(256) == "fc 16-256"
    assert SEConfig(placement="post").summary(256) == "se post"
    assert [c.summary(64) for c in CONFIGS[1:4]] == ["no_squeeze", "eca", "shared"]
