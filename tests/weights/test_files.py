"""Files of weights as people have them: found by their content, taken whole, or refused in one line."""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import os
import pathlib
import pickle
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from senet import create_model, load_weights_
from senet.errors import CheckpointError, ConfigError
from senet.models.net import ResidualNet, Stage, Stem
from senet.weights import files
from senet.weights.export import state_as
from senet.weights.identify import identify, read_network
from tests.weights.sources import equal, random_

SMALL = ResidualNet(
    stem=Stem(width=8, kernel=3, stride=1),
    pool="none",
    stages=tuple(Stage(block="basic", depth=1, mid=8, out=8, stride=stride) for stride in (1, 2, 2)),
    num_classes=3,
)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return random_(create_model(SMALL), 1)


@pytest.fixture(scope="module")
def state(net) -> dict[str, torch.Tensor]:
    """Under other names than ours."""
    return state_as(net, "chenyaofo")


@pytest.fixture(scope="module")
def last(state) -> dict[str, torch.Tensor]:
    """Weights that must not be taken where there is an average."""
    return {name: t + 1 for name, t in state.items()}


def saved(path: Path, what, **options) -> Path:
    torch.save(what, path, **options)
    return path


def load(source, net, **options):
    """Load into a new network, and check that it has the tensors of `net`."""
    model = create_model(SMALL, seed=5)
    report = load_weights_(model, source, quiet=True, **options)
    assert equal(dict(model.state_dict()), dict(net.state_dict()))
    return report


# What a file is, its content tells.


def test_safetensors_named_pth_and_the_reverse(tmp_path, net, state):
    save_file(state, tmp_path / "net.pth")
    saved(tmp_path / "net.safetensors", state)
    saved(tmp_path / "old", state, _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "arrays.npz", **{name: t.numpy() for name, t in state.items()})
    (tmp_path / "arrays.npz").rename(tmp_path / "arrays.txt")
    for name in ("net.pth", "net.safetensors", "old", "arrays.txt"):
        assert len(load(tmp_path / name, net).renamed) > 10


def test_a_safetensors_file_may_begin_like_another_kind(tmp_path):
    """With the length of its header, a multiple of 8: 0x80 is a pickle's first byte, 0x08 an ONNX network's."""
    starts = set()
    for length in range(0, 300, 8):
        save_file({"a": torch.ones(1)}, tmp_path / "a.pth", metadata={"note": "x" * length})
        starts.add((tmp_path / "a.pth").read_bytes()[0])
        assert list(files.read(tmp_path / "a.pth").tensors) == ["a"]
    assert {0x80, 0x08} <= starts


def program(state) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 4, 4)), file)
    return file.getvalue()


def exported(state) -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), file)
    return file.getvalue()


def packed(state) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def tarred(state) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("net.pth"))
    return file.getvalue()


def zipped(state) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net.pth", packed(state))
    return file.getvalue()


def array(value) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def objects(state) -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.array([{}, None], dtype=object))
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 102400000\n"

