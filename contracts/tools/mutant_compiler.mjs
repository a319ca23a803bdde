// A compiler that stays: `node mutant_compiler.mjs ROOT` answers one line of JSON on standard output for each line of
// JSON on standard input. {"ast": true} -> {path: syntax tree}. {"path", "source", "contracts", "shipped"} -> {contract:
// creation bytecode} with that file replaced, built as the artefacts are or, where shipped is false, without optimiser
// and IR, which is ten times faster; {"error"} if it does not compile.
import { createInterface } from "node:readline";
import { compile, readSources, settings } from "../compile.mjs";

const root = process.argv[2];
const original = readSources(root);
const imported = {};
const plain = { ...settings, viaIR: false, optimizer: { enabled: false } };

function answer(request) {
  if (request.ast) {
    const output = compile(root, original, plain, { "*": { "": ["ast"] } }, imported);
    return Object.fromEntries(Object.keys(original).map((path) => [path, output.sources[path].ast]));
  }
  const sources = { ...original, [request.path]: { content: request.source } };
  const selection = Object.fromEntries(
    request.contracts.map((name) => [`src/${name}.sol`, { [name]: ["evm.bytecode.object"] }]),
  );
  const output = compile(root, sources, request.shipped ? settings : plain, selection, imported);
  const fault = (output.errors ?? []).find((error) => error.severity === "error");
  if (fault) return { error: fault.formattedMessage };
  return Object.fromEntries(
    request.contracts.map((name) => [name, output.contracts[`src/${name}.sol`][name].evm.bytecode.object]),
  );
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(answer(JSON.parse(line))) + "\n");
}
