// Where the hub is, and how this participant signs: the settings that fedqueue.Client reads, by the same names.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Hub } from "./hub.mjs";
import { Signer } from "./signing.mjs";

/** The hub, and the store that it shares with its participants. */
export async function openHub() {
  const { storeUrl, ...urls } = findEndpoint();
  return { hub: await Hub.open({ ...urls, signer: findSigner() }), storeUrl };
}

/** The environment, else the file that `python -m worker up` has left in its home. */
function findEndpoint() {
  const { FEDQUEUE_BROKER_URL: brokerUrl, FEDQUEUE_RESULT_URL, FEDQUEUE_STORE_URL, FEDQUEUE_HOME } = process.env;
  if (brokerUrl) return { brokerUrl, resultUrl: FEDQUEUE_RESULT_URL, storeUrl: FEDQUEUE_STORE_URL };
  const left = JSON.parse(readFileSync(join(FEDQUEUE_HOME ?? ".fedqueue", "endpoint.json"), "utf8"));
  return { brokerUrl: left.broker_url, resultUrl: left.result_url, storeUrl: left.store_url };
}

function findSigner() {
  const names = ["KEY", "CERTIFICATE", "TRUSTED_CERTIFICATES"];
  const files = names.map((name) => process.env[`FEDQUEUE_SIGNING_${name}`]);
  return files[0] ? new Signer(...files) : null;
}
