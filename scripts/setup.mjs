#!/usr/bin/env node
/**
 * Makes a fresh clone ready: system packages, npm packages, build. Does only what is missing, so a second run ends at
 * once.
 *
 *     node scripts/setup.mjs [--tests] [--quiet]
 *
 * `--tests` also installs the programs that tests and benches run; `--quiet` says nothing when there is nothing to do.
 * Runs before anything is installed: plain JavaScript, Node's own modules only. Needs the npm registry and, on Debian,
 * its packages.
 */
import { spawnSync } from "node:child_process";
import {
  accessSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  unlinkSync,
} from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { isBuilt } from "./build.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const NODE_MIN = [20, 18, 1];

/** Debian package to the program in it that shows it is there. */
const PACKAGES = { fuse3: "fusermount3", "g++": "g++" };
const TEST_PACKAGES = {
  acl: "setfacl",
  attr: "setfattr",
  bsdutils: "script",
  fio: "fio",
  gcc: "gcc",
  git: "git",
  iproute2: "ip",
  make: "make",
  "openssh-client": "ssh",
  "openssh-server": "sshd",
  "openssh-sftp-server": "/usr/lib/openssh/sftp-server",
  procps: "ps",
  rclone: "rclone",
  rsync: "rsync",
  sqlite3: "sqlite3",
  sshfs: "sshfs",
  strace: "strace",
  tar: "tar",
  valgrind: "valgrind",
};

const quiet = process.argv.includes("--quiet");
const say = (text) => process.stdout.write(`setup: ${text}\n`);

/** Ends with one line that says what is wrong and what to do. */
function fail(text) {
  process.stderr.write(`setup: ${text}\n`);
  process.exit(1);
}

function checkNode() {
  const found = process.versions.node.split(".").map(Number);
  const difference = NODE_MIN.map((part, index) => found[index] - part).find((part) => part !== 0) ?? 0;
  if (difference < 0) {
    fail(`Node ${NODE_MIN.join(".")} or newer is needed and this is ${process.version}; install a newer Node`);
  }
}

function isProgram(name) {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/local/sbin", "/usr/sbin", "/sbin"];
  const candidates = name.startsWith("/") ? [name] : folders.filter(Boolean).map((folder) => join(folder, name));
  return candidates.some((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** The last lines of what a failed program printed. */
const tail = (result) => `${result.stdout ?? ""}${result.stderr ?? ""}`.trimEnd().split("\n").slice(-20).join("\n");

/** Runs a program without input and keeps its output for the case that it fails. */
function run(what, program, args, options = {}) {
  const result = spawnSync(program, args, {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    encoding: "utf8",
    maxBuffer: 64 << 20,
    ...options,
  });
  if (result.error === undefined && result.status === 0) return;
  const output = tail(result);
  if (output !== "") process.stderr.write(`${output}\n`);
  fail(`${what} failed${result.error === undefined ? ", see above" : `: ${result.error.message}`}`);
}

function installSystemPackages(wanted) {
  const missing = Object.keys(wanted).filter((name) => !isProgram(wanted[name]));
  if (missing.length === 0) return;
  const list = missing.join(" ");
  if (!isProgram("apt-get")) fail(`missing: ${list}; install them with this system's package manager, then try again`);
  const isRoot = process.getuid() === 0;
  if (!isRoot && spawnSync("sudo", ["-n", "true"], { stdio: "ignore" }).status !== 0) {
    fail(`missing: ${list}; run: sudo apt-get install -y ${list}`);
  }
  const apt = (...args) => {
    const command = [
      "env",
      "DEBIAN_FRONTEND=noninteractive",
      "apt-get",
      "-q",
      "-o",
      "DPkg::Lock::Timeout=120",
      ...args,
    ];
    if (!isRoot) command.unshift("sudo", "-n");
    run(`apt-get ${args[0]}`, command[0], command.slice(1));
  };
  say(`installs system packages: ${list}`);
  apt("update");
  apt("install", "-y", "--no-install-recommends", ...missing);
  const still = missing.filter((name) => !isProgram(wanted[name]));
  if (still.length > 0) fail(`apt-get installed ${still.join(" ")}, but the programs are not found in PATH`);
}

/** Whether node_modules holds what package-lock.json asks for; npm writes node_modules/.package-lock.json last. */
function isInstalled() {
  const packages = (path) => JSON.parse(readFileSync(join(root, path), "utf8")).packages;
  let installed;
  try {
    installed = packages("node_modules/.package-lock.json");
  } catch {
    return false;
  }
  return Object.entries(packages("package-lock.json")).every(([path, wanted]) => {
    if (path === "") return true;
    const found = installed[path];
    // Optional packages for other machines are not installed.
    if (found === undefined) return wanted.optional === true;
    return found.version === wanted.version && found.integrity === wanted.integrity;
  });
}

function installNodePackages() {
  if (isInstalled()) return;
  const folder = join(root, "node_modules");
  if (lstatSync(folder, { throwIfNoEntry: false })?.isSymbolicLink()) {
    fail("node_modules is a link to a folder that does not hold what package-lock.json asks for; run 'npm ci' there");
  }
  say("installs npm packages");
  run("npm ci", "npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
}

/** So that `npx netdrive` runs this tree: npm makes links for the dependencies' programs, not for the package's own. */
function linkCommand() {
  const link = join(root, "node_modules/.bin/netdrive");
  if (existsSync(link)) return;
  mkdirSync(dirname(link), { recursive: true });
  if (lstatSync(link, { throwIfNoEntry: false }) !== undefined) unlinkSync(link);
  symlinkSync("../../dist/src/cli/main.js", link);
}

function build() {
  if (isBuilt()) return;
  say("builds");
  run("the build", process.execPath, [join(root, "scripts/build.mjs")]);
}

checkNode();
installSystemPackages(process.argv.includes("--tests") ? { ...PACKAGES, ...TEST_PACKAGES } : PACKAGES);
installNodePackages();
build();
linkCommand();
if (!quiet) say("ready");
