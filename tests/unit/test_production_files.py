"""What the Dockerfile and the compose file promise, read off them. tests/integration/test_compose.py runs them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from config.settings import PREFIX, Settings
from tests.production import (
    ROOT,
    VariableMissing,
    argument_list,
    copy_into,
    image_command,
    image_environment,
    interpolated,
    is_ignored,
    read_compose,
    read_dockerfile,
    seconds_of,
)

OURS = ("migrate", "worker", "beat")
ALL = ("redis", "postgres", *OURS)


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_compose({"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r"})["services"]
    return found


# --- the compose file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "read"),
    [("$$X", "$X"), ("${X:-d}", "d"), ("a${Y}b$Y", "ayby"), ("${EMPTY:-d}", "d"), ("${EMPTY-d}", "")],
)
def test_variables_are_read_as_compose_reads_them(text: str, read: str) -> None:
    """The reader that the other tests stand on."""
    assert interpolated(text, {"Y": "y", "EMPTY": ""}) == read


@pytest.mark.parametrize("left_out", ["POSTGRES_PASSWORD", "REDIS_PASSWORD"])
def test_without_a_password_nothing_starts_and_the_variable_is_named(left_out: str) -> None:
    given = {"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r"} | {left_out: ""}
    with pytest.raises(VariableMissing, match=f"{left_out}: set it"):
        read_compose(given)


def test_there_are_exactly_the_services_that_the_other_test_starts(services: dict[str, dict[str, Any]]) -> None:
    assert sorted(services) == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_each_container_runs_with_no_more_rights_than_it_needs(name: str, services: dict[str, dict[str, Any]]) -> None:
    service = services[name]
    assert service["user"].split(":")[0] not in ("root", "0")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert seconds_of(service["stop_grace_period"]) == 45
    assert any(place.startswith("/tmp:") for place in service["tmpfs"])
    assert "privileged" not in service
    assert "ports" not in service


def test_a_service_can_be_scaled_for_nothing_ties_it_to_one_container(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        assert not services[name].keys() & {"container_name", "hostname", "ports"}


def test_what_must_outlive_a_container_lies_in_a_named_volume(services: dict[str, dict[str, Any]]) -> None:
    declared = read_compose({"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r"})["volumes"]
    mounted = {name: dict(reversed(v.split(":")) for v in services[name].get("volumes", [])) for name in ALL}
    assert mounted["redis"] == {"/data": "redis"}
    assert mounted["postgres"] == {"/var/lib/postgresql/data": "postgres"}
    assert mounted["worker"] == {"/data": "store"}
    assert services["worker"]["environment"]["FEDQUEUE_STORE_URL"].startswith("file:///data/")
    assert set(declared) == {"redis", "postgres", "store"}


def test_workers_start_after_the_migration_has_ended_well(services: dict[str, dict[str, Any]]) -> None:
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["migrate"]["restart"] == "no"
    assert services["worker"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        "redis": {"condition": "service_healthy"},
    }


def test_a_stopped_worker_gives_back_its_tasks(services: dict[str, dict[str, Any]]) -> None:
    """On SIGTERM, as soon as its tasks are done. Celery's own way (REMAP_SIGTERM) sleeps out its whole time."""
    assert services["worker"].get("stop_signal", "SIGTERM") == "SIGTERM"
    assert "REMAP_SIGTERM" not in services["worker"]["environment"]


def test_every_variable_of_ours_is_a_setting(services: dict[str, dict[str, Any]]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    named = {name for service in OURS for name in services[service]["environment"] if name.startswith(PREFIX)}
    assert named <= known
    # compose's own variables share the .env file with ours: by our prefix, they would be refused as misspelt settings.
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert {name for name in used if name.startswith(PREFIX)} <= known


# --- the image ------------------------------------------------------------------------------------


def test_the_image_is_of_the_python_that_is_tested_and_locked() -> None:
    words = dict(read_dockerfile())
    assert words["ARG"] == "PYTHON_IMAGE=python:3.11-slim"
    assert words["FROM"] == "${PYTHON_IMAGE}"
    install = next(rest for word, rest in read_dockerfile() if word == "RUN" and "pip" in rest)
    assert argument_list(install)[-3:] == ["--require-hashes", "--requirement", "requirements/run.txt"]


def test_it_runs_as_an_ordinary_user_who_owns_the_volume_alone(services: dict[str, dict[str, Any]]) -> None:
    instructions = read_dockerfile()
    last_user = [word for word, _ in instructions].index("USER")
    assert instructions[last_user][1] == "10001:10001"
    assert not {word for word, _ in instructions[last_user:]} & {"RUN", "COPY", "ADD"}
    owned = argument_list(
        next(rest for word, rest in instructions if word == "RUN" and "install" in rest.split(",")[0])
    )
    assert owned == ["install", "--directory", "--owner=10001", "--group=10001", "--mode=0750", "/data"]
    assert {services[name]["user"] for name in OURS} == {"10001:10001"}


def test_every_command_is_in_exec_form() -> None:
    """Through a shell, the signal to stop would end the shell, not the worker."""
    for word, rest in read_dockerfile():
        if word in ("RUN", "ENTRYPOINT", "CMD"):
            assert argument_list(rest)
    assert image_command(None) == ["python", "-m", "worker", "worker"]


def test_nothing_secret_and_no_address_is_baked_in() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "://" not in text
    assert set(image_environment()) == {
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONUNBUFFERED",
        "FEDQUEUE_HOME",
        "NUMBA_CACHE_DIR",  # the root is read-only: compiled kernels lie where the container may write
    }
    assert {word for word, _ in read_dockerfile()} <= {
        *("ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD")
    }
    for name in (".env", ".git/config", ".fedqueue/endpoint.json", "tests/servers.py", "config/__pycache__/a.pyc"):
        assert is_ignored(Path(name)), f"{name} would be sent to the build"
    for name in ("config/settings.py", "worker/cli/main.py", "requirements/run.txt"):
        assert not is_ignored(Path(name))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image holds in /app."""
    folder = tmp_path_factory.mktemp("image")
    copy_into(folder)
    return folder


def test_the_copied_files_are_all_that_the_commands_import(workdir: Path, home: Path) -> None:
    """A folder forgotten in the Dockerfile would show here, and not first in production."""
    for arguments, code in (
        (["config"], 0),
        (["migrate"], 0),
        (["status"], 0),
        (["health", "--seconds", "0.1"], 1),  # nobody is there to be healthy
        (["worker", "--help"], 0),
        (["beat", "--help"], 0),
    ):
        found = subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            cwd=workdir,
            env={"FEDQUEUE_HOME": str(home), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in found.stderr, found.stderr
        assert found.returncode == code, found.stderr


def test_every_package_that_the_image_s_code_imports_is_in_the_lock_for_running(workdir: Path) -> None:
    """The development environment holds more: a package that only stands in its lock would be missing in the image."""
    origin, imported = packages_distributions(), set()
    # These run where what they are a bridge to is installed.
    bridges = {workdir / "fedqueue" / name for name in ("flower", "nvflare", "mirrors")}
    for file in workdir.rglob("*.py"):
        if bridges & set(file.parents):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").partition(".")[0])
    needed = {_normal(distribution) for module in imported for distribution in origin.get(module, ())} - {"fedqueue"}
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "run.txt").read_text(), re.M)
    assert {"celery", "sqlalchemy", "numpy"} <= needed, "the search has found nothing"
    assert needed <= {_normal(name) for name in locked}
    unknown = imported - set(origin) - sys.stdlib_module_names
    assert unknown <= {"config", "connectors", "fedqueue", "tasks", "worker"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
