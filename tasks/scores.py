"""Tasks about scores."""

from __future__ import annotations

from fedqueue.messages import AddScore, ScoreView, names
from tasks.base import hub_task
from tasks.domain.scores import add_score
from tasks.hub import Hub


@hub_task(names.SCORES_ADD, AddScore)
def add(hub: Hub, message: AddScore) -> ScoreView:
    """The client's score of the aggregate, written down."""
    scored = add_score(hub, message)
    return ScoreView(
        aggregate_id=message.aggregate_id,
        client_id=message.client_id,
        validation_results=dict(scored.score.validation_results),
        validation_score=scored.validation_score,
        is_best=scored.is_best,
    )
