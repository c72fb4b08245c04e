"""Guards switched off as their source is read: an import hook that lives in tests alone.

An edit takes one piece of text out of one file of ours, or puts another in its place, when Python reads that file;
the file itself stays as it is, and nothing in the application knows of it. It reaches every process that a switched
test starts, and those that these start. The standard library alone is imported here: nothing of ours may have been
read before.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[3]
STARTUP: Final = Path(__file__).resolve().parent / "startup"

EDITS: Final = "SWITCHED_OFF"  # the environment variable: the edits as JSON
MARKS: Final = "SWITCHED_OFF_MARKS"  # the folder where whoever has read an edited file leaves a mark


@dataclass(frozen=True, slots=True)
class Edit:
    """`old`, found exactly once in `file` (inside of the function or class `within`, if named), becomes `new`."""

    file: str
    old: str
    new: str
    within: str = ""

    def place(self, source: str) -> tuple[int, int]:
        """Where `old` begins and ends. Raises: LookupError if the guard is not where it was."""
        start, end = (0, len(source)) if not self.within else _place_of(self.within, source, self.file)
        times = source.count(self.old, start, end)
        if times != 1:
            where = f"{self.file}, {self.within}" if self.within else self.file
            raise LookupError(f"{where}: {self.old!r} is there {times} times: has the guard moved?")
        at = source.index(self.old, start, end)
        return at, at + len(self.old)


def edited(file: str, edits: Sequence[Edit]) -> str:
    """The source of `file` with its edits made, each of them found in the source as it is. Raises: LookupError."""
    source = (ROOT / file).read_text(encoding="utf-8")
    places = sorted(((*edit.place(source), edit.new) for edit in edits), reverse=True)
    made = source
    for start, end, new in places:
        made = made[:start] + new + made[end:]
    return made


def switch_off(edits: tuple[Edit, ...], marks: Path) -> None:
    """From now on this process, and every Python process that comes of it, reads the edited files."""
    os.environ[EDITS] = json.dumps([asdict(edit) for edit in edits])
    os.environ[MARKS] = str(marks)
    _install(edits, marks)


def switch_off_as_told() -> None:
    """The same in a process that was started by one that is switched."""
    edits = tuple(Edit(**fields) for fields in json.loads(os.environ[EDITS]))
    _install(edits, Path(os.environ[MARKS]))


def _install(edits: tuple[Edit, ...], marks: Path) -> None:
    by_path: dict[str, list[Edit]] = {}
    for edit in edits:
        by_path.setdefault(str(ROOT / edit.file), []).append(edit)
    for name, module in list(sys.modules.items()):
        assert getattr(module, "__file__", None) not in by_path, f"{name} has been read already, with its guards"
    stock = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
        path = loader.get_filename(fullname)
        if path not in by_path:
            return stock(loader, fullname)
        source = edited(by_path[path][0].file, by_path[path])
        marks.joinpath(f"{os.getpid()}-{fullname}").touch()
        code: CodeType = compile(source, path, "exec", dont_inherit=True)
        return code

    # What is compiled here is never written to a cache: that would outlive the switch.
    SourceFileLoader.get_code = get_code  # type: ignore[assignment,method-assign]
    _hand_on()


def _hand_on() -> None:
    """Have every process that is started from here switched as well, whatever environment it is given."""
    stock = subprocess.Popen.__init__

    def start(process: Any, *arguments: Any, **options: Any) -> None:
        given = options.get("env")
        given = dict(os.environ if given is None else given)
        given |= {EDITS: os.environ[EDITS], MARKS: os.environ[MARKS]}
        given["PYTHONPATH"] = os.pathsep.join([str(STARTUP), *filter(None, [given.get("PYTHONPATH")])])
        stock(process, *arguments, **(options | {"env": given}))

    subprocess.Popen.__init__ = start  # type: ignore[assignment,method-assign]


@lru_cache(maxsize=8)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _place_of(qualified: str, source: str, file: str) -> tuple[int, int]:
    """Where that function or class begins and ends, in characters, its decorators included."""
    nodes: list[ast.stmt] = _parsed(source).body
    found: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | None = None
    for name in qualified.split("."):
        # The last of that name: the others are its overloads.
        found = next(
            (
                node
                for node in reversed(nodes)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name
            ),
            None,
        )
        if found is None:
            raise LookupError(f"{file} has no {qualified}: has the guard moved?")
        nodes = found.body
    assert found is not None
    assert found.end_lineno is not None
    lines = source.splitlines(keepends=True)
    first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
    return len("".join(lines[: first - 1])), len("".join(lines[: found.end_lineno]))
