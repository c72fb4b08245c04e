"""The wire contract: every message, every answer, every name that both ends must agree on.

The only part of `fedqueue` that the application itself imports, so that there is one definition of each.
"""

from fedqueue.messages.envelope import Answer, Message, Rejection, View
from fedqueue.messages.models import (
    ArtifactView,
    ClientView,
    CreateModel,
    DataRef,
    EditModel,
    LatestModel,
    LatestView,
    ModelRef,
    ModelView,
    Policy,
    PublishModel,
    RegisterClient,
)
from fedqueue.messages.updates import (
    AddScore,
    AggregateRound,
    PollRounds,
    RoundView,
    ScoreView,
    SubmitModelUpdate,
    UpdateView,
)

__all__ = [
    "AddScore",
    "AggregateRound",
    "Answer",
    "ArtifactView",
    "ClientView",
    "CreateModel",
    "DataRef",
    "EditModel",
    "LatestModel",
    "LatestView",
    "Message",
    "ModelRef",
    "ModelView",
    "Policy",
    "PollRounds",
    "PublishModel",
    "RegisterClient",
    "Rejection",
    "RoundView",
    "ScoreView",
    "SubmitModelUpdate",
    "UpdateView",
    "View",
]
