"""Read the bytes of shards: from a folder, by range requests, or from whole shards in a cache on the disk."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from senet.errors import ConfigError, DataError, MissingExtraError

DIGEST_BYTES = 16
"""Bytes of a sample's digest, the first of its SHA-256.

A faster hash, such as xxh128, would need a library: SHA-256 is in Python, processors compute it in hardware, and
`sha256sum` checks whole shards without senet.
"""

NO_RANGES = "the server does not answer range requests; take one that does, or whole shards (data.shard_cache_gb)"

_BLOCK = 2**20
# Statuses of HTTP that another attempt may mend, beside 500 and more.
_PASSING = (408, 425, 429)
# A cached shard, and one that is being fetched.
_CACHED = re.compile(r"(?P<digest>[0-9a-f]{64})(?:\.tar|-(?P<bytes>\d+)\.part)")
# Seconds after which the time of use of a cached shard is written again.
_TOUCH_S = 60.0


def digest_of(data: bytes) -> bytes:
    """The digest of a sample."""
    return sha256(data).digest()[:DIGEST_BYTES]


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    found = sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


@dataclass(frozen=True)
class Shard:
    """One tar of a data set.

    Attributes:
        file: Its name, without a folder.
        samples: Number of its samples.
        bytes: Its size.
        digest: Its SHA-256 in hexadecimal digits.
    """

    file: str
    samples: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class Span:
    """Where a sample is.

    Attributes:
        shard: The shard that it is in.
        offset: Of its first byte in the shard.
        length: Number of bytes.
        digest: Of these bytes.
    """

    shard: Shard
    offset: int
    length: int
    digest: bytes

    def fault(self, data: bytes) -> Exception | None:
        """The error for the bytes that were read; None if they are right."""
        if len(data) > self.length:
            return _NoRangesError(f"{len(data):,} bytes came for {self.length:,}: {NO_RANGES}")
        if len(data) < self.length:
            return _WrongBytesError(f"{len(data):,} of {self.length:,} bytes came")
        right = digest_of(data) == self.digest
        return None if right else _WrongBytesError("its digest is wrong: the bytes are damaged")


def is_url(name: str) -> bool:
    """Whether a name is a URL and not a path."""
    return "://" in name


class Store:
    """The files of one data set of shards.

    Args:
        root: A folder, or a URL that fsspec knows: `https://...`, `s3://bucket/prefix`. Keys, endpoints and anonymous
            access are fsspec's (`FSSPEC_S3_ENDPOINT_URL`, `~/.config/fsspec/`) and those of its libraries (`AWS_...`).
        cache: Where whole shards are kept; None for range requests. For URLs alone.

    Attributes:
        tries: Attempts for each file or range where the network fails, or its bytes are wrong.
        wait_s: Seconds before the second attempt; each further one waits twice as long.
        timeout_s: Seconds without data after which an attempt has failed (HTTP; the other libraries have their own).
    """

    tries: int = 5
    wait_s: float = 0.5
    timeout_s: float = 30.0

    def __init__(self, root: str, cache: Cache | None = None) -> None:
        self.root, self.cache = root.rstrip("/"), cache
        self.is_remote = is_url(root)
        self._system: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None}

    def where(self, file: str) -> str:
        """The path or URL of a file."""
        return f"{self.root}/{file}"

    def read(self, file: str) -> bytes:
        """Return a whole file. DataError where it cannot be read."""
        (found,) = self._attempts([file], self._whole, lambda file, data: None)
        if isinstance(found, Exception):
            raise DataError(f"{self.where(file)}: {_reason(found)}") from found
        return found

    def fetch(self, spans: Sequence[Span]) -> list[bytes | DataError]:
        """Read samples, from a URL all at once; each is checked by its digest.

        Returns:
            For each its bytes, or the error, which says the shard, the place and the reason.
        """
        found = self._attempts(spans, self._spans, lambda span, data: span.fault(data))
        return [
            data
            if isinstance(data, bytes)
            else DataError(f"{self.where(span.shard.file)}, byte {span.offset:,}: {_reason(data)}")
            for span, data in zip(spans, found, strict=True)
        ]

    def _attempts(
        self,
        wanted: Sequence[Any],
        get: Callable[[Sequence[Any]], Sequence[bytes | Exception]],
        fault: Callable[[Any, bytes], Exception | None],
    ) -> list[bytes | Exception]:
        """Get all, those that failed again after a pause, and return the bytes or the last error of each."""
        found: list[bytes | Exception] = [b""] * len(wanted)
        waiting = list(range(len(wanted)))
        for attempt in range(self.tries if self.is_remote else 1):
            if attempt:
                # A little random, so that many readers do not come back at once; not from the seeded generator.
                time.sleep(self.wait_s * 2 ** (attempt - 1) * random.SystemRandom().uniform(0.75, 1.25))
            again = []
            for i, data in zip(waiting, get([wanted[i] for i in waiting]), strict=True):
                if isinstance(data, bytes):
                    data = fault(wanted[i], data) or data
                found[i] = data
                if isinstance(data, Exception) and _may_pass(data):
                    again.append(i)
            waiting = again
            if not waiting:
                break
        return found

    def _whole(self, files: Sequence[str]) -> list[bytes | Exception]:
        if not self.is_remote:
            return [_caught(lambda file=file: Path(self.where(file)).read_bytes()) for file in files]
        system, base = self._open()
        return [_caught(lambda file=file: system.cat_file(f"{base}/{file}")) for file in files]

    def _spans(self, spans: Sequence[Span]) -> Sequence[bytes | Exception]:
        if not self.is_remote:
            return [_caught(lambda span=span: self._local(span)) for span in spans]
        if self.cache is not None:
            return self._cached(spans, self.cache)
        system, base = self._open()
        paths = [f"{base}/{span.shard.file}" for span in spans]
        ends = [span.offset + span.length for span in spans]
        try:
            return system.cat_ranges(paths, [span.offset for span in spans], ends, on_error="return")
        except Exception as error:
            return [error] * len(spans)

    def _cached(self, spans: Sequence[Span], cache: Cache) -> list[bytes | Exception]:
        failed: dict[Shard, Exception] = {}
        found: list[bytes | Exception] = []
        for span in spans:
            # What could not be fetched is not fetched again for each of its samples.
            data = failed.get(span.shard) or _caught(lambda span=span: cache.read(span, self._download))
            if isinstance(data, Exception):
                failed[span.shard] = data
            found.append(data)
        return found

    def _local(self, span: Span) -> bytes:
        with open(self.where(span.shard.file), "rb", buffering=0) as file:
            return _read_span(file, span)

    def _download(self, shard: Shard, to: Path) -> None:
        system, base = self._open()
        system.get_file(f"{base}/{shard.file}", str(to))

    def _open(self) -> tuple[Any, str]:
        """The file system of fsspec and the root's path in it; made anew in each process, since it has threads."""
        if self._system is None or self._system[0] != os.getpid():
            self._system = (os.getpid(), *_file_system(self.root, self.timeout_s))
        return self._system[1:]


