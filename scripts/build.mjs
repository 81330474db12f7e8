#!/usr/bin/env node
/**
 * Builds what changed: the native addon (one g++ call) and the TypeScript (tsc) into dist/.
 *
 *     node scripts/build.mjs [--native-only | --sanitize]
 *
 * `--sanitize` builds only the addon, with ASan and UBSan, to dist/native/netdrive-asan.node, for scripts/check.
 * dist/ holds exactly what the sources say: output without a source is removed, so that no stale test runs.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const stamp = join(root, "dist/.built");
const SOURCE_FOLDERS = ["src", "test", "scripts"];

/** The files below `folder`, absolute; none if it is not there. */
function filesBelow(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });
}

/** A digest of name, time and size of everything the build reads. */
function fingerprint() {
  const sources = SOURCE_FOLDERS.flatMap((folder) => filesBelow(join(root, folder))).filter((path) =>
    /\.ts$/.test(path),
  );
  const others = ["package.json", "package-lock.json", "tsconfig.json", "scripts/build.mjs"].map((name) =>
    join(root, name),
  );
  const hash = createHash("sha256");
  for (const path of [...filesBelow(join(root, "native")), ...sources, ...others].sort()) {
    const { mtimeMs, size } = statSync(path);
    hash.update(`${relative(root, path)} ${mtimeMs} ${size}\n`);
  }
  return hash.digest("hex");
}

/** Whether the last build was of exactly these sources. */
export function isBuilt() {
  try {
    return readFileSync(stamp, "utf8") === fingerprint() && existsSync(join(root, "dist/native/netdrive.node"));
  } catch {
    return false;
  }
}

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
  const begunAt = new Date();
  const partial = `${output}.${process.pid}.partial`;
  const mode = sanitize ? ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"] : ["-O2", "-g1"];
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
    // A source that is edited while this runs is newer.
    utimesSync(partial, begunAt, begunAt);
    renameSync(partial, output);
  } finally {
    rmSync(partial, { force: true });
  }
  return output;
}

function compile() {
  execFileSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", root], { stdio: "inherit" });
}

function buildTypeScript() {
  compile();
  const expected = new Set();
  for (const folder of SOURCE_FOLDERS) {
    for (const path of filesBelow(join(root, folder))) {
      if (!/\.ts$/.test(path) || path.endsWith(".d.ts")) continue;
      const output = join(root, "dist", relative(root, path).replace(/\.ts$/, ".js"));
      expected.add(output).add(`${output}.map`);
    }
  }
  if ([...expected].some((path) => !existsSync(path))) {
    // tsc's record says up to date, but somebody removed its output.
    rmSync(join(root, "dist/tsconfig.tsbuildinfo"), { force: true });
    compile();
  }
  for (const folder of SOURCE_FOLDERS) {
    for (const path of filesBelow(join(root, "dist", folder))) {
      if (!expected.has(path)) rmSync(path);
    }
  }
  const command = join(root, "dist/src/cli/main.js");
  if (existsSync(command)) chmodSync(command, 0o755);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const options = new Set(process.argv.slice(2));
  try {
    if (options.has("--sanitize") || options.has("--native-only")) {
      buildNative({ sanitize: options.has("--sanitize") });
    } else {
      // Taken before, so that a file saved during the build is built again.
      const sources = fingerprint();
      rmSync(stamp, { force: true });
      buildNative();
      buildTypeScript();
      writeFileSync(stamp, sources);
    }
  } catch (error) {
    // The compilers have said what is wrong.
    process.stderr.write(`build: ${error.status === undefined ? error.message : "failed, see above"}\n`);
    process.exit(1);
  }
}
