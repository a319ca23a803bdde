// Compiles src/ and prints {compiler, settings, sources, contracts} as JSON on standard output.
// The sources are keyed by their path from this folder, so the result does not depend on where the checkout lies.
import { createRequire } from "node:module";
import { readFileSync, readdirSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const solc = createRequire(import.meta.url)("solc");

export const settings = {
  remappings: ["@openzeppelin/=node_modules/@openzeppelin/"],
  viaIR: true,
  evmVersion: "cancun",
  optimizer: { enabled: true, runs: 200 },
  metadata: { appendCBOR: false, bytecodeHash: "none" },
};

/** {path: {content}} of every file in src/ of the folder given. */
export function readSources(root) {
  const sources = {};
  for (const name of readdirSync(join(root, "src")).sort()) {
    if (name.endsWith(".sol")) sources[`src/${name}`] = { content: readFileSync(join(root, "src", name), "utf8") };
  }
  return sources;
}

/** solc's standard JSON output; what is imported from outside src/ is added to `imported`. */
export function compile(root, sources, settings, outputSelection, imported = {}) {
  const findImport = (path) => {
    try {
      imported[path] ??= readFileSync(join(root, path), "utf8");
      return { contents: imported[path] };
    } catch {
      return { error: `${path} is not installed` };
    }
  };
  const input = { language: "Solidity", sources, settings: { ...settings, outputSelection } };
  return JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
}

/** {id: name} of the immutable variables that are declared in syntax trees. */
function immutableNames(trees) {
  const names = {};
  const visit = (node) => {
    if (node === null || typeof node !== "object") return;
    if (node.nodeType === "VariableDeclaration" && node.mutability === "immutable") names[node.id] = node.name;
    Object.values(node).forEach(visit);
  };
  trees.forEach(visit);
  return names;
}

function main() {
  const sources = readSources(here);
  const imported = {};
  const code = "evm.deployedBytecode";
  const wanted = { "*": ["abi", "evm.bytecode.object", `${code}.object`, `${code}.immutableReferences`] };
  const outputSelection = Object.fromEntries(Object.keys(sources).map((file) => [file, wanted]));
  outputSelection["*"] = { "": ["ast"] };
  const output = compile(here, sources, settings, outputSelection, imported);
  // 2394 warns of transient storage in general; OpenZeppelin's guard clears it at the end of the call, as solc asks
  const problems = (output.errors ?? []).filter((error) => error.severity !== "info" && error.errorCode !== "2394");
  for (const problem of problems) console.error(problem.formattedMessage);
  if (problems.length > 0) process.exit(1);

  const names = immutableNames(Object.values(output.sources).map((source) => source.ast));
  const contracts = {};
  for (const file of Object.keys(sources)) {
    for (const [name, contract] of Object.entries(output.contracts?.[file] ?? {})) {
      if (contract.evm.bytecode.object === "") continue;
      const { object, immutableReferences } = contract.evm.deployedBytecode;
      const places = Object.entries(immutableReferences).map(([id, at]) => [names[id], at.map(({ start }) => start)]);
      contracts[name] = {
        file,
        abi: contract.abi,
        bytecode: contract.evm.bytecode.object,
        runtimeBytecode: object,
        immutables: Object.fromEntries(places),
      };
    }
  }
  const texts = { ...imported };
  for (const [path, source] of Object.entries(sources)) texts[path] = source.content;
  process.stdout.write(JSON.stringify({ compiler: solc.version(), settings, sources: texts, contracts }));
}

if (realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) main();
