"""Taking from a queue of kombu's on a Redis-protocol server.

kombu's own `basic_get` takes a message off the list in one command and writes it down as unacknowledged in another: a
process killed between the two loses it. Here both are one script, which the server carries out whole or not at all.
What is taken is written down where kombu keeps the unacknowledged, in its form, so that every worker's own look-out
gives it back: not after the visibility timeout, which must outlast the longest task, but after `HELD_SECONDS`. And
whoever runs the taker's task again gets it at once.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from kombu.connection import Connection

from connectors.broker.waiting import WaitingMessage, WaitingMessages, Wanted

# Far longer than a batch takes; should one take longer, it is carried out twice with one effect.
HELD_SECONDS: Final = 60.0

# KEYS: the queue, kombu's hash of unacknowledged messages, kombu's index of it.
# ARGV: the taker, a tag of this taking's own, the index's score, count, bytes, the tasks' names, the end of an entry,
# the type of their content.
# A list is read at its right end, its oldest. An entry is kombu's: [message, exchange, routing key].
_TAKE: Final = """
local queue, unacked, index = KEYS[1], KEYS[2], KEYS[3]
local taker, tag, score = ARGV[1], ARGV[2], ARGV[3]
local count, size, ending, content = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7], ARGV[8]
local taken, bytes, tasks = {}, 0, {}
for _, task in ipairs(cjson.decode(ARGV[6])) do tasks[task] = true end

local function holdings(id) return unacked .. '.taken.' .. id end

local function keep(name, raw)
  redis.call('ZADD', index, score, name)
  bytes = bytes + #raw
  taken[#taken + 1] = name
  taken[#taken + 1] = raw
end

-- What a taker had taken that did not live to acknowledge it.
local function adopt(id)
  for _, name in ipairs(redis.call('LRANGE', holdings(id), 0, -1)) do
    local entry = #taken < 2 * count and redis.call('HGET', unacked, name)
    if entry then keep(name, string.sub(entry, 2, -#ending - 1)) end
  end
end

local function is_null(value) return value == nil or value == cjson.null end

local function headers_if_wanted(raw)
  local read, message = pcall(cjson.decode, raw)
  if not read or type(message) ~= 'table' or type(message.headers) ~= 'table' then return nil end
  local headers, encoding = message.headers, message['content-encoding']
  if not tasks[headers.task] or headers.ignore_result ~= true then return nil end
  if message['content-type'] ~= content or encoding ~= 'utf-8' then return nil end
  if headers.compression ~= nil then return nil end
  for _, name in ipairs({'eta', 'expires', 'group'}) do
    if not is_null(headers[name]) then return nil end
  end
  return headers
end

adopt(taker)
local own = {}
while #taken < 2 * count do
  local raw = redis.call('LINDEX', queue, -1)
  if not raw or bytes + #raw > size then break end
  local headers = headers_if_wanted(raw)
  if not headers then break end
  redis.call('RPOP', queue)
  local name = tag .. ':' .. #own
  own[#own + 1] = name
  redis.call('HSET', unacked, name, '[' .. raw .. ending)
  keep(name, raw)
  if headers.redelivered == true and type(headers.id) == 'string' then adopt(headers.id) end
end
if #own > 0 then
  redis.call('RPUSH', holdings(taker), unpack(own))
  redis.call('EXPIRE', holdings(taker), 86400)
end
return taken
"""

# KEYS: the list to put them into, kombu's hash and index. ARGV: which end of it, the end of an entry, the tags.
# One that is not there any more was given back by somebody else's look-out, or done by another taker.
_PUT: Final = """
for position = 3, #ARGV do
  local entry = redis.call('HGET', KEYS[2], ARGV[position])
  if entry then
    redis.call(ARGV[1], KEYS[1], string.sub(entry, 2, -#ARGV[2] - 1))
    redis.call('HDEL', KEYS[2], ARGV[position])
    redis.call('ZREM', KEYS[3], ARGV[position])
  end
end
"""


class RedisMessages(WaitingMessages):
    """One list of kombu's, the one of ordinary priority."""

    def __init__(self, connection: Connection, queue: str, others_to: str) -> None:
        super().__init__(connection, queue, others_to)
        # An empty exchange: given back, it goes to the queue of that name whatever is bound to what.
        self._ending = f",{json.dumps('')},{json.dumps(queue)}]"

    def take(self, taker: str, wanted: Wanted) -> list[WaitingMessage]:
        """The oldest that are wanted, after those that the same taker had taken before it died."""
        channel = self.connect()
        score = time.time() - max(0.0, channel.visibility_timeout - HELD_SECONDS)
        found = self._run(
            _TAKE,
            [self.queue, channel.unacked_key, channel.unacked_index_key],
            [
                *(taker, uuid4().hex, score, wanted.count, wanted.size, json.dumps(sorted(wanted.tasks)), self._ending),
                wanted.content_type,
            ],
        )
        return [_message(tag.decode(), raw, taker) for tag, raw in zip(found[::2], found[1::2], strict=True)]

    def acknowledge(self, messages: Sequence[WaitingMessage]) -> None:
        """They are done: one transaction, whatever their number."""
        if not messages:
            return
        channel = self.connect()
        tags = [message.tag for message in messages]
        with channel.conn_or_acquire() as client, client.pipeline(transaction=True) as pipe:
            pipe.hdel(channel.unacked_key, *tags)
            pipe.zrem(channel.unacked_index_key, *tags)
            pipe.delete(f"{channel.unacked_key}.taken.{messages[0].origin}")
            pipe.execute()

    def give_back(self, messages: Sequence[WaitingMessage]) -> None:
        """Back to the end that is read, the oldest last, which makes it the first."""
        self._put("RPUSH", self.queue, [message.tag for message in reversed(messages)])

    def hand_on(self, message: WaitingMessage) -> None:
        """To the other queue's end."""
        self._put("LPUSH", self.others_to, [message.tag])

    def _put(self, how: str, queue: str, tags: Sequence[str]) -> None:
        channel = self.connect()
        self._run(_PUT, [queue, channel.unacked_key, channel.unacked_index_key], [how, self._ending, *tags])

    def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        with self.connect().conn_or_acquire() as client:
            return client.register_script(script)(keys=keys, args=arguments)


def _message(tag: str, raw: bytes, taker: str) -> WaitingMessage:
    message = json.loads(raw)
    body = message.get("body") or ""
    in_base64 = message.get("properties", {}).get("body_encoding") == "base64"
    return WaitingMessage(tag, message["headers"], base64.b64decode(body) if in_base64 else body.encode(), taker)
