"""C files of this package as libraries, compiled once for this machine by its own compiler."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


def compiler() -> str | None:
    """The C compiler: `$CC`, else the first of cc, gcc and clang that is there."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def cache_folder() -> Path:
    """Where the libraries are kept: `$XDG_CACHE_HOME/senet`, by default `~/.cache/senet`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "senet"


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The library of a C file, compiled on first use and kept in `cache_folder()`; None without a compiler that can.

    The reason for None is said once, in a RuntimeWarning. Its OpenMP is torch's own, which has the same name, so both
    share one pool of threads.
    """
    cc = compiler()
    if cc is None:
        return _none(source, "no C compiler: none of $CC, cc, gcc, clang is there")
    try:
        text = "\0".join((source.read_text(), cc, *FLAGS, platform.machine(), _cpu()))
        name = f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_file():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / name
                command = [cc, *FLAGS, str(source), "-o", str(made), "-lm"]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    return _none(source, f"{cc} failed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
                # Whoever compiles it at the same time has made the same file.
                made.replace(folder / name)
        return ctypes.CDLL(str(folder / name))
    # `Path.home` raises RuntimeError where there is none.
    except (OSError, RuntimeError) as error:
        return _none(source, str(error))


def _cpu() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _none(source: Path, why: str) -> None:
    warnings.warn(f"{source.name} is not compiled ({why}); slower kernels run instead", RuntimeWarning, stacklevel=3)
