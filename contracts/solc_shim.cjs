#!/usr/bin/env node
// The WebAssembly build of solc behind the two switches that forge uses: --version and --standard-json.
const solc = require("solc");
const { readFileSync } = require("node:fs");

const switches = process.argv.slice(2);
if (switches.includes("--version")) {
  // forge reads platform names of native builds only
  const version = solc.version().replace("Emscripten.clang", "Linux.g++");
  console.log(`solc, the solidity compiler commandline interface\nVersion: ${version}`);
} else if (switches.includes("--standard-json")) {
  process.stdout.write(solc.compile(readFileSync(0, "utf8")));
} else {
  console.error(`solc_shim: only --version and --standard-json are known, not ${switches.join(" ")}`);
  process.exitCode = 1;
}
