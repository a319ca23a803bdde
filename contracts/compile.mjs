// Compiles src/ and prints {compiler, settings, sources, contracts} as JSON on standard output.
// The sources are keyed by their path from this folder, so the result does not depend on where the checkout lies.
import { createRequire } from "node:module";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const solc = createRequire(import.meta.url)("solc");

const settings = {
  remappings: ["@openzeppelin/=node_modules/@openzeppelin/"],
  viaIR: true,
  evmVersion: "cancun",
  optimizer: { enabled: true, runs: 200 },
  metadata: { appendCBOR: false, bytecodeHash: "none" },
};
const sources = {};
for (const name of readdirSync(join(here, "src")).sort()) {
  if (name.endsWith(".sol")) sources[`src/${name}`] = { content: readFileSync(join(here, "src", name), "utf8") };
}
const imported = {};
const findImport = (path) => {
  try {
    imported[path] = readFileSync(join(here, path), "utf8");
    return { contents: imported[path] };
  } catch {
    return { error: `${path} is not installed` };
  }
};
const wanted = { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] };
const outputSelection = Object.fromEntries(Object.keys(sources).map((file) => [file, wanted]));
const input = { language: "Solidity", sources, settings: { ...settings, outputSelection } };
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
// 2394 warns of transient storage in general; OpenZeppelin's guard clears it at the end of the call, as solc asks
const problems = (output.errors ?? []).filter((error) => error.severity !== "info" && error.errorCode !== "2394");
for (const problem of problems) console.error(problem.formattedMessage);
if (problems.length > 0) process.exit(1);

const contracts = {};
for (const file of Object.keys(sources)) {
  for (const [name, contract] of Object.entries(output.contracts?.[file] ?? {})) {
    if (contract.evm.bytecode.object === "") continue;
    contracts[name] = {
      abi: contract.abi,
      bytecode: contract.evm.bytecode.object,
      runtimeBytes: contract.evm.deployedBytecode.object.length / 2,
    };
  }
}
const texts = { ...imported };
for (const [path, source] of Object.entries(sources)) texts[path] = source.content;
process.stdout.write(JSON.stringify({ compiler: solc.version(), settings, sources: texts, contracts }));
