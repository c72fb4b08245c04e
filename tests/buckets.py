"""A server that speaks S3's protocol: moto's, in a process of its own."""

from __future__ import annotations

import os
import re
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from tests.servers import Server, free_port, listens

CREDENTIALS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",  # moto takes any
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
# What a request must begin with for moto to know which service is meant; it checks no signature.
_SIGNED = "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/s3/aws4_request"


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """The server, empty; this process and those it starts have the credentials while it runs."""
    port = free_port()
    server = Server(
        f"http://127.0.0.1:{port}",
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        folder / "moto.log",
        lambda: listens(port),
        environment=os.environ,
    )
    server.start()
    try:
        with patch.dict(os.environ, {**CREDENTIALS, "AWS_ENDPOINT": server.url}):
            yield server
    finally:
        server.kill()


def make_bucket(server: Server, name: str) -> None:
    """Make it, empty."""
    _ask(server, name, "PUT")


def forget_everything(server: Server) -> None:
    """All buckets are gone, as if the server had never had any."""
    _ask(server, "moto-api/reset", "POST")


def object_in(server: Server, uri: str) -> bytes:
    """An object's bytes, past all code of ours. `uri`: s3://bucket/key."""
    return _ask(server, uri.removeprefix("s3://"), "GET")


def unfinished_uploads(server: Server, name: str) -> list[str]:
    """The keys whose uploads in parts were begun and neither ended nor given up."""
    return re.findall("<Key>(.*?)</Key>", _ask(server, f"{name}?uploads", "GET").decode())


def _ask(server: Server, place: str, method: str) -> bytes:
    request = urllib.request.Request(f"{server.url}/{place}", method=method, headers={"Authorization": _SIGNED})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
    return content
