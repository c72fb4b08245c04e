// Calls over RabbitMQ, and answers, each in a queue of its call's own.

import { connect } from "amqplib";

// Whoever declares one of the hub's queues must say the same of it, or is refused.
const HUBS = { durable: true, arguments: { "x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000 } };
const MOST_WAITING = 1000;

export class RabbitMQLine {
  static async open(url) {
    const line = new RabbitMQLine();
    line.connection = await connect(url);
    line.channel = await line.connection.createConfirmChannel();
    return line;
  }

  /** Whether the broker has it, confirmed; false if there is no room just now. */
  async send(call, { bringsAnswers }) {
    if ((await this.channel.assertQueue(call.queue, HUBS)).messageCount >= MOST_WAITING) return false;
    const replyTo = bringsAnswers && !call.headers.ignore_result ? replyQueue(call) : undefined;
    if (replyTo) await this.channel.assertQueue(replyTo, { durable: false, expires: 600_000 });
    this.channel.publish("", call.queue, call.body, {
      headers: call.headers,
      contentType: call.contentType,
      contentEncoding: "utf-8",
      correlationId: call.id,
      replyTo,
      persistent: true,
      priority: 0,
    });
    await this.channel.waitForConfirms();
    return true;
  }

  /** The call's answer; null if there is none yet. Its queue is gone afterwards. */
  async look(call) {
    const message = await this.channel.get(replyQueue(call), { noAck: true });
    if (!message) return null;
    await this.channel.deleteQueue(replyQueue(call));
    return message.content;
  }

  async close() {
    await this.connection.close();
  }
}

function replyQueue(call) {
  return `fedqueue.reply.${call.id}`;
}
