"""Where an embedded hub keeps its things, all under its home folder."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final

# The kernel keeps a socket's path in 108 bytes (104 on macOS), the closing zero included.
_LONGEST_SOCKET_PATH: Final = 100
# A broker URL carries the path as it stands: what a URL would have to escape is avoided instead.
_PLAIN_PATH = re.compile(r"[\w./-]+", re.ASCII)


def database_url_in(home: Path) -> str:
    """The SQLite file's URL."""
    return f"sqlite:///{home / 'fedqueue.db'}"


def store_url_in(home: Path, media: Path | str | None = None) -> str:
    """The blob store's URL; inside the media folder, or bucket, of the deployment that the hub works beside."""
    if isinstance(media, str):
        return f"{media}/fedqueue"
    return (home / "store" if media is None else media / "fedqueue").as_uri()


def socket_in(home: Path) -> Path:
    """The private server's socket: in the home, or in a folder of its own if that path can't be one.

    The same home always gives the same path, so that every command finds the server without being told.
    """
    path = home / "run" / "broker.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(path)):
        return path
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    # Not TMPDIR, which differs between shells. Whoever uses the folder checks that it is private and ours.
    return Path("/tmp") / f"fedqueue-{os.getuid()}-{name}" / "broker.sock"  # noqa: S108


def broker_url_in(home: Path) -> str:
    """The private server's URL, over its socket."""
    return f"redis+socket://{socket_in(home)}?virtual_host=0"


def endpoint_in(home: Path) -> Path:
    """The file that says how to reach a running embedded hub."""
    return home / "endpoint.json"


def logs_in(home: Path) -> Path:
    """The folder with one log a process."""
    return home / "logs"
