// Whether the reference implementation of Standard Webhooks takes a request: {"secret", "headers", "body"} on standard input. With
// {"public_key"} in the place of the secret the signature `v1a` is checked, which the reference implementation does not know, by the runtime's
// own ed25519.
const crypto = require("node:crypto");
const { Webhook, WebhookVerificationError } = require("standardwebhooks");

function checkV1a({ public_key, headers, body }) {
  const raw = Buffer.from(public_key.replace(/^whpk_/, ""), "base64");
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), raw]);
  const key = crypto.createPublicKey({ key: der, format: "der", type: "spki" });
  const signed = Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`);
  const signatures = headers["webhook-signature"].split(" ").map((each) => each.split(","));
  const fits = ([version, text]) =>
    version === "v1a" && crypto.verify(null, signed, key, Buffer.from(text, "base64"));
  if (!signatures.some(fits)) throw new WebhookVerificationError("No matching signature found");
}

const request = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
try {
  if (request.public_key) checkV1a(request);
  else new Webhook(request.secret).verify(request.body, request.headers);
  console.log("taken");
} catch (error) {
  if (!(error instanceof WebhookVerificationError)) throw error;
  console.log(`refused: ${error.message}`);
}