class Cache:
    """Whole shards on the disk, under their digests; the least recently used give way. Processes may share the folder.

    Args:
        folder: Made where it is not there.
        most_bytes: Bound on the sum of the sizes.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes

    def read(self, span: Span, download: Callable[[Shard, Path], None]) -> bytes:
        """Read a sample, after fetching its shard where it is not there. A shard that turns out damaged is removed."""
        with self._opened(span.shard, download) as file:
            data = _read_span(file, span)
        if span.fault(data):
            # It was right when it came, so the disk has damaged it, or the index is wrong.
            self._path(span.shard).unlink(missing_ok=True)
        return data

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.digest}.tar"

    def _opened(self, shard: Shard, download: Callable[[Shard, Path], None]) -> IO[bytes]:
        path = self._path(shard)
        with suppress(FileNotFoundError):
            return _touched(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(shard.digest):
                # Another process may have fetched it in the meantime.
                with suppress(FileNotFoundError):
                    return _touched(path)
                self._fetch(shard, path, download)
                return path.open("rb", buffering=0)
        except OSError as error:
            if error.filename and str(error.filename).startswith(str(self.folder)):
                raise _CacheError(f"the cache {self.folder} cannot be used: {error.strerror}") from error
            raise

    def _fetch(self, shard: Shard, path: Path, download: Callable[[Shard, Path], None]) -> None:
        # Its name reserves the room: other processes count it.
        part = self.folder / f"{shard.digest}-{shard.bytes}.part"
        with self._lock("room"):
            self._make_room(shard.bytes, part)
            part.touch()
        try:
            download(shard, part)
            if (size := part.stat().st_size) != shard.bytes:
                raise _WrongBytesError(f"{size:,} of {shard.bytes:,} bytes of the shard came")
            if file_digest(part) != shard.digest:
                raise _WrongBytesError("the digest of the shard is wrong: its bytes are damaged")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, size: int, part: Path) -> None:
        """Delete shards, the least recently used first, and what killed processes left behind."""
        from filelock import Timeout

        total = size
        used = []
        for path in self.folder.iterdir():
            # Files of others may be in the folder too.
            name = _CACHED.fullmatch(path.name)
            if name is None or path == part:
                continue
            if name["bytes"] is None:
                with suppress(FileNotFoundError):
                    found = path.stat()
                    used.append((found.st_mtime, found.st_size, path))
                continue
            try:
                # Whoever fetches holds the lock.
                with self._lock(name["digest"], timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                total += int(name["bytes"])
        total += sum(bytes for _, bytes, _ in used)
        for _, bytes, path in sorted(used):
            if total <= self.most_bytes:
                break
            # Whoever has it open can still read it.
            path.unlink(missing_ok=True)
            total -= bytes
        if total > self.most_bytes:
            raise _CacheError(
                f"the cache {self.folder} has no room for its {size:,} bytes beside the shards that are being fetched; "
                "expected: more data.shard_cache_gb"
            )

    def _lock(self, name: str, timeout: float = -1) -> Any:
        from filelock import FileLock

        return FileLock(self.folder / f".{name}.lock", timeout=timeout)


class _WrongBytesError(Exception):
    """Bytes came, but not the right ones."""


class _NoRangesError(Exception):
    """Whole files come for ranges of them."""


class _CacheError(Exception):
    """The cache cannot hold a shard; another attempt would not help."""


def _read_span(file: IO[bytes], span: Span) -> bytes:
    return os.pread(file.fileno(), span.length, span.offset)


def _touched(path: Path) -> IO[bytes]:
    """Open a cached shard and note that it was used."""
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb", buffering=0))
        if time.time() - os.fstat(file.fileno()).st_mtime > _TOUCH_S:
            with suppress(OSError):
                os.utime(path)
        stack.pop_all()
    return file


def _caught(read: Callable[[], bytes]) -> bytes | Exception:
    try:
        return read()
    except Exception as error:
        return error


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed."""
    stays = FileNotFoundError, PermissionError, ImportError, _CacheError, _NoRangesError, MissingExtraError
    if isinstance(error, stays):
        return False
    status = getattr(error, "status", None)
    return not isinstance(status, int) or status >= 500 or status in _PASSING


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, (_WrongBytesError, _CacheError, _NoRangesError)):
        return str(error)
    if isinstance(status := getattr(error, "status", None), int):
        return f"the server answered {status} {getattr(error, 'message', '')}".rstrip()
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return f"{type(error).__name__}{f': {text}' if text else ''}"


def _file_system(root: str, timeout_s: float) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("shards at a URL", "shards") from error
    options: dict[str, Any] = {}
    protocol = root.partition("://")[0]
    try:
        if protocol in ("http", "https"):
            import aiohttp

            # None in all, since a shard may take minutes.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
            options["client_kwargs"] = {"timeout": timeout}
        system, path = fsspec.core.url_to_fs(root, **options)
    except ImportError as error:
        if (error.name or "") in ("aiohttp", "s3fs") or protocol in ("http", "https", "s3"):
            raise MissingExtraError(f"shards at {protocol}://", "shards") from error
        raise DataError(f"{root}: {' '.join(str(error).split())}") from error
    except ValueError as error:
        known = "https://, s3:// and what fsspec knows"
        raise ConfigError(f"data.name: {root!r}: {' '.join(str(error).split())}; expected: {known}") from error
    return system, path.rstrip("/")
