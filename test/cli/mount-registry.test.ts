/** What is kept of mounts beside the kernel's list. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, beforeEach, test } from "node:test";
import {
  exportSocketOf,
  findRecord,
  logFileOf,
  type MountRecord,
  makeRuntimeFolder,
  readRecords,
  removeLeftovers,
  removeRecord,
  runtimeFolder,
  statusSocketOf,
  writeRecord,
} from "../../src/cli/mount-registry.ts";
import { identify } from "../../src/cli/process-table.ts";

const scratch = mkdtempSync(join(tmpdir(), "netdrive-registry-"));
after(() => rmSync(scratch, { recursive: true }));

let folder = "";
beforeEach(() => {
  folder = join(mkdtempSync(join(scratch, "run-")), "netdrive");
  process.env["NETDRIVE_RUNTIME"] = folder;
});

function record(change?: Partial<MountRecord>): MountRecord {
  const daemon = identify(process.pid);
  assert.ok(daemon);
  return { path: "/mnt/a b", url: "netdrive://h:1/s", readOnly: false, daemon, sinceMs: 5, log: "/x.log", ...change };
}

test("a record is found by its path, for its owner only, until the process that wrote it removes it", () => {
  writeRecord(record());
  assert.deepEqual(findRecord("/mnt/a b"), record());
  assert.equal(findRecord("/mnt/a"), undefined);
  assert.equal(statSync(folder).mode & 0o777, 0o700);
  assert.equal(statSync(join(folder, readdirSync(folder)[0] ?? "")).mode & 0o777, 0o600);
  removeRecord("/mnt/a b", 1);
  assert.deepEqual(findRecord("/mnt/a b"), record());
  removeRecord("/mnt/a b", process.pid);
  assert.equal(findRecord("/mnt/a b"), undefined);
});

test("a record of a process that is gone, without its mount, is removed by whoever looks", () => {
  writeRecord(record());
  writeRecord(record({ path: "/mnt/stale", daemon: { pid: process.pid, startTicks: 1 } }));
  assert.deepEqual(readRecords(), [record()]);
  assert.equal(readdirSync(folder).length, 1);
});

test("what is no record harms nobody", () => {
  writeRecord(record());
  for (const [index, text] of ["", "{", "null", "{}", '{"path":5,"url":"x","daemon":{"pid":1}}'].entries()) {
    writeFileSync(join(folder, `${index}.json`), text);
  }
  assert.deepEqual(readRecords(), [record()]);
  assert.equal(readdirSync(folder).length, 1);
});

test("nothing mounted ever: no records, no folder", () => {
  assert.deepEqual(readRecords(), []);
});

test("logs and sockets of different paths, and of different processes of one path, have different names", () => {
  for (const fileOf of [logFileOf, statusSocketOf, exportSocketOf]) {
    assert.equal(new Set([fileOf("/a", 1), fileOf("/b", 1), fileOf("/a", 2)]).size, 3);
    assert.ok(fileOf("/a", 1).startsWith(folder));
  }
});

test("a record and its sockets go without those of another process at the same path", () => {
  writeRecord(record());
  const [ours, others] = [process.pid, process.ppid].map((pid) => statusSocketOf("/mnt/a b", pid));
  assert.ok(ours !== undefined && others !== undefined);
  for (const file of [ours, others]) writeFileSync(file, "");
  removeRecord("/mnt/a b", process.ppid);
  assert.deepEqual([existsSync(ours), existsSync(others)], [true, false]);
  assert.deepEqual(findRecord("/mnt/a b"), record());
  removeRecord("/mnt/a b", process.pid);
  assert.deepEqual(readdirSync(folder), []);
});

test("of what processes that are gone have left at a path the last log is kept, and nothing of the living touched", () => {
  makeRuntimeFolder();
  // No process has numbers as high as these.
  const [older, last] = [4_194_305, 4_194_306];
  const kept = [
    logFileOf("/a", last),
    `${logFileOf("/a", last)}.1`,
    logFileOf("/a", process.pid),
    statusSocketOf("/a", process.pid),
    logFileOf("/b", older),
  ];
  const left = [
    logFileOf("/a", older),
    `${logFileOf("/a", older)}.1`,
    statusSocketOf("/a", last),
    exportSocketOf("/a", older),
  ];
  for (const file of [...kept, ...left]) writeFileSync(file, "");
  utimesSync(logFileOf("/a", older), 1, 1);
  removeLeftovers("/a");
  assert.deepEqual(readdirSync(folder).sort(), kept.map((file) => basename(file)).sort());
});

test("without NETDRIVE_RUNTIME root has /run/netdrive and others a folder of their own", () => {
  const expected = process.getuid?.() === 0 ? "/run/netdrive" : "/run/user/1/netdrive";
  assert.equal(runtimeFolder({ XDG_RUNTIME_DIR: "/run/user/1" }), expected);
});
