"""The pool is asked for tasks of killed processes more often than Celery asks it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.asynchronous import Hub

from worker.lost_tasks import LOOK_SECONDS, LostTasks


def let_it_run(hub: Any, looks: list[float], count: int) -> None:
    """Until there were so many looks: how long that takes is the machine's affair."""
    while len(looks) < count:
        hub.fire_timers()
        time.sleep(0.02)


@pytest.fixture
def hub() -> Any:
    """Celery's own event loop, driven by hand."""
    return Hub()  # type: ignore[no-untyped-call]


def test_the_pool_looks_again_and_again(hub: Any) -> None:
    looks: list[float] = []
    worker = SimpleNamespace(pool=SimpleNamespace(maintain_pool=lambda: looks.append(time.monotonic())))
    step = LostTasks(worker)
    step.register_with_event_loop(worker, hub)
    let_it_run(hub, looks, 3)


def test_after_a_loss_of_the_broker_it_looks_no_more_often_than_before(hub: Any) -> None:
    looks: list[float] = []
    worker = SimpleNamespace(pool=SimpleNamespace(maintain_pool=lambda: looks.append(time.monotonic())))
    step = LostTasks(worker)
    began = time.monotonic()
    for _ in range(10):
        step.register_with_event_loop(worker, hub)
    let_it_run(hub, looks, 3)
    # One each half second, and the first at once.
    assert len(looks) <= 1 + (time.monotonic() - began) / LOOK_SECONDS


def test_a_pool_of_one_process_is_left_alone(hub: Any) -> None:
    worker = SimpleNamespace(pool=SimpleNamespace())
    LostTasks(worker).register_with_event_loop(worker, hub)
    assert len(hub.timer) == 0
