"""Read weights from a file, a folder, the Hub, a mapping or a module, and what their header or config.json states."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from senet.errors import CheckpointError, ConfigError
from senet.models.net import Preprocessing
from senet.models.network import Network
from senet.weights import archive, mappings
from senet.weights.convention import INSIDE, Shape
from senet.weights.fetch import fetch, is_spec
from senet.weights.header import KEY, Header
from senet.weights.timm import read_preprocessing

SPECS = "a name on the Hub, 'timm:NAME' or 'hf:OWNER/NAME'"

FILES = ("best.safetensors", "last.safetensors", "last.ckpt", "model.safetensors", "pytorch_model.bin")
"""The file of weights in a folder: that of a run, or of a repository on the Hub; the first that is there."""

ENDINGS = (".safetensors", ".pth", ".pt", ".th", ".bin", ".ckpt", ".npz", ".caffemodel")
"""Endings by which the only file of weights in a folder is found. What a file is, its content tells."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Tensors under their own names, and what else their file says.

    Attributes:
        name: The path, or "a mapping".
        tensors: On the CPU.
        hint: The file's name without its ending, or the architecture that its config.json states, for
            `Convention.infer_from_name`.
        notes: What was unpacked, and what else is in the file.
        outside: Names of tensors outside the network: those without the prefix that the network's names have.
        header: What a file of ours says; None for other files.
        preprocessing: From the header or a config.json; None if neither states it.
    """

    name: str
    tensors: Mapping[str, Tensor]
    hint: str = ""
    notes: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    header: Header | None = None
    preprocessing: Preprocessing | None = None


def read(path: str | Path) -> Source:
    """Read the tensors of a file, on the CPU. The content tells what it is, not the ending.

    Args:
        path: A file of `torch.save`, of safetensors, of `numpy.savez` or of Caffe; a folder with such a file and
            perhaps a config.json, or a run's folder; or "timm:NAME" or "hf:OWNER/NAME", which is fetched from the
            Hugging Face Hub (`fetch`). "FILE#KEY" takes the tensors at that key of a file with several mappings:
            "net.pth#model_ema".

    Raises:
        CheckpointError: For a file that is absent, damaged or holds no weights, and for a pickle that could run code,
            which is not unpickled.
        ConfigError: For a key that is not in the file.
    """
    if not str(path) or "://" in str(path):
        raise CheckpointError(f"weights: {str(path)!r} is neither a file or folder on this machine nor {SPECS}")
    before, mark, key = str(path).rpartition("#")
    if mark and not key.startswith("sha256=") and not Path(path).exists():
        return _read(before, key)
    return _read(path, "")


def _read(path: str | Path, key: str) -> Source:
    if is_spec(path):
        return replace(_read(fetch(path), key), name=str(path))
    path = Path(path).expanduser()
    if path.is_dir():
        return _add_config(_read(find(path), key), path / "config.json")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder, nor {SPECS}")
    data, text = archive.open_tensors(path)
    state: object = data
    if isinstance(data, Mapping) and isinstance(data.get(KEY), str):
        text, state = data[KEY], data.get("state_dict")
    header = Header.loads(text, path) if text is not None else None
    source = _own(state, str(path)) if header else unwrap(data, str(path), key=key)
    return replace(
        source, hint=path.stem.lower(), header=header, preprocessing=header.preprocessing if header else None
    )


def find(folder: Path) -> Path:
    """The file of weights in a folder: one of `FILES`, else the only one with an ending of `ENDINGS`.

    Raises:
        CheckpointError: If there is none, or more than one.
    """
    name = next((name for name in FILES if (folder / name).is_file()), None)
    if name is not None:
        return folder / name
    others = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
    if len(others) == 1:
        return folder / others[0]
    if others:
        raise CheckpointError(f"{folder}: has several files of weights, name one: {', '.join(others)}")
    runs = sorted({str(p.parent.relative_to(folder)) for p in folder.glob("runs/*/*.safetensors")})
    hint = f"; it has runs in {', '.join(runs)}: name one of them" if runs else ""
    raise CheckpointError(f"{folder}: no {', '.join(FILES[:-1])} or {FILES[-1]} in this folder{hint}")


def _add_config(source: Source, path: Path) -> Source:
    """What a config.json beside the weights says: the architecture, and timm's preprocessing."""
    if not path.is_file():
        return source
    try:
        config = json.loads(path.read_text("utf-8"))
        pretrained = config.get("pretrained_cfg") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    source = replace(source, hint=str(config.get("architecture") or source.hint).lower())
    if source.preprocessing or not pretrained:
        return source
    try:
        return replace(source, preprocessing=read_preprocessing(pretrained))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        note = f"the preprocessing in config.json cannot be read: {error}"
        return replace(source, notes=(*source.notes, note))


def of_module(module: nn.Module) -> Source:
    """The tensors of a module; one of our networks also states its table."""
    name = f"a {type(module).__name__}"
    if not isinstance(module, Network):
        return unwrap(module.state_dict(), name)
    header = Header(name=module.net.kind, model=module.net, preprocessing=module.preprocessing)
    return Source(name=name, tensors=module.state_dict(), header=header, preprocessing=module.preprocessing)


def _own(state: object, name: str) -> Source:
    """The tensors of a file of ours, whose names are the network's, or those of the training module around it."""
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{name}: holds no weights in its 'state_dict'")
    prefix, tensors = evaluated_weights(state)
    return Source(name=name, tensors=tensors, notes=(f"only {prefix!r} of a training module",) * bool(prefix))


def unwrap(data: Any, name: str = "a mapping", *, key: str = "") -> Source:
    """Find the tensors inside what people save around them, at any depth, as `mappings.choose` chooses.

    Args:
        data: Mappings and lists.
        name: Of the file.
        key: The path of the mapping that is wanted, "" for none.

    Raises:
        CheckpointError: If there are no tensors inside.
        ConfigError: If there is no mapping at `key`.
    """
    found = mappings.find(data)
    unread = list(archive.unread(data))
    if not found or (unread and not any(t.ndim for w in found for t in w.tensors.values())):
        raise archive.no_weights(name, data)
    chosen, notes = mappings.choose(found, key, name)
    if unread:
        what = ", ".join(f"{where} of the class {kind}" for where, kind in unread[:3]) + ", ..." * (len(unread) > 3)
        notes = (*notes, f"not built: {what}")
    source = Source(name=name, tensors=chosen.tensors, notes=notes)
    return _without(source, mappings.without(chosen.tensors, INSIDE)[0])


def peeled(source: Source, accepts: Callable[[Mapping[str, Shape]], bool]) -> Source:
    """The source without the prefix that hides names which `accepts` takes; as it is if there is none.

    Tensors outside the prefix are listed in `outside`.
    """
    prefix = None if source.header else mappings.prefix_of(source.tensors, accepts)
    return _without(source, prefix or "")


def _without(source: Source, prefix: str) -> Source:
    if not prefix:
        return source
    return replace(
        source,
        tensors={name.removeprefix(prefix): t for name, t in source.tensors.items() if name.startswith(prefix)},
        notes=(*source.notes, f"without the prefix {prefix!r}"),
        outside=(*source.outside, *(name for name in source.tensors if not name.startswith(prefix))),
    )


def evaluated_weights(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The weights of our training module that are evaluated: the moving average if it has one, else the network's.

    Returns:
        The prefix that was removed, "" for the state of another module, and the tensors.
    """
    for prefix in ("average.module.", "network."):
        if any(name.startswith(prefix) for name in state):
            return prefix, {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    return "", dict(state)
