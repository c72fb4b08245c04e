"""Guards of what comes in and goes out: submissions, events, statuses, deletion, follow-ups, dead letters.

Its length is an inventory's: a guard, what it is against, how it goes, and its test.
"""

from __future__ import annotations

from typing import Final

from tests.chaos.switches.source_edits import Edit
from tests.chaos.switches.switch import Switch

_SUBMISSION: Final = "tasks/domain/submission.py"
_NOTIFICATIONS: Final = "tasks/domain/notifications.py"
_JUDGING: Final = "tasks/domain/judging.py"
_FEED: Final = "tasks/domain/feed.py"
_SERVICE: Final = "connectors/sql/model_service.py"
_ENTRIES: Final = "connectors/sql/entries.py"
_STATES: Final = "connectors/run_states.py"
_BASE: Final = "tasks/base.py"

_OF_SUBMISSION: Final = "tests/unit/domain/test_submission.py"
_MEANWHILE: Final = "tests/unit/domain/test_submissions_meanwhile.py"
_OF_FEED: Final = "tests/unit/domain/test_feed.py"
_OF_NOTIFICATIONS: Final = "tests/unit/domain/test_notifications.py"
_OF_STATES: Final = "tests/unit/connectors/test_run_states.py"
_OF_SERVICE: Final = "tests/contract/test_metadata_service.py"
_OF_ROWS: Final = "tests/contract/test_metadata_feed.py"
_OF_MODELS: Final = "tests/unit/domain/test_models.py"
_FUNCTIONS: Final = "tests/contract/test_model_service.py"

_MARK: Final = "            sent.append(message)\n"
_SEND_AT_ONCE: Final = Edit(
    _NOTIFICATIONS,
    "def tell_quarantined(",
    "def _send_at_once(hub, _key, task, payload, queue, model):\n    hub.send(task, payload, queue)\n\n\n"
    "def tell_quarantined(",
)

