/**
 * scripts/setup in a small project of its own, on machines made of a PATH: programs are there or not, apt-get, npm and sudo
 * are stand-ins that write down how they were called.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";

const repository = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));
const scratch = mkdtempSync(join(tmpdir(), "netdrive-setup-"));
chmodSync(scratch, 0o755);
after(() => rmSync(scratch, { recursive: true }));

const LOCK = { packages: { "": {}, "node_modules/a": { version: "1.0.0", integrity: "sha512-a" } } };

let project = "";
let programs = "";
const at = (path: string) => join(project, path);

/** A program of the machine: a shell script that writes down its arguments, then does `script`. */
function install(name: string, script = ""): void {
  const text = `#!/bin/sh\necho "${name} $*" >> ${at("calls")}\n${script}\n`;
  writeFileSync(join(programs, name), text, { mode: 0o755 });
}

function writeLock(lock: object): void {
  writeFileSync(at("package-lock.json"), JSON.stringify(lock));
}

beforeEach(() => {
  project = mkdtempSync(join(scratch, "project-"));
  chmodSync(project, 0o777);
  programs = at("programs");
  mkdirSync(programs);
  mkdirSync(at("scripts"));
  copyFileSync(join(repository, "scripts/setup.mjs"), at("scripts/setup.mjs"));
  // Stands in for the real build, which is built by now.
  const build = `import { existsSync, writeFileSync } from "node:fs";
    export const isBuilt = () => existsSync("built");
    if (process.argv[1].endsWith("build.mjs")) writeFileSync("built", "");`;
  writeFileSync(at("scripts/build.mjs"), build);
  for (const name of ["env", "sh", "touch", "mkdir", "cp", "chmod"])
    symlinkSync(`/usr/bin/${name}`, join(programs, name));
  writeLock(LOCK);
  install("npm", "mkdir -p node_modules && cp package-lock.json node_modules/.package-lock.json");
  for (const name of ["g++", "fusermount3"]) install(name);
});

function setup(args: string[] = [], options: { uid?: number } = {}) {
  const result = spawnSync(process.execPath, [at("scripts/setup.mjs"), ...args], {
    cwd: project,
    // Another user may not write where coverage goes; Node passes that on unless told otherwise.
    env: { PATH: programs, NODE_V8_COVERAGE: undefined },
    encoding: "utf8",
    timeout: 60_000,
    ...options,
  });
  const calls = existsSync(at("calls")) ? readFileSync(at("calls"), "utf8").trimEnd().split("\n") : [];
  return { ...result, calls };
}

test("the first run installs npm packages and builds, the second does nothing and says nothing", () => {
  const first = setup();
  assert.equal(first.stdout, "setup: installs npm packages\nsetup: builds\nsetup: ready\n", first.stderr);
  assert.equal(first.status, 0);
  assert.deepEqual(first.calls, ["npm ci --no-audit --no-fund --loglevel=error"]);
  assert.ok(existsSync(at("built")));
  const second = setup(["--quiet"]);
  assert.deepEqual([second.stdout, second.stderr, second.status], ["", "", 0]);
  assert.deepEqual(second.calls, first.calls);
});

test("npm runs again exactly when the lock asks for something that is not there", () => {
  setup();
  const other = { version: "2.0.0", integrity: "sha512-b" };
  writeLock({ packages: { ...LOCK.packages, "node_modules/elsewhere": { ...other, optional: true } } });
  assert.equal(setup().calls.length, 1);
  writeLock({ packages: { ...LOCK.packages, "node_modules/b": other } });
  assert.equal(setup().calls.length, 2);
  writeLock({ packages: { ...LOCK.packages, "node_modules/b": { ...other, integrity: "sha512-c" } } });
  assert.equal(setup().calls.length, 3);
  rmSync(at("node_modules"), { recursive: true });
  assert.equal(setup().calls.length, 4);
  assert.equal(setup().calls.length, 4);
});

test("root gets missing system packages from apt-get, after an update, without being asked anything", () => {
  rmSync(join(programs, "fusermount3"));
  install("apt-get", `case "$*" in *install*) touch ${programs}/fusermount3; chmod 755 ${programs}/fusermount3;; esac`);
  const { status, stdout, calls } = setup();
  assert.equal(status, 0);
  assert.match(stdout, /installs system packages: fuse3\n/);
  assert.match(calls[0] ?? "", /^apt-get -q .*update$/);
  assert.match(calls[1] ?? "", /^apt-get -q .*install -y --no-install-recommends fuse3$/);
});

test("what the tests need is installed only for the tests", () => {
  install("apt-get", "exit 1");
  assert.equal(setup().status, 0);
  const { status, stdout, stderr } = setup(["--tests"]);
  assert.equal(status, 1);
  assert.match(stdout, /installs system packages: .*fio.*sqlite3/);
  assert.match(stderr, /^setup: apt-get update failed, see above\n$/m);
});

test("without the right to install, the one command to run is said", () => {
  rmSync(join(programs, "fusermount3"));
  install("apt-get");
  const { status, stderr } = setup([], { uid: 65_534 });
  assert.equal(status, 1);
  assert.equal(stderr, "setup: missing: fuse3; run: sudo apt-get install -y fuse3\n");
});

test("passwordless sudo is used", () => {
  chmodSync(programs, 0o777);
  rmSync(join(programs, "fusermount3"));
  install("apt-get", `case "$*" in *install*) touch ${programs}/fusermount3; chmod 755 ${programs}/fusermount3;; esac`);
  install("sudo", 'test "$2" = true || { shift; exec "$@"; }');
  const { status, stderr, calls } = setup([], { uid: 65_534 });
  assert.equal(status, 0, stderr);
  assert.match(calls.join("\n"), /sudo -n env DEBIAN_FRONTEND=noninteractive apt-get .*install -y .*fuse3/);
});

test("a system without apt-get says what is missing", () => {
  rmSync(join(programs, "g++"));
  const { status, stderr } = setup();
  assert.equal(status, 1);
  assert.match(stderr, /^setup: missing: g\+\+; install them with this system's package manager/);
});

test("a failed npm ends with its last words and one line", () => {
  install("npm", "echo registry says no >&2; exit 1");
  const { status, stderr } = setup();
  assert.equal(status, 1);
  assert.equal(stderr, "registry says no\nsetup: npm ci failed, see above\n");
});

test("it works from any directory", () => {
  const result = spawnSync(process.execPath, [at("scripts/setup.mjs")], {
    cwd: "/",
    env: { PATH: programs },
    encoding: "utf8",
  });
  assert.equal(result.status, 0, result.stderr);
  assert.ok(existsSync(at("node_modules/.package-lock.json")));
});
