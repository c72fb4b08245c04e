"""Every guard of the system that has a switch, and which of them every run tries (docs/reliability.md, "mutations")."""

from __future__ import annotations

from typing import Final

from tests.chaos.switches import delivery, entries, files, fma, numerics, rounds, schema
from tests.chaos.switches.switch import Switch

SWITCHES: Final[tuple[Switch, ...]] = (
    *rounds.SWITCHES,
    *entries.SWITCHES,
    *numerics.SWITCHES,
    *schema.SWITCHES,
    *files.SWITCHES,
    *delivery.SWITCHES,
    *fma.SWITCHES,
)

# Tried by `make test`: what a round and a submission rest on, and of the others what stands for many like it.
_FAMILIES: Final = frozenset({"fence", "lease", "claim", "reaping", "head", "outbox", "submission", "transaction"})
_OTHERS: Final = frozenset(
    {
        "blob.before_its_row",
        "blob.named_when_complete",
        "blob.synced",
        "celery.task_acks_late",
        "celery.task_reject_on_worker_lost",
        "client.sends_again",
        "digest.checked_when_taken_in",
        "garbage.age",
        "garbage.looked_at_again",
        "limits.checked_under_the_lock",
        "reference.confined",
        "schema.both_nets_of_the_chain",
        "schema.uq_model_aggregate_model_id_number",
        "schema.uq_model_aggregate_parent_id",
        "schema.uq_model_log_event_id",
        "schema.uq_model_update_submission_id",
        "schema.uq_outbox_key",
        "schema.ck_model_update_complete",
        "secrets.masked_in_logs",
        "sqlite.begin_immediate",
    }
)
QUICK: Final = tuple(s for s in SWITCHES if not s.wide and (s.name.partition(".")[0] in _FAMILIES or s.name in _OTHERS))
OTHERS: Final = tuple(s for s in SWITCHES if not s.wide and s not in QUICK)
WIDE: Final = tuple(s for s in SWITCHES if s.wide)
