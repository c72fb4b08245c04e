"""The production files as Docker reads them: compose's variables, the Dockerfile's instructions, .dockerignore.

Only what these files use is understood; anything else raises, so that a new line is never silently left unread.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<rest>[^}]*))?\}|(?P<plain>\w+))")


class VariableMissing(Exception):
    """Compose would refuse to start: a variable that must be set is not."""


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """A value of the compose file with `$X`, `${X}`, `${X:-default}`, `${X:?message}` and `$$` carried out.

    Raises: VariableMissing with the file's own message.
    """
    if isinstance(value, dict):
        return type(value)((key, interpolated(inner, variables)) for key, inner in value.items())
    if isinstance(value, list):
        return [interpolated(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value
    unread = _VARIABLE.sub("", value)
    assert "$" not in unread, f"this form of a variable is not understood here: {value}"
    return _VARIABLE.sub(lambda match: _one(match, variables), value)


def _one(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["dollar"]:
        return "$"
    name, how = match["name"] or match["plain"], match["how"] or ""
    found = variables.get(name)
    if found or (found is not None and not how.startswith(":")):
        return found
    if how.endswith("?"):
        raise VariableMissing(f"{name}: {match['rest']}")
    return match["rest"] if how.endswith("-") else ""


def read_compose(variables: Mapping[str, str], *overrides: str) -> dict[str, Any]:
    """docker-compose.yml, and what each override (`mariadb`: docker-compose.mariadb.yml) makes of it, as compose
    understands them with these variables set.
    """
    found: dict[str, Any] = {}
    for name in ("docker-compose.yml", *(f"docker-compose.{override}.yml" for override in overrides)):
        found = _merged(found, interpolated(yaml.load((ROOT / name).read_text(), _ComposeLoader), variables))
    return found


class _ComposeLoader(yaml.SafeLoader):
    """YAML with compose's two tags."""


class _Reset:
    """`!reset`: what the files before say here is gone."""


class _Override(dict[str, Any]):
    """`!override`: in place of what the files before say here."""


def _override(loader: _ComposeLoader, node: yaml.MappingNode) -> _Override:
    return _Override({str(name): value for name, value in loader.construct_mapping(node, deep=True).items()})


_ComposeLoader.add_constructor("!reset", lambda *_: _Reset())
_ComposeLoader.add_constructor("!override", _override)


def _merged(base: Any, over: Any) -> Any:
    """One file after another, by compose's rules for mappings. Lists never meet here, and are not understood."""
    if isinstance(over, _Override) or not isinstance(base, dict) or not isinstance(over, dict):
        assert not (isinstance(base, list) and isinstance(over, list)), f"two lists meet: {over}"
        return dict(over) if isinstance(over, _Override) else over
    found = {name: value for name, value in base.items() if not isinstance(over.get(name), _Reset)}
    for name, value in over.items():
        if not isinstance(value, _Reset):
            found[name] = _merged(found.get(name), value)
    return found


def seconds_of(duration: str) -> float:
    """`45s` → 45.0."""
    match = re.fullmatch(r"(\d+)(s|m)", duration)
    assert match, f"{duration!r} is no duration"
    return float(match[1]) * {"s": 1, "m": 60}[match[2]]


def read_dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, each a word and the rest of its line."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def argument_list(text: str) -> list[str]:
    """The exec form of RUN, ENTRYPOINT or CMD, after its --flags. Raises: ValueError for the shell form."""
    found: list[str] = json.loads(re.sub(r"^(--\S+\s+)*", "", text))
    return found


def image_environment() -> dict[str, str]:
    """What ENV sets."""
    pairs = " ".join(rest for word, rest in read_dockerfile() if word == "ENV").split()
    return dict(pair.split("=", 1) for pair in pairs)


def image_command(command: list[str] | None) -> list[str]:
    """What a container runs: the entry point with compose's command, else with the image's own."""
    of = {word: argument_list(rest) for word, rest in read_dockerfile() if word in ("ENTRYPOINT", "CMD")}
    return of["ENTRYPOINT"] + (of["CMD"] if command is None else command)


def copy_into(workdir: Path) -> None:
    """Carry out every COPY: `workdir` then holds what the image's WORKDIR would hold, and nothing else."""
    for word, rest in read_dockerfile():
        if word != "COPY":
            continue
        source, target = rest.split()
        found = [ROOT / source] if (ROOT / source).is_file() else sorted((ROOT / source).rglob("*"))
        for file in found:
            if not file.is_file() or is_ignored(file.relative_to(ROOT)):
                continue
            inside = file.relative_to(ROOT / source) if (ROOT / source).is_dir() else Path()
            place = workdir / target / inside
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)


def is_ignored(path: Path) -> bool:
    """Whether .dockerignore keeps the path (relative to the root) from the build: its last matching line decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = _as_regex(line.removeprefix("!"))
        if any(pattern.fullmatch(part.as_posix()) for part in (path, *path.parents[:-1])):
            ignored = not line.startswith("!")
    return ignored


def _as_regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*)", pattern)
    return re.compile("".join({"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts))
