import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { constants, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import * as sys from "../../src/sys/syscalls.ts";

const { O_CREAT, O_RDWR, O_RDONLY, O_DIRECTORY } = constants;
let directory = "";

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "netdrive-sys-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const at = (name: string) => join(directory, name);

function fails(errno: string, run: () => unknown): void {
  assert.throws(run, (error) => error instanceof FsError && error.errno === errno);
}

test("a file is written, read, mapped, punched and sought by descriptor", () => {
  const file = sys.open(at("a"), O_CREAT | O_RDWR, 0o600);
  assert.equal(sys.pwrite(file, Buffer.from("hello"), 8192), 5);
  const target = Buffer.alloc(16);
  assert.equal(sys.pread(file, target, 8190), 7);
  assert.equal(target.toString("latin1", 0, 7), "\0\0hello");
  sys.writeMapped(file, Buffer.from("HE"), 8192);
  sys.readMapped(file, target, 8192, true);
  assert.equal(target.toString("latin1", 0, 5), "HEllo");
  assert.equal(sys.lseek(file, 0, sys.SEEK_DATA), 8192);
  sys.fallocate(file, 1, 0, 100_000);
  assert.equal(sys.fstat(file).sizeBytes, 8197);
  assert.equal(sys.copyFileRange(file, 8192, file, 0, 5), 5);
  sys.ftruncate(file, 2);
  assert.equal(sys.fstat(file).sizeBytes, 2);
  sys.futimens(file, { sec: -7, nsec: 5 }, "omit");
  assert.deepEqual([sys.stat(at("a")).atimeSec, sys.stat(at("a")).atimeNsec], [-7, 5]);
  sys.fsync(file);
  sys.close(file);
  fails("EBADF", () => sys.close(file));
});

test("names are bytes, links are not followed, and directories are read with cookies", () => {
  const name = Buffer.concat([Buffer.from(`${directory}/`), Buffer.from([0xff, 0x80])]);
  sys.mknod(name, 0o100644);
  sys.symlink("nowhere", at("l"));
  assert.equal(sys.readlink(at("l")).toString(), "nowhere");
  fails("ENOENT", () => sys.stat(at("l")));
  assert.equal(sys.lstat(at("l")).sizeBytes, 7);
  sys.setxattr(at("l"), "trusted.t", Buffer.from("v"));
  assert.equal(sys.getxattr(at("l"), "trusted.t").toString(), "v");
  assert.equal(sys.listxattr(at("l")).toString(), "trusted.t\0");
  sys.removexattr(at("l"), "trusted.t");
  fails("ENODATA", () => sys.getxattr(at("l"), "trusted.t"));
  const listing = sys.open(directory, O_RDONLY | O_DIRECTORY);
  const entries = sys.getdents(listing);
  assert.deepEqual(new Set(entries.map((entry) => entry.name)), new Set([".", "..", "l", "\xff\x80"]));
  assert.deepEqual(sys.getdents(listing), []);
  sys.seekDirectory(listing, entries[1]?.cookie ?? 0n);
  assert.deepEqual(sys.getdents(listing), entries.slice(2));
  sys.close(listing);
});

test("a path with NUL and a missing argument are refused, not passed on", () => {
  assert.throws(() => sys.unlink("a\0b"), TypeError);
  assert.throws(() => sys.pread(0, undefined as unknown as Buffer, 0), TypeError);
});

test("another identity taken in a child process loses the rights of root", () => {
  sys.mknod(at("root"), 0o100600);
  const program = `
    import * as sys from ${JSON.stringify(new URL("../../src/sys/syscalls.js", import.meta.url))};
    sys.setIdentity({ uid: 1234, gid: 1234, groups: [7, 8] });
    try { sys.open(process.argv[1], 0); } catch (error) { console.log(error.errno, process.getuid(), process.getgroups().join()); }`;
  const args = ["--input-type=module", "-e", program, at("root")];
  assert.equal(execFileSync(process.execPath, args, { encoding: "utf8" }), "EACCES 1234 7,8,1234\n");
});
