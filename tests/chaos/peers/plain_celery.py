"""The same job as a careful engineer writes it first: Celery with its default settings, one transaction a round.

`celery -A tests.chaos.peers.plain_celery worker`; the environment names the broker and the database.
"""

from __future__ import annotations

import json
import os

import numpy as np
import psycopg
from celery import Celery

from tests.chaos.peers.ledger import insert_update

BROKER, DATABASE = "PEER_BROKER_URL", "PEER_DATABASE_URL"

# Neither the current application nor its tasks shared: whoever imports this has an application of its own.
app = Celery("plain", broker=os.environ.get(BROKER), set_as_current=False, fixups=[])


@app.task(shared=False)
def submit(name: str, num_examples: int, values: list[float]) -> None:
    """Write an update down, and send for the aggregation when enough are there."""
    with psycopg.connect(os.environ[DATABASE]) as database:
        insert_update(database, name, num_examples, values)
        [(gate,)] = database.execute("SELECT gate FROM policy").fetchall()
        [(count,)] = database.execute("SELECT count(*) FROM model_update WHERE status = 'PENDING'").fetchall()
    if count >= gate:
        aggregate.delay()


@app.task(shared=False)
def aggregate() -> None:
    """Average what is pending and mark it, in one transaction."""
    with psycopg.connect(os.environ[DATABASE]) as database:
        [(gate,)] = database.execute("SELECT gate FROM policy").fetchall()
        latest = database.execute("SELECT max(id) FROM aggregate").fetchone()
        pending = database.execute("SELECT id, data FROM model_update WHERE status = 'PENDING' ORDER BY id").fetchall()
        if len(pending) < gate:
            return
        names = [name for name, _ in pending]
        mean = np.mean([json.loads(data) for _, data in pending], axis=0)
        posted = database.execute(
            "INSERT INTO aggregate (parent, included, data) VALUES (%s, %s, %s) RETURNING id",
            (None if latest is None else latest[0], json.dumps(names), json.dumps(mean.tolist())),
        ).fetchone()
        assert posted is not None
        database.execute(
            "UPDATE model_update SET status = 'COMPLETE', aggregate = %s WHERE id = ANY(%s)", (posted[0], names)
        )
