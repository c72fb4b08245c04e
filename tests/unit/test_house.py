"""The house rules, held by tests: what no linter knows of, and what nobody should have to remember."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from config.loading import load_settings
from fedqueue.messages import names
from tests.production import ROOT
from worker.bootstrap import HubCelery

APPLICATION = ("config", "connectors", "tasks", "worker", "fedqueue")
LONGEST = 400


def files(*suffixes: str, under: tuple[str, ...] = ()) -> Iterator[Path]:
    """The repository's files (ignored ones are not), all of them or those under the named folders."""
    for name in _tracked():
        path = ROOT / name
        if (not suffixes or path.suffix in suffixes) and (not under or name.split("/")[0] in under) and path.is_file():
            yield path


@cache
def _tracked() -> tuple[str, ...]:
    # New files count as well: a rule that is broken until the commit would be noticed after it.
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("these rules are about what git tracks, and this is no checkout")
    return tuple(listed)


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_search_finds_the_house() -> None:
    """Every rule below would hold of nothing at all."""
    found = {short(path) for path in files(".py")}
    assert {"config/settings.py", "tasks/domain/rounds.py", "tests/unit/test_house.py"} <= found


def test_a_long_file_gives_its_reason() -> None:
    """Over 400 lines a file is two ideas, unless its docstring says why it is one."""
    for path in files(".py"):
        text = path.read_text()
        if text.count("\n") > LONGEST:
            assert re.search(r"\bIts length\b", ast.get_docstring(ast.parse(text)) or ""), (
                f"{short(path)} has {text.count(chr(10))} lines: split it, or say in its docstring what its length is"
            )


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    for path in files(".py"):
        drawers = {"utils", "util", "helpers", "helper", "common", "manager", "misc"} & set(path.with_suffix("").parts)
        assert not drawers, f"{short(path)}: name it after what it holds"


def test_every_module_and_every_public_name_says_what_it_is() -> None:
    for path in files(".py", under=APPLICATION):
        if "migrations" in path.parts:
            continue  # their form is Alembic's
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{short(path)} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{short(path)}: {node.name} has no docstring"


def calls_of(method: str) -> list[str]:
    """The application's files that call it, save on a savepoint (which ends nothing) and on a blob's writer."""
    found = []
    for path in files(".py", under=APPLICATION):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
                receiver = node.func.value
                if not (isinstance(receiver, ast.Name) and receiver.id in ("savepoint", "writer", "state_writer")):
                    found.append(short(path))
    return found


@pytest.mark.parametrize("method", ["commit", "rollback"])
def test_one_place_alone_ends_transactions(method: str) -> None:
    """An end further in would tear a transaction in two, and a crash between the halves would show."""
    assert calls_of(method) == ["connectors/sql/database.py"]


def test_nothing_unpickles() -> None:
    """Whoever can write a pickle that is read can run a program."""
    for path in files(".py", under=(*APPLICATION, "tests", "benchmarks")):
        for node in ast.walk(ast.parse(path.read_text())):
            imported: list[str] = []
            if isinstance(node, ast.Import):
                imported = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            elif isinstance(node, ast.keyword):
                permits = node.arg == "allow_pickle" and not (
                    isinstance(node.value, ast.Constant) and node.value.value is False
                )
                assert not permits, f"{short(path)}:{node.value.lineno} allows pickle"
            for name in imported:
                assert name.partition(".")[0] not in (
                    "pickle",
                    "cPickle",
                    "shelve",
                    "marshal",
                    "dill",
                    "cloudpickle",
                ), f"{short(path)} imports {name}"


# Somebody's home or checkout.
_MACHINE = re.compile(r"(?<![\w.\-])/(?:root|home|Users|work)/[\w.-]+")
_ADDRESS = re.compile(r"https?://(?P<host>[\w.-]+)")
_TEXTS = (".py", ".mjs", ".json", ".toml", ".md", ".yml", ".yaml", ".txt", ".in", ".cfg", ".mako", "")


def test_no_path_of_a_machine_is_written_down() -> None:
    """It would be right on one machine only, and says whose."""
    for path in files(*_TEXTS):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = _MACHINE.search(line)
            assert not found, f"{short(path)}:{number}: {found and found[0]}"


def test_no_package_registry_is_named() -> None:
    """Where packages come from is the business of whoever installs: a mirror must work without an edit."""
    for path in files(*_TEXTS):
        if path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for match in _ADDRESS.finditer(line):
                host = match["host"].lower()
                registry = re.search(r"pypi|pythonhosted|docker\.io|registry|artifactory|nexus|mirror|quay|ghcr", host)
                assert not registry, f"{short(path)}:{number} names {host}"
            assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host", line) or path == Path(__file__), (
                f"{short(path)}:{number} names a registry"
            )


@pytest.mark.parametrize("lock", ["run.txt", "dev.txt"])
def test_a_lock_holds_a_hash_for_everything_and_no_address(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    requirements = [part for part in re.split(r"\n(?=\S)", text.replace("\\\n", " ")) if part and part[0] not in "#-"]
    assert len(requirements) > 40
    for requirement in requirements:
        assert re.match(r"[\w.-]+==[\w.!+-]+ ", requirement), requirement.splitlines()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", requirement), requirement.splitlines()[0]


@pytest.mark.parametrize("lock", sorted(path for path in _tracked() if path.endswith("package-lock.json")))
def test_a_lock_of_npm_s_holds_a_hash_for_everything_and_no_address(lock: str) -> None:
    """npm looks for what it locks wherever it is told to, if the lock does not say where it came from."""
    packages = json.loads((ROOT / lock).read_text())["packages"]
    own = packages.pop("")
    assert packages
    for name, package in packages.items():
        assert re.match(r"sha512-[\w+/]{86}==$", package["integrity"]), name
        assert "resolved" not in package, f"{lock}: {name}: lock it with --omit-lockfile-registry-resolved"
    for name, version in own["dependencies"].items():
        assert version == packages[f"node_modules/{name}"]["version"], f"{lock}: {name} is not pinned"


def test_what_runs_is_what_was_developed_with() -> None:
    """One version of each package in both locks: what was tested is what runs."""
    pins = [
        dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.M))
        for name in ("run.txt", "dev.txt")
    ]
    assert pins[0].items() <= pins[1].items()


def test_the_wire_s_task_names_and_the_application_s_tasks_are_the_same() -> None:
    """A name that no worker knows is a message that nobody ever carries out."""
    app = HubCelery(load_settings(env_file=None, broker_url="memory://"))
    app.loader.import_default_modules()
    # Celery hands every task of a process to every application in it: those that other tests made as well.
    registered = {name for name in app.tasks if not name.startswith(("celery.", "test."))}
    on_the_wire = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert registered == on_the_wire - set(names.QUEUES)
