// Model data in the store that a hub's clients share with it: a blob lies at ROOT/sha256/ab/abcdef…, named by the sha256
// of its bytes. It is complete and on disk before it has that name, and never written again.

import { createHash, randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { link, mkdir, open, readFile, unlink, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

/** The bytes as a blob of the store: what a message names it by. */
export async function putBlob(storeUrl, bytes) {
  const root = fileURLToPath(storeUrl);
  if (!existsSync(join(root, ".fedqueue-store"))) {
    // A hub begins a store. One begun here would lie where the hub's is not mounted.
    throw new Error(`no hub's store lies at ${root}: is it mounted on this machine?`);
  }
  const digest = digestOf(bytes);
  const target = placeOf(root, digest);
  const staged = join(root, "staging", randomUUID());
  await makeFolder(dirname(staged));
  try {
    const file = await open(staged, "wx", 0o644);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await makeFolder(dirname(target));
    try {
      // A link, unlike a rename, never replaces: whoever comes second finds the same bytes there.
      await link(staged, target);
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      // Blobs that nothing names are deleted after a day: its clock starts anew.
      await utimes(target, new Date(), new Date());
    }
  } finally {
    await unlink(staged).catch(() => {});
  }
  for (const folder of [dirname(target), join(root, "sha256"), root]) await syncFolder(folder);
  return { data_uri: pathToFileURL(target).href, digest };
}

/** The blob's bytes, from this participant's own mount of the store: the hub may have it mounted elsewhere. */
export async function getBlob(storeUrl, digest) {
  const place = placeOf(fileURLToPath(storeUrl), digest);
  const bytes = await readFile(place);
  if (digestOf(bytes) !== digest) throw new Error(`what lies at ${place} is damaged`);
  return bytes;
}

/** Named arrays of 32 bit floats as a safetensors file: the header's length, the header as JSON, every array's bytes. */
export function safetensors(tensors) {
  const entries = {};
  const parts = [];
  let end = 0;
  for (const [name, { shape, values }] of Object.entries(tensors)) {
    const bytes = Buffer.alloc(4 * values.length);
    values.forEach((value, index) => bytes.writeFloatLE(value, 4 * index));
    entries[name] = { dtype: "F32", shape, data_offsets: [end, (end += bytes.length)] };
    parts.push(bytes);
  }
  const text = Buffer.from(JSON.stringify(entries));
  const header = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, ...parts]);
}

/** What `safetensors` was given. */
export function tensorsOf(bytes) {
  const start = 8 + Number(bytes.readBigUInt64LE());
  const { __metadata__, ...entries } = JSON.parse(bytes.toString("utf8", 8, start));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(entries)) {
    if (dtype !== "F32") throw new Error(`the tensor ${name} holds ${dtype}: F32 alone is read here`);
    const values = Array.from({ length: (end - begin) / 4 }, (_, index) => bytes.readFloatLE(start + begin + 4 * index));
    tensors[name] = { shape, values };
  }
  return tensors;
}

function digestOf(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

function placeOf(root, digest) {
  return join(root, "sha256", digest.slice(0, 2), digest);
}

async function makeFolder(folder) {
  if (existsSync(folder)) return;
  await makeFolder(dirname(folder));
  await mkdir(folder).catch((error) => {
    if (error.code !== "EEXIST") throw error;
  });
  await syncFolder(dirname(folder));
}

/** A file's own sync does not make its name durable: its folder's does. */
async function syncFolder(folder) {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
