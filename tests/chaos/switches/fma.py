"""Guards beside an FMA deployment: what keeps both sides of it one, without a Django."""

from __future__ import annotations

from typing import Final

from tests.chaos.switches.source_edits import Edit
from tests.chaos.switches.switch import Switch

_TESTS: Final = "tests/unit/domain/test_takeover.py::"
_BESIDE: Final = "connectors/django/beside.py"
_TAKEOVER: Final = "connectors/django/takeover.py"

SWITCHES: Final = (
    Switch(
        "fma.stranger_in_the_chain",
        "the hub posts beside an aggregate of FMA's own, whose updates it has used as well",
        (Edit(_BESIDE, "        if stranger is not None:\n", "        if False:\n"),),
        (_TESTS + "test_an_aggregate_of_fmas_own_fences_the_round_that_is_under_way",),
    ),
    Switch(
        "fma.used_updates_are_complete_there",
        "FMA's clients see an update as running that an aggregate has used",
        (
            Edit(
                _BESIDE,
                "        self._mirror(found.id for found in model_updates)\n",
                "",
                within="Beside.register_model_update_used_in_aggregate",
            ),
        ),
        (_TESTS + "test_everything_is_taken_over_once",),
    ),
    Switch(
        "fma.refused_once",
        "what can't be taken over is read, and refused, at every poll",
        (Edit(_TAKEOVER, "row.id == table.c.id), ~is_refused)", "row.id == table.c.id))"),),
        (_TESTS + "test_what_cant_be_taken_over_is_one_dead_letter",),
    ),
    Switch(
        "fma.pauses_compared",
        "a model that FMA pauses and unpauses again is never looked at by the poll",
        (Edit("tasks/domain/takeover.py", "        self._compare_policies()\n", ""),),
        (_TESTS + "test_a_pause_that_fma_ends_is_ended_though_nothing_more_comes_in",),
    ),
    Switch(
        "fma.settings_kept_from_the_migrate_command",
        "the deployment's own command is handed the hub's passwords",
        (
            Edit(
                "connectors/django/connector.py",
                ' if not name.startswith("FEDQUEUE_")',
                "",
            ),
        ),
        ("tests/unit/connectors/test_django_connector.py::test_a_migrate_command_sees_none_of_the_hubs_settings",),
    ),
    Switch(
        "fma.store_in_the_media_bucket",
        "the hub stores its aggregates where FMA's API can't serve them from",
        (Edit("config/settings.py", "return key_in(media, store_url) is not None", "return True"),),
        ("tests/unit/config/test_settings.py::test_what_cant_be_beside_fma_is_refused_by_name",),
    ),
    Switch(
        "fma.media_bucket_away",
        "updates of FMA's are condemned while the bucket is away",
        (
            Edit(
                "connectors/storage/object_connector.py",
                "except (ObjectMissing, BlobMissing) as error:",
                "except ObjectMissing as error:",
            ),
        ),
        (
            "tests/unit/storage/test_object_store.py::"
            "test_a_file_beside_the_store_is_not_missing_while_their_bucket_is_away",
        ),
        raises=("BlobMissing",),
    ),
    Switch(
        "fma.policy_checked",
        "a round begins by a requirement that nobody knows",
        (Edit("tasks/domain/claiming.py", "    if metadata.deployment is not None and", "    if False and"),),
        (_TESTS + "test_a_policy_that_nobody_has_checked_stops_the_rounds_and_says_so",),
        raises=("InvalidPolicy", "UnknownAggregator"),
    ),
)
