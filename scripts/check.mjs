#!/usr/bin/env node
/**
 * The whole gate: build, lint, dead code, every test with coverage, and the addon's tests under sanitizers and valgrind.
 *
 *     node scripts/check.mjs [STEP...]
 *
 * Goes on after a failed step, so that one run says all that is wrong; ends with one line of totals. Builds what it needs.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const bin = (name) => join(root, "node_modules/.bin", name);
const script = (name) => join(root, "scripts", name);

/** Least coverage of src by all tests together, percent. */
const LINES_MIN = 90;
const BRANCHES_MIN = 85;

/** Folders of tests that reach the addon. */
const ADDON_TESTS = [
  "test/sys/",
  "test/disk/",
  "test/fuse/",
  "test/transport/",
  "test/mount/",
  "conformance/disk",
  "conformance/fuse-disk",
];
/**
 * What valgrind runs in ten minutes or so: the disk, sockets with TLS, and a mount of a file system in memory without thousands of files. It cannot
 * start set-user-id programs, so nothing that calls mount(8).
 */
const VALGRIND_RUNS = [
  [
    "test/sys/fuse-device",
    "test/sys/tcp-socket",
    "test/sys/tls-socket",
    "test/sys/tls-records",
    "test/transport/tls-stream",
    "test/sys/disk-engine",
    "test/sys/syscalls",
    "test/disk/names",
  ],
  // Without those that measure how quick turns of the loop are, and what they take of the processor.
  ["test/sys/busy-wait", "--name=/^it is known/"],
  // Without those that count the process's system calls, or mount.
  [
    "test/disk/data",
    "--name=/^(what|several buffers are written|opens|access|released|positions|files|fallocate|copyFileRange|opening|a file)/",
  ],
  ["test/mount/driver", "--name=/^(files|directories|statx|times)/"],
];

/** Runs a program in sight; whether it ended well. */
function run(program, args, env = {}) {
  const result = spawnSync(program, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } });
  if (result.error !== undefined) process.stderr.write(`check: ${program}: ${result.error.message}\n`);
  return result.status === 0;
}

/** Runs the addon's tests against the addon built with ASan and UBSan. */
function runSanitized() {
  const library = spawnSync("g++", ["-print-file-name=libasan.so"], { encoding: "utf8" }).stdout.trim();
  if (!existsSync(library)) {
    process.stderr.write("check: libasan.so is missing; install the compiler's sanitizer library\n");
    return false;
  }
  return run(process.execPath, [script("test.mjs"), ...ADDON_TESTS], {
    NETDRIVE_ADDON: join(root, "dist/native/netdrive-asan.node"),
    // The sanitizer must be loaded before node; node's own leaks are not ours.
    LD_PRELOAD: library,
    ASAN_OPTIONS: "detect_leaks=0:halt_on_error=1:abort_on_error=1",
    UBSAN_OPTIONS: "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
    // Functions for the scripts of tests: dd asks for memory in a way that the sanitizer ends it for, pgrep never ends.
    ...Object.fromEntries(
      ["dd", "pgrep"].map((name) => [`BASH_FUNC_${name}%%`, `() { LD_PRELOAD= command ${name} "$@"; }`]),
    ),
  });
}

/** Whether a report of valgrind is about the addon: for a leak, only if the addon itself allocated. */
function isOfAddon(report) {
  const frames = report.split("\n").filter((line) => /^==\d+==\s+(at|by) 0x/.test(line));
  const caller =
    frames.find((line) => !/ (operator new|malloc|calloc|realloc|memalign|posix_memalign)/.test(line)) ?? "";
  const isOurs = (frame) => /netdrive::|netdrive\.node/.test(frame);
  return report.includes("definitely lost") ? isOurs(caller) : frames.some(isOurs);
}

/** Runs the addon's tests under valgrind; fails on errors and leaks with the addon in their stack: node's own are not ours. */
function runValgrind() {
  const logs = join(root, "dist/valgrind");
  rmSync(logs, { recursive: true, force: true });
  mkdirSync(logs, { recursive: true });
  const watch =
    "--error-limit=no --leak-check=full --show-leak-kinds=definite --num-callers=30 --trace-children=yes --vgdb=no";
  const env = { NETDRIVE_TEST_UNDER: `valgrind -q ${watch} --log-file=${join(logs, "%p.log")}` };
  const results = VALGRIND_RUNS.map((tests) => run(process.execPath, [script("test.mjs"), ...tests], env));
  const reports = readdirSync(logs)
    .flatMap((name) => readFileSync(join(logs, name), "utf8").split(/^==\d+== \n/m))
    .filter(isOfAddon);
  for (const block of reports) process.stderr.write(`${block}\n`);
  process.stdout.write(`valgrind: ${reports.length} reports of the addon\n`);
  return results.every(Boolean) && reports.length === 0;
}

const STEPS = {
  build: () => run(process.execPath, [script("build.mjs")]),
  "build-sanitized": () => run(process.execPath, [script("build.mjs"), "--sanitize"]),
  lint: () => run(bin("biome"), ["check", "--config-path=scripts/lint.json", "--error-on-warnings", "."]),
  "dead-code": () => run(bin("knip"), ["--config", "scripts/knip.json", "--no-progress"]),
  tests: () => {
    const where = ["--temp-directory=dist/coverage/raw", "--reports-dir=dist/coverage", "--reporter=text", "--all"];
    const least = ["--check-coverage", `--lines=${LINES_MIN}`, `--branches=${BRANCHES_MIN}`, "--functions=0"];
    const what = ["--include=dist/src/**", "--statements=0"];
    return run(bin("c8"), [...where, ...least, ...what, process.execPath, script("test.mjs")]);
  },
  sanitizers: runSanitized,
  valgrind: runValgrind,
};

const wanted = process.argv.slice(2);
const unknown = wanted.find((name) => !(name in STEPS));
if (unknown !== undefined) {
  process.stderr.write(`check: no step '${unknown}'; there are ${Object.keys(STEPS).join(", ")}\n`);
  process.exit(2);
}
const totals = [];
for (const [name, step] of Object.entries(STEPS)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  process.stdout.write(`\n== ${name}\n`);
  const startedMs = performance.now();
  const isGood = step();
  totals.push({
    isGood,
    text: `${name} ${isGood ? "ok" : "FAILED"} ${Math.round((performance.now() - startedMs) / 1000)} s`,
  });
}
process.stdout.write(`\ncheck: ${totals.map(({ text }) => text).join(", ")}\n`);
process.exitCode = totals.every(({ isGood }) => isGood) ? 0 : 1;
