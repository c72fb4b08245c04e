// Signed messages, for a hub that takes no others: RSA-PSS with SHA-256 over the body's JSON, as Celery's auth serializer
// packs it. Who signed is named by a certificate's issuer and number.

import { X509Certificate, constants, createPrivateKey, sign, verify } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const SEPARATOR = Buffer.from([0, 1]);
const PADDING = constants.RSA_PKCS1_PSS_PADDING;

export class Signer {
  /** The key, its certificate, and the folder of the certificates of those who are believed: PEM files. */
  constructor(key, certificate, trusted) {
    this.key = createPrivateKey(readFileSync(key));
    this.own = idOf(new X509Certificate(readFileSync(certificate)));
    this.trusted = new Map();
    for (const name of readdirSync(trusted)) {
      const believed = new X509Certificate(readFileSync(join(trusted, name)));
      this.trusted.set(idOf(believed), believed);
    }
  }

  sign(text) {
    const body = Buffer.from(text);
    // Celery verifies with the longest salt that the key has room for, and no other.
    const saltLength = constants.RSA_PSS_SALTLEN_MAX_SIGN;
    const signature = sign("sha256", body, { key: this.key, padding: PADDING, saltLength });
    const fields = [base64(this.own), base64(signature), "application/json", "utf-8", body];
    return base64(Buffer.concat(fields.flatMap((field) => [SEPARATOR, Buffer.from(field)]).slice(1)));
  }

  /** What somebody trusted has signed. */
  open(stored) {
    const packed = Buffer.from(stored.toString("latin1"), "base64");
    const fields = [];
    let start = 0;
    for (let end; fields.length < 4 && (end = packed.indexOf(SEPARATOR, start)) >= 0; start = end + SEPARATOR.length) {
      fields.push(packed.subarray(start, end).toString("latin1"));
    }
    const body = packed.subarray(start);
    const [signer, signature, contentType, encoding] = fields;
    const certificate = fields.length === 4 && this.trusted.get(Buffer.from(signer, "base64").toString());
    if (!certificate || Date.parse(certificate.validTo) < Date.now()) {
      throw new Error("the answer is not signed by anybody who is believed");
    }
    const key = { key: certificate.publicKey, padding: PADDING, saltLength: constants.RSA_PSS_SALTLEN_AUTO };
    if (!verify("sha256", body, key, Buffer.from(signature, "base64"))) throw new Error("the answer's signature is wrong");
    if (contentType !== "application/json" || encoding !== "utf-8") throw new Error("what is signed is not JSON");
    return body.toString();
  }
}

function idOf(certificate) {
  const issuer = Object.values(certificate.toLegacyObject().issuer).flat();
  return `${issuer.join(" ")} ${BigInt(`0x${certificate.serialNumber}`)}`;
}

function base64(data) {
  return Buffer.from(data).toString("base64");
}
