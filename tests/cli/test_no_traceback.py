"""Bad values of each kind, through every command: one line, a documented exit status, and never a traceback."""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from senet.cli import main
from senet.errors import RunError

Call = Callable[..., tuple[int, str, str]]

FILES: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 40,
    "text": b"not what you want\n",
    "list.json": b"[1, 2",
    "wrong.json": json.dumps({"format": 2, "rows": {"a": None}}).encode(),
    "page.html": b"<!DOCTYPE html><html></html>",
    "huge_header": (2**62).to_bytes(8, "little") + b"{}",
    "zip": b"PK\x03\x04" + b"\0" * 60,
}
"""Content of a file that is not the one that was asked for, under several endings below."""

READERS = {
    "evaluate": ("evaluate", "{}"),
    "ensemble": ("ensemble", "{}", "{}"),
    "predict": ("predict", "{}", "a.png"),
    "analyze": ("analyze", "{}"),
    "doctor": ("doctor", "{}"),
    "export": ("export", "{}", "out.onnx"),
    "convert": ("convert", "{}", "--out", "out.safetensors"),
    "app": ("app", "{}"),
    "report": ("report", "{}"),
    "info": ("info", "{}"),
    "resume": ("train", "--resume", "{}"),
    "resume compare": ("compare", "--resume", "{}"),
    "resume reproduce": ("reproduce", "--resume", "{}"),
    "config": ("train", "--config", "{}"),
    "data": ("train", "resnet20", "--data", "{}"),
    "gates": ("app", "{run}", "--gates", "{}"),
    "image": ("predict", "{run}", "{}"),
}
"""Each place on a command line where a file or folder stands."""

NUMBERS = {
    "train": (
        "--epochs",
        "--lr",
        "--batch-size",
        "--image-size",
        "--seed",
        "--threads",
        "--limit-batches",
        "--workers",
    ),
    "compare": ("--seeds", "--jobs", "--epochs"),
    "reproduce": ("--seeds", "--subset", "--budget"),
    "evaluate": ("--eval-batch-size", "--image-size", "--scales"),
    "ensemble": ("--weights", "--scales"),
    "predict": ("--top",),
    "analyze": ("--images",),
    "app": ("--port",),
    "export": ("--opset",),
    "info": ("--image-size",),
    "bench": ("--batch", "--size", "--repeats", "--min-ms"),
}
WORDS = {"train": ["resnet20", "--plan"], "compare": ["resnet20", "se_resnet20", "--plan"]}
WORDS |= {"reproduce": ["table4", "--data", "digits", "--rows", "ResNet-110", "--network", "resnet20", "--plan"]}
WORDS |= {"info": ["resnet20"], "bench": ["inference"], "predict": ["{run}", "a.png"], "export": ["{run}", "o.onnx"]}
WORDS |= {"ensemble": ["{run}", "{run}"]}
HUGE = "99999999999999999999"
VALUES = ("-1", "nan", "inf", "1e400", HUGE, "x", "", "1,,x", "0x10", "½", "-" * 3)


def check(call: tuple[int, str, str], words: list[str], *, statuses: tuple[int, ...] = (2,)) -> None:
    """One line on standard error that is no traceback, and a documented status."""
    status, _, err = call
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("senet")]
    assert status in statuses, (words, status, err)
    assert "Traceback" not in err, (words, err)
    assert "unexpected" not in err, (words, err)
    assert len(said) == (status == 2), (words, err)


def filled(words: tuple[str, ...] | list[str], value: object, run: Path) -> list[str]:
    return [str(run) if word == "{run}" else str(value) if word == "{}" else word for word in words]


@pytest.mark.slow
@pytest.mark.parametrize("command", READERS)
def test_a_file_that_is_another(senet: Call, trained: Path, tmp_path: Path, command: str) -> None:
    for name, content in FILES.items():
        for ending in ("", ".safetensors", ".ckpt", ".pth", ".npz", ".yaml"):
            path = tmp_path / f"{name}{ending}"
            path.write_bytes(content)
            words = filled(READERS[command], path, trained)
            check(senet(*words), words)


