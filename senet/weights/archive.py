"""Open files of tensors by their content, whatever their ending, without executing anything in them."""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import safe_globals

from senet.errors import CheckpointError
from senet.outputs import reason
from senet.weights import mappings
from senet.weights.header import KEY

DOWNLOAD = "download or copy it again"

OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"version https://git-lfs", "a Git LFS pointer and not the weights; fetch them with: git lfs pull"),
    (rb"\s*(?i:<!doctype|<html|<head|<\?xml)", f"a web page: the download went wrong; {DOWNLOAD}"),
    (rb"\x1f\x8b", "compressed by gzip; unpack it first: gunzip, or tar -xzf for a .tar.gz"),
    (rb"BZh", "compressed by bzip2; unpack it first: bunzip2"),
    (rb"\xfd7zXZ\0", "compressed by xz; unpack it first: unxz"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first: unzstd"),
    (rb"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (rb"Rar!", "a RAR archive; unpack it first"),
    (rb"(?s:.{257})ustar", "a tar archive; unpack it first: tar -xf"),
    (rb"\x89HDF", "an HDF5 file, as of Keras; save its arrays by name with numpy.savez, and load the .npz"),
    (rb"GGUF", "a GGUF file of a language model"),
    (rb"(?s:.{4})TFL3", "a network of TensorFlow Lite; this reads weights of PyTorch, safetensors, NumPy and Caffe"),
    (
        rb"\x08[\x01-\x20](?:[\x12\x1a\x22\x2a\x32\x3a\x42]|\x28)",
        "an ONNX network and not weights by name; export the PyTorch weights again",
    ),
    (rb"\x93NUMPY", "a single array of NumPy; save all arrays by name with numpy.savez"),
    (rb"\s*[{\[]", "JSON text, and not the weights that it may describe"),
)
"""First bytes of files that are not weights -> what the file is, and what to do."""

TORCH_PICKLE = re.compile(rb"(?s:\x80.)\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.")
"""The number with which files of torch before 1.6 begin."""

HARMLESS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|collections\.(defaultdict|deque)|copyreg\._reconstructor"
    r"|pathlib\.(_local\.)?\w*Path|datetime\.\w+|decimal\.Decimal|builtins\.(list|dict|set|object)"
)
"""Classes that files of weights call for what stands beside the weights. They are not called here either."""

UNREAD = "class that is not built"
"""The attribute that marks such an object and names its class."""

HARMFUL = re.compile(r"(os|posix|nt|sys|subprocess|shutil|socket)\..*|builtins\.(eval|exec|compile|open)")
"""Functions that no file of weights needs."""


def _stand_in(name: str) -> OrderedDict[str, Any]:
    """What stands in for an object of a class that is not built: of the type that torch fills and gives attributes."""
    empty: OrderedDict[str, Any] = OrderedDict()
    vars(empty)[UNREAD] = name
    return empty


def open_tensors(path: Path) -> tuple[Any, str | None]:
    """Read a file: what `torch.save` wrote, safetensors, NumPy's .npz, or .caffemodel.

    Returns:
        What it holds, tensors on the CPU, with a mapping for each object of another class (`unread`); and the text of
        our header, if a safetensors file has one.

    Raises:
        CheckpointError: For a file that is absent, empty, cut off or of another kind, and for a pickle that would run
            code. The message says what the file is and what to do.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            # First, since the length that a safetensors file begins with may look like another kind's first bytes.
            if head[5:9] == b"\0\0\0{":
                return _read_safetensors(path)
            if head.startswith(b"PK\x03\x04"):
                return _read_zip(path, file), None
            if TORCH_PICKLE.match(head):
                return _read_torch(path, file, file), None
            if head.startswith(b"\x80"):
                names = _globals(file)
                what = f", which names {names[0]}" if names else ""
                line = f"torch.save(pickle.load(open({path.name!r}, 'rb')), 'tensors.pth')"
                raise CheckpointError(f"{path}: refused: a pickle that torch.save did not write{what}; {_save(line)}")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path}: cannot be read: it is empty; {DOWNLOAD}")
    what = next((what for start, what in OTHERS if re.match(start, head)), None)
    if what is None and path.suffix == ".safetensors":
        return _read_safetensors(path)
    if what is None and (path.suffix == ".caffemodel" or _is_caffe(head)):
        from senet.weights import caffe

        return caffe.read(path), None
    raise CheckpointError(f"{path}: cannot be read: {what or f'no file of weights, it begins with {head[:8]!r}'}")


def _is_caffe(head: bytes) -> bool:
    """Whether a network's name and the tag of its first layer or input, or only the tag, come first."""
    end = 2 + head[1] if head[:1] == b"\n" and len(head) > 1 else 0
    return head[end : end + 1] in ((b"\xa2", b"\x12", b"\x1a") if end else (b"\xa2",))


def _read_safetensors(path: Path) -> tuple[Any, str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (  # noqa: SIM118 (not a dict)
                (file.metadata() or {}).get(KEY)
            )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged, or not a safetensors file: {error}; {DOWNLOAD}") from error


def _read_zip(path: Path, file: BinaryIO) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            pickle = next((name for name in names if name.endswith("data.pkl")), None)
            if any("/code/" in name for name in names):
                line = f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'tensors.pth')"
                raise CheckpointError(f"{path}: cannot be read: a TorchScript program and not weights; {_save(line)}")
            if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
                line = f"torch.save(dict(torch.export.load({path.name!r}).state_dict), 'tensors.pth')"
                raise CheckpointError(
                    f"{path}: cannot be read: a program of torch.export and not weights; {_save(line)}"
                )
            if pickle is not None:
                return _read_torch(path, file, io.BytesIO(archive.read(pickle)))
            if names and all(name.endswith(".npy") for name in names):
                with np.load(path, allow_pickle=False) as arrays:
                    return dict(arrays)
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read: arrays of Python objects, not of numbers") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be read: damaged or cut off: {reason(error)}; {DOWNLOAD}") from error
    inside = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    raise CheckpointError(
        f"{path}: cannot be read: a zip archive of {inside or 'nothing'}, without tensors of torch; unpack it first"
    )


