"""README.md is true: every command and every Python block in it is run, every table compared with the code.

Long commands run in a short form, said beside each in RULES. A block that no rule covers fails. What needs docker is
marked so in the page's source; its words are checked here, and tests/integration/test_compose.py runs what they run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from config.settings import PREFIX, Settings
from fedqueue.messages import names
from tasks.aggregation import known_aggregators
from tasks.domain.requirements import known_requirements
from tests.hubs import ROOT, environment
from tests.production import read_compose
from tests.readme import blocks_of, table_under
from worker.children import die_with_parent

README = ROOT / "README.md"
PRODUCTION = ROOT / "docs" / "production.md"
PYTHON = ".venv/bin/python"

BLOCKS = blocks_of(README)
COMMANDS = [
    command for block in BLOCKS if block.language == "console" and not block.not_run for command in block.commands
]
SCRIPTS = [block for block in BLOCKS if block.language == "python"]
DOCKER = [c for page in (README, PRODUCTION) for b in blocks_of(page) for c in b.commands if c.startswith("docker ")]


class ReadmeHub:
    """`python -m worker up` as the README has it, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / ".fedqueue"
        self._output = folder / "output"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                by_this_python(f"{PYTHON} -m worker up"),
                cwd=folder,
                env=environment(self.home),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    def said(self) -> str:
        return self._output.read_text()

    def run(self, words: list[str], cwd: Path, variables: Mapping[str, str] | None = None, seconds: float = 60) -> str:
        """What a command says that ends well."""
        found = subprocess.run(
            words,
            cwd=cwd,
            env=environment(self.home) | dict(variables or {}),
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout


def by_this_python(command: str) -> list[str]:
    """The words of a command, with the interpreter that runs the tests."""
    words = shlex.split(command)
    assert words[0] == PYTHON
    return [sys.executable, *words[1:]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReadmeHub]:
    started = ReadmeHub(tmp_path_factory.mktemp("readme"))
    try:
        for _ in range(1200):
            if "Ctrl-C ends it." in started.said():
                break
            assert started.process.poll() is None, started.said()
            with pytest.raises(subprocess.TimeoutExpired):
                started.process.wait(0.05)
        yield started
    finally:
        if started.process.poll() is None:
            started.process.send_signal(signal.SIGINT)
            started.process.wait(20)


# --- console blocks -------------------------------------------------------------------------------


def up(command: str, hub: ReadmeHub, _folder: Path) -> None:
    """It says what the README shows, figures and folders aside."""

    def told(text: str) -> list[str]:
        text = re.sub(re.escape(str(hub.home.parent)) + r"|/srv/fedqueue", "FOLDER", text)
        # Where the folder's path is too long for a socket, the socket lies elsewhere.
        text = re.sub(r"redis\+socket://\S+?\?", "redis+socket://SOCKET?", text)
        return [re.sub(r"[\d.]+ s |\[\d+\]|→ \d+", "#", line).strip() for line in text.splitlines() if line.strip()]

    shown = next(block for block in BLOCKS if command in block.commands).output_of(command)
    assert told(hub.said()) == told("\n".join(shown))


def shows_something(command: str, hub: ReadmeHub, folder: Path) -> None:
    """As it stands, on the running hub."""
    assert hub.run(by_this_python(command), folder)


def demo(command: str, hub: ReadmeHub, folder: Path) -> None:
    """In a short form: three rounds of three participants. Its last line reads like the README's."""
    assert made_by(command)[-1] == f"{PYTHON} -m worker demo"
    short = f"{PYTHON} -m worker demo --rounds 3 --clients 3 --out {folder}/accuracy.png"
    said = hub.run(by_this_python(short), folder, seconds=200).splitlines()
    shown = next(block for block in BLOCKS if command in block.commands).output_of(command)
    pattern = re.sub(r"\d+", r"\\d+", re.escape(shown[-1]))
    assert re.fullmatch(pattern, said[-1]), said[-1]
    lost, twice = re.findall(r"(\d+) (?:lost|counted twice)", said[-1])
    assert (lost, twice) == ("0", "0")
    assert re.findall(r"\d+ lost, \d+ counted twice", shown[-1]) == ["0 lost, 0 counted twice"]


def own_tests(command: str, _hub: ReadmeHub, _folder: Path) -> None:
    """Not run from within itself: make would run exactly the checks and this test session."""
    made = "\n".join(made_by(command))
    for word in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert f".venv/bin/{word}" in made or f" -m {word}" in made


def made_by(command: str) -> list[str]:
    """The commands that make would run, installing aside."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    words = shlex.split(command)
    assert words[0] == "make"
    dry = [make, "--no-print-directory", "--dry-run", "--assume-old=.venv/installed", *words[1:]]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "ARGS"}
    said = subprocess.run(dry, cwd=ROOT, env=outside, capture_output=True, text=True, check=True).stdout
    return [line.strip() for line in said.splitlines()]


RULES: dict[str, Callable[[str, ReadmeHub, Path], None]] = {
    "make demo": demo,
    "make test": own_tests,
    f"{PYTHON} -m worker up": up,
    f"{PYTHON} -m worker status": shows_something,
    f"{PYTHON} -m worker models": shows_something,
    f"{PYTHON} -m worker dead-letters --json": shows_something,
    f"{PYTHON} -m worker ready": shows_something,
    f"{PYTHON} -m worker health": shows_something,
    f'{PYTHON} -m worker trusts add "King\'s College Hospital" --code KCH': shows_something,
    f"{PYTHON} -m worker trusts slot site-1 KCH": shows_something,
    f"{PYTHON} -m worker trusts list": shows_something,
}


# The whole demo, which .ci/run has on its own, too: its short form is test_demo.py's.
@pytest.mark.parametrize(
    "command",
    [pytest.param(command, marks=[pytest.mark.wide] * (command == "make demo")) for command in COMMANDS],
)
def test_a_command_does_what_the_readme_says(command: str, hub: ReadmeHub, tmp_path: Path) -> None:
    assert command in RULES, f"no rule says how to check {command!r}: add one"
    RULES[command](command, hub, tmp_path)


def test_every_block_of_the_readme_is_of_a_kind_that_is_checked() -> None:
    """`text` is a picture; everything else is run, or says why it can't be."""
    for block in BLOCKS:
        assert block.language in ("text", "console", "python"), f"README.md:{block.line}: {block.language!r} is not run"
        assert block.language != "console" or block.commands, f"README.md:{block.line} shows no command"
        if block.not_run:
            assert block.not_run.startswith("needs docker.")
            assert all(command.startswith("docker ") for command in block.commands)
    assert {command.split()[0] for command in COMMANDS} == {"make", PYTHON}
    assert set(RULES) == set(COMMANDS), "a rule for what the README does not say any more"


def test_commands_named_in_passing_exist(hub: ReadmeHub, tmp_path: Path) -> None:
    """In running text: `python -m worker …`, `make …` and the views that take a model."""
    text = README.read_text() + PRODUCTION.read_text()
    helped = hub.run([sys.executable, "-m", "worker", "--help"], tmp_path)
    named = set(re.findall(r"python -m worker ([a-z-]+)", text)) | set(re.findall(r"`([a-z-]+) MODEL`", text))
    assert {"config", "rounds", "health"} <= named
    for name in named:
        assert re.search(rf"^\W*{name} ", helped, re.M), f"python -m worker {name} is no command"
    assert "--chaos" in hub.run([sys.executable, "-m", "worker", "demo", "--help"], tmp_path, {"COLUMNS": "200"})
    assert made_by("make demo ARGS=--chaos")[-1] == f"{PYTHON} -m worker demo --chaos"


# --- Python blocks --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package that others install, and nothing else of this repository."""
    folder = tmp_path_factory.mktemp("other-service")
    shutil.copytree(ROOT / "fedqueue", folder / "fedqueue", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_a_python_block_runs_in_another_service_and_prints_what_it_says(
    number: int, hub: ReadmeHub, other_service: Path, tmp_path: Path
) -> None:
    """Its last line is a print with the printed text in a comment; … stands for anything."""
    code = SCRIPTS[number].text
    last = code.rstrip().splitlines()[-1]
    assert "print(" in last
    promised = last.partition("  # ")[2]
    assert promised, f"README.md:{SCRIPTS[number].line}: the last line does not say what is printed"
    variables = {"PYTHONPATH": str(other_service)}
    if PREFIX in code:
        variables["FEDQUEUE_BROKER_URL"] = broker_of(hub)
    printed = hub.run([sys.executable, "-c", code], tmp_path, variables).strip()
    assert re.fullmatch(re.escape(promised).replace("…", ".*"), printed), printed


def broker_of(hub: ReadmeHub) -> str:
    found = re.search(r"broker +(\S+)", hub.said())
    assert found
    return found[1]


def test_the_first_python_block_is_as_short_as_it_is_said_to_be() -> None:
    assert len([line for line in SCRIPTS[0].text.splitlines() if line.strip()]) <= 12


# --- what docker would run ------------------------------------------------------------------------


@pytest.mark.parametrize("command", DOCKER)
def test_a_docker_command_names_services_and_commands_that_exist(command: str, hub: ReadmeHub, tmp_path: Path) -> None:
    words = shlex.split(command.partition(" > ")[0])
    assert words[:2] == ["docker", "compose"]
    services = set(read_compose({"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r"})["services"])
    verb, rest = words[2], [word for word in words[3:] if not word.startswith("-")]
    if verb == "exec":
        assert rest[0] in services
        if rest[1] == "python":
            hub.run([sys.executable, *words[words.index("python") + 1 :]], tmp_path)
    elif verb == "cp":
        assert rest[0].partition(":")[0] in services
    else:
        assert verb in ("up", "stop", "ps", "logs")
        assert {word.partition("=")[0] for word in rest} <= services


# --- tables ---------------------------------------------------------------------------------------


def test_the_table_of_tasks_names_every_task() -> None:
    shown = [row[0].strip("`") for row in table_under(README, "Tasks")]
    on_the_wire = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert set(shown) == on_the_wire - set(names.QUEUES)
    assert len(shown) == len(set(shown))


def test_the_table_of_settings_has_their_names_and_defaults() -> None:
    for variable, default, _meaning in table_under(README, "Configuration"):
        field = Settings.model_fields[variable.strip("`").removeprefix(PREFIX).lower()]
        value = field.get_default()
        if isinstance(value, int | float):
            number, _, unit = default.partition(" ")
            assert float(number) * {"": 1, "MiB": 1 << 20}[unit] == value, variable
        elif value is not None and not field.default_factory:
            assert default.strip("`") == str(value), variable


def test_it_says_how_to_connect_whatever_there_is_an_example_of() -> None:
    """Each by the make target that CI runs, and by a page."""
    rows = table_under(README, "Connect what you run")
    (line,) = re.findall(r"^bridges: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert {f"`make {target}`" for target in line.split()} == {row[3] for row in rows} - {""}
    assert all(re.fullmatch(r"\[(docs/[\w-]+\.md)\]\(\1\)", row[2]) for row in rows)


def test_the_aggregators_and_requirements_that_it_names_exist() -> None:
    text = README.read_text()
    paragraph = text[text.index("Aggregators: ") : text.index("A name or argument that is not known")]
    aggregators, requirements = (set(re.findall(r"`(\w+)`", part)) for part in paragraph.split("Requirements:"))
    assert aggregators == set(known_aggregators())
    assert requirements == set(known_requirements())


def test_no_link_leads_nowhere() -> None:
    for page in (README, PRODUCTION, *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "decisions").glob("*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"
    for page in (README, *(ROOT / "docs").glob("*.md")):
        for path in re.findall(
            r"`((?:tests|tasks|config|connectors|worker|fedqueue|docs)/[\w./-]+)`", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
