#!/usr/bin/env node
/**
 * Builds what changed: the native addon (one g++ call) and the TypeScript (tsc) into dist/.
 *
 *     node scripts/build.mjs [--native-only] [--sanitize]
 *
 * `--sanitize` builds the addon with ASan and UBSan to dist/native/netdrive-asan.node, for scripts/check.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);

/** Builds the addon unless it is newer than all its sources. */
export function buildNative({ sanitize = false } = {}) {
  const folder = join(root, "native");
  const sources = readdirSync(folder)
    .filter((name) => name.endsWith(".cc"))
    .map((name) => join(folder, name));
  const inputs = [
    ...sources,
    ...readdirSync(folder)
      .filter((name) => name.endsWith(".h"))
      .map((name) => join(folder, name)),
    fileURLToPath(import.meta.url),
  ];
  const output = join(root, "dist/native", sanitize ? "netdrive-asan.node" : "netdrive.node");
  const newest = Math.max(...inputs.map((path) => statSync(path).mtimeMs));
  if (existsSync(output) && statSync(output).mtimeMs > newest) return output;
  mkdirSync(dirname(output), { recursive: true });
  const partial = `${output}.${process.pid}.partial`;
  const mode = sanitize ? ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"] : ["-O2"];
  const { include_dir: headers } = require("node-api-headers");
  const flags = [
    "-std=c++20",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-DNAPI_VERSION=8",
    "-D_GNU_SOURCE",
    "-D_FILE_OFFSET_BITS=64",
  ];
  try {
    execFileSync(process.env.CXX ?? "g++", [...flags, ...mode, `-I${headers}`, "-o", partial, ...sources], {
      stdio: "inherit",
    });
    renameSync(partial, output);
  } finally {
    rmSync(partial, { force: true });
  }
  return output;
}

function buildTypeScript() {
  execFileSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", root], { stdio: "inherit" });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    buildNative({ sanitize: process.argv.includes("--sanitize") });
    if (!process.argv.includes("--native-only")) buildTypeScript();
  } catch (error) {
    // The compilers have said what is wrong.
    process.stderr.write(`build: ${error.status === undefined ? error.message : "failed, see above"}\n`);
    process.exit(1);
  }
}
