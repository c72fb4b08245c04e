"""The embedded hub: a private server, the migration, workers and beat, kept alive and ended in order.

    with Supervisor(load_settings(home=folder)) as hub:
        hub.processes  # names, roles, process ids

Every process is a real child. Nothing outlives the supervisor, not even when it is killed itself.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Final

from config.places import broker_url_in, database_url_in, endpoint_in, socket_in
from config.settings import Settings
from connectors.errors import DatabaseUnavailable
from worker.children import Child
from worker.endpoint import remove_endpoint, write_endpoint
from worker.errors import AlreadyRunning, StartFailed
from worker.plan import beat_child, embedded_settings, worker_children
from worker.redelivery import give_back_unacknowledged
from worker.server import forget_socket, server_child, wait_for_server

_TICK: Final = 0.05
_SHORTEST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
# Who has lived so long is restarted as if for the first time.
_SETTLED_AFTER: Final = 30.0
_DEATHS_BEFORE_READY: Final = 3


@dataclass(frozen=True)
class Event:
    """Something that happened to the hub's processes. `kind`: started, died, restarting, migrated, ready, …"""

    kind: str
    name: str = ""
    pid: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class RunningProcess:
    """One of the hub's processes. `role`: server, worker or beat."""

    name: str
    role: str
    pid: int
    restarts: int