def _save(line: str) -> str:
    return f"if you trust the file, this line saves its tensors alone: {line}"


def _read_torch(path: Path, file: BinaryIO, pickles: BinaryIO) -> Any:
    """Read what `torch.save` wrote; classes of others are replaced by `Unread`, and none of them is imported.

    Args:
        path: For messages.
        file: The file.
        pickles: The pickle inside, or the file itself in the form before torch 1.6.
    """
    called: list[str] = []

    class Named(type):
        # A function that a pickle calls comes here; torch makes an object of a class without calling it.
        def __call__(cls, *args: object) -> object:
            called.append(cls.__name__)
            # What is filled or called next must be of a type that torch lets be filled or called.
            results: dict[str, object] = {"collections.deque": [], "builtins.getattr": cls}
            return results.get(cls.__name__, _stand_in(cls.__name__))

    def new(cls: type, *args: object) -> object:
        return _stand_in(cls.__name__)

    names = _globals(pickles)
    foreign = [
        name for name in names if not name.startswith(("torch.", "numpy.", "collections.OrderedDict", "_codecs."))
    ]
    if bad := [name for name in names if HARMFUL.fullmatch(name)]:
        raise CheckpointError(f"{path}: refused: it would call {bad[0]}, as harmful files do")
    try:
        file.seek(0)
        own = [(Named(name, (), {"__new__": new}), name) for name in names if not name.startswith("numpy.")]
        with warnings.catch_warnings(), safe_globals([*own, *_numpy(names)]):
            warnings.simplefilter("ignore")
            data = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        pickles.seek(0)
        if pickles.read(2) > b"\x80\x03":
            line = f"torch.save(torch.load({path.name!r}, weights_only=False), 'tensors.pth')"
            raise CheckpointError(f"{path}: refused: a pickle of protocol 4 or later; {_save(line)}") from error
        # torch raises a dozen types for damaged files, and its text on weights_only is long.
        cause = reason(re.sub(r"(?s)^Weights only load failed.*WeightsUnpickler error:\s*", "", str(error)) or error)
        if not foreign:
            raise CheckpointError(f"{path}: cannot be read: damaged or cut off: {cause}; {DOWNLOAD}") from error
        # Before torch 1.6 a module came with its source.
        state = ".state_dict()" if "persistent_load" in cause else ""
        line = f"torch.save(torch.load({path.name!r}, weights_only=False){state}, 'tensors.pth')"
        raise CheckpointError(
            f"{path}: cannot be read: damaged, or because of its objects of {foreign[0]}: {cause}; {_save(line)}"
        ) from error
    if odd := [name for name in called if not HARMLESS.fullmatch(name)]:
        where = max(mappings.find(data), key=lambda w: len(w.tensors), default=None)
        keys = where.expression if where else ""
        line = f"torch.save(torch.load({path.name!r}, weights_only=False){keys}, 'tensors.pth')"
        raise CheckpointError(f"{path}: refused: it would call {odd[0]}, which could run code; {_save(line)}")
    return data


def _globals(pickles: BinaryIO) -> list[str]:
    """The classes and functions that the pickles in a file name, read without unpickling."""
    names: dict[str, None] = {}
    # The old form has five pickles in a row, the new one a single one.
    for _ in range(5):
        texts: list[str] = []
        try:
            for code, value, _ in pickletools.genops(pickles):
                if code.name == "GLOBAL":
                    # Pickles that Python 2 can read have its names; torch translates them in this way.
                    module, _, name = str(value).partition(" ")
                    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                    names[f"{module}.{name}"] = None
                elif code.name == "STACK_GLOBAL":
                    names[".".join(texts[-2:])] = None
                elif isinstance(value, str):
                    texts.append(value)
        except Exception:
            # torch reports a broken pickle when it reads it.
            break
    return list(names)


def _numpy(names: list[str]) -> list[Any]:
    """What NumPy's arrays and numbers are made by."""
    if not any(name.startswith("numpy") for name in names):
        return []
    from numpy._core import multiarray

    made = [
        (getattr(multiarray, f), f"numpy.{core}.multiarray.{f}")
        for core in ("core", "_core")
        for f in ("_reconstruct", "scalar")
    ]
    return [*made, np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefdSU")]


def unread(data: Any) -> Iterator[tuple[str, str]]:
    """The objects that were not built: the Python expression behind the file's content, and the class."""
    if isinstance(data, OrderedDict) and UNREAD in vars(data):
        yield "", vars(data)[UNREAD]
    elif isinstance(data, (Mapping, list, tuple)):
        for key, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            if value is not data:
                yield from ((f"[{key!r}]{inner}", kind) for inner, kind in unread(value))


def no_weights(name: str, data: Any) -> CheckpointError:
    """The error for a file without tensors by name; for a whole module it says how to save its tensors."""
    where, kind = next(unread(data), ("", ""))
    if not kind:
        return CheckpointError(f"{name}: holds no weights, but a {type(data).__name__}")
    line = f"torch.save(torch.load({Path(name).name!r}, weights_only=False){where}.state_dict(), 'tensors.pth')"
    return CheckpointError(
        f"{name}: refused: it holds an object of the class {kind}, which could run code; {_save(line)}"
    )
