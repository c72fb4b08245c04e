// Calls and answers over Redis: a queue is a list that is pushed on its left, an answer lies under a key of its call's.

import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";

// Longer than this a queue is not made: its broker's memory is everybody's.
const MOST_WAITING = 1000;

export class RedisLine {
  constructor(url) {
    this.redis = connect(url);
  }

  /** Whether the broker has it; false if there is no room just now. */
  async send(call) {
    if ((await this.redis.llen(call.queue)) >= MOST_WAITING) return false;
    const envelope = {
      body: call.body.toString("base64"),
      "content-encoding": "utf-8",
      "content-type": call.contentType,
      headers: call.headers,
      properties: {
        correlation_id: call.id,
        reply_to: "",
        delivery_mode: 2,
        delivery_info: { exchange: "", routing_key: call.queue },
        priority: 0,
        body_encoding: "base64",
        // Of this copy alone: the worker acknowledges by it.
        delivery_tag: randomUUID(),
      },
    };
    await this.redis.lpush(call.queue, JSON.stringify(envelope));
    return true;
  }

  /** What was written down as the call's answer; null if nothing was yet. */
  async look(call) {
    return this.redis.getBuffer(`celery-task-meta-${call.id}`);
  }

  async close() {
    this.redis.disconnect();
  }
}

function connect(url) {
  const options = { maxRetriesPerRequest: 3, connectTimeout: 5000 };
  const { protocol, pathname, searchParams, password } = new URL(url);
  if (protocol !== "redis+socket:") return new Redis(url, options);
  const db = Number(searchParams.get("virtual_host") ?? 0);
  return new Redis({ ...options, path: decodeURIComponent(pathname), db, password: password || undefined });
}
