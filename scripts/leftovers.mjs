/**
 * What a test file left behind: processes, mounts, temp files. For scripts/test.
 *
 * Finds only what belongs to the run: processes by a mark in their environment, which every descendant inherits however
 * far it detached itself, mounts and files by the temp folder that was made for the file.
 */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync } from "node:fs";

/** Names the test file, and with it the run, in the environment of every process it starts. */
export const MARK = "NETDRIVE_TEST_FILE";

const SETTLE_MS = 2_000;
const LOOK_EVERY_MS = 50;

export function kill(pid) {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // Ended meanwhile.
  }
}

/** Mount points at or below `folder`, the last mounted first. */
export function mountsBelow(folder) {
  const plain = (text) => text.replace(/\\([0-7]{3})/g, (_, code) => String.fromCharCode(Number.parseInt(code, 8)));
  return readFileSync("/proc/self/mountinfo", "latin1")
    .split("\n")
    .map((line) => plain(line.split(" ")[4] ?? ""))
    .filter((path) => path === folder || path.startsWith(`${folder}/`))
    .reverse();
}

/** Live processes whose mark is `mark`, or of any file of the run if `mark` ends in a slash. */
export function processesMarked(mark) {
  const wanted = `${MARK}=${mark}`;
  const isWanted = (variable) => (mark.endsWith("/") ? variable.startsWith(wanted) : variable === wanted);
  const found = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    try {
      if (!readFileSync(`/proc/${name}/environ`, "latin1").split("\0").some(isWanted)) continue;
      if (/^State:\s*[ZX]/m.test(readFileSync(`/proc/${name}/status`, "latin1"))) continue;
      const command = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0").join(" ").trim();
      found.push({ pid: Number(name), command: command.slice(0, 200) });
    } catch {
      // Ended meanwhile, or not ours to read.
    }
  }
  return found;
}

/** Removes everything of `mark` and `folder` and returns a line for each thing removed. */
export function sweep(mark, folder) {
  const left = [];
  for (const { pid, command } of processesMarked(mark)) {
    left.push(`process ${pid}: ${command}`);
    kill(pid);
  }
  for (const path of mountsBelow(folder)) {
    left.push(`mount ${path}`);
    spawnSync("umount", ["--lazy", path], { stdio: "ignore" });
  }
  // Never deletes through a mount that would not go.
  if (mountsBelow(folder).length > 0) return left;
  for (const name of readdirSync(folder)) left.push(`temp file ${name}`);
  rmSync(folder, { recursive: true, force: true });
  return left;
}

/** Waits a little for processes and mounts whose end was asked for in the last moment of a test. */
export async function settle(mark, folder) {
  for (let waitedMs = 0; waitedMs < SETTLE_MS; waitedMs += LOOK_EVERY_MS) {
    if (processesMarked(mark).length === 0 && mountsBelow(folder).length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
  }
}
