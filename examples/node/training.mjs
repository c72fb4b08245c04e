// A participant that learns. Each round it fetches the newest model, trains it on its own examples, submits what came of
// it, tells an event and a metric, and waits for the aggregate of everybody's. Each update taken it says in a line of JSON.
//
//   FEDQUEUE_HOME=.fedqueue node training.mjs --model … --client … --name north --examples north.json --rounds 4

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { openHub } from "./endpoint.mjs";
import { train } from "./learning.mjs";
import { getBlob, putBlob, safetensors, tensorsOf } from "./store.mjs";

const { values: given } = parseArgs({
  options: {
    model: { type: "string" },
    client: { type: "string", default: randomUUID() },
    name: { type: "string", default: "node" }, // also the slot that its metrics are attributed by
    examples: { type: "string" }, // a JSON file: { features: [[…], …], labels: […] }
    rounds: { type: "string", default: "4" },
    epochs: { type: "string", default: "5" },
    rate: { type: "string", default: "0.2" },
    timeout: { type: "string", default: "120" },
  },
});

/** What one round takes from the newest model to the next one. */
async function takePart(hub, storeUrl, latest, examples, seconds) {
  const { model: model_id, name } = given;
  const global_round = latest.number + 1;
  const { weight, bias } = tensorsOf(await getBlob(storeUrl, latest.digest));
  const settings = { epochs: Number(given.epochs), rate: Number(given.rate) };
  const { model, loss } = train({ weight: weight.values, bias: bias.values }, examples, settings);

  const trained = { weight: { ...weight, values: model.weight }, bias: { ...bias, values: model.bias } };
  const message = {
    submission_id: randomUUID(), // one that is to outlive this program would be written down first
    model_id,
    client_id: given.client,
    num_examples: examples.labels.length,
    base_aggregate: latest.aggregate_id, // null before the first
    metrics: { loss },
    ...(await putBlob(storeUrl, safetensors(trained))),
  };
  const update = await hub.ask("fedqueue.updates.submit", message, seconds);
  if (update.status === "INVALID") throw new Error(`the update was set aside: ${update.reason_code}: ${update.reason}`);
  console.log(JSON.stringify({ submission_id: update.submission_id, num_examples: message.num_examples }));

  const told = [
    { log: `${name} has sent its update of round ${global_round}` },
    { metric: { label: "loss", result: loss } },
  ].map((fact) => ({ event_id: randomUUID(), model_id, fl_client_name: name, global_round, ...fact }));
  const { refused } = await hub.ask("fedqueue.events.ingest", { events: told }, seconds);
  if (refused.length) throw new Error(`an event was refused: ${refused[0].reason}`);
  return hub.latest(model_id, global_round, seconds);
}

async function main() {
  const seconds = Number(given.timeout);
  const examples = JSON.parse(readFileSync(given.examples, "utf8"));
  const { hub, storeUrl } = await openHub();
  try {
    const client = { model_id: given.model, client_id: given.client, name: given.name };
    await hub.ask("fedqueue.models.register_client", client, seconds);
    let latest = await hub.latest(given.model, 0, seconds);
    while (latest.number < Number(given.rounds)) latest = await takePart(hub, storeUrl, latest, examples, seconds);
  } finally {
    await hub.close();
  }
}

await main().catch((error) => {
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
});
