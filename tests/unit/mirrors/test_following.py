"""A follower asks the hub and hands on, whatever fails in between; what a mirror keeps is shown in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID, uuid4

import pytest

from fedqueue.errors import HubFailed, Rejected, StoreUnreachable
from fedqueue.messages import ArtifactView, MetricsView, ModelView, ProgressView
from fedqueue.messages.notifications import Notification
from fedqueue.mirrors.following import Follower
from tests.bridges.mirrored import artifact_view, metrics_view, model_view, progress_view

ONE, OTHER = UUID(int=1), UUID(int=2)


class Hub:
    """What a client would be told; `away` of a model: an error in its place."""

    def __init__(self) -> None:
        self.status = "RUNNING"
        self.published: list[ArtifactView] = []
        self.away: dict[UUID, Exception] = {}

    def get_model(self, model_id: UUID) -> ModelView:
        if model_id in self.away:
            raise self.away[model_id]
        return model_view(model_id=model_id, status=self.status, published=self.published)

    def progress(self, model_id: UUID) -> ProgressView:
        return progress_view(self.status)

    def metrics(self, model_id: UUID) -> MetricsView:
        return metrics_view([0.5])


class Shown:
    """A mirror that writes down what it is handed; `away`: its error."""

    name = "shown"

    def __init__(self, kept: set[UUID]) -> None:
        self.kept = kept
        self.calls: list[Any] = []
        self.files: dict[str, bytes] = {}
        self.away: Exception | None = None

    def recall(self) -> set[UUID]:
        if self.away is not None:
            raise self.away
        return set(self.kept)

    def show(self, model: ModelView, progress: ProgressView, metrics: MetricsView) -> None:
        if self.away is not None:
            raise self.away
        self.kept.add(model.model_id)
        self.calls.append(model.model_id)

    def lacks(self, model: ModelView, artifact: ArtifactView) -> bool:
        return artifact.version not in self.files

    def show_artifact(self, model: ModelView, progress: ProgressView, artifact: ArtifactView, file: Path) -> None:
        self.files[artifact.version] = file.read_bytes()

    def leave(self, model_id: UUID) -> None:
        self.kept.discard(model_id)
        self.calls.append(("left", model_id))

    def end(self, model_id: UUID) -> None:
        self.kept.discard(model_id)
        self.calls.append(("ended", model_id))


class Blobs:
    """A store; `away`: its error."""

    away: Exception | None = None

    def copy(self, uri: str, digest: str, file: BinaryIO) -> None:
        if self.away is not None:
            raise self.away
        file.write(digest.encode())


class World:
    """A follower among them."""

    def __init__(self, **options: Any) -> None:
        self.hub, self.store, self.mirror = Hub(), Blobs(), Shown(set())
        self.options = options
        self.start()

    def start(self) -> None:
        """The follower anew, as after a kill: of before it knows what the mirror keeps."""
        self.follower = Follower(self.hub, self.store, self.mirror, **self.options)  # type: ignore[arg-type]

    def hear(self, event: str = "aggregate.posted", model_id: UUID = ONE) -> None:
        self.follower.hear(Notification(event=event, key=str(uuid4()), model_id=model_id))


@pytest.fixture
def world() -> World:
    return World()


def test_a_fact_that_nobody_remembers_is_heard_again(world: World) -> None:
    """Of a model that the mirror keeps it need not be: it is looked at again, after a restart as well."""
    world.mirror.away = OSError("no server")
    with pytest.raises(OSError, match="no server"):
        world.hear()
    world.mirror.away = None
    world.hear()
    world.mirror.away = OSError("no server")
    world.hear()
    world.mirror.away = None
    world.start()
    world.follower.look()
    assert world.mirror.calls == [ONE, ONE]


def test_a_fact_of_a_run_that_is_over_is_heard_until_it_is_shown(world: World) -> None:
    """No restart would come back to the model: it may have ended long ago."""
    world.hear()
    world.hub.status = "RESULTS_UPLOADED"
    world.hear("model.finished")
    world.mirror.away = OSError("no server")
    with pytest.raises(OSError, match="no server"):
        world.hear("artifact.published")


def test_a_mirror_that_is_away_at_the_start_recalls_later(world: World) -> None:
    world.mirror.kept.add(ONE)
    world.mirror.away = OSError("no server")
    with pytest.raises(OSError, match="no server"):
        world.follower.look()
    world.mirror.away = None
    world.follower.look()
    assert world.mirror.calls == [ONE]


def test_one_model_that_can_not_be_shown_holds_up_no_other(world: World) -> None:
    world.hear()
    world.hear(model_id=OTHER)
    world.hub.away[ONE] = HubFailed("it broke")
    world.follower.look()
    assert world.mirror.calls == [ONE, OTHER, OTHER]


def test_points_that_come_late_are_shown_for_a_while() -> None:
    """A run's last points take another way to the hub than its status does, and may come after it."""
    for late_seconds, calls in ((60.0, [ONE, ONE, ONE]), (0.0, [ONE, ONE, ("left", ONE)])):
        world = World(late_seconds=late_seconds)
        world.hub.status = "STOPPED"
        world.hear("model.finished")
        world.follower.look()
        world.follower.look()
        assert world.mirror.calls == calls


def test_a_model_whose_run_begins_anew_is_followed_on() -> None:
    world = World(late_seconds=0.0)
    world.hub.status = "STOPPED"
    world.hear("model.finished")
    world.hub.status = "INITIATED"
    for _ in range(3):
        world.follower.look()
    assert world.mirror.calls == [ONE] * 4


@pytest.mark.parametrize("is_told", [True, False])
def test_of_a_deleted_model_nothing_more_is_shown(world: World, is_told: bool) -> None:
    world.hear()
    world.hub.away[ONE] = Rejected("UnknownModel", None, "there is none")
    if is_told:
        world.hear("model.deleted")
    for _ in range(2):
        world.follower.look()
    assert world.mirror.calls == [ONE, ("ended", ONE)]


def test_a_published_version_is_shown_once_its_bytes_are_there(world: World) -> None:
    """Also one that nobody was told of, and no second time; the metrics wait for none."""
    world.hub.published = [artifact_view("1.0", "a" * 64)]
    world.store.away = StoreUnreachable("not mounted")
    with pytest.raises(StoreUnreachable):
        world.hear()
    assert world.mirror.calls == [ONE]
    world.store.away = None
    world.follower.look()
    world.hub.published.append(artifact_view("2.0", "b" * 64))
    world.follower.look()
    world.store.away = StoreUnreachable("nobody should ask")
    world.follower.look()
    assert world.mirror.files == {"1.0": b"a" * 64, "2.0": b"b" * 64}
