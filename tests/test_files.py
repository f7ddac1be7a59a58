"""Files that a crash, a full disk or a second run cannot cost."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from senet.errors import RunError
from senet.files import free_name, held, new_folder, write_atomically, write_text

is_root = hasattr(os, "geteuid") and os.geteuid() == 0


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writing_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "one")
    write_text(path, "zwö")
    assert path.read_bytes() == "zwö".encode()
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (RuntimeError("[enforce fail] unexpected pos 64 vs 0"), "unexpected pos 64 vs 0"),
    ],
    ids=["disk full", "torch's error"],
)
def test_a_failed_write_leaves_the_old_file(error: Exception, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(file: IO[bytes]) -> None:
        file.write(b"half of the new")
        raise error

    with pytest.raises(RunError, match=rf"cannot write .*a.bin: .*{reason}; the a.bin from before is intact"):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"cannot write .*a.bin: No space left on device$"):
        write_atomically(tmp_path / "a.bin", write)
    assert names(tmp_path) == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path, seen = tmp_path / "a.bin", []
    path.write_bytes(b"old")

    def write(file: IO[bytes]) -> None:
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows opens no folders")
def test_the_folder_is_flushed_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, flush = [], os.fsync

    def noted(descriptor: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), names(tmp_path)))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_text(tmp_path / "a.txt", "new")
    assert seen == [(False, [".a.txt.part"]), (True, ["a.txt"])]


def test_a_system_that_opens_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_mistake_of_the_writer_is_not_hidden(tmp_path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        write_atomically(tmp_path / "a.bin", write)


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is of POSIX")
def test_a_real_limit_on_the_size_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    script = """
import resource, signal, sys
from pathlib import Path
from senet.errors import RunError
from senet.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), lambda file: file.write(b"x" * 5000))
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "File too large; the a.bin from before is intact" in done.stdout
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*no.a.txt: No such file or directory"):
        write_text(tmp_path / "no" / "a.txt", "")


def test_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert new_folder(path) == path
    assert names(path) == []
    assert new_folder(path) == path
    # Of a write that was killed; the next one takes its place.
    (path / ".x.part").touch()
    assert new_folder(path) == path
    (path / ".x.part").rename(path / "x")
    with pytest.raises(
        RunError, match=r"a.b is not empty and no run is overwritten: name another folder, or resume with"
    ):
        new_folder(path)
    assert names(path) == ["x"]


def test_new_folder_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(RunError, match=r"cannot write to the run folder .*a: File exists"):
        new_folder(tmp_path / "a")
    with pytest.raises(RunError, match=r"cannot write to the run folder .*b: Not a directory"):
        new_folder(tmp_path / "a" / "b")


@pytest.mark.skipif(is_root, reason="root may write everywhere")
def test_new_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o500)
    with pytest.raises(RunError, match=r"cannot write to the run folder .*Permission denied"):
        new_folder(tmp_path / "a")


def test_free_name(tmp_path: Path) -> None:
    assert free_name(tmp_path, "run") == tmp_path / "run"
    for made, free in (("run", "run-2"), ("run-2", "run-3"), ("run-4", "run-3")):
        (tmp_path / made).mkdir()
        assert free_name(tmp_path, "run") == tmp_path / free
    (tmp_path / "run-3").touch()
    assert free_name(tmp_path, "run") == tmp_path / "run-5"


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    """Another one is refused while the first has it, and has it when the first was killed."""
    code = (
        "import sys, time; from pathlib import Path; from senet.files import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="is in use: another process writes into it"), held(tmp_path):
            pass
        assert names(tmp_path) == [".lock"]
        other.kill()
    with held(tmp_path):
        assert names(tmp_path) == [".lock"]
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_nothing(tmp_path: Path) -> None:
    for name in (".lock", ".a.txt.part"):
        (tmp_path / name).touch()
    assert new_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("has_links", [True, False])
def test_the_file_before_keeps_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    """With hard links a file of this name is there at every moment."""
    path, before, there = tmp_path / "last", tmp_path / "previous", []
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        there.append(path.is_file())

    def no_link(source: Path, target: Path) -> None:
        raise OSError("no hard links")

    for text in ("one", "two", "three"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            if not has_links:
                patch.setattr(os, "link", no_link)
            write_atomically(path, lambda file, text=text: file.write(text.encode()), keep_as=before)
    assert (path.read_text(), before.read_text()) == ("three", "two")
    assert all(there) == has_links
    assert {p.name for p in tmp_path.iterdir()} == {"last", "previous"}
