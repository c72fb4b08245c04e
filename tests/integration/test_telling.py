"""What an FL server's bridge tells a hub that really runs, and what becomes of it while the hub is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from config.loading import load_settings
from fedqueue import Client
from fedqueue.bridges.telling import Telling
from worker.supervisor import Supervisor


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Supervisor(load_settings(None, home=tmp_path_factory.mktemp("hub"))) as running:
        settings = running.settings
        with Client(settings.broker_url, settings.result_url, settings.store_url) as client:
            yield client


@pytest.fixture
def model(hub: Client) -> UUID:
    return hub.create_model().model_id


def telling(hub: Client, model: UUID) -> Telling:
    return Telling(hub, model, "test", {"north": "north"}.get)


def until(holds: Callable[[], object]) -> None:
    """What is told is not waited for: the hub takes it in its time."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def lines(hub: Client, model: UUID) -> list[str]:
    return [line.text for line in hub.iter_logs(model) if not line.success]


def points(hub: Client, model: UUID, label: str) -> list[tuple[float, float]]:
    plots = [plot for plot in hub.metrics(model).plots if plot.label == label]
    return [(point.x_value, point.result) for plot in plots for series in plot.series for point in series.points]


def test_what_is_told_again_counts_once_and_what_is_measured_anew_counts(hub: Client, model: UUID) -> None:
    """A server that was killed tells its round again: the same failure, and perhaps another loss."""
    for loss in (0.5, 0.5, 0.25):
        again = telling(hub, model)
        again.failure(2, "node 7", "out of memory")
        again.point("train loss", 2, loss)
        again.send_all()
    until(lambda: len(points(hub, model, "train loss")) == 2)
    assert sorted(points(hub, model, "train loss")) == [(2, 0.25), (2, 0.5)]
    assert sum("out of memory" in line for line in lines(hub, model)) == 1


def test_a_failure_of_any_length_is_told_and_what_is_no_event_ends_nothing(
    hub: Client, model: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """A participant's traceback may be longer than any line, and its metrics' names are its own."""
    told = telling(hub, model)
    told.failure(1, "node 7", "x" * 100_000 + " at the end")
    told.point("y" * 1000, 1, 0.5)
    told.point("accuracy", -1, 0.5)
    told.point("steps", -1, 0.5, x_label="Steps")
    told.send_all()
    until(lambda: any(line.endswith("at the end") for line in lines(hub, model)))
    until(lambda: points(hub, model, "steps") == [(-1, 0.5)])
    assert caplog.text.count("not told to the hub") == 2


def test_a_hub_that_is_away_holds_up_no_round_and_hears_of_it_later(tmp_path: Path) -> None:
    """Told while nothing runs; the hub that comes back has it all."""
    settings = load_settings(None, home=tmp_path / "hub")
    with Client(settings.broker_url, settings.result_url, settings.store_url) as client:
        with Supervisor(settings):
            model = client.create_model().model_id
        told = telling(client, model)
        began = time.monotonic()
        told.failure(1, "node 7", "out of memory")
        told.send()
        assert time.monotonic() - began < 10
        with Supervisor(settings):
            until(lambda: any("out of memory" in line for line in lines(client, model)))
