"""What became of every update that FMA's API took: from the deployment's tables and files alone, by plain SQL."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

_COMPLETE: Final = 2
# One unit in the last place for each update summed is far below this; a client counted twice far above.
_TOLERANCE: Final = 1e-12


@dataclass(frozen=True)
class Verdict:
    """The counts, and what is wrong, for people; nothing if all is well."""

    aggregates: int
    updates: int
    scores: int
    lost: int
    counted_twice: int
    problems: tuple[str, ...]


def judge(home: Path, journals: list[Path]) -> Verdict:
    """Hold what the participants wrote down against FMA's tables, and each aggregate's file against its updates'."""
    taken = [json.loads(line)["update"] for journal in journals for line in journal.read_text().splitlines()]
    with closing(sqlite3.connect(home / "fma.db")) as file:
        file.row_factory = sqlite3.Row
        updates = file.execute("SELECT * FROM fma_django_modelupdate").fetchall()
        aggregates = file.execute("SELECT * FROM fma_django_modelaggregate ORDER BY created_on").fetchall()
        scores = file.execute("SELECT count(*) FROM fma_django_clientaggregatescore").fetchone()[0]
        # What went into each, as the hub's own record of the round has it.
        manifests = dict(file.execute("SELECT id, manifest FROM model_aggregate").fetchall())
    used = Counter(given["update_id"] for manifest in manifests.values() for given in json.loads(manifest)["inputs"])
    lost = [update for update in taken if not used[update]]
    twice = [update for update in taken if used[update] > 1]
    problems = [f"update {update} was taken and is in no aggregate" for update in lost]
    problems += [f"update {update} is in {used[update]} aggregates" for update in twice]
    problems += [f"update {row['id']} is not COMPLETE" for row in updates if row["status"] != _COMPLETE]
    parents = [row["parent_id"] for row in aggregates]
    if parents != [None, *(row["id"] for row in aggregates[:-1])]:
        problems.append(f"the aggregates are no chain: {parents}")
    for row in aggregates:
        inputs = [update["data"] for update in updates if update["applied_aggregate_id"] == row["id"]]
        difference = _farthest(_mean(home, inputs), _read(home, row["result"])) if inputs else float("inf")
        if difference > _TOLERANCE:
            problems.append(f"aggregate {row['id']} is not the mean of its {len(inputs)} updates: {difference:g} off")
    return Verdict(len(aggregates), len(updates), scores, len(lost), len(twice), tuple(problems))


def _read(home: Path, path: str) -> list[Any]:
    layers: list[Any] = json.loads((home / "media" / path).read_text())
    return [np.array(layer) for layer in layers]


def _mean(home: Path, paths: list[str]) -> list[Any]:
    return [np.mean(layers, axis=0) for layers in zip(*(_read(home, path) for path in paths), strict=True)]


def _farthest(one: list[Any], other: list[Any]) -> float:
    return max(float(np.max(np.abs(a - b))) for a, b in zip(one, other, strict=True))
