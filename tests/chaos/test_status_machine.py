"""A model's status under every order of messages that Hypothesis can think of, held to an oracle after each.

User actions, callbacks of three runs and of none, the hub's own rounds, messages that come again or late, an event id
used for two things, deletion. Then the same from two connections at once: what comes of it must be what would have come
of some order of the two.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import combinations, product
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from connectors.memory import InMemoryMetadataConnector
from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel, ModelStatus
from connectors.sql.connector import SqlAlchemyMetadataConnector
from fedqueue.messages import ModelRef
from fedqueue.messages.feed import UpdateStatus
from tasks.domain.deletion import delete_model
from tasks.domain.errors import EventReused, UnknownModel
from tasks.domain.lifecycle import advance
from tasks.domain.runs import update_status
from tests.chaos.domain_hub import domain_hub
from tests.chaos.status_oracle import ORDER, OVER, STATUSES, Ask, Oracle, standing
from tests.contract.conftest import migrated_url

SHORT_FORM = 250
EXAMPLES = int(os.environ.get("STATUS_EXAMPLES", SHORT_FORM))

_RUNS = ("A", "B", "C")
_STATUSES = st.sampled_from([status for status in STATUSES if status != "PENDING"])
_USERS = st.sampled_from(["ada", "bob"])
_EVENTS = st.none() | st.sampled_from(["e1", "e2", "e3", "e4", "e5", "e6"])

_CALLBACKS = st.builds(Ask, _STATUSES, run=st.none() | st.sampled_from(_RUNS), event=_EVENTS)
# An INITIATED twice as often as the others: a machine that seldom comes out of a final state shows little.
_USER_STATUSES = st.sampled_from(["INITIATED", "INITIATED", "STOPPED", "ERROR", "RUNNING"])
_USER_ASKS = st.builds(Ask, _USER_STATUSES, run=st.none() | st.sampled_from(_RUNS), user=_USERS, event=_EVENTS)
_ASKS = st.one_of(_CALLBACKS, _CALLBACKS, _USER_ASKS)

# What was reached over all examples: a machine that never begins a second run has shown nothing.
_reached: Counter[str] = Counter()


class World:
    """One model in a hub, and UUIDs for the labels that the oracle uses."""

    def __init__(self, metadata: BaseMetadataConnector, folder: Path) -> None:
        self.hub = domain_hub(metadata, folder, notify_task="theirs.hear", notify_queue="theirs")
        self.uuids = {label: uuid4() for label in (*_RUNS, "e1", "e2", "e3", "e4", "e5", "e6")}
        with metadata.transaction():
            self.model = metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4()))

    def ask(self, ask: Ask) -> str:
        """Send it; `changed`, `ignored` or `refused`."""
        message = UpdateStatus(
            model_id=self.model.uuid,
            status=ask.status,
            run_id=self._uuid(ask.run),
            user_id=ask.user,
            event_id=self._uuid(ask.event),
        )
        try:
            return "changed" if update_status(self.hub, message).changed else "ignored"
        except (UnknownModel, EventReused):
            return "refused"

    def delete(self, user: str | None) -> str:
        """Delete the model; `changed` or `ignored`."""
        return "changed" if delete_model(self.hub, ModelRef(model_id=self.model.uuid, user_id=user)) else "ignored"

    def advance(self, status: str) -> None:
        """The hub's own rounds move the model on, under its lock."""

        def move(_: object) -> None:
            locked = self.hub.metadata.lock_model(self.model)
            if not locked.deleted:
                advance(self.hub, locked, ModelStatus(status))

        self.hub.metadata.transact(move)

    def standing(self) -> Oracle:
        """How the model stands, in the oracle's words."""
        return standing(self.hub.metadata, self.model, {self.uuids[run]: run for run in _RUNS})

    def _uuid(self, label: str | None) -> UUID | None:
        return None if label is None else self.uuids[label]


def same(found: Oracle, expected: Oracle) -> bool:
    """Whether they agree in everything that can be seen from outside."""
    return _seen(found) == _seen(expected)


def _seen(oracle: Oracle) -> dict[str, Any]:
    return {name: value for name, value in vars(oracle).items() if name != "events"}


