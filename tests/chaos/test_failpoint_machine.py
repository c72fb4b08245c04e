"""The whole hub under every order of events that Hypothesis can think of, a worker's death at any failpoint among them.

Deliveries in any order and more than once, clients who repeat themselves, leases that run out, workers that sleep
amid a round and wake up as zombies, a store that fails, a broker that loses its hints, days that go by.
MACHINE_EXAMPLES makes it longer.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.chaos.evidence import SEED, Evidence
from tests.chaos.failpoint_hooks import hooked
from tests.chaos.failpoints import IN_PROCESS, Failpoint
from tests.chaos.machine_grounds import Ground, MemoryGround, SqliteGround, new_folder, quietly
from tests.chaos.machine_rest import drain, judge
from tests.chaos.machine_tour import tour, zombie
from tests.chaos.machine_workers import Tally
from tests.chaos.machine_world import CLIENTS, DAY_MS, World

SHORT_FORM = 48
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", SHORT_FORM))
STEPS = 30

_WHICH = st.sampled_from([0, 0, 1, 2, 3, 5, -1, -1, -1, -2])
_CLIENT = st.integers(0, CLIENTS - 1)
_ROUND_FATES = st.sampled_from(["lives", "lives", "dies", "dies", "dies", "sleeps", "fails"])
_FATES = st.sampled_from(["lives", "lives", "dies", "dies", "sleeps"])

_SUBMITTING = st.tuples(
    st.just("submit"),
    _CLIENT,
    st.integers(-50, 50),
    st.integers(1, 9),
    st.integers(0, 2),
    st.sampled_from(["waits", "lives", "lives", "dies"]),
)
_DELIVERING = st.tuples(st.just("deliver"), _WHICH, _FATES)
_LOOKING = st.tuples(st.just("look"), _ROUND_FATES)
_SLEEPING = st.just(("sleep",))
_WAKING = st.tuples(st.just("wake"), _WHICH, st.sampled_from(["lives", "dies"]))
_SERVING = st.tuples(st.just("serve"), st.integers(1, 6))
_TURNING = st.tuples(st.just("turn"), st.sampled_from([5_000, 30_001, 30_001, 90_000, DAY_MS]))
_KINDS = st.sampled_from(["line", "point", "stranger", "status"])
_SENT = st.one_of(
    st.tuples(st.just("tell"), st.lists(_KINDS, min_size=1, max_size=3)),
    st.tuples(st.just("submit_again"), _WHICH),
    st.tuples(st.just("score"), _CLIENT, st.integers(0, 9)),
    st.tuples(st.just("edit"), st.integers(1, 3)),
    st.tuples(st.just("register"), _CLIENT),
    st.tuples(st.just("stand"), st.sampled_from(["PREPARED", "RUNNING"])),
    st.tuples(st.just("collect")),
    st.tuples(st.just("redeliver"), _WHICH),
    st.tuples(st.just("sweep")),
)
# Mostly taken at once: what waits is often never taken before the end, when nobody dies any more.
_SENDING = st.tuples(st.just("then"), _SENT, st.sampled_from(["waits", "lives", "dies", "dies"]))
_HAPPENINGS: st.SearchStrategy[tuple[Any, ...]] = st.sampled_from(
    [_SUBMITTING] * 6
    + [_LOOKING] * 5
    + [_DELIVERING] * 4
    + [_SENDING] * 6
    + [st.just(("doze",)), st.just(("flush",)), _SLEEPING, _WAKING, _WAKING, _SERVING, _TURNING, _TURNING]
).flatmap(lambda happening: happening)

# Over all examples of one machine.
_tally = Tally()


class Machine(RuleBasedStateMachine):
    """One world an example."""

    ground: type[MemoryGround | SqliteGround]

    @initialize(
        data_format=st.sampled_from(["safetensors", "json"]),
        needed=st.integers(1, 3),
        allow_repeats=st.booleans(),
        furthest=st.sampled_from([None, None, 1, 2]),
        max_attempts=st.sampled_from([2, 100]),
    )
    def create(
        self, data_format: str, needed: int, allow_repeats: bool, furthest: int | None, max_attempts: int
    ) -> None:
        self.history = zlib.crc32(repr((data_format, needed, allow_repeats, furthest, max_attempts)).encode())
        self.folder = new_folder()
        folder = self.folder.__enter__()
        ground: Ground = self.ground(folder)
        self.world = World(ground, folder, _tally, max_attempts=max_attempts)
        self.world.create(
            data_format=data_format,
            requirement="require_x_updates",
            requirement_args=[needed],
            allow_repeats=allow_repeats,
            furthest_base_agg=furthest,
            score_metric="loss",
        )

    # One rule with a choice inside, not many rules: Hypothesis leaves rules out of whole examples, and what is
    # interesting takes all of them.
    @rule(happening=_HAPPENINGS)
    def happens(self, happening: tuple[Any, ...]) -> None:
        what, *details = happening
        # Hypothesis's own draws favour some numbers: which of a task's failpoints is died at follows from the whole
        # history instead, so that each has its share and the same draws still do the same.
        self.history = zlib.crc32(repr(happening).encode(), self.history)
        self.world.luck.seed(self.history)
        _tally.steps += 1
        getattr(self.world, what)(*details)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            judge(self.world)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            drain(self.world)
        finally:
            for sleeper in self.world.asleep:
                sleeper.end()
            self.world.ground.close()
            self.folder.__exit__(None, None, None)


class InMemory(Machine):
    """Over the reference connector."""

    ground = MemoryGround


class InSqlite(Machine):
    """Over a real file."""

    ground = SqliteGround


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("machine", "examples"),
    [
        pytest.param(InMemory, EXAMPLES, id="memory"),
        pytest.param(InSqlite, EXAMPLES // 4, id="sqlite", marks=pytest.mark.wide),
    ],
)
def test_no_death_at_any_failpoint_breaks_an_invariant(
    machine: type[Machine], examples: int, evidence: Evidence
) -> None:
    _tally.clear()
    violated: BaseException | None = None
    with quietly(), hooked():
        try:
            _run(machine, examples)
        except BaseException as error:
            violated = error
            raise
        finally:
            # What chance has left out, so that no run is without any of them.
            left_out = [point for point in IN_PROCESS if not _tally.deaths[point]] if violated is None else []
            for point in left_out:
                _visit(machine, tour, point)
            if violated is None and not _tally.outcomes["fenced"]:
                _visit(machine, zombie, Failpoint.RESULT_STORED)
            deaths = _tally.deaths
            evidence(
                "machine",
                "memory" if machine is InMemory else "sqlite",
                examples=examples,
                steps=_tally.steps,
                crashes=_tally.crashes,
                failpoints=sum(deaths[point] > 0 for point in IN_PROCESS),
                least_hit=min(deaths[point] for point in IN_PROCESS),
                toured=len(left_out),
                posted=_tally.outcomes["posted"],
                fenced=_tally.outcomes["fenced"],
                violations=int(violated is not None),
            )
    assert min(deaths[point] for point in IN_PROCESS) > 0, "a failpoint that nobody died at"
    assert _tally.outcomes["fenced"] > 0, "no zombie was fenced off: this has shown nothing"


def _run(machine: type[Machine], examples: int) -> None:
    is_short = EXAMPLES == SHORT_FORM
    run_state_machine_as_test(
        machine if is_short else seed(SEED)(machine),
        settings=settings(
            max_examples=examples,
            # The short form tries the same orders every time; the long form draws.
            derandomize=is_short,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )


def _visit(machine: type[Machine], way: Callable[[World, Failpoint], None], point: Failpoint) -> None:
    with new_folder() as folder:
        ground = machine.ground(folder)
        try:
            world = World(ground, folder, _tally, max_attempts=100)
            way(world, point)
            drain(world)
        finally:
            ground.close()
