"""C files are compiled once, and a warning says once why one is not."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from senet.kernels import cc


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A C file, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "seven.c"
    path.write_text("int number(void) { return 7; }\n")
    cc.library.cache_clear()
    yield path
    cc.library.cache_clear()


def needs_compiler() -> None:
    if cc.compiler() is None:
        pytest.skip("no C compiler")


def test_compiled_once(source: Path) -> None:
    needs_compiler()
    library = cc.library(source)
    assert library is not None
    assert library.number() == 7
    (made,) = (source.parent / "cache" / "senet").iterdir()
    assert made.name.startswith("seven-")
    before = made.stat()
    # Another process finds the file.
    cc.library.cache_clear()
    assert cc.library(source).number() == 7  # type: ignore[union-attr]
    assert made.stat().st_mtime_ns == before.st_mtime_ns
    assert made.stat().st_ino == before.st_ino


def test_a_change_is_compiled(source: Path) -> None:
    needs_compiler()
    assert cc.library(source).number() == 7  # type: ignore[union-attr]
    source.write_text("int number(void) { return 8; }\n")
    cc.library.cache_clear()
    assert cc.library(source).number() == 8  # type: ignore[union-attr]
    assert len(list((source.parent / "cache" / "senet").iterdir())) == 2


def test_no_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert cc.compiler() is None
    with pytest.warns(
        RuntimeWarning, match=r"^seven.c is not compiled \(no C compiler: found none of \$CC, cc, gcc, clang"
    ):
        assert cc.library(source) is None
    # Once is enough: warnings are errors here.
    assert cc.library(source) is None


def test_the_compiler_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = tmp_path / "mycc"
    wanted.write_text("#!/bin/sh\n")
    wanted.chmod(0o755)
    monkeypatch.setenv("CC", str(wanted))
    assert cc.compiler() == [str(wanted)]
    monkeypatch.setenv("CC", f"'{wanted}' gcc -O1")
    assert cc.compiler() == [str(wanted), "gcc", "-O1"]
    monkeypatch.delenv("CC")
    assert cc.compiler() == next(([p] for n in ("cc", "gcc", "clang") if (p := shutil.which(n))), None)


def test_options_of_the_environment_reach_the_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_compiler()
    source.write_text("int number(void) { return NUMBER; }\n")
    monkeypatch.setenv("CC", f"{cc.compiler()[0]} -DNUMBER=9")  # type: ignore[index]
    assert cc.library(source).number() == 9  # type: ignore[union-attr]


def test_a_compiler_that_is_not_there_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_compiler()
    monkeypatch.setenv("CC", "/nowhere/cc -O1")
    with pytest.warns(RuntimeWarning, match=r"\$CC: /nowhere/cc not found; .*cc compiles instead"):
        assert cc.library(source).number() == 7  # type: ignore[union-attr]


def test_another_machine_compiles_its_own(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_compiler()
    assert cc.library(source) is not None
    for n, (name, value) in enumerate((("libc_ver", ("musl", "1")), ("machine", "riscv64")), 2):
        monkeypatch.setattr(platform, name, lambda value=value: value)
        cc.library.cache_clear()
        assert cc.library(source) is not None
        assert len(list((source.parent / "cache" / "senet").iterdir())) == n


def test_what_cannot_be_compiled(source: Path) -> None:
    needs_compiler()
    source.write_text("int number(void) { return }\n")
    with pytest.warns(RuntimeWarning, match=r"seven.c is not compiled \(.*cc failed: "):
        assert cc.library(source) is None
    assert not list((source.parent / "cache" / "senet").iterdir())


def test_where_nothing_can_be_kept(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_compiler()
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))
    with pytest.warns(RuntimeWarning, match="seven.c is not compiled .*Not a directory"):
        assert cc.library(source) is None


def test_a_source_that_is_missing(source: Path) -> None:
    needs_compiler()
    with pytest.warns(RuntimeWarning, match="gone.c is not compiled .*No such file"):
        assert cc.library(source.with_name("gone.c")) is None
