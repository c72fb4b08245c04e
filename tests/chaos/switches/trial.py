"""One process that has read the libraries once, and forks for every switch: a trial costs our own modules and a test.

    with Trials() as trials:
        verdict = trials.of(switch)

By hand: `python -m tests.chaos.switches.trial NAME …`, or `--wide`, or nothing for all quick ones.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from tests.chaos.switches.source_edits import ROOT, Edit, switch_off
from tests.chaos.switches.switch import Switch

# Read before the first fork. Nothing of ours is: it must be read with the guard off.
_LIBRARIES: Final = (
    "alembic.command",
    "alembic.autogenerate",
    "celery.app",
    "celery.bin.worker",
    "celery.schedules",
    "hypothesis",
    "kombu.transport.redis",
    "ml_dtypes",
    "numpy",
    "psutil",
    "psycopg",
    "pydantic_settings",
    "pymysql",
    "pytest",
    "pytest_timeout",
    "redis",
    "safetensors.numpy",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "sqlalchemy.orm",
    "structlog",
    "typer",
)
_OURS: Final = ("config", "connectors", "tasks", "worker", "fedqueue")
# What says that a test has come to the verdict it is there for: its own words, or a value of its own that is missing.
_VERDICTS: Final = frozenset(
    {"AssertionError", "AttributeError", "Failed", "IndexError", "KeyError", "TypeError", "ValueError"}
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A test that failed: where, in which phase, by what."""

    node: str
    phase: str
    error: str
    file: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the named tests said while the guard was off."""

    switch: str
    exit_code: int
    ran: tuple[str, ...]
    failures: tuple[Failure, ...]
    read: bool  # whether anybody has read the edited source
    seconds: float
    output: str = field(repr=False, default="")

    def complaint(self, switch: Switch) -> str:
        """Why the guard is not proven; empty if its tests turned red, each for the right reason."""
        if self.exit_code != 1:
            meanings = {0: "every test is green without it", 5: "no test was found", -9: "it took too long"}
            meaning = meanings.get(self.exit_code, f"pytest ended with {self.exit_code}")
            return f"{self.switch}: {meaning}\n{self.output[-3000:] if self.exit_code else ''}"
        if not self.read:
            return f"{self.switch}: nobody has read {', '.join(edit.file for edit in switch.edits)}"
        for test in switch.reds:
            of_it = [failure for failure in self.failures if _is_of(failure.node, test)]
            if not of_it:
                return f"{self.switch}: {test} is green without it"
            # A test that has failed may well leave something behind that its teardown stumbles over.
            wrong = [_wrong_reason(failure, switch) for failure in of_it if failure.phase != "teardown"]
            if any(wrong) or not wrong:
                said = "; ".join(f"{failure.node}: {failure.text}" for failure in of_it)
                return f"{self.switch}: its test fails, but {' and '.join(wrong) or 'in its teardown'}: {said}"
        return ""


def _is_of(node: str, test: str) -> bool:
    return node == test or node.startswith(test + "[")


def _wrong_reason(failure: Failure, switch: Switch) -> str:
    if failure.phase != "call":
        return f"in its {failure.phase}"
    if failure.error in switch.raises:
        return ""
    if failure.error not in _VERDICTS:
        return f"by {failure.error}"
    if "/tests/" not in failure.file or "/tests/chaos/switches/" in failure.file:
        return f"in {failure.file}"
    return ""


class Trials:
    """The process that forks. Not to be shared between threads."""

    def __init__(self, seconds: float = 120.0) -> None:
        """`seconds`: what one trial may take."""
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Trials:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CHAOS_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__ if __name__ != "__main__" else "tests.chaos.switches.trial", "--serve"],
            cwd=ROOT,
            env=kept | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def of(self, switch: Switch) -> Verdict:
        """What the switch's tests say while it is off."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"name": switch.name, "edits": [asdict(edit) for edit in switch.edits], "reds": switch.reds}
        self._process.stdin.write(json.dumps(asked | {"seconds": self._seconds}).encode() + b"\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        failures = tuple(Failure(**failure) for failure in said.pop("failures"))
        return Verdict(**(said | {"ran": tuple(said["ran"]), "failures": failures}))


# --- in the process that forks --------------------------------------------------------------------


def _serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    for library in _LIBRARIES:
        importlib.import_module(library)
    ours = [name for name in sys.modules if name.partition(".")[0] in _OURS]
    assert not ours, f"read before any switch was set: {ours}"
    with tempfile.TemporaryDirectory(prefix="off-") as cache:
        # What one trial has compiled the next one need not: all but the edited files, which are never kept.
        sys.pycache_prefix, sys.dont_write_bytecode = cache, False
        # No fork looks through all this again.
        gc.collect()
        gc.freeze()
        for line in asked:
            said = json.loads(line)
            edits = tuple(Edit(**edit) for edit in said["edits"])
            verdict = _tried(Switch(said["name"], "", edits, tuple(said["reds"])), said["seconds"])
            answers.write(json.dumps(asdict(verdict)).encode() + b"\n")
            answers.flush()


def _tried(switch: Switch, seconds: float) -> Verdict:
    began = time.monotonic()
    # A short name: sockets are made below it.
    with tempfile.TemporaryDirectory(prefix="off-") as name:
        folder = Path(name)
        (folder / "marks").mkdir()
        # A test's server may run as another user.
        folder.chmod(0o755)
        child = os.fork()
        if child == 0:
            _be_tried(switch, folder)
        code = _wait(child, seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        report = folder / "report.json"
        said = json.loads(report.read_text()) if report.exists() else {"ran": [], "failures": []}
        return Verdict(
            switch.name,
            code,
            tuple(said["ran"]),
            tuple(Failure(**failure) for failure in said["failures"]),
            any((folder / "marks").iterdir()),
            time.monotonic() - began,
            (folder / "output").read_text(errors="replace"),
        )


def _wait(child: int, seconds: float) -> int:
    """The child's exit code; -9 if it took too long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9


def _be_tried(switch: Switch, folder: Path) -> None:
    """Run the named tests with the guard off, write down what they said, and end."""
    code = 3
    try:
        os.setsid()
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, into in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(descriptor, into)
        switch_off(switch.edits, folder / "marks")
        import pytest

        record = _Record()
        code = pytest.main(
            [
                # As in the whole suite, but without what would be kept from one run to the next.
                *("-p", "no:cacheprovider", "-p", "pytest_timeout", "--tb=short", "-q"),
                # Plugins were read before pytest could rewrite them.
                *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
                f"--basetemp={folder / 't'}",
                *switch.reds,
            ],
            plugins=[record],
        )
        told = {"ran": record.ran, "failures": record.failures}
        (folder / "report.json").write_text(json.dumps(told))
    except BaseException:  # noqa: BLE001  # whatever it is, the verdict must show it
        code = 3
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


class _Record:
    """A pytest plugin: which tests ran, and how they failed."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failures: list[dict[str, str]] = []

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """Note it; pytest makes its report as ever."""
        if call.when == "call":
            self.ran.append(item.nodeid)
        if call.excinfo is None or call.excinfo.typename == "Skipped":
            return
        crash = call.excinfo._getreprcrash()
        self.failures.append(
            {
                "node": item.nodeid,
                "phase": call.when,
                "error": call.excinfo.typename,
                "file": "" if crash is None else str(crash.path),
                "text": str(call.excinfo.value)[:300],
            }
        )


def main(arguments: Sequence[str]) -> int:
    """Try the named switches, and say what came of each."""
    from tests.chaos.switches.inventory import SWITCHES

    chosen = [s for s in SWITCHES if (any(fnmatch(s.name, a) for a in arguments) if arguments else not s.wide)]
    if "--wide" in arguments:
        chosen = [s for s in SWITCHES if s.wide]
    bad = 0
    with Trials() as trials:
        for switch in chosen:
            verdict = trials.of(switch)
            complaint = verdict.complaint(switch)
            bad += bool(complaint)
            sys.stdout.write(f"{'SURVIVED' if complaint else 'red':9}{verdict.seconds:6.2f} s  {switch.name}\n")
            if complaint:
                sys.stdout.write(f"    {complaint}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen)} switches, {len(chosen) - bad} red\n")
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        # Its own copy: what a test prints must not come between the answers.
        answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        # Under its real name, which a class has wherever it is used.
        serving = importlib.import_module("tests.chaos.switches.trial")
        serving._serve(sys.stdin.buffer, answers)
    else:
        sys.exit(importlib.import_module("tests.chaos.switches.trial").main(sys.argv[1:]))
