"""kombu's Redis transport, with messages taken so that a killed worker loses none.

kombu waits with BRPOP, which takes a message off its list, and writes it down as unacknowledged when it has read the
reply: a worker killed between the two has lost it, and its reply may wait for long while all processes are busy (two
messages were lost in 15 kills under load). Here one script takes a message and writes it down. As a script can't
wait, an idle worker waits at each queue with `BLMOVE queue queue RIGHT RIGHT`, which answers when there is something
and leaves everything in its place. What can't be read is put aside under the queue's name and `.unreadable`.

kombu gives a message back when it was taken longer ago than the visibility timeout, which must outlast the longest
task. With the option `held_seconds` it comes back when its worker has not said for so long that it lives: after a kill
or a lost connection, however long a task may take. A worker whose pool is its main loop can't say so while it works.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from queue import Empty
from typing import Any, Final

import kombu.transport
import structlog
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError

# KEYS: the lists in the order they are asked in, the hash of unacknowledged messages and its index. ARGV: the time.
TAKE: Final = """
local unacked, index = KEYS[#KEYS - 1], KEYS[#KEYS]
for position = 1, #KEYS - 2 do
  local list = KEYS[position]
  local raw = redis.call('RPOP', list)
  if raw then
    local read, message = pcall(cjson.decode, raw)
    local properties = read and type(message) == 'table' and message.properties
    local tag = type(properties) == 'table' and properties.delivery_tag
    local info = type(properties) == 'table' and properties.delivery_info
    if type(tag) ~= 'string' or type(info) ~= 'table' then
      redis.call('LPUSH', list .. '.unreadable', raw)
      return {list}
    end
    local exchange, key = info.exchange, info.routing_key
    if type(exchange) ~= 'string' then exchange = '' end
    if type(key) ~= 'string' then key = '' end
    redis.call('HSET', unacked, tag, '[' .. raw .. ',' .. cjson.encode(exchange) .. ',' .. cjson.encode(key) .. ']')
    redis.call('ZADD', index, ARGV[1], tag)
    return {list, raw}
  end
end
return nil
"""

_PEEK: Final = "PEEK "
# How long nothing is asked of a server at its `maxmemory`, once there is nothing left to take.
_FULL_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class QoS(stock.QoS):
    """What is delivered was written down by the script that took it.

    At its `maxmemory` a server refuses whatever could take more, and Redis within a transaction every command: it must
    hear of what is done all the same, or nothing would ever be freed.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember it in this process."""
        virtual.QoS.append(self, message, delivery_tag)

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        if pipe is not None:
            return super()._remove_from_indices(delivery_tag, pipe)
        # No transaction, and the entry before its index: an index alone is cleared away by whoever looks out.
        with self.channel.conn_or_acquire() as client:
            both = client.pipeline(transaction=False)
            return both.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag)

    def restore_visible(self, *arguments: Any, **options: Any) -> None:
        """As the stock one; on a full server another time."""
        with contextlib.suppress(OutOfMemoryError):
            super().restore_visible(*arguments, **options)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """As the stock one; what a full server does not take back stays written down, for whoever looks out later."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except OutOfMemoryError as error:
            _log.warning("message.not_given_back", tag=tag, reason=str(error))


class Message(virtual.Message):
    """One that is not in kombu's form is one without a task, for its reader to refuse.

    kombu's own way ends in whatever error it runs into, and the worker with it, which then takes the same one again.
    """

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except (AttributeError, KeyError, TypeError, ValueError):
            properties = payload.get("properties") if isinstance(payload, dict) else None
            tag = properties.get("delivery_tag") if isinstance(properties, dict) else None
            emptied = {"content-type": "unreadable", "headers": {}, "properties": {"delivery_tag": tag}}
            super().__init__(emptied, channel=channel, **kwargs)


class Channel(stock.Channel):
    """One that takes by script, and waits by looking."""

    QoS = QoS
    Message = Message
    max_connections = 100  # one waits at each queue; the stock ten are soon too few
    held_seconds: float | None = None
    from_transport_options = (*stock.Channel.from_transport_options, "held_seconds")  # type: ignore[assignment]
    _in_poll: Any = False
    _brpop_sent_at: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._is_asking = False
        self._peekers: dict[str, Any] = {}  # queue -> client, with a connection of its own
        self._peeked_at: dict[str, float] = {}  # queue -> when the look under way began
        self._digest = ""
        self._unacknowledging: set[str] = set()  # queues whose consumers acknowledge nothing
        self._shared: Any = None
        self._rests_until = 0.0
        super().__init__(*args, **kwargs)

    # --- taking ------------------------------------------------------------------------------------

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002  # as the stock one is called
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues or time.monotonic() < self._rests_until:
            return
        lists = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        if not self._digest:
            self._digest = self._create_client().script_load(TAKE)
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self._is_asking = True
        keys = [*lists, self.unacked_key, self.unacked_index_key]
        self.client.connection.send_command("EVALSHA", self._digest, len(keys), *keys, repr(self._held_from()))

    def _brpop_read(self, **options: Any) -> bool:
        if not self._is_asking:
            raise Empty
        self._is_asking = False
        try:
            found = self.client.parse_response(self.client.connection, "EVALSHA", **options)
        except NoScriptError:
            # A server that was restarted has forgotten it.
            self._digest, self._in_poll = "", None
            raise Empty from None
        except self.connection_errors:
            self._in_poll = None
            self.client.connection.disconnect()
            raise
        finally:
            self._flush_brpop_reauth()
        if not found:
            self._look()
            raise Empty
        self._in_poll = None
        queue = bytes_to_str(found[0]).rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        if len(found) == 1:
            _log.error("message.unreadable", queue=queue, kept_in=f"{bytes_to_str(found[0])}.unreadable")
            raise Empty
        message = loads(bytes_to_str(found[1]))
        if queue in self._unacknowledging:
            self._forget(message["properties"]["delivery_tag"])
        self.connection._deliver(message, queue)
        return True

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except OutOfMemoryError:
            # A worker that starts on a full server must be able to make room: what is bound already will do.
            member = self.sep.join([routing_key or "", pattern or "", queue or ""])
            with self.conn_or_acquire() as client:
                if not client.sismember(self.keyprefix_queue % (exchange,), member):
                    raise

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """As the stock one; whoever acknowledges nothing must leave nothing to be acknowledged."""
        (self._unacknowledging.add if no_ack else self._unacknowledging.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """As the stock one."""
        message = super().basic_get(queue, no_ack, **kwargs)
        if message is not None and no_ack:
            self._forget(message.delivery_tag)
        return message

    def _forget(self, tag: str) -> None:
        self.qos._remove_from_indices(tag).execute()

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002
        lists = [self._q_for_pri(queue, priority) for priority in self.priority_steps]
        with self.conn_or_acquire() as client:
            take = client.register_script(TAKE)
            found = take(keys=[*lists, self.unacked_key, self.unacked_index_key], args=[repr(time.time())])
            self._maybe_update_queues_expire(client, queue)
        if not found or len(found) == 1:
            raise Empty
        return loads(bytes_to_str(found[1]))

    @contextlib.contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """A client of this channel's pool: one for all its commands, where the stock one makes one for each.

        Raises: redis.ConnectionError on a channel that was closed, whose user then asks for another one.
        """
        if client is None:
            if self.connection is None or self.connection.client is None:
                # The stock one ends in an AttributeError, which a producer takes for no fault of its connection: it
                # would go on with this channel for ever, and a task that sends something would have failed.
                raise RedisConnectionError("the channel was closed with its connection")
            # The pool is another after a fork.
            if self._shared is None or self._shared.connection_pool is not self.pool:
                self._shared = self._create_client()
            client = self._shared
        yield client

    # --- holding -----------------------------------------------------------------------------------

    def hold(self) -> None:
        """Say that the worker lives which this channel has delivered messages to."""
        held = self.qos._delivered.keys() - self.qos._dirty
        if not self.held_seconds or not held:
            return
        with self.conn_or_acquire() as client:
            # Only those that are there still: what was acknowledged in this moment must not come back.
            client.zadd(self.unacked_index_key, dict.fromkeys(held, self._held_from()), xx=True)

    def _held_from(self) -> float:
        """The time to be written down for a message, so that it is overdue in `held_seconds` to whoever looks.

        Whoever looks adds the visibility timeout: also a worker of an older version, whose own are held for as long.
        """
        if not self.held_seconds:
            return time.time()
        return time.time() - max(0.0, self.visibility_timeout - self.held_seconds)

    # --- waiting -----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Be told when one of the queues has something; `_in_poll` stays set, so that nothing is asked until then."""
        self._brpop_sent_at = None
        for queue in self.active_queues:
            if queue in self._peeked_at:
                continue
            client = self._peekers.get(queue)
            if client is None:
                client = self._peekers[queue] = self._create_client(asynchronous=True)
                client.connection = client.connection_pool.get_connection()
                self.handlers[_PEEK + queue] = partial(self.looked, queue)
            ident = self, client, _PEEK + queue
            if client.connection._sock is None or ident not in self.connection.cycle._chan_to_sock:
                self.connection.cycle._register(*ident)
            client.connection.send_command("BLMOVE", queue, queue, "RIGHT", "RIGHT", self.brpop_timeout or 1)
            self._peeked_at[queue] = time.monotonic()

    def looked(self, queue: str) -> None:
        """The look at that queue is over, with something there or not: ask at the next turn of the loop."""
        client = self._peekers[queue]
        self._peeked_at.pop(queue, None)
        if not self._is_asking:
            self._in_poll = None
        try:
            client.parse_response(client.connection, "BLMOVE")
        except OutOfMemoryError:
            # A server without memory refuses even to move an entry to its own place. What waits it still gives out:
            # it is asked for that, now and then, until there is room; an error would end the whole worker.
            self._rests_until = time.monotonic() + _FULL_SECONDS
        except self.connection_errors:
            client.connection.disconnect()
            raise

    def _basic_cancel(self, consumer_tag: str) -> Any:
        cancelled = super()._basic_cancel(consumer_tag)
        self._stop_looking()
        return cancelled

    def _stop_looking(self) -> None:
        """Give up the connections that wait at queues which nobody consumes any more: one channel may see many."""
        for queue in self._peekers.keys() - set(self.active_queues):
            client, kind = self._peekers.pop(queue), _PEEK + queue
            self._peeked_at.pop(queue, None)
            self.handlers.pop(kind, None)
            cycle, connection = self.connection.cycle, client.connection
            cycle._chan_to_sock.pop((self, client, kind), None)
            for fileno in [fileno for fileno, found in cycle._fd_to_chan.items() if found == (self, kind)]:
                del cycle._fd_to_chan[fileno]
            connection.disconnect()
            client.connection = None
            client.connection_pool.release(connection)
        if not self._peeked_at and not self._is_asking:
            self._in_poll = None

    def drop_stale_looks(self, patience: float) -> None:
        """Give up looks whose answer is overdue: the server may have vanished without a word."""
        now = time.monotonic()
        if any(now - began > patience for began in self._peeked_at.values()):
            _log.warning("broker.silent", seconds=patience)
            self._peeked_at.clear()
            for client in self._peekers.values():
                client.connection.disconnect()
            if not self._is_asking:
                self._in_poll = None

    def _on_connection_disconnect(self, connection: Any) -> None:
        for queue, client in self._peekers.items():
            if client.connection is connection:
                self._peeked_at.pop(queue, None)
                if not self._is_asking:
                    self._in_poll = None
        super()._on_connection_disconnect(connection)

    def _poll_error(self, type: str, **options: Any) -> None:  # the stock one's name
        if type.startswith(_PEEK):
            self.looked(type.removeprefix(_PEEK))
        else:
            super()._poll_error(type, **options)

    def _close_clients(self) -> None:
        super()._close_clients()
        for client in self._peekers.values():
            with contextlib.suppress(AttributeError, self.ResponseError):
                connection, client.connection = client.connection, None
                connection.disconnect()
        self._peekers.clear()


class Poller(stock.MultiChannelPoller):
    """The stock one, which also hears of looks."""

    def on_readable(self, fileno: int) -> Any:
        """A look takes nothing, so its answer is read whether or not there is room for a message.

        Raises: Empty, as a reply without a message does.
        """
        channel, kind = self._fd_to_chan.get(fileno, (None, ""))
        if channel is not None and kind.startswith(_PEEK):
            channel.handlers[kind]()
            raise Empty
        return super().on_readable(fileno)

    def maybe_restore_messages(self) -> Any:
        """The stock one's look for what is overdue, after a word about what is not."""
        for channel in self._channels:
            if channel.active_queues:
                channel.hold()
        return super().maybe_restore_messages()

    def maybe_check_brpop_health(self) -> None:
        """The stock check, and that of the looks."""
        super().maybe_check_brpop_health()
        for channel in self._channels:
            if channel.health_check_interval:
                channel.drop_stale_looks((channel.brpop_timeout or 1) + channel.health_check_interval)


class Transport(stock.Transport):
    """For `redis://` and `rediss://`."""

    Channel = Channel
    cycle: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()


def take_safely_from_redis() -> None:
    """Have every connection of this process that is made from now on use this transport."""
    for scheme in ("redis", "rediss"):
        kombu.transport.TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
        kombu.transport._transport_cache.pop(scheme, None)
