"""Whether a round may be due, told from counts alone: a look that nothing can come of is spared."""

from __future__ import annotations

from connectors.records import FederatedModel
from tasks.aggregation import AggregationError, fewest_updates
from tasks.domain.buffers import buffer_size_of
from tasks.domain.requirements import Outlook, may_be_met


def may_be_due(model: FederatedModel, open_updates: int) -> bool:
    """False if a model with no more open updates than that has no round to begin for certain."""
    try:
        if open_updates < max(fewest_for(model), buffer_size_of(model) or 1):
            return False
        return may_be_met(model.requirement, model.requirement_args, Outlook(open_updates, model.head))
    except Exception:  # noqa: BLE001  # a plugin's, or a policy's that nobody has checked: the round meets and tells it
        return True  # what is only to spare a look must not cost an update


def fewest_for(model: FederatedModel) -> int:
    """How many updates the model's aggregator takes at least."""
    try:
        return fewest_updates(model.aggregator, model.aggregator_params)
    except AggregationError:
        return 1  # the round fails by it, where failures are counted and told
