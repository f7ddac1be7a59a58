"""C files of this package as libraries, compiled once for this machine by its own compiler."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


def compiler() -> list[str] | None:
    """The command of the C compiler: `$CC`, with its options, else the first of cc, gcc and clang that is there."""
    commands = (shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"])
    found = ([path, *options] for name, *options in filter(None, commands) if (path := shutil.which(name)))
    return next(found, None)


def cache_folder() -> Path:
    """Where the libraries are kept: `$XDG_CACHE_HOME/senet`, by default `~/.cache/senet`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "senet"


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The library of a C file, compiled on first use and kept in `cache_folder()`; None without a compiler that can.

    The reason for None is said once, in a RuntimeWarning, and so is a `$CC` that is not there. With pip's wheels of
    torch its OpenMP is torch's own, which has the same name, so both share one pool of threads.
    """
    try:
        cc, mine = compiler(), shlex.split(os.environ.get("CC", ""))
        if cc is None:
            return _none(source, "no C compiler: none of $CC, cc, gcc, clang is there")
        if mine and shutil.which(mine[0]) is None:
            warnings.warn(f"$CC: {mine[0]} is not there; {cc[0]} compiles instead", RuntimeWarning, stacklevel=2)
        machine = platform.machine(), *platform.libc_ver(), _cpu()
        texts = [file.read_text() for file in (source, *sorted(source.parent.glob("*.h")))]
        text = "\0".join((*texts, *cc, *FLAGS, *machine))
        name = f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_file():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / name
                command = [*cc, *FLAGS, str(source), "-o", str(made), "-lm"]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    return _none(
                        source, f"{cc[0]} failed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
                    )
                # Whoever compiles it at the same time has made the same file.
                made.replace(folder / name)
        return ctypes.CDLL(str(folder / name))
    # `Path.home` raises RuntimeError where there is none, and shlex ValueError for a quote that has no end.
    except (OSError, RuntimeError, ValueError) as error:
        return _none(source, str(error))


def _cpu() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _none(source: Path, why: str) -> None:
    warnings.warn(f"{source.name} is not compiled ({why}); slower kernels run instead", RuntimeWarning, stacklevel=3)
