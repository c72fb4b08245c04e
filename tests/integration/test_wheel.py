"""What others install: a wheel of `fedqueue` alone, built and looked into."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from fedqueue.version import __version__
from tests.hubs import ROOT

NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel. Built from a copy: setuptools leaves folders behind, and takes up what lies in old ones."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, folder / "source"],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip would leave it."""
    folder = tmp_path_factory.mktemp("site")
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_outside(installed: Path, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` with the wheel and its dependencies importable, and nothing of this repository."""
    paths = [str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path += {paths!r}\n{code}"],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_it_brings_fedqueue_and_no_other_name(installed: Path) -> None:
    """A `config` or `tasks` in somebody's site-packages would shadow theirs."""
    assert {path.name for path in installed.iterdir()} == {"fedqueue", f"fedqueue-{__version__}.dist-info"}


def test_it_holds_every_module_of_the_package_the_types_and_the_licence(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "fedqueue").rglob("*.py")}
    assert {name for name in names if name.startswith("fedqueue/")} == ours | {"fedqueue/py.typed"}
    assert f"fedqueue-{__version__}.dist-info/licenses/LICENSE" in names


def test_it_says_what_it_is_and_needs(installed: Path) -> None:
    text = (installed / f"fedqueue-{__version__}.dist-info" / "METADATA").read_text()
    metadata = Parser().parsestr(text)
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload().startswith("# fedqueue")  # type: ignore[union-attr]
    needed = {re.split(r"[\[<>=;]", line)[0] for line in metadata.get_all("Requires-Dist", [])}
    assert {"celery", "numpy", "pydantic"} <= needed
    assert not needed & {"sqlalchemy", "alembic", "typer", "psycopg"}, "a client needs nothing of the hub's"


def test_the_client_and_the_messages_work_where_there_is_no_application(installed: Path, tmp_path: Path) -> None:
    code = """
import importlib.util, json
from uuid import UUID
import fedqueue
from fedqueue import Client
from fedqueue.messages import SubmitModelUpdate
message = SubmitModelUpdate(
    submission_id=UUID(int=1), model_id=UUID(int=2), client_id=UUID(int=3), num_examples=4, data=[1.0]
)
with Client("redis://127.0.0.1:1/0") as hub:
    try:
        hub.get_model(UUID(int=2), timeout=0.5)
    except fedqueue.FedqueueError as error:
        answer = type(error).__name__
there = [name for name in ("config", "connectors", "tasks", "worker") if importlib.util.find_spec(name)]
print(json.dumps([fedqueue.__file__, message.model_dump(mode="json")["num_examples"], answer, there]))
"""
    found = run_outside(installed, code, tmp_path)
    assert found.returncode == 0, found.stderr
    place, num_examples, answer, there = json.loads(found.stdout)
    assert place == str(installed / "fedqueue" / "__init__.py")
    assert num_examples == 4
    assert answer == "HubUnavailable"
    assert there == []


def test_its_types_reach_those_who_import_it(installed: Path, tmp_path: Path) -> None:
    """py.typed without complete annotations would be a promise only."""
    script = tmp_path / "service.py"
    script.write_text(
        "from fedqueue import Client\nreveal_type(Client('redis://h/0').get_model)\nClient(broker_url=3)\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir=/dev/null", "--strict", script],
        cwd=tmp_path,
        env={"MYPYPATH": str(installed), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert "fedqueue.messages.models.ModelView" in found.stdout, found.stdout
    assert 'Argument "broker_url" to "Client" has incompatible type "int"' in found.stdout
