#!/usr/bin/env node
/**
 * Runs the built tests: every dist/test/**.test.js, or those whose source path holds one of the PATTERNs.
 *
 *     node scripts/test.mjs [--name=REGEX] [PATTERN...]      --name: only tests with such a name
 *     NETDRIVE_TEST_UNDER="valgrind -q" node scripts/test.mjs [PATTERN...]     each file as a child of that command
 *
 * Each file runs in a process and a temp folder of its own; those that mount or load the machine one at a time, the
 * others two. What a file leaves behind - a mount, a process, a temp file - is a failed test of it, and is removed.
 * Prints `N passed, N failed` as its last line; exits non-zero if a test failed or none ran. Builds nothing.
 */
import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { kill, MARK, settle, sweep } from "./leftovers.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const reporter = join(root, "scripts/test-reporter.mjs");

/** Folders of test/ whose files run alone, because they mount, measure time or use all of the machine. */
const SERIAL_FOLDERS = new Set(["bench", "faults", "mount", "programs"]);
const PARALLEL_FILES = 2;
const FILE_TIMEOUT_MS = 240_000;
const SERIAL_FILE_TIMEOUT_MS = 900_000;
/** A program that watches the tests makes them slow. */
const SLOWED_TIMEOUT_MS = 1_800_000;
const OUTPUT_CHARS_MAX = 64 << 10;

const names = process.argv.filter((word) => word.startsWith("--name=")).map((word) => word.slice("--name=".length));
const patterns = process.argv.slice(2).filter((word) => !word.startsWith("--name="));

const isSerial = (path) => SERIAL_FOLDERS.has(path.split("/")[1]);
const indent = (text) => text.replace(/^/gm, "      ");
const say = (text) => process.stdout.write(`${text}\n`);

/** Paths of the sources of the tests to run: `test/room/file.test.ts`. */
function collect() {
  const built = join(root, "dist/test");
  if (!existsSync(built)) return [];
  return readdirSync(built, { recursive: true })
    .filter((path) => path.endsWith(".test.js"))
    .map((path) => join("test", path).replace(/\.js$/, ".ts"))
    .filter((path) => patterns.length === 0 || patterns.some((pattern) => path.includes(pattern)))
    .sort();
}

/** Starts a test file and returns what it reported, what it printed and how it ended. Never rejects. */
async function execute(path, env) {
  const file = join(root, "dist", path.replace(/\.ts$/, ".js"));
  const under = (process.env.NETDRIVE_TEST_UNDER ?? "").split(" ").filter(Boolean);
  const options = [
    "--enable-source-maps",
    `--test-reporter=${reporter}`,
    ...names.map((name) => `--test-name-pattern=${name}`),
  ];
  const command = [...under, process.execPath, ...options, file];
  const child = spawn(command[0], command.slice(1), {
    cwd: root,
    env,
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  const seen = { report: "", output: "", end: undefined };
  const keep = (chunk) => {
    seen.output = (seen.output + chunk).slice(-OUTPUT_CHARS_MAX);
  };
  child.stdout.setEncoding("utf8").on("data", keep);
  child.stderr.setEncoding("utf8").on("data", keep);
  const reportEnded = new Promise((resolve) => {
    child.stdio[3].setEncoding("utf8").on("data", (chunk) => {
      seen.report += chunk;
    });
    child.stdio[3].on("close", resolve);
  });
  const usualMs = isSerial(path) ? SERIAL_FILE_TIMEOUT_MS : FILE_TIMEOUT_MS;
  const timeoutMs = under.length > 0 ? SLOWED_TIMEOUT_MS : usualMs;
  const timer = setTimeout(() => {
    seen.end = `did not end within ${timeoutMs / 1000} s: a test hangs, or something keeps the process alive`;
    kill(child.pid);
  }, timeoutMs);
  const end = await new Promise((resolve) => {
    child.on("error", (error) => resolve(error.message));
    child.on("exit", (code, signal) => resolve(code === 0 || code === 1 ? undefined : `ended with ${signal ?? code}`));
  });
  clearTimeout(timer);
  seen.end ??= end;
  // A process left behind may hold the pipes open: it is not waited for.
  await Promise.race([reportEnded, new Promise((resolve) => setTimeout(resolve, 200))]);
  for (const stream of child.stdio) stream?.destroy();
  return { ...seen, code: child.exitCode };
}

/** Runs one file in `folder` and looks at what it left behind. Never rejects. */
async function runFile(path, folder) {
  const startedMs = performance.now();
  mkdirSync(folder);
  // Tests act as other users too, who must get through.
  chmodSync(folder, 0o1777);
  const runtime = join(folder, "runtime");
  const mark = `${basename(dirname(folder))}/${basename(folder)}`;
  const env = { ...process.env, [MARK]: mark, TMPDIR: folder, NETDRIVE_RUNTIME: runtime };
  const { report, output, end, code } = await execute(path, env);
  const results = report
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  const fault = (name, reason) => results.push({ result: "failed", name, reason });
  if (end !== undefined) fault("the file as a whole", end);
  else if (results.length === 0) fault("the file as a whole", "holds no test");
  else if (code !== 0 && !results.some(({ result }) => result === "failed")) fault("the file as a whole", "failed");
  await settle(mark, folder);
  rmSync(runtime, { recursive: true, force: true });
  for (const line of sweep(mark, folder)) fault("leaves nothing behind", line);
  return { path, results, output, seconds: (performance.now() - startedMs) / 1000 };
}

/** Prints the line of a file, and its failures in full; returns its counts. */
function show({ path, results, output, seconds }) {
  const count = { passed: 0, failed: 0, skipped: 0 };
  for (const { result } of results) count[result]++;
  const figures = Object.entries(count).filter(([key, value]) => value > 0 || key === "passed");
  const text = figures.map(([key, value]) => `${value} ${key}`).join(", ");
  say(`${count.failed === 0 ? "ok  " : "FAIL"} ${path}: ${text} (${seconds.toFixed(1)} s)`);
  for (const { result, name, reason } of results) {
    if (result === "failed") say(`    ${name}\n${indent(reason)}`);
    if (result === "skipped") say(`    skipped: ${name}`);
  }
  if (count.failed > 0 && output.trim() !== "") say(`    printed:\n${indent(output.trimEnd())}`);
  return count;
}

async function main() {
  const scratch = mkdtempSync(join(tmpdir(), "netdrive-test-"));
  chmodSync(scratch, 0o755);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.once(signal, () => {
      sweep(`${basename(scratch)}/`, scratch);
      process.exit(1);
    });
  }
  const paths = collect();
  const totals = { passed: 0, failed: 0, skipped: 0 };
  const failed = [];
  let files = 0;
  const runAll = async (queue, lanes) => {
    const lane = async () => {
      for (let path = queue.shift(); path !== undefined; path = queue.shift()) {
        const count = show(await runFile(path, join(scratch, `file-${++files}`)));
        for (const key of Object.keys(totals)) totals[key] += count[key];
        if (count.failed > 0) failed.push(path);
      }
    };
    await Promise.all(Array.from({ length: lanes }, lane));
  };
  await runAll(
    paths.filter((path) => !isSerial(path)),
    PARALLEL_FILES,
  );
  await runAll(paths.filter(isSerial), 1);
  sweep(`${basename(scratch)}/`, scratch);
  if (paths.length === 0) say("no test file matches; after a build they are in dist/test");
  for (const path of failed) say(`failed: ${path}`);
  const { passed, failed: bad, skipped } = totals;
  say(`${passed} passed, ${bad} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
  process.exitCode = bad > 0 || passed === 0 ? 1 : 0;
}

await main();
