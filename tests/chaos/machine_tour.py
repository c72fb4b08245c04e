"""A way through the whole hub that comes by every failpoint, for a worker to die at a chosen one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from connectors.records import UpdateStatus
from tests.chaos.failpoints import Failpoint
from tests.chaos.machine_workers import Fate
from tests.chaos.machine_world import DAY_MS, LEASE_MS, World

_REST_MS = 120_000  # beyond the rest of any update


def tour(world: World, point: Failpoint) -> None:
    """What a hub does, as far as it takes to come by the point; the first worker that does dies there."""
    _make_model(world, point)
    _Tour(world, point).go()


def zombie(world: World, point: Failpoint) -> None:
    """A worker sleeps at the point, another takes its round up, and it wakes up."""
    _make_model(world, point)
    _Tour(world, point).zombie()


def _make_model(world: World, point: Failpoint) -> None:
    world.create(
        # Inline data goes through the hub's own staging.
        data_format="json" if point is Failpoint.STAGED else "safetensors",
        requirement="require_x_updates",
        requirement_args=[2],
        # So that updates grow stale.
        furthest_base_agg=1,
        score_metric="loss",
    )


class _Tour:
    def __init__(self, world: World, point: Failpoint) -> None:
        self._world = world
        self._point = point

    def go(self) -> None:
        """The parts of the hub's life in which the point lies."""
        group = self._point.partition(".")[0]
        for part in _PARTS.get(group, (_Tour._first_round,)):
            part(self)

    def zombie(self) -> None:
        """See above."""
        world = self._world
        self._submit(0, 1)
        world.look(Fate(sleeps_at=self._point))
        world.turn(LEASE_MS + 1)
        world.look(Fate())
        self._settle()
        world.wake(0, Fate())

    def _first_round(self) -> None:
        """While it is combined a third update comes, of the same base: it is stale when the round is posted."""
        world = self._world
        self._submit(0, 1)
        fate = self._fate()
        fate.sleeps_at = Failpoint.CLAIM_COMMITTED
        world.look(fate)
        self._submit(2)
        world.wake(0, self._fate())
        world.look(self._fate())
        self._settle()

    def _rescue(self) -> None:
        self._submit(0, 1)
        self._world.look(Fate(dies_at=Failpoint.OPENED))
        self._world.turn(LEASE_MS + 1)
        self._settle()

    def _faults(self) -> None:
        for fault in ("away", "few", "corrupt"):
            self._submit(0, 1)
            fate = self._fate()
            fate.fault = fault
            self._world.look(fate)
            self._settle()

    def _events(self) -> None:
        self._world.tell(["line", "point", "stranger", "status"])
        self._serve()

    def _the_rest(self) -> None:
        world = self._world
        world.score(0, 3)
        world.edit(1)
        world.register(0)
        world.stand("RUNNING")
        world.litter()
        self._serve()
        world.turn(DAY_MS)
        world.collect()
        self._serve()

    # --- parts ------------------------------------------------------------------------------------

    def _submit(self, *clients: int) -> None:
        for client in clients:
            self._world.submit(client, client, client + 1, 0, self._fate())
        # Whose worker died asks again.
        self._serve_submissions()

    def _settle(self) -> None:
        """Until no update waits that could be counted: what a fault or a death leaves behind is taken up."""
        for _ in range(10):
            self._world.turn(_REST_MS)
            self._world.sweep()
            self._serve()
            counts = self._world.hub.metadata.count_model_updates(self._world.model)
            open_ones = counts[UpdateStatus.PENDING] + counts[UpdateStatus.FAILED] + counts[UpdateStatus.RUNNING]
            if open_ones < 2:
                return
        raise AssertionError(f"the rounds do not go on: {counts}")

    def _serve(self) -> None:
        """Everything that waits, hints last of all as they come."""
        for _ in range(200):
            if not self._world.waiting:
                return
            self._world.deliver(0, self._fate())
        raise AssertionError("the messages come to no end")

    def _serve_submissions(self) -> None:
        for _ in range(5):
            waiting = [m for m in self._world.waiting if m.task == "fedqueue.updates.submit"]
            if not waiting:
                return
            self._world.deliver(self._world.waiting.index(waiting[0]), self._fate())

    def _fate(self) -> Fate:
        return Fate() if self._world.tally.deaths[self._point] else Fate(dies_at=self._point)


_PARTS: Final[dict[str, tuple[Callable[[_Tour], None], ...]]] = {
    "rescue": (_Tour._rescue,),
    "give_back": (_Tour._faults,),
    "let_go": (_Tour._faults,),
    "set_aside": (_Tour._faults,),
    "events": (_Tour._events,),
    "dead_letter": (_Tour._events,),
    "status": (_Tour._events,),
    "score": (_Tour._first_round, _Tour._the_rest),
    "change": (_Tour._the_rest,),
    "garbage": (_Tour._first_round, _Tour._the_rest),
}
