// A hub, seen from another language: every question is repeated under the same id until it is answered.

import { setTimeout as rest } from "node:timers/promises";
import { newCall } from "./call.mjs";
import { RabbitMQLine } from "./rabbitmq_line.mjs";
import { RedisLine } from "./redis_line.mjs";

const FIRST_SILENCE = 3000; // ms until a call is sent again; each further time twice as long
const LONGEST_SILENCE = 60_000;
const LONGEST_LOOK = 250;

/** The hub has judged the message and refused it: the same message will be refused again. */
export class Rejected extends Error {
  constructor({ kind, field, reason, limit }) {
    super(`${kind}: ${field ? `${field}: ` : ""}${reason}`);
    Object.assign(this, { name: "Rejected", kind, field, reason, limit });
  }
}

/** Nobody answered in time: whether it was carried out is unknown, and the same message may be sent again. */
export class NoAnswer extends Error {
  name = "NoAnswer";
}

export class Hub {
  /** Answers come from where the calls go, unless `resultUrl` names a Redis. */
  static async open({ brokerUrl, resultUrl, signer = null }) {
    const line = brokerUrl.startsWith("amqp") ? await RabbitMQLine.open(brokerUrl) : new RedisLine(brokerUrl);
    const isElsewhere = resultUrl?.startsWith("redis") && resultUrl !== brokerUrl;
    return new Hub(line, isElsewhere ? new RedisLine(resultUrl) : line, signer);
  }

  constructor(line, answers, signer) {
    this.line = line;
    this.answers = answers;
    this.signer = signer;
  }

  /** What the task answered. Throws Rejected, NoAnswer. */
  async ask(task, message, seconds = 30) {
    const until = Date.now() + seconds * 1000;
    let call = newCall(task, message, { signer: this.signer });
    let silence = FIRST_SILENCE;
    let trouble = "is a worker running?";
    while (Date.now() < until) {
      await this.line.send(call, { bringsAnswers: this.line === this.answers });
      const record = await this.#wait(call, Math.min(silence, until - Date.now()));
      silence = Math.min(silence * 2, LONGEST_SILENCE);
      if (!record) continue;
      const { value, rejection } = record.status === "SUCCESS" ? record.result : {};
      if (record.status === "SUCCESS" && !rejection) return value;
      // Up to twice as long: not all who were told the same come back at one moment.
      const pause = 1000 * (rejection?.limit?.retry_after ?? 1) * (1 + Math.random());
      if (rejection && (!rejection.limit || Date.now() + pause >= until)) throw new Rejected(rejection);
      // Or something broke, a worker was killed: that says nothing of the message.
      if (!rejection) trouble = `${record.result?.exc_type}: ${record.result?.exc_message}`;
      await rest(pause);
      // The next answer needs a place of its own.
      call = newCall(task, message, { signer: this.signer });
    }
    throw new NoAnswer(`${task}: no answer within ${seconds} s (${trouble})`);
  }

  /** The newest model, as soon as its number is at least this one: 0 before anything was aggregated. */
  async latest(modelId, number, seconds = 30) {
    const until = Date.now() + seconds * 1000;
    for (;;) {
      const latest = await this.ask("fedqueue.models.latest", { model_id: modelId, include_data: true }, seconds);
      if (latest.number >= number) return latest;
      if (Date.now() >= until) throw new Error(`model ${modelId} has no aggregate ${number} within ${seconds} s`);
      await rest(100);
    }
  }

  async close() {
    for (const line of new Set([this.line, this.answers])) await line.close();
  }

  /** Celery's record of how the call ended; null if it has not within that time. */
  async #wait(call, milliseconds) {
    const until = Date.now() + milliseconds;
    for (let pause = 10; ; pause = Math.min(pause * 1.5, LONGEST_LOOK)) {
      const stored = await this.answers.look(call);
      if (stored) {
        const record = JSON.parse(this.signer ? this.signer.open(stored) : stored);
        if (record.task_id !== call.id) throw new Error(`what lies where the answer to ${call.id} belongs is another's`);
        if (["SUCCESS", "FAILURE", "REVOKED"].includes(record.status)) return record;
      }
      if (Date.now() >= until) return null;
      await rest(Math.min(pause, until - Date.now()));
    }
  }
}
