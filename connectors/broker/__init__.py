"""The broker's queues: messages that wait there, taken in numbers by somebody who is at one of their kind already."""

from connectors.broker.waiting import WaitingMessage, WaitingMessages, Wanted, waiting_messages

__all__ = ["WaitingMessage", "WaitingMessages", "Wanted", "waiting_messages"]
