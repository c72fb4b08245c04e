// A call of one of the hub's tasks, as Celery's task protocol 2 has it: headers, and the body [[message], {}, {}].

import { randomUUID } from "node:crypto";
import { hostname } from "node:os";

// What is not named here waits in fedqueue.control.
const QUEUE_OF = {
  "fedqueue.updates.submit": "fedqueue.updates",
  "fedqueue.events.ingest": "fedqueue.events",
  "fedqueue.logs.add": "fedqueue.events",
  "fedqueue.metrics.add": "fedqueue.events",
};

export function newCall(task, message, { isAnswered = true, signer = null } = {}) {
  const id = randomUUID();
  const headers = {
    lang: "js",
    task,
    id,
    root_id: id,
    parent_id: null,
    group: null,
    eta: null,
    expires: null,
    retries: 0,
    timelimit: [null, null],
    // The hub keeps answers for those alone who say that they wait.
    ignore_result: !isAnswered,
    argsrepr: "(…)",
    kwargsrepr: "{}",
    origin: `${process.pid}@${hostname()}`,
  };
  // What is signed says which call it is of: nobody can put it under another task's name.
  const text = JSON.stringify([[message], {}, signer ? { signed: { task, id } } : {}]);
  return {
    id,
    queue: QUEUE_OF[task] ?? "fedqueue.control",
    headers,
    body: Buffer.from(signer ? signer.sign(text) : text),
    contentType: signer ? "application/data" : "application/json",
  };
}
