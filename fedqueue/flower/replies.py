"""What a ClientApp's reply says, whatever names its app gave to the records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message

# Where simulations and most apps say which share of the data a reply comes from.
PARTITION = "partition-id"


class UnreadableReply(Exception):
    """A reply that no update can be made of; says why."""


@dataclass(frozen=True)
class Reply:
    """One participant's training, as it came."""

    participant: str
    arrays: ArrayRecord
    num_examples: float
    numbers: Mapping[str, float]  # its metrics that are single finite numbers, without the weight

    @property
    def digest(self) -> str:
        """Of the arrays, over names, order, dtypes, shapes and bytes: Flower's own."""
        return str(self.arrays.object_id)

    @property
    def num_bytes(self) -> int:
        """Of the arrays as they were sent."""
        return sum(len(array.data) for array in self.arrays.values())


def identity_of(reply: Message) -> str:
    """The data's partition if the reply names it (node ids of a simulation are drawn anew), else the node."""
    if reply.has_content():
        for metrics in reply.content.metric_records.values():
            if PARTITION in metrics:
                return f"partition {metrics[PARTITION]}"
    return f"node {reply.metadata.src_node_id}"


def numbers_of(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """The metrics that are single finite numbers, and measure something."""
    single = {key: float(value) for key, value in (metrics or {}).items() if not isinstance(value, list)}
    return {key: value for key, value in single.items() if key != PARTITION and math.isfinite(value)}


def read_reply(reply: Message, participant: str, weight_key: str) -> Reply:
    """The reply's one ArrayRecord and its metrics. Raises: UnreadableReply."""
    arrays = list(reply.content.array_records.values())
    if len(arrays) != 1:
        raise UnreadableReply(f"the reply has {len(arrays)} ArrayRecords, and not one")
    said = {key: value for metrics in reply.content.metric_records.values() for key, value in metrics.items()}
    weight = said.pop(weight_key, None)
    if weight is None:
        raise UnreadableReply(f"the reply's metrics name no {weight_key!r}")
    if isinstance(weight, list) or not math.isfinite(weight) or weight <= 0:
        raise UnreadableReply(f"{weight_key} must be finite and above 0, not {weight}")
    return Reply(participant, arrays[0], float(weight), numbers_of(said))
