"""Guards of the round: claims, fences, leases, what happens to its updates.

Its length is an inventory's: a guard, what it is against, how it goes, and its test.
"""

from __future__ import annotations

from typing import Final

from tests.chaos.switches.source_edits import Edit
from tests.chaos.switches.switch import Switch

_CLAIMS: Final = "connectors/sql/claims.py"
_UPDATES: Final = "connectors/sql/updates.py"
_AGGREGATES: Final = "connectors/sql/aggregates.py"
_MODELS: Final = "connectors/sql/models.py"
_CLAIMING: Final = "tasks/domain/claiming.py"
_ROUNDS: Final = "tasks/domain/rounds.py"
_SUSPECTS: Final = "tasks/domain/suspects.py"

_CONTRACT: Final = "tests/contract/test_metadata_claims.py"
_GUARDED: Final = "tests/contract/test_guarded_transitions.py"
_VERBS: Final = "tests/contract/test_metadata_fma_verbs.py"
_RECORDS: Final = "tests/contract/test_metadata_records.py"
_DOMAIN: Final = "tests/unit/domain/test_rounds.py"

_OVERTAKEN: Final = f"{_CONTRACT}::test_who_was_overtaken_can_neither_renew_nor_release_nor_register_nor_post[sqlite]"

SWITCHES: Final = (
    # --- the claim --------------------------------------------------------------------------------
    Switch(
        "fence.raised_by_claim",
        "a claim that leaves the fence as it was can't be told from the one it overtakes",
        (Edit(_CLAIMS, "fence=FederatedModelRow.fence + 1, ", "", "Claims.claim_model"),),
        (_OVERTAKEN,),
    ),
    Switch(
        "lease.asked_by_claim",
        "two workers combine the same round at once",
        (
            Edit(
                _CLAIMS,
                "FederatedModelRow.lease_until.is_(None) | (FederatedModelRow.lease_until < now_ms()),",
                "",
                "Claims.claim_model",
            ),
        ),
        (f"{_CONTRACT}::test_a_model_has_one_live_claim[sqlite]",),
    ),
    Switch(
        "lease.ended_by_time",
        "what a dead worker claimed stays claimed for ever",
        (Edit(_CLAIMS, " | (FederatedModelRow.lease_until < now_ms()),", ",", "Claims.claim_model"),),
        (f"{_CONTRACT}::test_a_claim_whose_lease_is_over_may_be_overtaken[sqlite]",),
    ),
    Switch(
        "lease.by_the_databases_clock",
        "a worker whose clock is behind holds a model for hours, or not at all",
        (Edit("connectors/sql/clock.py", "* 86400000.0", "* 86400.0", "_sqlite"),),
        (f"{_CONTRACT}::test_the_lease_runs_by_the_databases_clock[sqlite]",),
    ),
    Switch(
        "claim.rowcount",
        "whoever was refused the claim goes on under the fence of the one who has it",
        (Edit(_CLAIMS, " if taken == 1 else None", "", "Claims.claim_model"),),
        (f"{_CONTRACT}::test_a_model_has_one_live_claim[sqlite]",),
    ),
    Switch(
        "claim.of_a_deleted_model",
        "a deleted model's rounds go on",
        (
            Edit(
                _CLAIMS, "FederatedModelRow.deleted.is_(False)\n", "(FederatedModelRow.id > 0)\n", "Claims.claim_model"
            ),
        ),
        ("tests/contract/test_metadata_service.py::test_a_deleted_model_is_claimed_no_more[sqlite]",),
    ),
    Switch(
        "fence.in_registration",
        "an overtaken worker registers updates under a claim that is not its own any more",
        (Edit(_CLAIMS, "elif self._claim_of(model_id).fence != claim.fence:", "elif False:"),),
        (_OVERTAKEN,),
    ),
    Switch(
        "fence.in_renewal",
        "a zombie's renewal prolongs the claim of whoever overtook it",
        (
            Edit(
                _CLAIMS,
                'self._fenced(claim, "its renewal"',
                'self._fenced(self._claim_of(claim.model_id), "its renewal"',
            ),
        ),
        (_OVERTAKEN,),
    ),
    Switch(
        "fence.in_release",
        "a zombie's release ends the claim of whoever overtook it",
        (
            Edit(
                _CLAIMS,
                'self._fenced(claim, "its release"',
                'self._fenced(self._claim_of(claim.model_id), "its release"',
            ),
        ),
        (_OVERTAKEN,),
    ),
    Switch(
        "fence.in_post",
        "a zombie posts a round that somebody else has posted or has under way",
        (Edit(_AGGREGATES, 'self._fenced(claim, "the post"', 'self._fenced(self._claim_of(model.id), "the post"'),),
        (_OVERTAKEN,),
    ),
    Switch(
        "fence.rowcount",
        "a fenced write that met no row is taken for done",
        (Edit(_CLAIMS, 'if self._changed("a fenced write", statement) != 1:', "if self._changed('', statement) < 0:"),),
        (_OVERTAKEN,),
    ),
    Switch(
        "head.expected_by_post",
        "two aggregates follow upon one parent",
        (Edit(_CLAIMS, "FederatedModelRow.head == expected_head, ", "", "Claims._fenced"),),
        (f"{_GUARDED}::test_a_post_upon_an_older_parent_is_refused_by_the_models_row[sqlite]",),
    ),
    Switch(
        "deleted.in_post",
        "a round under way posts its aggregate under a deleted model",
        (Edit(_CLAIMS, ", FederatedModelRow.deleted.is_(False))", ")", "Claims._fenced"),),
        (
            "tests/contract/test_metadata_service.py"
            "::test_a_round_under_way_posts_nothing_under_a_deleted_model_but_gives_its_updates_back[sqlite]",
        ),
    ),
    Switch(
        "lease.ended_by_post",
        "nobody may begin the next round before the lease of the last is over",
        (Edit(_AGGREGATES, "head=head + 1, lease_until=None)", "head=head + 1)"),),
        (f"{_CONTRACT}::test_a_post_ends_the_lease[sqlite]",),
    ),
    Switch(
        "lease.renewed_by_work",
        "a round longer than the lease is overtaken again and again, and never posted",
        (Edit("tasks/domain/leases.py", "lease_seconds / 3:", "lease_seconds * 3:"),),
        (f"{_DOMAIN}::test_the_lease_is_renewed_every_third_of_it",),
    ),
    Switch(
        "lease.renewed_while_storing",
        "a round whose bytes take longer to store than the lease lasts is overtaken again and again, and never posted",
        (Edit("tasks/domain/leases.py", "        self._is_storing = True\n", ""),),
        (f"{_DOMAIN}::test_a_claim_is_kept_while_the_store_takes_long_and_only_then",),
    ),
    Switch(
        "lease.left_alone_while_computing",
        "a round that hangs keeps its model for as long as its process lives",
        (Edit("tasks/domain/leases.py", "if not self._is_storing:", "if False:"),),
        (f"{_DOMAIN}::test_a_claim_is_kept_while_the_store_takes_long_and_only_then",),
    ),
    Switch(
        "claim.registers_for_nobody_else",
        "FMA's callers, who name no claim, register under somebody else's",
        (Edit(_CLAIMS, "raise ModelIsClaimed(model_id)", "claim = self._claim_of(model_id)"),),
        (f"{_VERBS}::test_registering_without_a_claim_is_refused_while_somebody_holds_one[sqlite]",),
    ),
    # --- updates on their way ---------------------------------------------------------------------
    Switch(
        "update.rowcount",
        "a transition of several updates is half done, and counted as whole",
        (Edit(_UPDATES, "if found != expected:", "if False:"),),
        (f"{_CONTRACT}::test_a_transition_of_several_updates_is_all_or_nothing[sqlite]",),
    ),
    Switch(
        "update.registered_once",
        "an update that is RUNNING in one round is registered for another as well",
        (
            Edit(
                _CLAIMS,
                "                ModelUpdateRow.status.in_([UpdateStatus.PENDING, UpdateStatus.FAILED]),\n",
                "",
                "Claims.register_model_updates_for_aggregation",
            ),
        ),
        (f"{_VERBS}::test_an_update_is_registered_once[sqlite]",),
    ),
    Switch(
        "update.registered_in_its_own_model",
        "a claim registers another model's updates",
        (
            Edit(
                _CLAIMS,
                "                ModelUpdateRow.model_id == model_id,\n",
                "",
                "Claims.register_model_updates_for_aggregation",
            ),
        ),
        (f"{_GUARDED}::test_a_claim_registers_no_other_models_update[sqlite]",),
    ),
    Switch(
        "update.completed_under_its_claim",
        "an update that was taken back and registered anew is completed by its old claim",
        (
            Edit(
                _UPDATES,
                "                    _is_under(claim),\n",
                "",
                "Updates.register_model_update_used_in_aggregate",
            ),
        ),
        (f"{_CONTRACT}::test_updates_taken_back_are_not_completed_by_their_old_claim[sqlite]",),
    ),
    Switch(
        "update.completed_while_running",
        "an update is completed that no round has",
        (
            Edit(
                _UPDATES,
                "ModelUpdateRow.status == UpdateStatus.RUNNING,\n                    _is_under(claim),\n",
                "",
                "Updates.register_model_update_used_in_aggregate",
            ),
        ),
        (f"{_GUARDED}::test_only_what_runs_is_completed[sqlite]",),
    ),
    Switch(
        "update.completed_in_its_own_model",
        "an aggregate counts another model's update",
        (
            Edit(
                _UPDATES,
                "                    ModelUpdateRow.model_id == aggregate.model_id,\n",
                "",
                "Updates.register_model_update_used_in_aggregate",
            ),
        ),
        (f"{_GUARDED}::test_an_aggregate_takes_no_other_models_update[sqlite]",),
    ),
    Switch(
        "update.returned_under_its_claim",
        "a zombie gives back what a later claim has under way",
        (Edit(_UPDATES, "                    _is_under(found.claim),\n", "", "Updates.return_model_updates"),),
        (f"{_GUARDED}::test_updates_taken_back_are_not_returned_by_their_old_claim[sqlite]",),
    ),
    Switch(
        "update.complete_is_for_good",
        "an update that an aggregate counts is set aside afterwards",
        (
            Edit(
                _UPDATES,
                "                ModelUpdateRow.status != UpdateStatus.COMPLETE,\n",
                "",
                "Updates.register_model_updates_invalid",
            ),
            # Without the second net, which would stop it as well.
            Edit(
                "connectors/sql/migrations/versions/0001_the_first_schema.py",
                "\"(status = 'COMPLETE') = (applied_aggregate_id IS NOT NULL)\"",
                "'1 = 1'",
            ),
        ),
        (f"{_CONTRACT}::test_a_transition_of_several_updates_is_all_or_nothing[sqlite]",),
    ),
    Switch(
        "update.complete_means_applied",
        "FMA's callers are told that updates are complete which no aggregate has",
        (Edit(_UPDATES, "if complete != len(model_updates):", "if False:"),),
        (f"{_VERBS}::test_an_update_is_not_complete_before_an_aggregate_has_it[sqlite]",),
    ),
    Switch(
        "update.requeued_if_it_may_count",
        "an operator puts back what can never count",
        (
            Edit(
                _UPDATES,
                "                ModelUpdateRow.client_id.is_not(None),\n",
                "",
                "Updates.requeue_model_updates",
            ),
            Edit(
                _UPDATES,
                "                ModelUpdateRow.data_digest.is_not(None),\n",
                "",
                "Updates.requeue_model_updates",
            ),
            Edit(_UPDATES, "                ModelUpdateRow.num_examples > 0,\n", "", "Updates.requeue_model_updates"),
        ),
        (f"{_RECORDS}::test_what_can_never_count_is_not_requeued[sqlite]",),
        raises=("IntegrityError",),
    ),
    Switch(
        "update.data_kept_while_needed",
        "retention lets go of data that a round still needs",
        (
            Edit(
                _UPDATES,
                "                ModelUpdateRow.status.in_([UpdateStatus.COMPLETE, UpdateStatus.INVALID]),\n",
                "",
                "Updates.register_model_updates_data_dropped",
            ),
        ),
        (f"{_RECORDS}::test_data_that_may_still_be_needed_is_not_dropped[sqlite]",),
    ),
    Switch(
        "update.pending_of_registered_clients",
        "an update counts whose client is not registered with the model",
        (
            Edit(
                _UPDATES,
                "\n            & (ModelClientRow.model_id == ModelUpdateRow.model_id),",
                "",
                "Updates._pending",
            ),
        ),
        (f"{_VERBS}::test_pending_are_pending_and_failed_ones_of_registered_clients[sqlite]",),
    ),
    Switch(
        "attempts.counted_at_the_claim",
        "a crash leaves no trace, so poison is never found",
        (
            Edit(
                _CLAIMS,
                ", attempts=ModelUpdateRow.attempts + 1)",
                ")",
                "Claims.register_model_updates_for_aggregation",
            ),
        ),
        (f"{_VERBS}::test_registering_makes_updates_running_and_counts_the_attempt[sqlite]",),
    ),
    Switch(
        "rest.in_ready",
        "what has just failed is tried again at once, and again",
        (
            Edit(
                _UPDATES,
                ".where(ModelUpdateRow.not_before <= now_ms())",
                "",
                "Updates.pull_model_updates_ready_for_aggregation",
            ),
        ),
        (f"{_CONTRACT}::test_a_later_claim_finds_what_a_dead_one_left_running[sqlite]",),
    ),
    Switch(
        "rest.in_claim",
        "a round takes updates that rest",
        (Edit(_CLAIMING, " if update.not_before <= now]", "]", "_choose"),),
        (f"{_DOMAIN}::test_an_update_that_rests_waits_for_its_time",),
    ),
    Switch(
        "rest.in_poll",
        "the sweep sends for every model whose updates rest, every time",
        (
            Edit(
                _MODELS,
                "            ModelUpdateRow.not_before <= now_ms(),\n",
                "",
                "Models.pull_models_to_aggregate",
            ),
        ),
        (f"{_CONTRACT}::test_the_poll_finds_work_and_rescues_but_nothing_held_resting_or_done[sqlite]",),
    ),
    Switch(
        "poll.leaves_the_held",
        "the sweep sends for every model that has a round under way",
        (Edit(_MODELS, ".where(is_open, or_(", ".where(or_(", "Models.pull_models_to_aggregate"),),
        (f"{_CONTRACT}::test_the_poll_finds_work_and_rescues_but_nothing_held_resting_or_done[sqlite]",),
    ),
    Switch(
        "poll.rescues",
        "what a dead worker left RUNNING under a paused model stays so for ever",
        (
            Edit(
                _MODELS,
                "or_(has_work, ModelUpdateRow.status == UpdateStatus.RUNNING)",
                "has_work",
                "Models.pull_models_to_aggregate",
            ),
        ),
        (f"{_CONTRACT}::test_the_poll_finds_work_and_rescues_but_nothing_held_resting_or_done[sqlite]",),
    ),
    # --- the rules of a round ---------------------------------------------------------------------
    Switch(
        "reaping",
        "what a dead worker left RUNNING stays so for ever",
        (Edit(_CLAIMING, "dead = metadata.pull_model_updates_of_dead_claims(claim)", "dead = []", "begin_round"),),
        (f"{_DOMAIN}::test_a_dead_workers_updates_are_taken_back_and_counted_once",),
    ),
    Switch(
        "reaping.of_dead_claims_alone",
        "a claim takes back its own updates, or a later one's",
        (Edit(_UPDATES, "ModelUpdateRow.claim < fence,", "ModelUpdateRow.claim <= fence,", "Updates._select_dead"),),
        (f"{_GUARDED}::test_a_claim_takes_back_nothing_of_its_own[sqlite]",),
    ),
    Switch(
        "rounds.closed_once",
        "a zombie writes over how its round ended",
        (Edit(_CLAIMS, "                RoundRow.state == RoundState.CLAIMED,\n", "", "Claims.close_round"),),
        (f"{_GUARDED}::test_a_round_ends_once[sqlite]",),
    ),
    Switch(
        "rounds.rescued_if_dead",
        "the round under way is closed as a dead one's",
        (Edit(_CLAIMS, "RoundRow.fence < claim.fence", "RoundRow.fence <= claim.fence", "Claims.close_dead_rounds"),),
        (f"{_GUARDED}::test_only_the_rounds_of_dead_claims_are_closed_as_rescued[sqlite]",),
    ),
    Switch(
        "poison.bisected",
        "an update that takes its worker down does so for ever, and no round is posted",
        (
            Edit(
                _SUSPECTS,
                "if not was_probe and attempts < hub.settings.max_attempts:",
                "if True:",
                "_give_back",
            ),
        ),
        (f"{_DOMAIN}::test_a_poisonous_update_is_found_by_halving_and_the_rest_go_on",),
    ),
    Switch(
        "poison.only_the_culprit",
        "updates are condemned for one among them",
        (Edit(_SUSPECTS, "if len(suspects) == 1:", "if suspects:", "_give_back"),),
        (f"{_DOMAIN}::test_a_poisonous_update_is_found_by_halving_and_the_rest_go_on",),
    ),
    Switch(
        "poison.probed_alone",
        "suspects are tried with everybody else, whom they take down with them",
        (Edit(_CLAIMING, "    if suspects:\n", "    if False:\n", "_choose"),),
        (f"{_DOMAIN}::test_a_poisonous_update_is_found_by_halving_and_the_rest_go_on",),
    ),
    Switch(
        "poison.probe_posts_nothing",
        "a probe of a few suspects is posted as if it were the round",
        (Edit(_ROUNDS, "if begun.is_probe:\n            return _clear(hub, begun)", "if False:\n            pass"),),
        (f"{_DOMAIN}::test_a_poisonous_update_is_found_by_halving_and_the_rest_go_on",),
    ),
    Switch(
        "crash.without_a_culprit_ends",
        "a batch whose members are harmless one by one crashes workers for ever",
        (
            Edit(
                _SUSPECTS,
                "return advance(hub, model, ModelStatus.ERROR)",
                "return model",
                "_give_back",
            ),
        ),
        (f"{_DOMAIN}::test_a_round_that_crashes_without_a_culprit_ends_in_error",),
    ),
    Switch(
        "round.paused",
        "a paused model aggregates",
        (Edit(_CLAIMING, "if not model.allow_aggregation:", "if False:", "_choose"),),
        (f"{_DOMAIN}::test_a_paused_model_waits_and_goes_on",),
    ),
    Switch(
        "round.of_a_model_that_is_over",
        "a stopped model aggregates",
        (Edit(_CLAIMING, "if model.status not in CLAIMABLE_STATUSES:", "if False:", "_choose"),),
        ("tests/unit/domain/test_runs.py::test_a_model_that_is_over_claims_no_rounds_until_a_user_s_new_run",),
    ),
    Switch(
        "round.requirement",
        "a model aggregates after a single update",
        (Edit(_CLAIMING, "if not verdict.is_met:", "if False:", "_choose"),),
        (f"{_DOMAIN}::test_waiting_costs_no_fence",),
    ),
    Switch(
        "round.one_update_a_client",
        "a client that sends often weighs more",
        (
            Edit(
                _CLAIMING,
                "counted = ready if model.allow_repeats else _newest_of_each_client(ready)",
                "counted = ready",
                "_choose",
            ),
            Edit(_CLAIMING, "if newer is not None and update.id < newer.id:", "if False:", "_set_superseded_aside"),
        ),
        (
            f"{_DOMAIN}::test_a_requirement_counts_clients_not_rows",
            f"{_DOMAIN}::test_of_one_clients_updates_the_newest_counts",
        ),
    ),
    Switch(
        "round.superseded_set_aside",
        "a client's older update slips into the next round",
        (Edit(_CLAIMING, "if newer is not None and update.id < newer.id:", "if False:", "_set_superseded_aside"),),
        (f"{_DOMAIN}::test_of_one_clients_updates_the_newest_counts",),
    ),
    Switch(
        "stale.without_a_base",
        "an update of no base counts beside those of the newest aggregates",
        (Edit("connectors/records.py", "return head == 0", "return True", "is_eligible"),),
        (f"{_DOMAIN}::test_an_update_that_grew_stale_while_resting_is_set_aside",),
    ),
    Switch(
        "stale.set_aside_at_the_claim",
        "an update that grew stale while it rested is counted all the same",
        (
            Edit(
                _CLAIMING,
                "if is_eligible(update.base_number, model.head, model.furthest_base_agg):",
                "if True:",
                "_set_stale_aside",
            ),
        ),
        (f"{_DOMAIN}::test_an_update_that_grew_stale_while_resting_is_set_aside",),
    ),
    Switch(
        "stale.not_ready",
        "FMA's callers are given updates of too old a base",
        (
            Edit(
                _UPDATES,
                "            if is_eligible(found.base_number, head, model.furthest_base_agg)\n",
                "",
                "Updates.pull_model_updates_ready_for_aggregation",
            ),
        ),
        (f"{_VERBS}::test_the_latest_aggregate_counts_as_the_first_of_the_furthest[sqlite-1-eligible1]",),
    ),
    Switch(
        "stale.latest_counts_as_the_first",
        "with k = 1 no fresh update is ever eligible",
        (
            Edit(
                "connectors/records.py",
                "base_number > head - furthest_base_agg",
                "base_number > head - furthest_base_agg + 1",
            ),
        ),
        (f"{_VERBS}::test_the_latest_aggregate_counts_as_the_first_of_the_furthest[sqlite-1-eligible1]",),
    ),
    Switch(
        "fewest.asked_before_the_claim",
        "a round its aggregator would refuse costs a fence and an attempt, every sweep",
        (Edit(_CLAIMING, "    if there < fewest:\n", "    if False:\n", "_choose"),),
        ("tests/unit/domain/test_fewest_updates.py::test_a_round_with_too_few_updates_is_not_begun",),
    ),
    Switch(
        "waiting.rolled_back",
        "every look at a model that waits raises its fence and holds it for a lease",
        (Edit(_CLAIMING, "transaction.set_rollback()", "pass", "begin_round"),),
        (f"{_DOMAIN}::test_waiting_costs_no_fence",),
    ),
    Switch(
        "culprit.set_aside",
        "one bad update stops every round of its model",
        (
            Edit(
                _ROUNDS,
                "except Culprit as culprit:\n        return _set_aside(hub, begun, culprit)",
                "except Culprit as culprit:\n        _give_back(hub, begun, str(culprit), counted=True)\n"
                "        return RoundOutcome('failed', '')",
            ),
        ),
        (f"{_DOMAIN}::test_a_bad_update_is_set_aside_and_the_others_go_on",),
    ),
    Switch(
        "culprit.others_go_free",
        "updates pay with an attempt for the fault of another",
        (
            Edit(
                _ROUNDS,
                "attempts = {u.id: u.attempts - 1 for u in others}",
                "attempts = {}",
                "_set_aside",
            ),
        ),
        (f"{_DOMAIN}::test_a_bad_update_is_set_aside_and_the_others_go_on",),
    ),
    Switch(
        "outage.condemns_nobody",
        "a store that is away for a while ends the model in ERROR",
        (
            Edit(
                _ROUNDS, "_give_back(hub, begun, str(error), counted=False)", "_give_back(hub, begun, '', counted=True)"
            ),
        ),
        (f"{_DOMAIN}::test_a_store_that_is_away_condemns_nobody",),
        raises=("TypeError",),
    ),
    Switch(
        "missing_blob.waited_for",
        "a store that is not mounted condemns every update at once",
        (
            Edit(
                "tasks/domain/combining.py",
                "if error.is_missing and update.attempts < hub.settings.max_attempts:",
                "if False:",
            ),
        ),
        (f"{_DOMAIN}::test_a_missing_blob_is_waited_for_and_then_set_aside",),
    ),
    Switch(
        "round.deleted_meanwhile",
        "a round of a model that was deleted since its claim writes to it",
        (Edit(_ROUNDS, "if model.deleted:", "if False:", "_lock_there"),),
        (
            "tests/unit/domain/test_rounds_of_deleted_models.py"
            "::test_a_round_in_flight_of_a_model_that_is_deleted_posts_nothing",
        ),
    ),
    Switch(
        "round.ascending_ids",
        "the same updates give other bytes when they are found in another order",
        (
            Edit(
                "tasks/domain/combining.py",
                "for update in sorted(begun.updates, key=lambda u: u.id):",
                "for update in reversed(sorted(begun.updates, key=lambda u: u.id)):",
                "recipe_of",
            ),
        ),
        (f"{_DOMAIN}::test_a_round_sums_by_ascending_id_whatever_the_order_it_is_given",),
    ),
    Switch(
        "transaction.all_or_nothing",
        "what was written before an exception stays",
        (
            Edit(
                "connectors/sql/database.py",
                "yield transaction\n",
                "try:\n                    yield transaction\n                except KeyError:\n"
                "                    session.commit()\n                    raise\n",
            ),
        ),
        (f"{_CONTRACT}::test_an_exception_undoes_the_whole_transaction[sqlite]",),
    ),
    Switch(
        "transaction.not_nested",
        "an inner transaction commits half of the outer one",
        (
            Edit(
                "connectors/sql/database.py",
                'if getattr(self._open, "session", None) is not None:',
                "if False:",
                "Database.transaction",
            ),
        ),
        (f"{_CONTRACT}::test_transactions_do_not_nest[sqlite]",),
        raises=("DatabaseUnavailable",),
    ),
    Switch(
        "transaction.required",
        "a write outside of any transaction is lost, or half of a round is visible",
        (
            Edit(
                "connectors/sql/database.py",
                "        if session is None:\n            raise TransactionRequired(method)\n",
                "        if session is None:\n            return Session(self.engine)\n",
                "Database._session",
            ),
        ),
        (f"{_VERBS}::test_writing_outside_a_transaction_is_refused[sqlite]",),
        # The next such session waits for the one before it, unless that was collected meanwhile.
        raises=("OperationalError", "DatabaseUnavailable"),
    ),
)
