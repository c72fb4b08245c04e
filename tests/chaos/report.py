"""docs/reliability.md, written from what the runs put down: `python -m tests.chaos.report EVIDENCE.jsonl … > page`."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True)
class Row:
    """One row of the bar: what is done to the hub, and what has to hold."""

    title: str
    done: str
    bar: str


ROWS: Final[Mapping[str, Row]] = {
    "machine": Row(
        "Every order of events, a crash at every step",
        "A Hypothesis state machine sends, repeats, claims, sleeps, wakes, crashes at named failpoints; the test turns "
        "the clock. The invariants are judged after each step.",
        "no violation; every failpoint reached, zombies fenced off",
    ),
    "process": Row(
        "Processes that die and sleep",
        "Prefork workers kill themselves at failpoints, are killed (children and parents) and stopped for longer than "
        "their lease at random, while clients submit; 2 % of the updates are poison, 30 % are sent again.",
        "no violation, nothing lost, nothing counted twice; at least 300 kills in 60 seconds, each failpoint 5 times",
    ),
    "zombie": Row(
        "Zombies",
        "The lease is shorter than the round takes, so workers overtake each other all the while.",
        "no violation; at least 20 rounds fenced off",
    ),
    "database_crash": Row(
        "Database crashes under load", "The server is stopped at once, and killed, and comes back.", "no violation"
    ),
    "broker": Row(
        "A broker that forgets, hangs and dies",
        "Queues are emptied, connections cut, the server is killed, stopped for a while and started again.",
        "nothing lost; all counted within two sweeps of the last blow",
    ),
    "network": Row(
        "A bad network",
        "A proxy between the parts delays, drops and swallows what they say.",
        "nothing lost; half-open connections are noticed",
    ),
    "idle_child": Row(
        "A pool that hangs", "Idle pool processes are killed and stopped until none answers.", "restarted within 60 s"
    ),
    "graceful_stop": Row(
        "A worker told to stop",
        "SIGTERM while rounds are under way and tasks wait.",
        "ended within its grace period; nothing lost, nothing twice",
    ),
    "upgrade": Row(
        "A schema changed under working workers",
        "A migration that only adds is applied while workers and clients are at work, then one that takes away.",
        "no task fails, nothing lost; older workers then refuse to start",
    ),
    "disk_full": Row(
        "A full disk", "Writes fail in the middle.", "the round fails cleanly, and succeeds when there is room again"
    ),
    "store_away": Row(
        "A store that is away", "The store vanishes under the hub, and comes back.", "rounds wait; no update is blamed"
    ),
    "restore": Row(
        "Backup and restore",
        "A backup under load, everything lost, the backup restored.",
        "the invariants hold; what came later may be sent again under its id",
    ),
    "recovery": Row(
        "From a kill to the round of another",
        "SIGKILL of the whole tree of the worker that has a round, in the middle of it.",
        "35 s with the default settings, 2 s with the embedded ones",
    ),
    "flood": Row(
        "A flood",
        "Far more submissions than the workers can take.",
        "memory stays flat, rounds go on, what is too much is refused with a reason",
    ),
    "fuzz": Row(
        "Hostile bytes",
        "Every parser of outside bytes, fed with mutations of good files.",
        "typed refusals only: no crash, no hang, no allocation over the cap",
    ),
    "mutations": Row(
        "The guards themselves",
        "Each guard is switched off, one after another (in tests only).",
        "a named test turns red for each",
    ),
    "peers": Row(
        "Beside others",
        "The same updates, kills and judge for the hub, for FMA's order of steps (each committed by itself, three "
        "processes) and for Celery with its default settings and one transaction a round.",
        "ours: nothing lost, nothing twice, one chain",
    ),
}

_HEAD: Final = """\
# Reliability, as measured

This page is written by the harness itself: `make chaos` runs everything below (half an hour of killing on every pair of
database and broker, then as long again for the rest), `make fuzz` the fuzzing, and both write it anew. A short form is
part of `make test`, a wider one of `.ci/run`.

What is promised: an accepted update is in exactly one aggregate, or INVALID with a reason; a model's aggregates are one
chain; an accepted event is told once; nothing that a dead worker held stays so for longer than lease and sweep
([design](design.md)). Whether it holds is judged after every run by `tests/chaos/invariants.py`, which reads the
database with plain SQL and the store file by file, computes every aggregate anew, exactly (the test data are whole
numbers), and uses none of the hub's own reading code. `violations` counts what it found, and updates whose sender was
told "accepted" that are not in exactly one aggregate with their weight.

The moments of the blows are the machine's; the draws are the seed's (`CHAOS_SEED=…` repeats them, `CHAOS_SECONDS=…`
makes the runs longer). A run in which too little happened to show anything fails.
"""


def read_evidence(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The lines of all files, in their order."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """The whole page, in Markdown. Raises: KeyError for a row that ROWS does not have."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        found.setdefault(ROWS[line["row"]].title, []).append(line)
    parts = [_HEAD, _summary(lines)]
    for row in ROWS.values():
        if row.title in found:
            parts.append(f"## {row.title}\n\n{row.done}\nTo hold: {row.bar}.\n\n{_table(found[row.title])}")
    return "\n".join(parts)


def _summary(lines: Sequence[Mapping[str, Any]]) -> str:
    ours = [line["figures"] for line in lines if line["row"] != "peers"]
    kills = sum(int(figures.get("kills", 0)) for figures in ours)
    updates = sum(int(figures.get("updates", 0)) for figures in ours)
    violations = sum(int(figures.get("violations", 0)) for figures in ours)
    made_on = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, celery {version('celery')}, "
        f"kombu {version('kombu')}, redis-py {version('redis')}, SQLAlchemy {version('sqlalchemy')}"
    )
    return (
        f"Measured on {made_on}: {len(lines)} runs, {kills:,} processes killed, {updates:,} updates accepted, "
        f"**{violations} violations**.\n"
    )


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    """One line a run, a column for every figure that any of them has."""
    columns = list(dict.fromkeys(name for line in lines for name in line["figures"]))
    head = ["", *(name.replace("_", " ") for name in columns), "seed"]
    rows = [
        [line["case"], *(_shown(line["figures"].get(name)) for name in columns), str(line["seed"])] for line in lines
    ]
    rule = ["---", *["---:"] * len(columns), "---:"]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)) + "\n"


def _shown(figure: int | float | str | None) -> str:
    if figure is None:
        return "–"
    if isinstance(figure, float):
        return f"{figure:,.2f}".rstrip("0").rstrip(".")
    return f"{figure:,}" if isinstance(figure, int) else figure


if __name__ == "__main__":
    sys.stdout.write(page(read_evidence(Path(name) for name in sys.argv[1:])))
