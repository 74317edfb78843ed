// A reader of the public topics that knows nothing of hookline but its proto files: node read.js PROTO_DIR MESSAGE [KIND]
//
// Standard input is what kcat prints with -f '%h\t%S\n%s': headers, size, value. Each value of a record whose header `kind` is KIND (any, where none
// is said) is printed as a line of JSON, in the words of the proto files.
const path = require("node:path");
const protobuf = require("protobufjs");

const [protos, message, kind] = process.argv.slice(2);
const root = new protobuf.Root();
root.resolvePath = (_origin, target) => path.join(protos, target);
root.loadSync("hookline/v1/outcome.proto", { keepCase: true });
const type = root.lookupType(message);

const input = require("node:fs").readFileSync(0);
for (let at = 0; at < input.length; ) {
  const line = input.indexOf("\n", at);
  const [headers, size] = input.toString("utf8", at, line).split("\t");
  const end = line + 1 + Math.max(Number(size), 0);
  const value = input.subarray(line + 1, end);
  at = end;
  if (kind && !headers.split(",").includes(`kind=${kind}`)) continue;
  const said = type.toObject(type.decode(value), { longs: Number, enums: String, bytes: String });
  console.log(JSON.stringify(said));
}
