"""A network that misbehaves on demand: a TCP proxy that delays, throttles, holds, cuts, or loses what it carries."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PIECE = 1 << 16
_RESET = struct.pack("ii", 1, 0)


class Line:
    """One connection through the proxy, both its ends."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = (client, server)
        self.is_lost = False

    def cut(self) -> None:
        """Reset both ends, as a firewall does that has forgotten the connection."""
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close(end)

    @staticmethod
    def close(end: socket.socket) -> None:
        """Close it, and wake the thread that reads from it."""
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


class Proxy:
    """Listens on a port of its own, and carries what comes there to a server's and back."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay = 0.0  # seconds that each piece takes
        self.bytes_per_second = float("inf")
        self.carried = 0  # connections, in all
        self._open: set[Line] = set()
        self._guard = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def url(self, url: str) -> str:
        """The server's URL, by way of this proxy."""
        return re.sub(rf"127\.0\.0\.1:{self._server_port}\b", f"127.0.0.1:{self.port}", url)

    def hold(self) -> None:
        """Pass nothing on, and lose nothing either: a partition that TCP outlives. New connections wait as well."""
        self._passing.clear()

    def release(self) -> None:
        """The end of `hold`."""
        self._passing.set()

    def cut(self) -> int:
        """Reset every connection; how many."""
        lines = self._lines()
        for line in lines:
            line.cut()
        return len(lines)

    def lose(self) -> int:
        """Leave every connection half open for ever; how many. What either end sends is taken, and goes nowhere.

        New ones are carried as ever. The other end does not even hear that this one has hung up.
        """
        lines = self._lines()
        for line in lines:
            line.is_lost = True
        return len(lines)

    def close(self) -> None:
        """Carry nothing any more."""
        self._listener.close()
        self.release()
        self.cut()

    def _lines(self) -> list[Line]:
        with self._guard:
            return [line for line in self._open if not line.is_lost]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), timeout=5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            line = Line(client, server)
            for end in line.ends:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._guard:
                self._open.add(line)
                self.carried += 1
            for source, sink in (line.ends, line.ends[::-1]):
                threading.Thread(target=self._carry, args=(line, source, sink), name="proxy", daemon=True).start()

    def _carry(self, line: Line, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                self._passing.wait()
                if line.is_lost:
                    continue
                time.sleep(self.delay + len(piece) / self.bytes_per_second)
                sink.sendall(piece)
        if line.is_lost:
            line.close(source)
            return
        for end in line.ends:
            line.close(end)
        with self._guard:
            self._open.discard(line)


@contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """A proxy to the server that listens at the URL's port of 127.0.0.1."""
    found = re.search(r"127\.0\.0\.1:(\d+)", url)
    assert found is not None, f"{url} names no port of 127.0.0.1"
    proxy = Proxy(int(found[1]))
    try:
        yield proxy
    finally:
        proxy.close()
