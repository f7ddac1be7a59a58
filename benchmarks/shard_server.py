"""An HTTP server of a folder that answers range requests, or wrongly where it is told to; for tests and timings.

`python -m benchmarks.shard_server FOLDER` prints its address and serves.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("missing", "refused", "busy", "broken", "truncated", "closed", "damaged", "stalled", "whole", "empty")
"""What a server can do to a file: 404, 403, 503, 500, half of the bytes, no answer, other bytes, half of the bytes and
silence, the whole file for a range, no bytes."""

_STATUS = {"missing": 404, "refused": 403, "busy": 503, "broken": 500}


class ShardServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        faults: File -> what is done wrong, and how many times; a negative number for always.
        requests: How many requests of each file there were.
        sent: Bytes of the answers.
        delay_s: Seconds before each answer.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: dict[str, tuple[str, int]] = {}
        self.requests: Counter[str] = Counter()
        self.sent = 0
        self.delay_s = 0.0
        self.lock = threading.Lock()
        self.is_over = threading.Event()

    @property
    def url(self) -> str:
        """The address of the folder."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, file: str) -> str:
        """What is done wrong with a file this time; "" for nothing."""
        with self.lock:
            self.requests[file] += 1
            kind, times = self.faults.get(file, ("", 0))
            if times > 0:
                self.faults[file] = kind, times - 1
            return kind if times else ""

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: ShardServer
    protocol_version = "HTTP/1.1"
    # Without this, headers and body are two packets and the second waits 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.do_GET(is_head=True)

    def do_GET(self, is_head: bool = False) -> None:
        server, name = self.server, self.path.lstrip("/").partition("?")[0]
        fault, path = server.fault(name), server.folder / name
        if server.delay_s:
            time.sleep(server.delay_s)
        if fault == "closed":
            self.close_connection = True
            return
        status = _STATUS.get(fault, 200 if path.is_file() else 404)
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if fault == "whole":
            wanted = None
        start, end = (int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)) if wanted else (0, size - 1)
        with path.open("rb") as file:
            file.seek(start)
            data = b"" if is_head else file.read(end + 1 - start)
        if fault == "damaged" and data:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        if fault == "empty":
            data = b""
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end + 1 - start if is_head else len(data)))
        self.end_headers()
        if fault in ("truncated", "stalled"):
            data = data[: len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)
        self.wfile.flush()
        with server.lock:
            server.sent += len(data)
        if fault == "stalled":
            server.is_over.wait(60)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@contextmanager
def serving(folder: Path) -> Iterator[ShardServer]:
    """Serve a folder from a thread."""
    server = ShardServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not folder.is_dir():
        parser.error(f"folder: {folder} does not exist")
    found = ShardServer(folder)
    print(found.url, flush=True)
    found.serve_forever()
