#!/usr/bin/env node
/**
 * Runs pjdfstest once on a plain directory and once on a drive, and prints every difference. Nothing is excluded.
 *
 *     sudo node scripts/pjdfstest.mjs --suite DIR [--filter TEXT]... [--disk-only] [--verbose]
 *
 * The suite is public and not part of netdrive. To get it:
 *
 *     git clone https://github.com/pjd/pjdfstest DIR && cd DIR && autoreconf -ifs && ./configure && make pjdfstest
 *
 * It needs root, because it acts as several users. The drive is `netdrive serve --squash none` and `netdrive mount --allow-other` on this
 * machine; with `--disk-only` it is a mount of the disk without a network between. The suite asks less of file systems it does not know,
 * so `df` tells it the type of the disk below for both.
 * Exits with 0 exactly if both sides gave the same result for every check.
 */
import { execFileSync, spawn } from "node:child_process";
import { accessSync, chmodSync, constants, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startDrive } from "../dist/test/support/drive.js";
import { startMountedDisk } from "../dist/test/support/mounted-disk.js";

const FILE_TIMEOUT_MS = 300_000;

const say = (text) => process.stdout.write(`${text}\n`);

function fail(text) {
  process.stderr.write(`pjdfstest: ${text}\n`);
  process.exit(2);
}

/** A folder with a `df` that says `type` for every place; to be put in front of PATH. */
function makeDf(folder, type) {
  mkdirSync(folder);
  const file = join(folder, "df");
  writeFileSync(file, `#!/bin/sh\necho Filesystem Type\necho disk ${type} 1 1 1 1% /\n`);
  chmodSync(file, 0o755);
  return folder;
}

/** Runs one test file in `cwd`. @returns its checks: number to "ok", "not ok", "todo", and what it said of each. */
async function runFile(file, cwd, env) {
  const child = spawn("/bin/sh", [file], { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
  const timer = setTimeout(() => child.kill("SIGKILL"), FILE_TIMEOUT_MS);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (chunk) => {
      output += chunk;
    });
  }
  const code = await new Promise((resolve) => child.on("close", (number, signal) => resolve(signal ?? number)));
  clearTimeout(timer);
  const checks = new Map();
  let planned;
  for (const line of output.split("\n")) {
    planned ??= line.match(/^1\.\.(\d+)/)?.[1];
    const [, not, number, rest] = line.match(/^(not )?ok (\d+)(.*)$/) ?? [];
    if (number === undefined) continue;
    const state = /# T[O]DO/.test(rest) ? `todo, ${not === undefined ? "ok" : "not ok"}` : `${not ?? ""}ok`;
    checks.set(Number(number), { state, text: rest.trim() });
  }
  const isWhole = code === 0 && Number(planned) === checks.size;
  if (!isWhole) checks.set(0, { state: `ended with ${code} after ${checks.size} of ${planned} checks`, text: "" });
  return checks;
}

async function runSide(suite, files, cwd, env, onFile) {
  const results = new Map();
  for (const file of files) {
    results.set(file, await runFile(join(suite, "tests", file), cwd, env));
    onFile(file);
  }
  return results;
}

const count = (results, wanted) =>
  [...results.values()].reduce(
    (sum, checks) => sum + [...checks.values()].filter(({ state }) => wanted(state)).length,
    0,
  );

/** Lines for every check whose result is not the same on both sides. */
function differences(files, plain, drive) {
  const lines = [];
  for (const file of files) {
    const [a, b] = [plain.get(file), drive.get(file)];
    for (const number of [...new Set([...a.keys(), ...b.keys()])].sort((x, y) => x - y)) {
      const [one, other] = [a.get(number), b.get(number)];
      if (one?.state === other?.state) continue;
      lines.push(
        `${file} ${number}: plain ${one?.state ?? "missing"}, drive ${other?.state ?? "missing"}  ${other?.text ?? ""}`,
      );
    }
  }
  return lines;
}

async function main() {
  const { values } = parseArgs({
    options: {
      suite: { type: "string" },
      filter: { type: "string", multiple: true },
      "disk-only": { type: "boolean" },
      verbose: { type: "boolean" },
    },
  });
  if (process.getuid() !== 0) fail("must be run as root: the suite acts as several users");
  const { suite, filter = [] } = values;
  if (suite === undefined) fail("say where the suite is: --suite DIR; see the head of this script for how to get it");
  try {
    accessSync(join(suite, "pjdfstest"), constants.X_OK);
  } catch {
    fail(`'${suite}' holds no built pjdfstest; see the head of this script for how to get and build it`);
  }
  const files = readdirSync(join(suite, "tests"), { recursive: true })
    .filter((path) => path.endsWith(".t") && (filter.length === 0 || filter.some((text) => path.includes(text))))
    .sort();
  if (files.length === 0) fail("no test file matches the filter");
  const drive = await (values["disk-only"] ? startMountedDisk() : startDrive());
  try {
    const plainFolder = join(drive.scratch, "plain");
    mkdirSync(plainFolder);
    const type = execFileSync("df", ["-PT", drive.directory], { encoding: "utf8" }).split("\n")[1].split(/\s+/)[1];
    const folder = makeDf(join(drive.scratch, "df"), type);
    const env = { ...process.env, PATH: `${folder}:${process.env.PATH}` };
    say(`pjdfstest: ${files.length} files on ${type} and on a drive of it`);
    const note = (side) => (file) => values.verbose && say(`${side} ${file}`);
    const [plain, mounted] = await Promise.all([
      runSide(suite, files, plainFolder, env, note("plain")),
      runSide(suite, files, drive.path, env, note("drive")),
    ]);
    for (const [label, results] of [
      [type, plain],
      ["drive", mounted],
    ]) {
      const bad = count(results, (state) => !/^ok$|^todo/.test(state));
      const todo = count(results, (state) => state.startsWith("todo"));
      say(`${label.padEnd(6)} ${count(results, (state) => state === "ok")} ok, ${bad} not ok, ${todo} todo`);
    }
    const lines = differences(files, plain, mounted);
    for (const line of lines) say(line);
    say(`${lines.length} differences`);
    return lines.length === 0 ? 0 : 1;
  } finally {
    await drive.close();
  }
}

process.exitCode = await main();