SWITCHES: Final = (
    # --- submissions ------------------------------------------------------------------------------
    Switch(
        "submission.key",
        "a submission that is sent twice counts twice",
        (
            Edit(_SUBMISSION, "    if found is None:\n", "    if True:\n", "_answered_before"),
            # Without the second net behind it.
            Edit("connectors/memory.py", 'raise AlreadyExists("submission", update.submission_id)', "pass"),
        ),
        (f"{_OF_SUBMISSION}::test_a_repeat_is_answered_as_the_first_time_and_counts_once",),
    ),
    Switch(
        "submission.asked_before_all_else",
        "whoever repeats a submission to a model that is over is told that it was refused, though it counted",
        (
            Edit(
                _SUBMISSION,
                "    repeated = _answered_before(hub, message, payload_digest)\n    if repeated",
                "    repeated = None\n    if repeated",
                "submit_update",
            ),
        ),
        (f"{_MEANWHILE}::test_a_repeat_is_answered_as_the_first_time_though_the_run_is_over_by_now",),
        raises=("ModelIsOver",),
    ),
    Switch(
        "submission.the_same_at_the_same_moment",
        "of two workers that have the same submission one fails",
        (
            Edit(
                _SUBMISSION,
                "except AlreadyExists:",
                "except ZeroDivisionError:",
                "submit_update",
            ),
        ),
        (f"{_MEANWHILE}::test_two_workers_that_have_the_same_submission_answer_alike",),
        raises=("AlreadyExists",),
    ),
    Switch(
        "submission.payload_digest",
        "an id that is used again with other data is answered as if that had been counted",
        (Edit(_SUBMISSION, "if found.payload_digest != payload_digest:", "if False:", "_answered_before"),),
        (f"{_OF_SUBMISSION}::test_a_submission_id_with_another_payload_is_refused",),
    ),
    Switch(
        "submission.payload_without_its_place",
        "a client that repeats itself from another folder is refused",
        (
            Edit(
                _SUBMISSION,
                'exclude={"data_uri"} if message.digest else set()',
                "exclude=set()",
                "digest_of_payload",
            ),
        ),
        (f"{_OF_SUBMISSION}::test_the_same_bytes_elsewhere_are_the_same_payload",),
        raises=("SubmissionReused",),
    ),
    Switch(
        "submission.of_a_run_that_is_over",
        "a model that is over takes updates that nobody will ever count",
        (Edit(_SUBMISSION, "if model.status not in CLAIMABLE_STATUSES:", "if False:", "_check_open"),),
        (f"{_OF_SUBMISSION}::test_a_run_that_is_over_takes_no_updates[STOPPED]",),
    ),
    Switch(
        "submission.judged_under_the_lock",
        "an update is judged by a model as it was before, not as it is when it comes in",
        (
            Edit(
                _SUBMISSION,
                "model = lock_model(hub, message.model_id)",
                "model = find_model(hub, message.model_id)",
                "_insert",
            ),
        ),
        (
            "tests/integration/test_submission_races.py"
            "::test_a_submission_waits_for_who_moves_its_model_and_is_judged_by_the_outcome[postgresql]",
        ),
        wide=True,
    ),
    Switch(
        "submission.closed_meanwhile",
        "an update comes in behind the end of its run",
        (Edit(_SUBMISSION, "    _check_open(model)\n", "", "_insert"),),
        (f"{_MEANWHILE}::test_a_run_that_ends_while_the_data_are_read_takes_no_update",),
    ),
    Switch(
        "submission.registered_client",
        "anybody's update counts",
        (
            Edit(
                _SUBMISSION,
                "    if client is None:\n        code, reason",
                "    if False:\n        code, reason",
                "_insert",
            ),
            Edit(_SUBMISSION, "    if client is None:\n", "    if False:\n", "_take_in"),
            Edit(
                "connectors/sql/migrations/versions/0001_the_first_schema.py",
                "client_id IS NOT NULL AND data_digest",
                "data_digest",
            ),
        ),
        (f"{_OF_SUBMISSION}::test_an_unregistered_client_is_set_aside_and_remembered",),
    ),
    Switch(
        "submission.weight",
        "one client drowns all others, or gives the mean no weight at all",
        (Edit(_SUBMISSION, "if not 0 < message.num_examples <= _MOST_EXAMPLES:", "if False:", "_take_in"),),
        (f"{_OF_SUBMISSION}::test_a_weight_must_be_above_zero",),
    ),
    Switch(
        "submission.finite",
        "one NaN makes the whole model NaN",
        (Edit(_SUBMISSION, "if not_finite is not None:", "if False:", "_inspect"),),
        (f"{_OF_SUBMISSION}::test_tensors_must_be_the_models",),
    ),
    Switch(
        "submission.norm",
        "one client moves the model as far as it likes",
        (Edit(_SUBMISSION, "if norm > model.max_norm:", "if False:", "_inspect"),),
        (f"{_OF_SUBMISSION}::test_a_norm_bound_is_kept",),
    ),
    Switch(
        "submission.tensors",
        "an update of another shape stops every round that it is in",
        (
            Edit(_SUBMISSION, "    if model.tensors is not None:\n", "    if False:\n", "_inspect"),
            Edit(_SUBMISSION, "    if model.tensors is not None:\n", "    if False:\n", "_judge"),
        ),
        (f"{_OF_SUBMISSION}::test_tensors_must_be_the_models",),
    ),
    Switch(
        "submission.tensors_under_the_lock",
        "two first updates of different shapes, at the same moment, are both accepted",
        (Edit(_SUBMISSION, "    if model.tensors is not None:\n", "    if False:\n", "_judge"),),
        (f"{_MEANWHILE}::test_of_two_first_updates_at_once_the_earlier_settles_the_shape",),
    ),
    Switch(
        "submission.schema",
        "JSON of another form than the model's is counted",
        (Edit(_SUBMISSION, "        if breach is not None:\n", "        if False:\n", "_inspect"),),
        (f"{_OF_SUBMISSION}::test_json_data_is_held_to_the_models_schema",),
    ),
    Switch(
        "submission.stale",
        "an update of too old a base waits for a round that will not take it",
        (
            Edit(
                _SUBMISSION,
                "if not is_eligible(base_number, model.head, model.furthest_base_agg):",
                "if False:",
                "_judge",
            ),
        ),
        (f"{_OF_SUBMISSION}::test_an_update_from_too_old_a_base_is_stale",),
    ),
    Switch(
        "submission.base_of_its_own_model",
        "an update says that it was trained from another model's aggregate",
        (Edit(_SUBMISSION, "if base is None or base.model_id != model.id:", "if base is None:", "_insert"),),
        (f"{_OF_SUBMISSION}::test_an_unknown_base_is_refused",),
    ),
    Switch(
        "model.created_once",
        "a creation that is sent twice fails, or makes another model",
        (
            Edit(
                "tasks/domain/models.py",
                "    if found is not None:\n        return _same_or_refused",
                "    if False:\n        return _same_or_refused",
                "create_model",
            ),
            Edit("tasks/domain/models.py", "except AlreadyExists:", "except ZeroDivisionError:", "create_model"),
        ),
        (f"{_OF_MODELS}::test_creating_twice_makes_one_model",),
        raises=("AlreadyExists",),
    ),
    Switch(
        "model.id_of_another",
        "a model_id that is in use is answered with somebody else's model",
        (
            Edit(
                "tasks/domain/models.py",
                "    raise ModelReused(described.uuid)\n",
                "    return found\n",
                "_same_or_refused",
            ),
        ),
        (f"{_OF_MODELS}::test_a_model_id_is_not_for_another_model",),
    ),
    Switch(
        "model.version_taken",
        "a published version becomes another model",
        (
            Edit(
                "tasks/domain/models.py",
                "if message.aggregate_id in (None, found.aggregate_id) and found.aggregate_id is not None:",
                "if True:",
                "publish_model",
            ),
        ),
        (f"{_OF_MODELS}::test_publishing_twice_gives_one_version",),
    ),
    # --- events -----------------------------------------------------------------------------------
    Switch(
        "event.repeat_in_one_batch",
        "an event that is twice in one message is refused as another's id",
        (Edit(_JUDGING, "if known == entry.message:", "if False:", "Batch.set_repeats_aside"),),
        (f"{_OF_FEED}::test_a_repeat_counts_once_whenever_it_comes",),
    ),
    Switch(
        "event.another_payload_in_one_batch",
        "of two events under one id in a message one is dropped silently",
        (Edit(_JUDGING, "if known == entry.message:", "if True:", "Batch.set_repeats_aside"),),
        ("tests/unit/domain/test_events.py::test_a_repeat_within_a_batch_counts_once_and_another_payload_is_refused",),
    ),
    Switch(
        "event.repeat_in_one_statement",
        "a batch that names an event twice is refused whole by the constraint",
        (
            Edit(
                "connectors/repeats.py",
                "firsts.setdefault(entry.event_id, entry)",
                "firsts[uuid4()] = entry",
                "first_of_each",
            ),
            Edit("connectors/repeats.py", "from uuid import UUID\n", "from uuid import UUID, uuid4\n"),
        ),
        (
            f"{_OF_ROWS}::test_an_event_id_is_kept_once_and_another_payload_under_it_is_told_apart[sqlite-{{}}-REPEATED-True]",
        ),
        raises=("IntegrityError",),
    ),
    Switch(
        "event.looked_for_before",
        "an event that comes again fails its whole batch, for ever",
        (Edit(_ENTRIES, 'if value["event_id"] not in there]', "]", "_insert_new"),),
        (f"{_OF_ROWS}::test_a_points_event_id_is_kept_once_too[sqlite-{{}}-REPEATED]",),
        raises=("IntegrityError",),
    ),
    Switch(
        "event.feed_or_metrics",
        "one event shows up in the feed and in the metrics",
        (Edit(_ENTRIES, "for each in (table, other)]", "for each in (table,)]", "_insert_new"),),
        (f"{_OF_ROWS}::test_an_event_id_belongs_to_the_feed_or_to_the_metrics[sqlite-log]",),
    ),
    Switch(
        "event.same_payload",
        "an id that is used again for something else is answered as a repeat",
        (
            Edit(
                "connectors/repeats.py",
                "Kept.REPEATED if is_same(entry, there) else Kept.CONFLICT",
                "Kept.REPEATED",
                "what_became",
            ),
        ),
        (f"{_OF_FEED}::test_another_payload_under_the_same_id_is_refused_and_kept",),
    ),
    Switch(
        "event.of_a_model_deleted_meanwhile",
        "a deleted model's feed goes on",
        (
            Edit(
                _ENTRIES,
                "            if not deleted:\n                live",
                "            if True:\n                live",
                "_live_models",
            ),
        ),
        (f"{_OF_SERVICE}::test_a_deleted_model_accepts_no_entry_no_point_no_status_and_no_update[sqlite]",),
    ),
    Switch(
        "event.of_a_deleted_model",
        "an event of a deleted model is accepted, and then dropped",
        (Edit(_JUDGING, "if model is None or model.deleted:", "if model is None:", "Batch.find_models"),),
        ("tests/unit/domain/test_events.py::test_events_of_a_deleted_model_are_refused",),
    ),
    Switch(
        "event.attributed",
        "an event counts for a trust that has no part in the model",
        (
            Edit(
                "tasks/domain/attribution.py",
                "return trust is not None and trust.id in self._approved[model_id]",
                "return trust is not None",
                "Senders._is_approved",
            ),
        ),
        ("tests/unit/domain/test_attribution.py::test_every_way_to_fail_says_which",),
    ),
    Switch(
        "event.failure_kept_whoever_sent_it",
        "a report of failure is lost for its form",
        (Edit(_FEED, "if entry.log is None or entry.success:", "if True:", "write_logs.make"),),
        (f"{_OF_FEED}::test_a_failure_whose_sender_nobody_knows_is_kept_at_the_models_level",),
    ),
    # --- statuses ---------------------------------------------------------------------------------
    Switch(
        "status.forward_only",
        "a late callback takes a run back",
        (
            Edit(
                _STATES,
                "return FORWARD.index(to) > FORWARD.index(status)",
                "return to != status",
                "may_become",
            ),
        ),
        (f"{_OF_STATES}::test_a_status_moves_forward_or_out_and_nowhere_else",),
    ),
    Switch(
        "status.final",
        "a late callback un-stops a model",
        (
            Edit(
                _STATES,
                "    if status not in FORWARD:\n        return False\n",
                "    if status not in FORWARD:\n        return to != status\n",
                "may_become",
            ),
        ),
        (f"{_FUNCTIONS}::test_a_late_initiated_does_not_un_stop_a_model[sqlite]",),
    ),
    Switch(
        "status.of_a_stale_run",
        "an old run's callback hits the retry",
        (
            Edit(
                _STATES,
                "return Decision(False, reason=Ignored.STALE_RUN)\n    if to is",
                "return _within_run(status, to)\n    if to is",
                "decide",
            ),
        ),
        (f"{_FUNCTIONS}::test_an_old_runs_callback_does_not_hit_the_retry[sqlite]",),
    ),
    Switch(
        "status.of_a_run_that_never_began",
        "a callback of a run that nobody began moves the one under way",
        (
            Edit(
                _STATES,
                "        return Decision(True, new_run=run_id) if within.change else within\n"
                "    return Decision(False, reason=Ignored.STALE_RUN)",
                "        return Decision(True, new_run=run_id) if within.change else within\n"
                "    return _within_run(status, to)",
                "decide",
            ),
        ),
        (f"{_OF_STATES}::test_an_unknown_runs_other_status_is_stale_once_a_run_has_a_name",),
    ),
    Switch(
        "status.new_run_by_users_alone",
        "anybody's late INITIATED begins a new run of a stopped model",
        (Edit(_STATES, "run_id is None and by_user and to", "run_id is None and to", "decide"),),
        (f"{_OF_STATES}::test_nobody_elses_late_initiated_does_nor_a_users_that_names_the_run_that_is_over",),
    ),
    Switch(
        "status.event_once",
        "a status event that comes again after a new run began moves that one",
        (Edit(_SERVICE, "        if seen is not None:\n", "        if False:\n", "change_status"),),
        (f"{_OF_SERVICE}::test_an_event_changes_a_status_once_however_late_it_comes_again[sqlite]",),
    ),
    Switch(
        "status.of_a_deleted_model",
        "a deleted model's status moves on",
        (
            Edit(
                _SERVICE,
                "    if row.deleted:\n        return StatusChange",
                "    if False:\n        return StatusChange",
                "change_status",
            ),
        ),
        (f"{_OF_SERVICE}::test_a_deleted_model_accepts_no_entry_no_point_no_status_and_no_update[sqlite]",),
    ),
    Switch(
        "status.of_a_deleted_model.service",
        "a service that deleted its model is told a status of it",
        (Edit(_SERVICE, "change is None or change.model.deleted", "change is None", "update_model_status"),),
        (f"{_FUNCTIONS}::test_a_missing_model_is_a_value_error_to_edits_and_none_to_status[sqlite-deleted]",),
    ),
    Switch(
        "audit.in_the_same_transaction",
        "an audit row stands of a change that was undone, or the other way round",
        (
            Edit(
                _SERVICE,
                "user_id=None if user_id is None else str(user_id)))",
                "user_id=None if user_id is None else str(user_id)))\n    session.commit()",
                "_audit",
            ),
        ),
        (f"{_FUNCTIONS}::test_status_audit_and_feed_are_one_commit[sqlite]",),
    ),
    Switch(
        "audit.flushed",
        "an audit row is forgotten where the caller flushes nothing",
        (Edit(_SERVICE, "    session.add(AuditRow(", "    repr(AuditRow(", "_audit"),),
        (f"{_FUNCTIONS}::test_an_audit_is_never_flushed_and_lost[sqlite-True]",),
    ),
    Switch(
        "service.never_commits",
        "the caller's half-done work is committed by a function it calls",
        (
            Edit(
                _SERVICE,
                "    session.flush()\n    return len(rows)",
                "    session.commit()\n    return len(rows)",
                "delete_all",
            ),
        ),
        (f"{_FUNCTIONS}::test_nothing_here_commits_or_undoes_the_callers_work[sqlite]",),
    ),
    # --- deletion ---------------------------------------------------------------------------------
    Switch(
        "deleted.submission",
        "a deleted model takes updates",
        (
            Edit("tasks/domain/models.py", "(model.deleted and not deleted)", "False", "find_model"),
            Edit("tasks/domain/models.py", "model.deleted", "False", "lock_model"),
            Edit("connectors/memory.py", "raise ModelDeleted(update.model_id)", "pass"),
        ),
        (f"{_OF_SUBMISSION}::test_a_deleted_model_accepts_nothing",),
    ),
    Switch(
        "deleted.update_row",
        "an update is written under a deleted model",
        (
            Edit(
                "connectors/sql/updates.py",
                "        if is_deleted:\n",
                "        if False:\n",
                "Updates.add_model_update",
            ),
        ),
        (f"{_OF_SERVICE}::test_a_deleted_model_accepts_no_entry_no_point_no_status_and_no_update[sqlite]",),
    ),
    Switch(
        "deleted.once",
        "a deletion that is repeated is audited, and told, twice",
        (
            Edit(
                "tasks/domain/deletion.py",
                "there = [model for model in locked if not model.deleted]",
                "there = locked",
                "_delete",
            ),
            Edit("connectors/memory_service.py", "if not now.deleted:", "if True:"),
        ),
        ("tests/unit/domain/test_deletion.py::test_a_deletion_is_audited_and_a_repeat_deletes_nothing",),
    ),
    # --- follow-ups -------------------------------------------------------------------------------
    Switch(
        "outbox.written_with_its_cause",
        "others are told of what was undone, or never told of what was done",
        (
            Edit(_NOTIFICATIONS, "    hub.metadata.add_outbox_message(\n", "    _send_at_once(hub,\n", "tell"),
            _SEND_AT_ONCE,
        ),
        (f"{_OF_NOTIFICATIONS}::test_what_was_undone_is_told_to_nobody",),
    ),
    Switch(
        "outbox.marked_after_the_send",
        "a notification that the broker did not take is never sent again",
        (
            Edit(_NOTIFICATIONS, "            sent.append(message)\n", "", "send_waiting"),
            Edit(_NOTIFICATIONS, "for message in waiting:\n", f"for message in waiting:\n{_MARK}", "send_waiting"),
        ),
        (f"{_OF_NOTIFICATIONS}::test_what_the_broker_does_not_take_waits_and_what_it_took_is_not_sent_again",),
    ),
    Switch(
        "outbox.marked_at_all",
        "what the broker has is sent again at every sweep",
        (Edit(_NOTIFICATIONS, "        if sent:\n", "        if False:\n", "send_waiting"),),
        (f"{_OF_NOTIFICATIONS}::test_what_the_broker_does_not_take_waits_and_what_it_took_is_not_sent_again",),
    ),
    Switch(
        "outbox.stops_at_the_first_that_fails",
        "a model's facts reach others out of order",
        (
            Edit(
                _NOTIFICATIONS,
                "            hub.send(message.task",
                "            try: hub.send(message.task",
                "send_waiting",
            ),
            Edit(_NOTIFICATIONS, _MARK, f"            except ConnectionError: continue\n{_MARK}", "send_waiting"),
        ),
        (f"{_OF_NOTIFICATIONS}::test_what_the_broker_does_not_take_waits_and_what_it_took_is_not_sent_again",),
    ),
    Switch(
        "outbox.key",
        "one fact is told twice, differently",
        (
            Edit(
                _NOTIFICATIONS,
                "key, hub.settings.notify_task, payload,",
                "str(id(payload)), hub.settings.notify_task, payload,",
                "tell",
            ),
        ),
        (f"{_OF_NOTIFICATIONS}::test_one_fact_is_told_under_one_key_however_often_it_comes_about",),
    ),
    Switch(
        "outbox.repeat_is_harmless",
        "a fact that comes about twice fails its transaction by its key",
        (
            Edit(
                "connectors/sql/feed.py",
                'self._added("add_outbox_message", row)',
                'session = self._session(""); session.add(row); session.flush()',
                "Feed.add_outbox_message",
            ),
        ),
        ("tests/contract/test_metadata_records.py::test_a_follow_up_stays_until_it_was_sent[sqlite]",),
        raises=("IntegrityError",),
    ),
    Switch(
        "hint.lost_is_no_failure",
        "an update that was accepted is answered as failed, because a hint could not be sent",
        (
            Edit(
                _BASE,
                '    except OperationalError as error:\n        _log.warning("hint.lost"',
                '    except ZeroDivisionError as error:\n        _log.warning("hint.lost"',
                "_broker_may_be_away",
            ),
        ),
        ("tests/unit/test_hub_tasks.py::test_a_hint_that_the_broker_does_not_take_is_no_failure",),
        raises=("OperationalError",),
    ),
    Switch(
        "emit.must_not_be_lost",
        "events that were accepted are lost while the broker is away",
        (
            Edit(
                _BASE,
                'raise BrokerUnavailable(f"{task} could not be sent: {error}") from error',
                "_log.warning(str(error))",
                "emit",
            ),
        ),
        ("tests/unit/test_hub_tasks.py::test_what_must_not_be_lost_brings_its_task_back_while_the_broker_is_away",),
    ),
    Switch(
        "task.comes_back",
        "a task that finds the database away is lost",
        (Edit(_BASE, "raise come_back(self, error) from error", "return {}", "hub_task"),),
        ("tests/unit/test_hub_tasks.py::test_a_task_comes_back_while_the_database_is_away",),
    ),
    Switch(
        "task.comes_back_without_the_broker",
        "a task whose retry the broker does not take is dropped by Celery",
        (
            Edit(
                _BASE,
                "given_back: BaseException = Reject(error, requeue=True)",
                "given_back: BaseException = Reject(error, requeue=False)",
                "come_back",
            ),
        ),
        ("tests/unit/test_hub_tasks.py::test_a_retry_that_the_broker_does_not_take_gives_the_message_back",),
    ),
    Switch(
        "dead_letters.kept",
        "a refused message is gone",
        (
            Edit(
                _BASE,
                "    hub.metadata.transact(\n",
                "    (lambda _: None)(\n",
                "reject",
            ),
        ),
        ("tests/unit/test_hub_tasks.py::test_a_refusal_of_the_rules_is_answered_and_kept",),
    ),
    Switch(
        "dead_letters.with_their_batch",
        "what was refused of a batch is gone, or kept though the batch was undone",
        (Edit(_FEED, "        keep_refused(hub, task, found.refused)\n", "", "_write"),),
        (f"{_OF_FEED}::test_bad_entries_are_kept_each_alone_and_the_others_written",),
    ),
    Switch(
        "message.unknown_fields",
        "a misspelt field is dropped silently",
        (Edit("fedqueue/messages/envelope.py", 'extra="forbid"', 'extra="ignore"'),),
        ("tests/unit/test_hub_tasks.py::test_a_message_that_is_none_is_refused_and_kept",),
    ),
    Switch(
        "batch.acknowledged_when_done",
        "events are lost with the worker that had taken them along",
        (
            Edit(
                "tasks/batching.py",
                "            answer = _answer_all(hub, kind, [payload, *others])[0]\n",
                "            taken.done(kind.name)\n            taken.settle()\n"
                "            answer = _answer_all(hub, kind, [payload, *others])[0]\n",
                "_answer",
            ),
        ),
        ("tests/unit/test_batch_tasks.py::test_nothing_is_acknowledged_before_it_is_done",),
    ),
)
