"""Taking from a queue of RabbitMQ's, which itself gives back what a closed connection had not acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.broker.waiting import WaitingMessage, WaitingMessages, Wanted, is_wanted


class RabbitMessages(WaitingMessages):
    """One queue, read message by message."""

    def take(self, taker: str, wanted: Wanted) -> list[WaitingMessage]:  # noqa: ARG002  # the broker remembers it
        """The oldest that are wanted. One that is not goes back, and when it is met again, on to the other queue."""
        channel = self.connect()
        taken: list[WaitingMessage] = []
        size = 0
        while len(taken) < wanted.count and size < wanted.size:
            raw = channel.basic_get(self.queue)
            if raw is None:
                break
            message = channel.message_to_python(raw)
            if not is_wanted(message.headers, message.content_type, message.content_encoding, wanted):
                self._leave(message)
                break
            body = message.body if isinstance(message.body, bytes) else message.body.encode()
            size += len(body)
            taken.append(WaitingMessage(message.delivery_tag, message.headers, body, message))
        return taken

    def acknowledge(self, messages: Sequence[WaitingMessage]) -> None:
        """They are done."""
        channel = self._channel_of(messages)
        for message in messages:
            channel.basic_ack(message.tag)

    def give_back(self, messages: Sequence[WaitingMessage]) -> None:
        """Each to its place, or, as a quorum queue has it, to the end."""
        channel = self._channel_of(messages)
        for message in messages:
            channel.basic_reject(message.tag, requeue=True)

    def hand_on(self, message: WaitingMessage) -> None:
        """Published there, confirmed, and acknowledged here: should this process die between, it comes twice."""
        self._pass_on(message.origin)

    def _leave(self, received: Any) -> None:
        # A quorum queue puts it at its end: once it may wait there, but not for as long as a burst lasts.
        if received.delivery_info.get("redelivered"):
            self._pass_on(received)
        else:
            received.channel.basic_reject(received.delivery_tag, requeue=True)

    def _pass_on(self, received: Any) -> None:
        named = {name: received.properties.get(name) for name in ("priority", "content_type", "content_encoding")}
        others = {name: value for name, value in received.properties.items() if name not in named}
        headers = others.pop("application_headers", None)
        copy = received.channel.prepare_message(received.body, headers=headers, properties=others, **named)
        # No exchange: to the queue of that name.
        received.channel.basic_publish_confirm(copy, routing_key=self.others_to)
        received.channel.basic_ack(received.delivery_tag)

    @staticmethod
    def _channel_of(messages: Sequence[WaitingMessage]) -> Any:
        """The channel that they came on: their tags mean nothing on another."""
        return messages[0].origin.channel
