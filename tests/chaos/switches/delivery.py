"""Guards of messages and processes: Celery's settings, the broker's transport, the client, the supervisor, secrets.

Its length is an inventory's: a guard, what it is against, how it goes, and its test.
"""

from __future__ import annotations

from typing import Final

from tests.chaos.switches.source_edits import Edit
from tests.chaos.switches.switch import Switch

_CELERY: Final = "config/celery.py"
_TRANSPORT: Final = "connectors/broker/redis_transport.py"
_ASKING: Final = "fedqueue/asking.py"
_SUPERVISOR: Final = "worker/supervisor.py"
_ADMISSION: Final = "tasks/domain/admission.py"
_SIGNING: Final = "fedqueue/signing.py"

_OF_CELERY: Final = "tests/unit/config/test_celery_settings.py"
_OF_ASKING: Final = "tests/unit/client/test_asking.py"
_OF_ADMISSION: Final = "tests/unit/domain/test_admission.py"
_UP: Final = "tests/integration/test_up.py"
_KILLED: Final = "tests/integration/test_killed_tasks.py::test_a_task_whose_process_is_killed_is_begun_again"
_SIGNED: Final = "tests/security/test_signed_messages.py"


def _setting(name: str, value: str, instead: str) -> Switch:
    """A setting of Celery's as it would be by default."""
    return Switch(
        f"celery.{name}",
        "messages are lost, or come late, as was measured (RELIABILITY)",
        (Edit(_CELERY, f'"{name}": {value},', f'"{name}": {instead},'),),
        (f"{_OF_CELERY}::test_a_setting_that_guards_against_loss_keeps_its_value",),
    )


