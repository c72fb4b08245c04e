"""Celery's settings: every one whose default was seen to lose or delay something, held in place."""

from __future__ import annotations

from typing import Any

import pytest
from celery import beat
from celery.utils.imports import symbol_by_name

import config.celery as ours
from config.celery import celery_settings
from config.loading import load_settings
from config.settings import Settings
from fedqueue.messages import names


@pytest.fixture
def settings() -> Settings:
    return load_settings(env_file=None, broker_url="redis://broker:6379/0")


@pytest.fixture
def celery(settings: Settings) -> dict[str, Any]:
    return celery_settings(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_acks_late", True),
        ("task_reject_on_worker_lost", True),
        ("worker_prefetch_multiplier", 1),
        ("worker_lost_wait", 2.0),
        ("worker_max_tasks_per_child", 10_000),
        ("worker_soft_shutdown_timeout", 20.0),
        ("worker_cancel_long_running_tasks_on_connection_loss", True),
        ("task_ignore_result", True),
        ("task_serializer", "json"),
        ("result_serializer", "json"),
        ("accept_content", ["json"]),
        ("result_accept_content", ["json"]),
        ("broker_connection_retry_on_startup", True),
        ("broker_connection_max_retries", None),
        ("worker_direct", True),
        ("result_expires", 300.0),
    ],
)
def test_a_setting_that_guards_against_loss_keeps_its_value(celery: dict[str, Any], name: str, value: object) -> None:
    """Each was measured: without late acknowledgement alone, 6 to 12 of 200 messages were lost to kills."""
    assert celery[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visibility_timeout", 1200.0),
        ("held_seconds", 60.0),
        ("unacked_restore_interval", 5),
        ("unacked_restore_throttle", 1),
        ("unacked_mutex_expire", 30),
        ("socket_timeout", 15),
        ("socket_connect_timeout", 5),
        ("socket_keepalive", True),
        ("health_check_interval", 15),
    ],
)
def test_a_transport_option_that_bounds_recovery_keeps_its_value(
    celery: dict[str, Any], name: str, value: object
) -> None:
    assert celery["broker_transport_options"][name] == value


def test_an_idle_worker_does_not_wait_before_it_stops(celery: dict[str, Any]) -> None:
    """With the option on, an idle worker was seen to sleep its whole soft shutdown."""
    assert celery["worker_enable_soft_shutdown_on_idle"] is False


def test_no_message_is_redelivered_while_its_task_may_still_run() -> None:
    longer = load_settings(env_file=None, task_time_limit_seconds=1000.0)
    celery = celery_settings(longer)
    assert celery["task_soft_time_limit"] < celery["task_time_limit"] == 1000
    assert celery["broker_transport_options"]["visibility_timeout"] == 4000


def test_the_names_spelt_here_are_those_of_the_wire_contract() -> None:
    spelt = {name: value for name, value in vars(ours).items() if isinstance(value, str) and name.isupper()}
    assert spelt == {name: getattr(names, name) for name in spelt}
    assert len(spelt) == 12


def test_updates_aggregations_and_events_have_queues_of_their_own_and_all_else_the_fourth(
    celery: dict[str, Any],
) -> None:
    assert [queue.name for queue in celery["task_queues"]] == list(names.QUEUES)
    assert celery["task_routes"] == {task: {"queue": queue} for task, queue in names.QUEUE_OF.items()}
    assert celery["task_routes"][names.UPDATES_SUBMIT] == {"queue": names.UPDATES_QUEUE}
    assert celery["task_routes"][names.ROUNDS_AGGREGATE] == {"queue": names.AGGREGATE_QUEUE}
    assert celery["task_default_queue"] == names.CONTROL_QUEUE


def test_beat_sweeps_at_the_configured_pace_and_lets_stale_sweeps_lapse() -> None:
    schedule = celery_settings(load_settings(env_file=None, sweep_seconds=2.5))["beat_schedule"]
    for entry in (schedule["poll"], schedule["outbox"]):
        assert entry["schedule"] == 2.5
        assert entry["options"] == {"expires": 5.0}
    assert {entry["task"] for entry in schedule.values()} == {
        names.ROUNDS_POLL,
        names.MAINTENANCE_OUTBOX,
        names.MAINTENANCE_GARBAGE,
    }


def test_beat_remembers_nothing_in_a_pickle(celery: dict[str, Any]) -> None:
    scheduler = symbol_by_name(celery["beat_scheduler"])
    assert issubclass(scheduler, beat.Scheduler)
    assert not issubclass(scheduler, beat.PersistentScheduler)


def test_on_rabbitmq_the_queues_are_quorum_queues_and_answers_come_back_over_it() -> None:
    celery = celery_settings(load_settings(env_file=None, broker_url="amqp://broker"))
    assert [queue.queue_arguments for queue in celery["task_queues"]] == [dict(names.RABBITMQ_QUEUE_ARGUMENTS)] * 4
    assert celery["task_default_queue_type"] == "quorum"
    assert celery["result_backend"] == "rpc://"
    assert celery["broker_transport_options"] == {"confirm_publish": True}


def test_a_socket_is_given_no_tcp_option() -> None:
    """The Redis client's socket class refuses keep-alive: every answer would fail."""
    over_socket = celery_settings(load_settings(env_file=None))
    over_network = celery_settings(load_settings(env_file=None, broker_url="redis://broker"))
    assert not over_socket["redis_socket_keepalive"]
    assert over_network["redis_socket_keepalive"]


def test_the_memory_bound_reaches_celery_in_its_own_unit() -> None:
    celery = celery_settings(load_settings(env_file=None, worker_max_memory_bytes="1GiB"))
    assert celery["worker_max_memory_per_child"] == 1024 * 1024, "KiB"
