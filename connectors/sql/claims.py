"""Claims: the lease and the fence on the model's row (DESIGN 5; RELIABILITY, "The algorithm").

Safety rests on the fence alone; the lease only decides when somebody else may try. Both are read and written by
the database, in statements that name what they expect.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import exists, select, update

from connectors.errors import ClaimLost, ModelIsClaimed, TransitionRefused
from connectors.records import Claim, FederatedModel, ModelUpdate, Round, RoundState, UpdateStatus
from connectors.sql.clock import now_ms
from connectors.sql.mapping import to_model, to_round
from connectors.sql.rows import FederatedModelRow, ModelUpdateRow, RoundRow
from connectors.sql.rows.base import now
from connectors.sql.updates import Updates

_DEFAULT_LEASE_MS = 30_000


class Claims(Updates):
    """The connector's part for claims and rounds."""

    def claim_model(self, model: FederatedModel, lease_ms: int) -> Claim | None:
        taken = self._changed(
            "claim_model",
            update(FederatedModelRow)
            .where(
                FederatedModelRow.id == model.id,
                FederatedModelRow.lease_until.is_(None) | (FederatedModelRow.lease_until < now_ms()),
                # A deleted model begins no round: only what a dead worker left RUNNING is still taken back.
                FederatedModelRow.deleted.is_(False)
                | exists().where(ModelUpdateRow.model_id == model.id, ModelUpdateRow.status == UpdateStatus.RUNNING),
            )
            .values(fence=FederatedModelRow.fence + 1, lease_until=now_ms() + lease_ms),
        )
        return self._claim_of(model.id) if taken == 1 else None

    def renew_claim(self, claim: Claim, lease_ms: int, *, updates_done: int = 0, bytes_done: int = 0) -> Claim:
        self._fenced(claim, "its renewal", lease_until=now_ms() + lease_ms)
        self._changed(
            "renew_claim",
            update(RoundRow)
            .where(RoundRow.model_id == claim.model_id, RoundRow.fence == claim.fence)
            .values(updates_done=updates_done, bytes_done=bytes_done),
        )
        return self._claim_of(claim.model_id)

    def release_claim(self, claim: Claim) -> None:
        self._fenced(claim, "its release", lease_until=None)

    def register_model_updates_for_aggregation(
        self, model_updates: Sequence[ModelUpdate], *, claim: Claim | None = None
    ) -> list[ModelUpdate]:
        method = "register_model_updates_for_aggregation"
        self._session(method)
        if not model_updates:
            return []
        model_id = model_updates[0].model_id
        if claim is None:
            row = self._first(select(FederatedModelRow).where(FederatedModelRow.id == model_id))
            assert row is not None
            claim = self.claim_model(to_model(row), _DEFAULT_LEASE_MS)
            if claim is None:
                raise ModelIsClaimed(model_id)
        elif self._claim_of(model_id).fence != claim.fence:
            raise ClaimLost(claim, "the registration of its updates")
        statement = (
            update(ModelUpdateRow)
            .where(
                ModelUpdateRow.id.in_([u.id for u in model_updates]),
                ModelUpdateRow.model_id == model_id,
                ModelUpdateRow.status.in_([UpdateStatus.PENDING, UpdateStatus.FAILED]),
            )
            .values(status=UpdateStatus.RUNNING, claim=claim.fence, attempts=ModelUpdateRow.attempts + 1)
        )
        self._guarded(method, statement, len(model_updates))
        return self._running(model_id, claim.fence)

    def pull_model_updates_registered_for_aggregation(
        self, model: FederatedModel, *, claim: Claim | None = None
    ) -> list[ModelUpdate]:
        fence = self._claim_of(model.id).fence if claim is None else claim.fence
        return self._running(model.id, fence)

    def pull_model_updates_of_dead_claims(self, claim: Claim) -> list[ModelUpdate]:
        return self._updates(self._select_dead(claim.model_id, claim.fence))

    def add_round(self, claim: Claim, num_updates: int, worker: str) -> None:
        row = RoundRow(
            model_id=claim.model_id,
            fence=claim.fence,
            number=claim.head + 1,
            state=RoundState.CLAIMED,
            num_updates=num_updates,
            updates_done=0,
            bytes_done=0,
            worker=worker,
        )
        if self._added("add_round", row) is None:
            raise TransitionRefused("add_round", 1, 0)

    def close_round(
        self, claim: Claim, state: RoundState, *, aggregate_id: int | None = None, reason: str | None = None
    ) -> None:
        self._changed(
            "close_round",
            update(RoundRow)
            .where(
                RoundRow.model_id == claim.model_id,
                RoundRow.fence == claim.fence,
                RoundRow.state == RoundState.CLAIMED,
            )
            .values(state=state, aggregate_id=aggregate_id, reason=reason, finished_at=now()),
        )

    def close_dead_rounds(self, claim: Claim) -> None:
        self._changed(
            "close_dead_rounds",
            update(RoundRow)
            .where(
                RoundRow.model_id == claim.model_id,
                RoundRow.fence < claim.fence,
                RoundRow.state == RoundState.CLAIMED,
            )
            .values(
                state=RoundState.RESCUED,
                reason=f"its worker fell silent; claim {claim.fence} took the updates back",
                finished_at=now(),
            ),
        )

    def pull_rounds(self, model: FederatedModel, limit: int = 100) -> list[Round]:
        statement = select(RoundRow).where(RoundRow.model_id == model.id)
        return [to_round(row) for row in self._all(statement.order_by(RoundRow.fence.desc()).limit(limit))]

    # --- for this part and the aggregates' --------------------------------------------------------

    def _claim_of(self, model_id: int) -> Claim:
        """The claim that the model's row names now, live or not."""
        statement = select(FederatedModelRow.fence, FederatedModelRow.head, FederatedModelRow.lease_until)
        with self._reading() as session:
            fence, head, lease_until = session.execute(statement.where(FederatedModelRow.id == model_id)).one()
        return Claim(model_id=model_id, fence=fence, head=head, lease_until=lease_until or 0)

    def _model_of(self, claim: Claim) -> FederatedModel:
        row = self._first(select(FederatedModelRow).where(FederatedModelRow.id == claim.model_id))
        assert row is not None
        return to_model(row)

    def _fenced(self, claim: Claim, during: str, *, expected_head: int | None = None, **values: object) -> None:
        """Write to the model's row if its fence is still the claim's; with a head, if that is expected and the model
        not deleted. Raises: ClaimLost.
        """
        statement = update(FederatedModelRow).where(
            FederatedModelRow.id == claim.model_id, FederatedModelRow.fence == claim.fence
        )
        if expected_head is not None:
            statement = statement.where(FederatedModelRow.head == expected_head, FederatedModelRow.deleted.is_(False))
        statement = statement.values(**values)
        if self._changed("a fenced write", statement) != 1:
            raise ClaimLost(claim, during)

    def _running(self, model_id: int, fence: int) -> list[ModelUpdate]:
        found = self._updates(self._select_running(model_id, fence))
        return sorted(found, key=lambda u: u.id)