OTHERS = {
    "pointer": (lambda s: POINTER, r"a Git LFS pointer .*: git lfs pull$"),
    "page": (lambda s: b"\n<!DOCTYPE html><html>", "a web page: the download went wrong"),
    "page in capitals": (lambda s: b"<HTML lang=en>", "a web page"),
    "xml": (lambda s: b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page"),
    "empty": (lambda s: b"", "it is empty; download"),
    "gzip": (lambda s: gzip.compress(packed(s)), "compressed by gzip; unpack it first: gunzip"),
    "tar": (tarred, "a tar archive; unpack it first: tar -xf"),
    "zip": (zipped, r"a zip archive of net.pth, .*; unpack it first"),
    "TorchScript": (program, r"a TorchScript program .*torch\.save\(torch\.jit\.load\('net\.pth'\)\.state_dict\(\), "),
    "pt2": (
        exported,
        r"a program of torch\.export .*torch\.save\(dict\(torch\.export\.load\('net\.pth'\)\.state_dict\)",
    ),
    "ONNX": (lambda s: b"\x08\x08\x12\x07pytorch", "an ONNX network"),
    "Keras": (lambda s: b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file, as of Keras"),
    "JSON": (lambda s: b'{"architecture": "resnet18"}', "JSON text"),
    "one array": (lambda s: array(np.ones(3)), "a single array of NumPy"),
    "arrays of objects": (objects, "arrays of Python objects"),
    "picture": (lambda s: b"\x89PNG\r\n\x1a\n", r"no file of weights, it begins with b'\\x89PNG"),
    "pickle": (lambda s: pickle.dumps(s), r"a pickle that torch\.save did not write, .*pickle\.load\(open\('net\.pth'"),
    "cut zip": (lambda s: packed(s)[:-100], "damaged or cut off: File is not a zip file"),
    "cut safetensors": (lambda s: save(s)[:-4], "damaged, or not a safetensors file: .*not fully covered"),
    "cut header": (lambda s: save(s)[:40], "damaged, or not a safetensors file"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_a_file_is_and_what_to_do(kind, tmp_path, state):
    make, says = OTHERS[kind]
    path = tmp_path / "net.pth"
    path.write_bytes(make(state))
    with pytest.raises(CheckpointError, match=rf"net\.pth: .*{says}") as error:
        files.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:.*unclosed file")
def test_the_lines_that_save_a_files_tensors_do(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    Path("net.pth").write_bytes(exported(state))
    for what in (pickle.dumps(state), exported(state)):
        Path("net.pth").write_bytes(what)
        with pytest.raises(CheckpointError) as error:
            files.read("net.pth")
        exec(str(error.value).rpartition("tensors alone: ")[2], {"torch": torch, "pickle": pickle, "open": open})
        assert files.read("tensors.pth").tensors


# What lies around the weights.


class Settings:
    """A class of somebody's training script."""

    def __init__(self) -> None:
        self.lr = 0.1


class Config(dict):
    """A mapping, as most configs are."""


class Hostile:
    def __init__(self, call, *args) -> None:
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


BESIDE = {
    "arguments": lambda: argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("x")),
    "settings": Settings,
    "config": lambda: Config(lr=Config(base=0.1)),
    "defaults": lambda: collections.defaultdict(list, {"loss": [1.0]}),
    "queue": lambda: collections.deque([1.0, 2.0]),
    "number of NumPy": lambda: np.float64(0.1),
    "array of NumPy": lambda: np.arange(3.0),
    "path": lambda: pathlib.PurePosixPath("a/b"),
    "module": lambda: nn.Conv2d(1, 1, 1),
    "optimizer": lambda: torch.optim.Adam(nn.Conv2d(8, 8, 3).parameters()).state_dict(),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("kind", BESIDE)
def test_objects_beside_the_weights_do_not_cost_them(kind, old, tmp_path, net, state):
    if (kind, old) == ("module", True):
        return
    path = saved(
        tmp_path / "a.pth", {"extra": BESIDE[kind](), "state_dict": state}, _use_new_zipfile_serialization=not old
    )
    report = load(path, net)
    assert "taken from 'state_dict'" in report.notes
    if kind in ("arguments", "settings", "config", "path"):
        assert any(note.startswith("not built: ['extra'] of the class ") for note in report.notes)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (Hostile(os.system, "touch executed"), r"would call (posix|nt)\.system, as harmful files do"),
        (Hostile(subprocess.call, ["touch", "executed"]), r"would call subprocess\.(call|Popen), as harmful files do"),
        (Hostile(eval, "open('executed', 'w')"), r"would call builtins\.eval, as harmful files do"),
        (Hostile(Path.touch, Path("executed")), r"would call builtins\.getattr, which could run code"),
        (
            Hostile(Hostile, print),
            r"would call tests\.weights\.test_files\.Hostile, .*\['a'\]\['b'\], 'tensors\.pth'\)$",
        ),
    ],
)
@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(call, says, old, tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    path = saved(Path("a.pth"), {"a": {"b": state}, "h": call}, _use_new_zipfile_serialization=not old)
    with pytest.raises(CheckpointError, match=f"a.pth: refused: it {says}"):
        files.read(path)
    assert not Path("executed").exists()


@pytest.mark.parametrize(("keys", "wrap"), [("", lambda m: m), ("['model']", lambda m: {"epoch": 3, "model": m})])
def test_a_whole_module_names_its_class_and_the_line(keys, wrap, tmp_path, monkeypatch, net, state):
    monkeypatch.chdir(tmp_path)
    saved(Path("a.pth"), wrap(nn.Sequential(collections.OrderedDict(a=nn.Conv2d(1, 1, 1)))))
    with pytest.raises(CheckpointError, match=r"class torch\.nn\.modules\.container\.Sequential") as error:
        files.read("a.pth")
    line = str(error.value).rpartition("tensors alone: ")[2]
    assert line == f"torch.save(torch.load('a.pth', weights_only=False){keys}.state_dict(), 'tensors.pth')"
    exec(line, {"torch": torch})
    assert list(files.read("tensors.pth").tensors) == ["a.weight", "a.bias"]


def averaged(state, last):
    """Where averages are found, each with the note that says so."""
    module = {f"module.{name}": t for name, t in state.items()} | {"n_averaged": torch.tensor(3)}
    parameters = {name: t for name, t in state.items() if not name.endswith(("_mean", "_var", "_tracked"))}
    return {
        "model_ema": {"model": last, "model_ema": module},
        "state_dict_ema": {"state_dict_ema": state, "state_dict": last},
        "ema.shadow": {"net": {f"module.{n}": t for n, t in last.items()}, "ema": {"decay": 0.9, "shadow": state}},
        "swa_model": {"a": [last], "swa_model": module},
        "params_ema": {"params": last, "params_ema": state},
        "averages": {"state_dict": state, "other": {"x": torch.ones(2)}},
        "net_ema": {f"net.{n}": t for n, t in last.items()} | {f"net_ema.{n}": t for n, t in module.items()},
        "ema": {
            "model": {n: state[n] if n not in parameters else t for n, t in last.items()},
            "ema": parameters,
        },
    }


@pytest.mark.parametrize("kind", averaged({}, {}))
def test_the_average_is_taken_and_the_others_are_said(kind, tmp_path, net, state, last):
    path = saved(tmp_path / "a.pth", averaged(state, last)[kind])
    report = load(path, net)
    if kind == "averages":
        assert report.notes[:2] == (
            "taken from 'state_dict'",
            "also in the file: 'other' (1 tensors); FILE#other takes another",
        )
        return
    assert report.notes[0] == f"taken from {kind!r}"
    assert any(note.startswith("also in the file: ") and f"({len(state)} tensors)" in note for note in report.notes)


def test_another_mapping_is_taken_by_its_path(tmp_path, net, state, last):
    path = saved(tmp_path / "a#1.pth", {"nets": [last, {"ema": state}], "raw": dict(state)})
    assert load(f"{path}#raw", net).notes[0] == "taken from 'raw'"
    assert load(path, net).notes[0] == "taken from 'nets.1.ema'"
    assert len(files.read(f"{path}#nets.0").tensors) == len(state)
    both = {f"student.{n}": t for n, t in state.items()} | {f"teacher.{n}": t for n, t in last.items()}
    assert load(f"{saved(tmp_path / 'b.pth', both)}#student", net).notes[0] == "taken from 'student'"
    with pytest.raises(ConfigError, match=r"'rav' is not known \(did you mean 'raw'\?\); mappings in the file: nets.0"):
        files.read(f"{path}#rav")


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "backbone.", "_orig_mod.module.", "model.net.encoder.", "my_resnet."]
)
def test_the_prefix_that_the_network_has_comes_off(prefix, tmp_path, net, state):
    inside = {prefix + name: t for name, t in state.items()}
    path = saved(
        tmp_path / "a.ckpt", {"state_dict": inside | {"criterion.weight": torch.ones(10), "neck.a": torch.ones(2)}}
    )
    report = load(path, net)
    assert any(note.startswith("without the prefix ") for note in report.notes)
    assert set(report.unused) == {"criterion.weight", "neck.a"}
    # They may be named all the same.
    assert load(path, net, allow=["criterion", "neck"]).unused == report.unused


def test_a_losss_tensors_are_unused_and_the_network_is_known(tmp_path):
    state = create_model("resnet20").state_dict()
    beside = {"criterion.weight": torch.ones(10), "loss_fn.centers": torch.ones(10, 64), "num_updates": torch.tensor(7)}
    path = saved(tmp_path / "a.pth", state | beside)
    name, _, report = read_network(path, quiet=True)
    assert (name, report.unused) == ("resnet20", tuple(beside))
    # Others are not known to be harmless, but do not make the network unknown.
    path = saved(tmp_path / "b.pth", state | {"neck.weight": torch.ones(3)})
    assert identify(files.read(path)) == ("resnet20", "senet")
    with pytest.raises(CheckpointError, match=r"1 of \d+ unused \(neck\.weight\).*name in `allow`"):
        read_network(path, quiet=True)
    assert read_network(path, allow=["neck"], quiet=True)[2].unused == ("neck.weight",)
    # A layer of a known module belongs to another network.
    with pytest.raises(CheckpointError, match="no network here has these"):
        identify(state | {"features.stage9.block1.conv1.weight": torch.ones(3)})


# What is given in memory.


def test_a_module_arrays_and_other_types_are_taken(net, state):
    assert load(net, net).source == "a Network"
    assert load(nn.DataParallel(net), net).notes == (
        "without the prefix 'module.'",
        *load(dict(net.state_dict()), net).notes,
    )
    assert "n_averaged" in load(AveragedModel(net), net).unused
    arrays = {name: t.numpy() for name, t in state.items()}
    load(arrays, net)
    load({name: a.astype(a.dtype.newbyteorder(">")) for name, a in arrays.items()}, net)
    load(list(state.items()), net)
    load({"epoch": 3, **state}, net)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        rounded = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
        model = create_model(SMALL)
        report = load_weights_(model, rounded, quiet=True)
        assert f"cast from {dtype}" in report.notes
        assert torch.equal(model.classifier.weight, rounded["fc.weight"].float())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "holds no weights, but a dict"),
        ({"a": [1, "b"], "b": {"c": None}}, "holds no weights"),
        ([torch.ones(2), torch.ones(3)], r"holds no weights: its tensors have no names, at the top \(2 tensors"),
        (torch.optim.SGD([torch.ones(2)], momentum=0.9).state_dict(), "holds no weights"),
        ({"a": {"weight": torch.ones(2)}}, "names of no known convention"),
    ],
)
def test_what_holds_no_weights_is_said(data, says):
    with pytest.raises(CheckpointError, match=f"a mapping: .*{says}"):
        load_weights_(create_model(SMALL), data, quiet=True)


