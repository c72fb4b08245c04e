// A participant of federated learning: registers, submits an update, tells an event, and says in one line of JSON what
// came of it. Run twice with the same ids it is answered twice, and its update and event count once.
//
//   FEDQUEUE_BROKER_URL=redis://… node participant.mjs --values 1,2,4 --num-examples 10

import { randomUUID } from "node:crypto";
import { parseArgs } from "node:util";
import { openHub } from "./endpoint.mjs";
import { putBlob, safetensors } from "./store.mjs";

const { values: given } = parseArgs({
  options: {
    model: { type: "string" }, // by default one is created
    client: { type: "string", default: randomUUID() },
    submission: { type: "string", default: randomUUID() },
    event: { type: "string", default: randomUUID() },
    name: { type: "string", default: "node" },
    values: { type: "string", default: "1,2,4" },
    "num-examples": { type: "string", default: "10" },
    tensor: { type: "boolean", default: false }, // the values as a safetensors file in the store, not inline
    aggregate: { type: "string", default: "0" }, // wait for the aggregate of this number
    timeout: { type: "string", default: "30" },
  },
});

async function main() {
  const seconds = Number(given.timeout);
  const values = given.values.split(",").map(Number);
  const { hub, storeUrl } = await openHub();
  try {
    const modelId = given.model ?? randomUUID();
    if (!given.model) {
      const policy = { requirement: "require_x_clients", requirement_args: { x: 1 } };
      const data_format = given.tensor ? "safetensors" : "json";
      await hub.ask("fedqueue.models.create", { model_id: modelId, data_format, ...policy }, seconds);
    }
    const client = { model_id: modelId, client_id: given.client, name: given.name };
    await hub.ask("fedqueue.models.register_client", client, seconds);

    const data = given.tensor
      ? await putBlob(storeUrl, safetensors({ w: { shape: [values.length], values } }))
      : { data: values };
    const update = await hub.ask(
      "fedqueue.updates.submit",
      {
        submission_id: given.submission,
        model_id: modelId,
        client_id: given.client,
        num_examples: Number(given["num-examples"]),
        ...data,
      },
      seconds,
    );

    const event = { event_id: given.event, model_id: modelId, log: `${given.name} has sent its update` };
    const events = await hub.ask("fedqueue.events.ingest", { events: [event] }, seconds);

    const latest = await hub.latest(modelId, Number(given.aggregate), seconds);
    const ids = { model_id: modelId, client_id: given.client, event_id: given.event };
    console.log(JSON.stringify({ ...ids, update, events, latest }));
  } finally {
    await hub.close();
  }
}

await main().catch((error) => {
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
});
