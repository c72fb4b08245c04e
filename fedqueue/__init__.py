"""fedqueue for those who use a hub: the wire messages, and the client that speaks them.

from fedqueue import Client

with Client() as hub:
    model = hub.create_model(name="digits", initial={"w": weights}, requirement="require_x_clients", ...)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedqueue.version import __version__

if TYPE_CHECKING:
    from fedqueue.client import Client
    from fedqueue.errors import (
        DataCorrupt,
        EndpointUnknown,
        EventNotTaken,
        EventsNotSent,
        FedqueueError,
        HubBusy,
        HubFailed,
        HubUnavailable,
        InvalidArgument,
        LimitExceeded,
        NoAnswer,
        Rejected,
        RoundNotPosted,
        StoreUnreachable,
        Unanswered,
        UpdateRejected,
    )
    from fedqueue.event_buffer import EventBuffer
    from fedqueue.model_calls import FetchedModel
    from fedqueue.payload import Payload

__all__ = [
    "Client",
    "DataCorrupt",
    "EndpointUnknown",
    "EventBuffer",
    "EventNotTaken",
    "EventsNotSent",
    "FedqueueError",
    "FetchedModel",
    "HubBusy",
    "HubFailed",
    "HubUnavailable",
    "InvalidArgument",
    "LimitExceeded",
    "NoAnswer",
    "Payload",
    "Rejected",
    "RoundNotPosted",
    "StoreUnreachable",
    "Unanswered",
    "UpdateRejected",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # On first use: the hub itself imports fedqueue.messages, and needs neither the client nor what it imports.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {"Client": "client", "FetchedModel": "model_calls", "EventBuffer": "event_buffer", "Payload": "payload"}
    return getattr(import_module(f"fedqueue.{homes.get(name, 'errors')}"), name)
