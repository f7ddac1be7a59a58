"""Compare the kernels in C with torch in float64 on random shapes, epilogues, memory formats and threads.

    python -m benchmarks.fuzz_kernels 2000
    python -m benchmarks.fuzz_kernels 500 --sanitize                    # compiled with address and undefined sanitizers
    CC="gcc -mno-avx512f" python -m benchmarks.fuzz_kernels 2000        # as for a processor without AVX-512

The cases are those of tests/kernels/test_fuzz.py, by seed. Exit status 1 at the first wrong one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path


def sanitized(argv: list[str]) -> int:
    """Run this again with kernels that are compiled with sanitizers, which must be loaded before Python."""
    found = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    with tempfile.TemporaryDirectory() as cache:
        # -O1 comes behind the -O3 of senet.kernels.cc: with it the widest kernel takes minutes to compile.
        options = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1"
        compiler = Path(cache, "cc")
        compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CC", "gcc")} "$@" {options}\n')
        compiler.chmod(0o755)
        settings = {
            "CC": str(compiler),
            "LD_PRELOAD": " ".join(found),
            # Python itself leaks.
            "ASAN_OPTIONS": "detect_leaks=0",
            "XDG_CACHE_HOME": cache,
        }
        return subprocess.run([sys.executable, "-m", __spec__.name, *argv], env=os.environ | settings).returncode


def main() -> int:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=int, nargs="?", default=2000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--sanitize", action="store_true")
    line = parser.parse_args()
    if line.sanitize:
        return sanitized([str(line.cases), "--first", str(line.first)])
    from senet.progress import Bar
    from tests.kernels.test_fuzz import check

    kinds: Counter[str] = Counter()
    for seed in Bar(range(line.first, line.first + line.cases), unit="case"):
        try:
            kinds[check(seed).split()[0]] += 1
        except AssertionError as error:
            print(error, file=sys.stderr)
            return 1
    print(f"{line.cases:,} cases, all as in float64: {dict(kinds)}; CC={os.environ.get('CC', '')!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
