"""FMA's order of steps, each committed by itself: `python -m tests.chaos.peers.fma_logic DATABASE_URL`, until killed.

A tick pulls what is pending, checks the requirement, registers it as RUNNING, pulls *all* that is RUNNING, averages
it, posts the aggregate, and marks its updates. The order is that of the service's scheduled job (DESIGN 1.1 has its
verbs); the code is ours. Two ticks at once, or one after a crash, meet each other's RUNNING updates.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import psycopg

_TICK_SECONDS = 0.05


def tick(database: psycopg.Connection) -> None:
    """One look, and one aggregate if the requirement is met."""
    [(gate,)] = database.execute("SELECT gate FROM policy").fetchall()
    latest = database.execute("SELECT max(id) FROM aggregate").fetchone()
    pending = [name for (name,) in database.execute("SELECT id FROM model_update WHERE status = 'PENDING'")]
    if len(pending) < gate:
        return
    database.execute("UPDATE model_update SET status = 'RUNNING' WHERE id = ANY(%s)", (pending,))
    running = database.execute("SELECT id, data FROM model_update WHERE status = 'RUNNING' ORDER BY id").fetchall()
    if not running:
        return
    names = [name for name, _ in running]
    mean = np.mean([json.loads(data) for _, data in running], axis=0)
    posted = database.execute(
        "INSERT INTO aggregate (parent, included, data) VALUES (%s, %s, %s) RETURNING id",
        (None if latest is None else latest[0], json.dumps(names), json.dumps(mean.tolist())),
    ).fetchone()
    assert posted is not None
    database.execute("UPDATE model_update SET aggregate = %s WHERE id = ANY(%s)", (posted[0], names))
    database.execute("UPDATE model_update SET status = 'COMPLETE' WHERE id = ANY(%s)", (names,))


def main(url: str) -> None:
    """Tick for ever."""
    with psycopg.connect(url, autocommit=True) as database:
        while True:
            tick(database)
            time.sleep(_TICK_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1])