class Statuses(RuleBasedStateMachine):
    """One model, whoever asks."""

    metadata: BaseMetadataConnector
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.metadata, self.folder)
        self.oracle = Oracle()
        self.sent: list[Ask] = []

    @rule(ask=_ASKS)
    def asked(self, ask: Ask) -> None:
        self.sent.append(ask)
        self._ask(ask)

    @rule(which=st.integers(0, 50))
    def comes_again(self, which: int) -> None:
        """Any earlier message, delivered once more."""
        if self.sent:
            self._ask(self.sent[which % len(self.sent)])

    @rule(status=st.sampled_from(["INITIATED", "RUNNING", "RUNNING", "RESULTS_UPLOADED", "ERROR"]))
    def hub_moves_on(self, status: str) -> None:
        self.world.advance(status)
        self.oracle.ask(Ask(status))
        self._compare(Ask(status))

    @rule(chance=st.integers(0, 9), user=_USERS)
    def deleted(self, chance: int, user: str) -> None:
        if chance == 0:
            assert self.world.delete(user) == self.oracle.delete(user)
            self._compare("deleted")

    def _ask(self, ask: Ask) -> None:
        before = self.oracle.copy()
        answer = self.world.ask(ask)
        assert answer == self.oracle.ask(ask), ask
        self._compare(ask)
        _reached[answer] += 1
        if self.oracle.run == before.run:
            # I5, said once more without the oracle's own rules.
            rank = {**ORDER, **dict.fromkeys(OVER, 4)}
            assert rank[self.oracle.status] > rank[before.status] or self.oracle.status == before.status
        else:
            _reached["another run"] += 1

    def _compare(self, after: object) -> None:
        found = self.world.standing()
        assert _seen(found) == _seen(self.oracle), after
        changes = [action for action, _ in found.audit if action != "DELETE"]
        fed = [status for status, _, _ in found.feed]
        assert changes == fed, "one feed row and one audit row a change (I9)"
        finished = [run for event, run, _ in found.told if event == "model.finished"]
        assert len(finished) == len(set(finished)), "model.finished once a run"
        _reached[self.oracle.status] += 1


@pytest.fixture(params=["memory", "sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def metadata(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseMetadataConnector]:
    made: BaseMetadataConnector
    if request.param == "memory":
        made = InMemoryMetadataConnector()
    else:
        made = SqlAlchemyMetadataConnector(migrated_url(request, tmp_path))
    yield made
    made.close()


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=20,
        derandomize=EXAMPLES == SHORT_FORM,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_order_of_messages_leads_where_the_rules_do_not(
    metadata: BaseMetadataConnector, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    _reached.clear()
    machine = type("MachineOfThisDatabase", (Statuses,), {"metadata": metadata, "folder": tmp_path})
    in_memory = isinstance(metadata, InMemoryMetadataConnector)
    run_state_machine_as_test(machine, settings=_settings(EXAMPLES if in_memory else EXAMPLES // 2))
    for outcome in ("changed", "ignored", "refused", "another run", *(s for s in STATUSES if s != "PENDING")):
        assert _reached[outcome] > 0, f"{outcome!r} was never reached: {dict(_reached)}"


# --- two at once -----------------------------------------------------------------------------------

Deed = Ask | str  # a message, or the user who deletes the model
_DEEDS = st.lists(st.one_of(_ASKS, _ASKS, _ASKS, _ASKS, _ASKS, _USERS), min_size=1, max_size=3)


def _does(world: World | Oracle, deed: Deed) -> str:
    return world.ask(deed) if isinstance(deed, Ask) else world.delete(deed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "metadata", ["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)], indirect=True
)
def test_two_who_ask_at_once_get_what_some_order_of_them_would_have_got(
    metadata: BaseMetadataConnector, tmp_path: Path
) -> None:
    """Answers, status, audit, feed and notifications, all of one serial order."""
    examples = EXAMPLES // 2
    met = 0

    @_settings(examples)
    @given(before=st.lists(_ASKS, max_size=3), ones=_DEEDS, others=_DEEDS)
    def check(before: list[Ask], ones: list[Deed], others: list[Deed]) -> None:
        nonlocal met
        world, start = World(metadata, tmp_path), Oracle()
        for ask in before:
            assert world.ask(ask) == start.ask(ask)
        barrier = Barrier(2)
        found, times = zip(*threads.map(partial(_act, world, barrier), (ones, others)), strict=True)
        met += any(a[0] < b[1] and b[0] < a[1] for a, b in product(*times))
        stands = world.standing()
        assert any(
            _fits(start.copy(), turns, (ones, others), found, stands) for turns in _turns(len(ones), len(others))
        )

    with ThreadPoolExecutor(2) as threads:
        check()
    assert met > examples // 2, f"they met in {met} of {examples} examples: this showed little"


def _act(world: World, barrier: Barrier, deeds: list[Deed]) -> tuple[list[str], list[tuple[float, float]]]:
    """Do them one after another, each at a moment of its own; the answers, and when each was under way."""
    answers, times = [], []
    barrier.wait(30)
    for deed in deeds:
        began = time.monotonic()
        answers.append(_does(world, deed))
        times.append((began, time.monotonic()))
        # Else whoever has the lock would have it again before the other has noticed that it was free.
        time.sleep(random.uniform(0, 0.004))
    return answers, times


def _fits(
    oracle: Oracle,
    turns: tuple[int, ...],
    deeds: tuple[list[Deed], list[Deed]],
    found: Sequence[list[str]],
    stands: Oracle,
) -> bool:
    answers: list[list[str]] = [[], []]
    for who in turns:
        answers[who].append(_does(oracle, deeds[who][len(answers[who])]))
    return answers == list(found) and same(stands, oracle)


@cache
def _turns(ones: int, others: int) -> list[tuple[int, ...]]:
    """Every order in which the two may take turns: whose turn it is, step by step."""
    steps = ones + others
    return [tuple(0 if step in chosen else 1 for step in range(steps)) for chosen in combinations(range(steps), ones)]