@pytest.mark.parametrize("command", READERS)
def test_no_file_a_folder_or_what_cannot_be_one(senet: Call, trained: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nested.safetensors").mkdir()
    for value in ("none", "none.safetensors", "folder", "nested.safetensors", "loop", "/dev/null", "a" * 300):
        words = filled(READERS[command], value, trained)
        check(senet(*words), words)


@pytest.mark.slow
@pytest.mark.parametrize("command", NUMBERS)
def test_a_number_that_is_none(senet: Call, trained: Path, command: str) -> None:
    for option in NUMBERS[command]:
        for value in VALUES:
            words = [command, *filled(WORDS.get(command, ["{run}"]), "", trained), option, value]
            # Any whole number is a seed, and a number of epochs may be as large as one likes.
            statuses = (0, 2) if value in (HUGE, "-1") and command != "bench" else (2,)
            check(senet(*words), words, statuses=statuses)


@pytest.mark.parametrize("command", ["evaluate", "predict", "analyze", "doctor", "app", "export", "bench", "train"])
def test_a_device_that_is_not_here(senet: Call, trained: Path, command: str) -> None:
    for device in ("mps", "cuda:99", "cuda", "gpu"):
        if device == "cuda" and torch.cuda.is_available():
            continue
        words = [command, *filled(WORDS.get(command, ["{run}"]), "", trained), "--device", device]
        check(senet(*words), words)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file can grow beyond `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS: dict[str, tuple[str, ...]] = {
    "train": ("train", "resnet20", "--image-size", "8", "--epochs", "1", "--limit-batches", "1", "--out", "{}"),
    "convert": ("convert", "{run}", "--out", "{}.safetensors"),
    "export": ("export", "{run}", "{}.pt2"),
    "analyze": ("analyze", "{run}", "--images", "1", "--out", "{}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk(senet: Call, trained: Path, command: str) -> None:
    words = [word.replace("{run}", str(trained)).replace("{}", "out") for word in WRITERS[command]]
    with full_disk(1000):
        answer = senet(*words)
    check(answer, words)


@pytest.mark.slow
@pytest.mark.parametrize("command", WRITERS)
def test_a_place_that_cannot_be_written(senet: Call, trained: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "inside", Path("/proc/senet"), Path("/dev/null/x"), tmp_path / ("a" * 300)):
        words = [word.replace("{run}", str(trained)).replace("{}", str(place)) for word in WRITERS[command]]
        check(senet(*words), words)


@pytest.mark.parametrize("host", ["127.0.0.1", "999.1.1.1", "nowhere.invalid", "192.0.2.1"])
def test_an_address_where_nothing_can_be_served(host: str) -> None:
    """Refused before gradio is asked, which would wait for ever; the page here is none."""
    pytest.importorskip("PIL", reason="the extra train is not installed")
    from senet.app.page import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RunError, match=f"cannot serve the app at {host}, port"):
            serve(cast(Any, None), host=host, port=taken.getsockname()[1])


def test_standard_output_that_is_full_or_closed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["models"]) == 2
        monkeypatch.undo()
    assert capsys.readouterr().err == "senet: error: cannot write to standard output: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["models"]) == 141
        monkeypatch.undo()
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["models"]) == 0
    sys.stdout.close()
    monkeypatch.undo()
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert main(["help"]) == 0
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "senet: stopped\n"),
        (MemoryError(), 2, "senet models: error: not enough memory; smaller batches or images need less\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "senet models: error: x: Permission denied\n"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), 2, "not enough memory; "),
        (ValueError("no\nway"), 70, "senet models: unexpected ValueError: no way ("),
    ],
)
def test_what_a_command_raises(
    senet: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, line: str
) -> None:
    def run(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("senet.cli.models.run", run)
    found, _, err = senet("models")
    assert (found, err.count("\n")) == (status, 1)
    assert line in err
    if status == 70:
        monkeypatch.setenv("SENET_TRACEBACK", "1")
        with pytest.raises(ValueError, match="no"):
            senet("models")
