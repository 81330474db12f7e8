/** What is kept of mounts beside the kernel's list. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";
import {
  findRecord,
  logFileOf,
  type MountRecord,
  readRecords,
  removeRecord,
  runtimeFolder,
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

test("logs and records of different paths have different names", () => {
  assert.notEqual(logFileOf("/a"), logFileOf("/b"));
  assert.ok(logFileOf("/a").startsWith(folder));
});

test("without NETDRIVE_RUNTIME root has /run/netdrive and others a folder of their own", () => {
  const expected = process.getuid?.() === 0 ? "/run/netdrive" : "/run/user/1/netdrive";
  assert.equal(runtimeFolder({ XDG_RUNTIME_DIR: "/run/user/1" }), expected);
});
