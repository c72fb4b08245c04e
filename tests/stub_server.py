"""A web server that fails as it is told: statuses in place of answers, answers that break off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Stub(ThreadingHTTPServer):
    """Keeps what is put, gives it back from where it is asked, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.failures: list[int] = []  # statuses to answer first
        self.content = b""
        self.breaks: list[int] = []  # bytes of an answer after which its connection is broken

    def handle_error(self, request: object, client_address: object) -> None:
        """One that has hung up: nothing of ours."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        stub = self.server
        assert isinstance(stub, Stub)
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = urlsplit(self.path)
        stub.asked.append((self.command, place.query))
        stub.headers.append({name.lower(): value for name, value in self.headers.items()})
        status, body = 200, stub.content
        if (start := self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")) != "0":
            status, body = 206, body[int(start) :]
        if self.command == "POST" and "uploads" in place.query:
            body = b"<InitiateMultipartUploadResult><UploadId>7</UploadId></InitiateMultipartUploadResult>"
        elif stub.failures:
            status, body = stub.failures.pop(0), b""
        elif self.command == "PUT":
            stub.content, body = sent, b""
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 12:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            broken = stub.breaks.pop(0) if stub.breaks and body else len(body)
            self.wfile.write(body[:broken])
            self.close_connection = self.close_connection or broken < len(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def stub_server() -> Iterator[Stub]:
    with Stub() as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        try:
            yield stub
        finally:
            stub.shutdown()
