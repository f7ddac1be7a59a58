"""Write files so that a crash, a full disk or a second run never loses the old file; and check their format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from senet import __version__
from senet.errors import RunError, SenetError

LOCK = ".lock"
"""The file in a folder that is in use."""

FORMAT = 2
"""The number in every file that senet writes for itself. It rises when an older senet's files can no longer be read."""


def format_stamp() -> dict[str, Any]:
    """What every file of ours begins with: the format and the version that wrote it."""
    return {"format": FORMAT, "senet": __version__}


def check_format(found: Mapping[str, Any], where: Path | str, error: type[SenetError] = RunError) -> None:
    """Refuse a file of another format.

    Args:
        found: What the file says, `format_stamp` among it.
        where: How the message names the file or folder.
        error: The type that is raised.

    Raises:
        SenetError: Of the type `error`, for another format or none: senet 0.1 wrote none.
    """
    if found.get("format") != FORMAT:
        by = found.get("senet", "0.1")
        raise error(f"{where}: written by senet {by}; this is senet {__version__}, which cannot read it; train again")


def cache_folder() -> Path:
    """Where senet keeps what it can make again: `$XDG_CACHE_HOME/senet`, by default `~/.cache/senet`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "senet"


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], *, keep_as: Path | None = None) -> None:
    """Write a file under a temporary name, flush it to the disk and rename it: the old one stays until then.

    The folder is flushed too where the system can, so that the rename outlives a power cut.

    write: is given the open binary file.
    keep_as: another name that the old file keeps.
    Raises RunError, naming the file and the cause, where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None and path.is_file():
            _keep(path, keep_as)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as a RuntimeError.
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)
        was = f"; the {path.name} from before is intact" if path.is_file() else ""
        raise RunError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}{was}") from error
    # The file is whole and in its place; Windows opens no folders, and some network disks flush none.
    with suppress(OSError):
        _flush_folder(path.parent)


def _keep(path: Path, name: Path) -> None:
    """Give a file a second name, in place of the file that had it; the file itself is there at every moment."""
    link = name.with_name(f".{name.name}.part")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        # A disk without hard links: for a moment only the second name is there.
        os.replace(path, name)
    else:
        os.replace(link, name)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for text in UTF-8; what UTF-8 cannot hold, from a name that is not UTF-8, as "\\udcff"."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def make_folder(path: Path) -> Path:
    """Make a folder where it is not there yet; RunError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to the folder {path}: {error.strerror}") from error
    return path


def new_folder(path: Path) -> Path:
    """Make a folder that holds nothing yet; what a killed process left behind (`.*.part`, `.lock`) is nothing.

    Raises RunError where there is something already (no run is overwritten) or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not all(inside.name == LOCK or inside.match(".*.part") for inside in path.iterdir()):
            raise RunError(
                f"{path} is not empty and no run is overwritten: name another folder, or resume with --resume {path}"
            )
        probe = path / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"cannot write to the run folder {path}: {error.strerror}") from error
    return path


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder, made where it is not there, for this process; the system frees it however the process ends.

    Raises RunError where another process has it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"{folder} is in use: another process writes into it; wait until that has ended") from None
    except OSError as error:
        raise RunError(f"cannot write to the run folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        # Before it is released, so that nobody's lock is removed; Windows keeps files that are open.
        with suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()


def free_name(parent: Path, name: str) -> Path:
    """The first of `name`, `name-2`, `name-3`, ... that is not yet in `parent`."""
    path, count = parent / name, 1
    while path.exists():
        count += 1
        path = parent / f"{name}-{count}"
    return path
