"""One death at each failpoint in turn, on every kind of metadata: recovered from, and everything counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from connectors.sql.connector import SqlAlchemyMetadataConnector
from tests.chaos.failpoint_hooks import hooked
from tests.chaos.failpoints import ALL, IN_PROCESS, SUSPENDABLE, Failpoint
from tests.chaos.machine_grounds import Ground, MemoryGround, PostgresGround, SqliteGround, new_folder, quietly
from tests.chaos.machine_rest import drain
from tests.chaos.machine_tour import tour, zombie
from tests.chaos.machine_workers import Tally
from tests.chaos.machine_world import World
from tests.servers import Server, fresh_database


@pytest.fixture(autouse=True)
def _hooked() -> Iterator[None]:
    with quietly(), hooked():
        yield


@pytest.fixture(scope="module")
def migrated(postgres: Server) -> Iterator[str]:
    """A database with the schema, to be copied: a migration takes longer than a test."""
    with fresh_database(postgres) as url:
        metadata = SqlAlchemyMetadataConnector(url)
        metadata.update_database()
        metadata.close()
        yield url


@pytest.fixture
def copied(migrated: str) -> Iterator[str]:
    """A copy of it for one test."""
    place, _, template = migrated.rpartition("/")
    name = f"{template}_copy"
    with psycopg.connect(f"{place}/postgres".replace("+psycopg", ""), autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        yield f"{place}/{name}"
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.parametrize("point", IN_PROCESS)
@pytest.mark.parametrize("kind", [MemoryGround, SqliteGround])
def test_a_death_at_a_failpoint_is_recovered_from(kind: Callable[[Path], Ground], point: Failpoint) -> None:
    _die_once(kind, point)


@pytest.mark.wide
@pytest.mark.parametrize("point", IN_PROCESS)
def test_a_death_at_a_failpoint_is_recovered_from_on_postgresql(copied: str, point: Failpoint) -> None:
    _die_once(lambda folder: PostgresGround(copied), point)


@pytest.mark.parametrize("point", SUSPENDABLE)
@pytest.mark.parametrize("kind", [MemoryGround, SqliteGround])
def test_a_worker_that_sleeps_at_a_failpoint_wakes_up_fenced_off(
    kind: Callable[[Path], Ground], point: Failpoint
) -> None:
    """Unless it had posted: then it only tells of it, late."""
    with _world_on(kind) as world:
        zombie(world, point)
        drain(world)
        assert world.tally.outcomes["fenced"] == (point is not Failpoint.POST_COMMITTED)


@pytest.mark.parametrize("kind", [MemoryGround, SqliteGround])
def test_a_day_asleep_with_a_stored_result_names_no_blob_that_was_collected(kind: Callable[[Path], Ground]) -> None:
    """A laptop is shut between a round's result and its post. When it wakes up, the hourly collection comes first."""
    with _world_on(kind) as world:
        world.create(data_format="safetensors", requirement="require_x_updates", requirement_args=[2])
        for client in (0, 1):
            world.submit(client, client, 1, 0, "lives")
        world.doze_at(world.waiting[-1], Failpoint.RESULT_STORED)
        assert world.tally.points[Failpoint.GARBAGE_TAKEN_ASIDE], "nothing was collected: this has shown nothing"
        assert world.tally.outcomes["posted"] == 0
        drain(world)
        assert world.tally.outcomes["posted"] == 1


def _die_once(kind: Callable[[Path], Ground], point: Failpoint) -> None:
    with _world_on(kind) as world:
        tour(world, point)
        assert world.tally.deaths[point] == 1, f"the tour does not come by {point}: {world.tally.points}"
        drain(world)


@contextmanager
def _world_on(kind: Callable[[Path], Ground]) -> Iterator[World]:
    with new_folder() as folder:
        ground = kind(folder)
        try:
            yield World(ground, folder, Tally(), max_attempts=100)
        finally:
            ground.close()


def test_every_failpoint_says_what_it_must_not_do() -> None:
    """The catalogue is read by people: docs/reliability.md prints it."""
    assert all(point.must_not for point in Failpoint)
    assert set(ALL) | set(IN_PROCESS) == set(Failpoint)
    assert set(SUSPENDABLE) < set(IN_PROCESS)