SWITCHES: Final = (
    # --- Celery -----------------------------------------------------------------------------------
    _setting("task_acks_late", "True", "False"),
    _setting("task_reject_on_worker_lost", "True", "False"),
    _setting("worker_prefetch_multiplier", "1", "4"),
    _setting("worker_lost_wait", "2.0", "10.0"),
    _setting("worker_cancel_long_running_tasks_on_connection_loss", "True", "False"),
    _setting("broker_connection_max_retries", "None", "100"),
    _setting("task_ignore_result", "True", "False"),
    Switch(
        "celery.json_alone",
        "unpickling a message runs whatever its sender wrote into it",
        (Edit(_CELERY, '"accept_content": [content]', '"accept_content": [content, "pickle"]'),),
        (f"{_OF_CELERY}::test_a_setting_that_guards_against_loss_keeps_its_value",),
    ),
    Switch(
        "celery.acknowledged_when_done",
        "a task is lost with the process that has begun it",
        (Edit(_CELERY, '"task_acks_late": True,', '"task_acks_late": False,'),),
        (_KILLED,),
        wide=True,
    ),
    Switch(
        "celery.given_back_when_killed",
        "a task is acknowledged as failed when its process is killed",
        (Edit(_CELERY, '"task_reject_on_worker_lost": True,', '"task_reject_on_worker_lost": False,'),),
        (_KILLED,),
        wide=True,
    ),
    Switch(
        "celery.visibility_timeout",
        "a task that takes longer is delivered again, and again",
        (
            Edit(
                "config/settings.py",
                "return 4 * self.task_time_limit_seconds",
                "return self.task_time_limit_seconds / 2",
            ),
        ),
        (f"{_OF_CELERY}::test_no_message_is_redelivered_while_its_task_may_still_run",),
    ),
    Switch(
        "celery.told_before_killed",
        "a task is killed without having been told to end",
        (
            Edit(
                "config/settings.py",
                "if self.task_soft_time_limit_seconds >= self.task_time_limit_seconds:",
                "if False:",
            ),
        ),
        ("tests/unit/config/test_settings.py::test_a_task_must_be_told_to_end_before_it_is_killed",),
    ),
    Switch(
        "celery.lost_looked_for",
        "a killed worker's messages come back after minutes",
        (Edit(_CELERY, '"unacked_restore_interval": 5,', '"unacked_restore_interval": 100,'),),
        (f"{_OF_CELERY}::test_a_transport_option_that_bounds_recovery_keeps_its_value",),
    ),
    Switch(
        "celery.half_open_sockets",
        "a broker that vanished is waited for, for ever",
        (Edit(_CELERY, '"health_check_interval": 15,', '"health_check_interval": 0,', "_connections"),),
        (f"{_OF_CELERY}::test_a_transport_option_that_bounds_recovery_keeps_its_value",),
    ),
    Switch(
        "celery.no_pickle_in_beat",
        "beat keeps its schedule in a pickle",
        (
            Edit(
                _CELERY,
                '"beat_scheduler": "worker.scheduler:Scheduler"',
                '"beat_scheduler": "celery.beat:PersistentScheduler"',
            ),
        ),
        (f"{_OF_CELERY}::test_beat_remembers_nothing_in_a_pickle",),
    ),
    Switch(
        "celery.stale_sweeps_lapse",
        "after an outage every sweep that was missed is carried out",
        (Edit(_CELERY, 'sweep = {"expires": SWEEP_EXPIRES_SECONDS}', "sweep: dict[str, float] = {}"),),
        (f"{_OF_CELERY}::test_beat_sweeps_at_the_configured_pace_and_lets_stale_sweeps_lapse",),
    ),
    Switch(
        "sweeper.stale_sweeps_lapse",
        "after an outage every sweep that was missed is carried out",
        (Edit("worker/sweeper.py", "                    expires=SWEEP_EXPIRES_SECONDS,\n", ""),),
        ("tests/integration/test_sweeper.py::test_it_asks_for_sweeps_that_lapse_if_nobody_carries_them_out",),
        wide=True,
    ),
    Switch(
        "redis.taken_by_script",
        "a worker killed between taking a message and writing it down has lost it",
        (Edit(_TRANSPORT, 'for scheme in ("redis", "rediss"):', "for scheme in ():", "take_safely_from_redis"),),
        (
            "tests/contract/test_redis_transport.py::test_a_message_on_its_way_to_a_worker_that_dies_is_still_the_brokers",
        ),
        wide=True,
    ),
    Switch(
        "redis.unreadable_put_aside",
        "what can't be read stops its queue",
        (Edit(_TRANSPORT, "      redis.call('LPUSH', list .. '.unreadable', raw)\n", ""),),
        ("tests/contract/test_redis_transport.py::test_what_can_not_be_read_is_put_aside_and_the_rest_goes_on",),
        wide=True,
    ),
    # --- forks ------------------------------------------------------------------------------------
    Switch(
        "fork.own_hub",
        "a connection is used from both sides of a fork",
        (
            Edit(
                "worker/bootstrap.py",
                "if self._hub is None or self._hub_pid != os.getpid():",
                "if self._hub is None:",
                "HubCelery.hub",
            ),
        ),
        ("tests/unit/worker/test_bootstrap.py::test_a_forked_child_builds_its_own_hub_and_leaves_the_parents_open",),
    ),
    Switch(
        "fork.connections_left_alone",
        "a forked child hangs up its parent's connections",
        (
            Edit(
                "connectors/sql/database.py",
                "self.engine.dispose(close=False)",
                "self.engine.dispose()",
                "Database.forget_connections",
            ),
        ),
        ("tests/contract/test_lost_connections.py::test_a_forked_child_leaves_its_parents_connections_open",),
        raises=("DatabaseUnavailable",),
        wide=True,
    ),
    # --- the client -------------------------------------------------------------------------------
    Switch(
        "client.sends_again",
        "silence is a failure, though the broker may only have forgotten",
        (Edit(_ASKING, "                if self.now() >= deadline:\n", "                if True:\n", "Asking.ask"),),
        (f"{_OF_ASKING}::test_silence_is_met_with_the_same_message_in_the_same_place",),
        raises=("NoAnswer",),
    ),
    Switch(
        "client.asks_in_the_same_place",
        "the answer to the first copy is never read",
        (
            Edit(
                _ASKING,
                "silence = min(silence * 2, _LONGEST_RESEND)",
                "silence, task_id = silence * 2, str(uuid.uuid4())",
                "Asking.ask",
            ),
        ),
        (f"{_OF_ASKING}::test_silence_is_met_with_the_same_message_in_the_same_place",),
    ),
    Switch(
        "client.one_key_for_all_repeats",
        "a submission that its sender repeats is another one",
        (
            Edit(
                "fedqueue/client.py",
                "submission_id=submission_id",
                "submission_id=uuid.uuid4()",
                "Client.submit_update",
            ),
        ),
        (
            "tests/unit/client/test_client.py::test_an_update_of_arrays_goes_by_reference_and_keeps_the_submission_id_given",
        ),
    ),
    Switch(
        "client.faults_are_not_repeated",
        "a message that breaks the hub is sent again and again",
        (Edit(_ASKING, "            if reply.failure not in _PASSING:\n", "            if False:\n", "Asking.ask"),),
        (f"{_OF_ASKING}::test_a_fault_of_the_hub_is_not_tried_again",),
        raises=("NoAnswer",),
    ),
    # --- processes --------------------------------------------------------------------------------
    Switch(
        "supervisor.restarts",
        "a process that died stays dead",
        (Edit(_SUPERVISOR, "            elif now >= due:\n", "            elif False:\n", "Supervisor._look_after"),),
        (f"{_UP}::test_a_killed_process_is_started_again_and_said",),
        wide=True,
    ),
    Switch(
        "supervisor.gives_back",
        "a submission that died with its worker waits for twenty minutes",
        (
            Edit(
                _SUPERVISOR,
                '                if child.role == "worker" and self._serves_itself:\n',
                "                if False:\n",
                "Supervisor._look_after",
            ),
        ),
        (f"{_UP}::test_what_a_killed_worker_had_begun_is_begun_again_at_once",),
        raises=("TimeoutError",),
        wide=True,
    ),
    Switch(
        "supervisor.settles_the_database",
        "who copies a stopped hub's file has not all of it",
        (Edit(_SUPERVISOR, "            self._settle()\n", "            pass\n", "Supervisor._end_all"),),
        (f"{_UP}::test_a_stopped_hubs_database_is_whole_in_its_one_file",),
        raises=("OperationalError",),
        wide=True,
    ),
    Switch(
        "supervisor.one_a_home",
        "two hubs in one folder",
        (
            Edit(
                _SUPERVISOR,
                "            raise AlreadyRunning(settings.home, file.read().strip()) from None\n",
                "            pass\n",
                "home_held",
            ),
        ),
        (f"{_UP}::test_a_second_hub_in_the_same_home_is_refused_and_told_who_is_there",),
        raises=("TimeoutExpired",),
        wide=True,
    ),
    Switch(
        "children.die_with_their_parent",
        "a killed supervisor leaves a server behind that nobody knows of",
        (
            Edit(
                "worker/children.py",
                "        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)\n",
                "",
                "die_with_parent",
            ),
        ),
        ("tests/unit/worker/test_children.py::test_it_dies_with_a_parent_that_is_killed",),
    ),
    Switch(
        "children.ended_with_their_family",
        "a killed worker's pool goes on",
        (
            Edit(
                "worker/children.py",
                "os.killpg(self._process.pid, signal.SIGKILL)",
                "os.kill(self._process.pid, signal.SIGKILL)",
                "Child.kill_family",
            ),
        ),
        ("tests/unit/worker/test_children.py::test_its_whole_family_is_ended_with_it",),
    ),
    Switch(
        "watchdog.patience",
        "a pool that hangs is never found out",
        (
            Edit(
                "worker/watchdog.py",
                '> self._patience:\n            return f"a canary',
                '> 1e9:\n            return f"a canary',
            ),
        ),
        ("tests/unit/worker/test_watchdog.py::test_a_canary_that_nobody_begins_is_overdue_after_the_patience",),
    ),
    Switch(
        "watchdog.excuse",
        "a worker is ended because its broker was away",
        (
            Edit(
                "worker/watchdog.py", "        self._excused_at = now\n\n    def taken", "        pass\n\n    def taken"
            ),
        ),
        ("tests/unit/worker/test_watchdog.py::test_an_excuse_begins_the_patience_anew_for_both",),
    ),
    # --- limits, letters, signatures, secrets -----------------------------------------------------
    Switch(
        "limits.checked_before_the_data",
        "a flood costs what its data cost",
        (
            Edit(
                "tasks/domain/submission.py",
                "        check_room(hub, model, client)\n",
                "        pass\n",
                "submit_update",
            ),
        ),
        (f"{_OF_ADMISSION}::test_a_refused_updates_data_is_not_read",),
    ),
    Switch(
        "limits.checked_under_the_lock",
        "two workers both find the last place free",
        (Edit("tasks/domain/submission.py", "= take_room(", "= (lambda *_: None)(", "_insert"),),
        (f"{_OF_ADMISSION}::test_the_last_place_is_given_once_though_two_found_it_free",),
    ),
    Switch(
        "limits.rate",
        "a client sends as often as it likes",
        (Edit(_ADMISSION, "    if rate is not None:\n", "    if False:\n", "_would_make"),),
        (f"{_OF_ADMISSION}::test_a_clients_rate_is_a_minutes_worth_at_once_and_then_as_it_fills_up",),
    ),
    Switch(
        "limits.open_updates",
        "what waits for rounds grows without bound",
        (
            Edit(_ADMISSION, "    if most_updates is not None:\n", "    if False:\n", "_would_make"),
            Edit(_ADMISSION, "    if most_bytes is not None:\n", "    if False:\n", "_would_make"),
        ),
        (f"{_OF_ADMISSION}::test_what_waits_for_rounds_is_limited_until_a_round_has_taken_it",),
    ),
    Switch(
        "letters.settled_once",
        "a dead letter is sent again by two operators",
        (Edit("connectors/sql/letters.py", ", DeadLetterRow.outcome.is_(None)", ""),),
        ("tests/contract/test_metadata_letters.py::test_a_letter_is_settled_once_and_says_by_whom_and_why[sqlite]",),
    ),
    Switch(
        "signed.by_somebody_trusted",
        "anybody who reaches the broker is obeyed",
        (
            Edit(
                _SIGNING,
                'self._store[found["signer"]].verify(found["body"], found["signature"], self._celerys._digest)',
                "pass",
                "Signer.open",
            ),
        ),
        (f"{_SIGNED}::test_who_is_not_trusted_is_refused",),
        raises=("Rejected",),
        wide=True,
    ),
    Switch(
        "signed.for_this_call",
        "a signed body is put under another task's name",
        (Edit(_SIGNING, "    bound = (embedded or {}).get(BOUND)\n", "    bound = None\n", "check_binding"),),
        (f"{_SIGNED}::test_what_is_forged_is_refused[fedqueue.control]",),
        wide=True,
    ),
    Switch(
        "secrets.masked_in_urls",
        "a password is shown to whoever asks for the configuration",
        (Edit("config/secrets.py", "_USERINFO.sub(", "(lambda _, same: same)(", "masked"),),
        ("tests/unit/config/test_secrets.py::test_a_password_in_a_url_is_masked_and_all_else_kept",),
    ),
    Switch(
        "secrets.masked_in_logs",
        "a password stands in the log",
        (Edit("worker/logs.py", "        return masked(value)\n", "        return value\n", "_masked"),),
        ("tests/unit/worker/test_logs.py::test_a_password_is_masked_in_text_values_and_tracebacks",),
    ),
)
