"""A store that goes away in the middle of the work: everything waits for it, and nobody is blamed."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from fedqueue import Client
from tests.chaos.evidence import Evidence
from tests.chaos.faults import hub_settings, hub_under_traffic
from tests.chaos.traffic import wait_until
from tests.servers import valkey_server

_OUTAGES = 2
# More than the failed rounds after which updates become suspects, and their models ERROR.
_ROUNDS = 7


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "left_behind", ["an empty folder", pytest.param("nothing", marks=pytest.mark.wide)], ids=["empty", "gone"]
)
def test_a_store_that_goes_away_and_comes_back_costs_time_alone(
    left_behind: str, tmp_path: Path, evidence: Evidence
) -> None:
    """An empty folder is what an unmounted file system leaves: it looks like a store without any blob.

    Each time a round is due that needs the store, and a submission is on its way to it.
    """
    intruders: list[Path] = []
    with valkey_server(tmp_path) as broker:
        # Nobody dies here: a lease that a slow machine outlasts would count as an attempt.
        settings = hub_settings(tmp_path, broker.url, lease_seconds=30.0)
        store, elsewhere = settings.home / "store", tmp_path / "elsewhere"
        with (
            hub_under_traffic(settings, tmp_path) as run,
            Client(settings.broker_url, settings.result_url, resend_after=1.0) as hub,
        ):
            model = hub.create_model(initial=[[0.0, 0.0]], requirement=None).model_id
            client = hub.register_client(model).client_id

            def submit() -> None:
                # Small enough to come with the message: it is the hub that stores it.
                hub.submit_update(model, client, [[1.0, 2.0]], num_examples=1, timeout=120)

            for _ in range(_OUTAGES):
                before = hub.latest(model).number
                hub.pause_model(model)
                submit()
                store.rename(elsewhere)
                if left_behind == "an empty folder":
                    store.mkdir()
                hub.resume_model(model)
                on_its_way = threading.Thread(target=submit)
                on_its_way.start()
                run.wait_to_hear("task.postponed", "fedqueue.rounds.aggregate", times=_ROUNDS)
                run.wait_to_hear("task.postponed", "fedqueue.updates.submit")
                assert on_its_way.is_alive()
                intruders += store.rglob("*")
                shutil.rmtree(store, ignore_errors=True)
                elsewhere.rename(store)
                on_its_way.join(120)
                wait_until("round after the outage", lambda: hub.latest(model).number > before, 60)  # noqa: B023
                run.wait_for_answers()
            postponed = {
                task: run.count("task.postponed", task)
                for task in ("fedqueue.rounds.aggregate", "fedqueue.updates.submit")
            }
            outcome = run.end()
    most_tried = max(update["attempts"] for update in outcome.facts.updates)
    evidence(
        "store_away",
        f"{left_behind} left behind",
        outages=_OUTAGES,
        rounds_postponed=postponed["fedqueue.rounds.aggregate"],
        submissions_postponed=postponed["fedqueue.updates.submit"],
        most_attempts_of_an_update=most_tried,
        **outcome.figures(),
    )
    assert intruders == [], "nothing may be written where the store was"
    assert outcome.wrong == []
    assert {update["status"] for update in outcome.facts.updates} <= {"COMPLETE", "INVALID"}
    assert {model["status"] for model in outcome.facts.models} == {"RUNNING"}
    # One round each: what the store's absence ended does not count, and no worker was killed here.
    assert most_tried == 1