def test_a_mapping_inside_itself_is_read_once(net, state):
    data = {"model": state}
    data["self"] = data
    load(data, net)


def test_a_folders_only_file_is_its_weights(tmp_path, net, state):
    with pytest.raises(CheckpointError, match=r"no best\.safetensors, .* in this folder$"):
        files.read(tmp_path)
    saved(tmp_path / "net.pth", state)
    (tmp_path / "notes.txt").write_text("x")
    load(tmp_path, net)
    saved(tmp_path / "other.pth", state)
    with pytest.raises(CheckpointError, match=r"several files of weights, name one: net\.pth, other\.pth$"):
        files.read(tmp_path)
    # What a run or the Hub calls its weights comes first.
    saved(tmp_path / "model.safetensors", state)
    assert files.read(tmp_path).name.endswith("model.safetensors")


def test_names_do_not_tell_blur(tmp_path):
    state = state_as(create_model("resnet50", pool="pad", stride_on="3x3"), "torchvision")
    found = identify(state)
    assert found == ("resnet50", "torchvision")
    assert "blur pooling (timm's resnetblur50)" in found.notes[0]
    assert identify(files.read(saved(tmp_path / "resnet50.pth", state))).notes == ()
    with pytest.raises(CheckpointError, match="'resnetaa50' blurs where it strides"):
        identify(files.read(saved(tmp_path / "resnetaa50.pth", state)))


def test_errors_name_the_file(tmp_path):
    path = saved(tmp_path / "vit.pth", {"blocks.0.attn.weight": torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match=r"vit\.pth: names of no known convention \(blocks\.0\.attn\.weight\)"):
        read_network(path)
