"""A real FMA deployment as processes of its own: Django with fma-django, in the environment `.peers/fma`."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from worker.children import die_with_parent

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = ROOT / ".peers" / "fma" / "bin" / "python"
_START_SECONDS: Final = 60.0
_PACKAGE: Final = "examples.fma.deployment"


class PeerFailed(Exception):
    """A process of the deployment's ended badly, or its API refused a request."""


class FmaDeployment:
    """One deployment: a database, a media folder, an API. Nothing runs until it is told to."""

    def __init__(self, home: Path, database: Mapping[str, Any] | None = None, bucket: str | None = None) -> None:
        """`database`: as Django's settings name one; None: a SQLite file in `home`.

        `bucket`: `s3://bucket/location` to keep its files in instead of the folder `media`; who may, and where that
        is, says this process's environment (AWS_…).
        """
        self.home = home
        self.media = home / "media"
        self.media.mkdir(parents=True, exist_ok=True)
        self.environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(ROOT),
            "FMA_HOME": str(home),
            "DJANGO_SETTINGS_MODULE": f"{_PACKAGE}.settings",
            "FMA_SETTINGS_MODULE": f"{_PACKAGE}.settings",
            "PYTHONWARNINGS": "ignore",  # django-q speaks of its scheduler, which does not run
        }
        if database is not None:
            self.environment["FMA_DATABASE"] = json.dumps(database)
        if bucket is not None:
            self.environment["FMA_MEDIA"] = bucket
            self.environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        self._port = _free_port()

    @property
    def url(self) -> str:
        """Where its API is served, as fma-connect wants it."""
        return f"http://127.0.0.1:{self._port}/"

    @property
    def migrate_command(self) -> str:
        """What migrates its tables, whoever runs it, wherever."""
        # Who may read the bucket belongs in no command line: whoever runs it has that in his environment.
        kept = {name: value for name, value in self.environment.items() if not name.startswith("AWS_")}
        named = [f"{name}={value}" for name, value in kept.items()]
        return shlex.join(["env", *named, str(PYTHON), "-m", f"{_PACKAGE}.manage", "migrate", "--verbosity", "0"])

    def run(self, module: str, *arguments: str) -> str:
        """What that module says when it is run in the deployment's environment. Raises: PeerFailed."""
        done = subprocess.run(
            [str(PYTHON), "-m", module, *arguments],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            raise PeerFailed(f"{module} ended with {done.returncode}: {done.stderr[-3000:]}")
        return done.stdout

    def migrate(self) -> None:
        """Make its tables."""
        self.run(f"{_PACKAGE}.manage", "migrate", "--verbosity", "0")

    def developer(self, name: str = "developer") -> str:
        """The API token of its developer, new if unknown."""
        return self.run(f"{_PACKAGE}.developer", name)

    def aggregate(self, model_id: int, *options: str) -> str:
        """One run of FMA's own aggregation; the aggregate's id, or null."""
        return self.run(f"{_PACKAGE}.service", str(model_id), *options)

    def rebuild(self) -> Any:
        """What django-mptt's own rebuild found to change: `{"aggregates": …, "changed": […], "deepest": …}`."""
        return json.loads(self.run(f"{_PACKAGE}.rebuilt"))

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Its API, as long as the block lasts. Raises: PeerFailed."""
        address = f"127.0.0.1:{self._port}"
        command = [str(PYTHON), "-m", f"{_PACKAGE}.manage", "runserver", "--noreload", "--skip-checks", address]
        with (self.home / "api.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(),
            )
        try:
            self._wait(process)
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None, client: str = "") -> Any:
        """What its API answers, as a developer (`token`) or as a client. Raises: PeerFailed."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Token {token}"
        if client:
            headers["CLIENT-UUID"] = client
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}api/v1/{path}", data, headers, method=method)  # noqa: S310  # http
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise PeerFailed(f"{method} {path}: {error.code} {error.read()[:1000]!r}") from error

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if process.poll() is not None:
                raise PeerFailed(f"the API did not start: {(self.home / 'api.log').read_text()[-3000:]}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            if time.monotonic() > deadline:
                raise PeerFailed(f"the API did not answer within {_START_SECONDS:g} s")
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