class Supervisor:
    """Runs one embedded hub in its settings' home folder.

    `on_event` is called from the supervisor's own thread. `settings` afterwards are the effective ones: short
    leases and sweeps unless the settings given say otherwise.
    """

    def __init__(self, settings: Settings, *, on_event: Callable[[Event], None] | None = None) -> None:
        self.settings = embedded_settings(settings)
        self._on_event = on_event
        self._children: list[Child] = []
        self._due: dict[str, float] = {}
        self._ready = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._migrated = False

    def start(self, seconds: float = 60.0) -> None:
        """Start everything; return when a task sent to any worker would be carried out.

        Raises: AlreadyRunning, ServerMissing, StartFailed, or what the migration raised; nothing is left running.
        """
        # One thread starts every child and outlives them all: the kernel ends a child with the thread it is from.
        self._thread = threading.Thread(target=self._run, name="fedqueue-supervisor", args=(seconds,))
        self._thread.start()
        while not self._ready.wait(0.02):
            if not self._thread.is_alive():
                self._thread.join()
                if self._failure is not None:
                    raise self._failure
                return

    @property
    def ready(self) -> bool:
        """Whether every worker has answered once."""
        return self._ready.is_set()

    @property
    def processes(self) -> tuple[RunningProcess, ...]:
        """What runs at this moment."""
        return tuple(
            RunningProcess(child.name, child.role, child.pid, child.restarts)
            for child in self._children
            if child.ended is None and child.pid is not None
        )

    def wait(self, seconds: float | None = None) -> bool:
        """Whether the hub has ended within that time (None: as long as it takes). Raises what ended it, if anything."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
        if self._failure is not None:
            raise self._failure
        return True

    def ask_to_stop(self) -> None:
        """Begin the end and return at once: fit for a signal handler."""
        self._ending.set()

    def stop(self) -> None:
        """End everything in order: beat, the workers when their tasks are done, the server. Harmless twice."""
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- the supervisor's own thread --------------------------------------------------------------

    def _run(self, seconds: float) -> None:
        try:
            self.settings.home.mkdir(parents=True, exist_ok=True)
            with home_held(self.settings):
                try:
                    self._start_all(time.monotonic() + seconds)
                    if not self._ending.is_set():
                        self._keep_alive()
                finally:
                    self._end_all()
        except BaseException as error:  # noqa: BLE001  # kept, and raised where start() or wait() was called
            self._failure = error

    def _start_all(self, deadline: float) -> None:
        from worker.awaiting import Canaries

        remove_endpoint(endpoint_in(self.settings.home))
        if self._serves_itself:
            self._start(server := server_child(self.settings.home))
            if not wait_for_server(socket_in(self.settings.home), max(0.0, deadline - time.monotonic())):
                raise StartFailed("the server", server.ended or "it does not answer", server.log)
        # The workers import while the schema is migrated; they wait for it by themselves.
        workers = worker_children(self.settings)
        for worker in workers:
            self._start(worker)
        self._migrate()
        self._start(beat_child(self.settings))
        canaries = Canaries(self.settings)
        while not self._ending.is_set() and not canaries.all_answered(_TICK):
            self._look_after(before_ready=True)
            if time.monotonic() > deadline:
                raise StartFailed(", ".join(canaries.silent), "no answer in time", workers[0].log)
        if self._ending.is_set():
            return
        write_endpoint(endpoint_in(self.settings.home), self.settings)
        self._ready.set()
        self._tell("ready")

    @property
    def _serves_itself(self) -> bool:
        """Whether the broker is the private server: nobody has configured another."""
        return self.settings.broker_url == broker_url_in(self.settings.home)

    def _migrate(self) -> None:
        from worker.schema import migrate

        # A database in the home is this hub's alone, and all its workers are of this version.
        done = migrate(self.settings, contract=self.settings.database_url == database_url_in(self.settings.home))
        if done.found != done.reached:
            self._tell("migrated", detail=f"{done.found or 'nothing'} → {done.reached}")
        self._migrated = True

    def _start(self, child: Child) -> None:
        if child not in self._children:
            self._children.append(child)
        child.start()
        self._tell("started", child)

    def _keep_alive(self) -> None:
        from worker.awaiting import PoolWatch

        watch = PoolWatch(self.settings)
        watch.start()
        try:
            while not self._ending.wait(_TICK):
                self._look_after()
                for name in watch.hung():
                    self._replace_hung(name)
        finally:
            watch.stop()

    def _look_after(self, *, before_ready: bool = False) -> None:
        """Restart what has died, after a pause that grows while it keeps dying."""
        now = time.monotonic()
        for child in self._children:
            if child.ended is None:
                continue
            due = self._due.get(child.name)
            if due is None:
                # A process's pool dies with it; on systems without that promise it is ended here.
                how = child.ended
                child.kill_family()
                if now - child.started_at > _SETTLED_AFTER:
                    child.restarts = 0
                child.restarts += 1
                if before_ready and child.restarts >= _DEATHS_BEFORE_READY:
                    raise StartFailed(child.name, f"{how}\n{child.last_lines()}", child.log)
                pause = min(_SHORTEST_PAUSE * 2 ** (child.restarts - 1), _LONGEST_PAUSE)
                self._due[child.name] = now + pause
                self._tell("died", child, f"{how}; starting it again in {pause:.1f} s")
                if child.role == "worker" and self._serves_itself:
                    give_back_unacknowledged(self.settings)
            elif now >= due:
                del self._due[child.name]
                self._start(child)

    def _replace_hung(self, name: str) -> None:
        for child in self._children:
            if child.name == name and child.ended is None:
                self._tell("hung", child, "its pool does not answer; killing it")
                child.kill_family()

    def _end_all(self) -> None:
        self._tell("stopping")
        remove_endpoint(endpoint_in(self.settings.home))
        # Beat first, so that nothing new is asked for; the server last, so that the others can say goodbye.
        for role, patience in (("beat", 3.0), ("worker", self.settings.soft_shutdown_seconds + 4.0), ("server", 5.0)):
            self._end([child for child in self._children if child.role == role], patience)
        forget_socket(self.settings.home)
        if self._migrated:
            self._settle()
        self._tell("stopped")

    def _settle(self) -> None:
        from worker.schema import settle_database

        try:
            settle_database(self.settings)
        except DatabaseUnavailable as error:
            self._tell("unsettled", detail=f"the database's log was not merged into its file: {error}")

    def _end(self, children: list[Child], patience: float) -> None:
        for child in children:
            child.tell(signal.SIGTERM)
        deadline = time.monotonic() + patience
        for child in children:
            if not child.wait(deadline - time.monotonic()):
                self._tell("killed", child, f"it did not end within {patience:g} s")
            child.kill_family()

    def _tell(self, kind: str, child: Child | None = None, detail: str = "") -> None:
        name, pid = ("", None) if child is None else (child.name, child.pid)
        if self._on_event is not None:
            self._on_event(Event(kind, name, pid, detail))


@contextmanager
def home_held(settings: Settings) -> Iterator[IO[str]]:
    """The home folder is this process's alone; the kernel gives it back whatever becomes of the process.

    Raises: AlreadyRunning.
    """
    with (settings.home / "up.lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(settings.home, file.read().strip()) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file
