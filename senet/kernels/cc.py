"""Compile the C files of this package, once per machine, with the machine's own compiler."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_void_p, cast
from functools import cache
from pathlib import Path

from senet.files import cache_folder

HEADERS = Path(__file__).parent
THREADS = HEADERS / "threads.c"
FLAGS = ("-O3", "-march=native", "-fno-jump-tables", "-fopenmp", "-pthread", "-shared", "-fPIC")


def compiler() -> list[str] | None:
    """Command of the C compiler: `$CC` with its options, else the first of cc, gcc and clang that exists."""
    commands = (shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"])
    found = ([path, *options] for name, *options in filter(None, commands) if (path := shutil.which(name)))
    return next(found, None)


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """Load a C file as a library, compiled on first use into `cache_folder()`. None if it cannot be compiled.

    A RuntimeWarning says once why not, or that `$CC` does not exist. OpenMP, for training, is that of torch's wheels,
    which has the same name, so both share one pool of threads; kernels for inference have `threads.c`.
    """
    try:
        cc, wanted = compiler(), shlex.split(os.environ.get("CC", ""))
        if cc is None:
            return _warn(source, "no C compiler: found none of $CC, cc, gcc, clang")
        if wanted and shutil.which(wanted[0]) is None:
            warnings.warn(f"$CC: {wanted[0]} not found; {cc[0]} compiles instead", RuntimeWarning, stacklevel=2)
        machine = platform.machine(), *platform.libc_ver(), processor()
        texts = [file.read_text() for file in (source, *sorted(HEADERS.glob("*.h")))]
        text = "\0".join((*texts, *cc, *FLAGS, *machine))
        name = f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_file():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / name
                if sys.stderr.isatty():
                    print(f"senet: compiling {source.name} for this processor, once", file=sys.stderr)
                command = [*cc, *FLAGS, f"-I{HEADERS}", str(source), "-o", str(made), "-lm"]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    why = (done.stderr.strip() or "no reason given").splitlines()[-1]
                    return _warn(source, f"{cc[0]} failed: {why}")
                # Another process that compiles it now makes the same file.
                made.replace(folder / name)
        return ctypes.CDLL(str(folder / name))
    # Path.home raises RuntimeError where there is none, shlex ValueError for an unclosed quote.
    except (OSError, RuntimeError, ValueError) as error:
        return _warn(source, str(error))


def compiled(source: Path) -> ctypes.CDLL:
    """The library of a C file, for operations that have nothing else to run.

    Raises:
        RuntimeError: It cannot be compiled here.
    """
    lib = library(source)
    if lib is None:
        raise RuntimeError(f"{source.name} is not compiled on this machine")
    return lib


@cache
def parallel() -> c_void_p:
    """Address of the function by which kernels share their work.

    Raises:
        RuntimeError: It cannot be compiled here.
    """
    return cast(compiled(THREADS).parallel, c_void_p)


@cache
def are_there(sources: tuple[Path, ...]) -> bool:
    """Whether all these files are or can be compiled; at the same time, for it takes some 25 s of processor time."""
    # One warning is enough.
    if library(sources[0]) is None:
        return False
    with ThreadPoolExecutor() as pool:
        return all(list(pool.map(library, sources)))


def processor() -> str:
    """The processor's features, which `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _warn(source: Path, why: str) -> None:
    warnings.warn(f"{source.name} is not compiled ({why}); slower kernels run instead", RuntimeWarning, stacklevel=3)
