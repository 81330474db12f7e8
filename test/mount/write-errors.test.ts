/**
 * README "Semantics", buffered writes: an error that comes late is reported once by the next write, fsync or close of that open, and logged; unbuffered
 * writes fail themselves. For each error a disk may give, from a real server to a program on a real mount.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { ErrnoName } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import type { FileSystem, HandleId, RequestContext } from "../../src/vfs/file-system.ts";
import { ForwardingFileSystem } from "../../src/vfs/forwarding-file-system.ts";
import { command } from "../support/child.ts";
import { type DriveHere, startDriveHere } from "../support/served-here.ts";

const MIB = 1024 * 1024;
/** A write that touches this megabyte of a file fails. */
const BAD = { begin: 4 * MIB, end: 5 * MIB };

class BadSpot extends ForwardingFileSystem {
  errno: ErrnoName = "EIO";
  failed = 0;

  override write(ctx: RequestContext, handle: HandleId, offsetBytes: number, data: Buffer): Promise<number> {
    this.#check(offsetBytes, data.length);
    return this.inner.write(ctx, handle, offsetBytes, data);
  }

  override readonly writev: NonNullable<FileSystem["writev"]> = async (ctx, handle, offsetBytes, buffers, options) => {
    this.#check(
      offsetBytes,
      buffers.reduce((sum, { length }) => sum + length, 0),
    );
    return this.inner.writev?.(ctx, handle, offsetBytes, buffers, options) ?? 0;
  };

  #check(offsetBytes: number, lengthBytes: number): void {
    if (offsetBytes >= BAD.end || offsetBytes + lengthBytes <= BAD.begin) return;
    this.failed += 1;
    throw new FsError(this.errno, "write");
  }
}

let drive: DriveHere;
let spot: BadSpot;

before(async () => {
  drive = await startDriveHere({
    disturb: (disk) => {
      spot = new BadSpot(disk);
      return spot;
    },
  });
});
after(() => drive.close());

/** Runs Python on the mount; `call` says how each call ends, one line each. */
async function calls(script: string): Promise<string[]> {
  const opening = `import errno, mmap, os, sys
os.chdir(sys.argv[1])
MIB = 1 << 20
BAD = 4 * MIB
data = mmap.mmap(-1, MIB)
data[:] = b"x" * MIB
def call(what, act, *args):
    try:
        act(*args)
        print(what, "ok")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
def known(fd):
    # Attributes are asked for when every write has an answer.
    os.fstat(fd)
`;
  const { stdout } = await command("python3", ["-c", opening + script, drive.path], { cwd: "/" });
  return stdout.trim().split("\n");
}

/** Lines of the mount's log about writes that were acknowledged and failed. */
function logged(errno: string): number {
  return drive.mounted.service.errors().split(`acknowledged and failed: ${errno}`).length - 1;
}

for (const errno of ["ENOSPC", "EDQUOT", "EFBIG", "EIO"] as const) {
  test(`${errno} of a buffered write comes back once, at the next write, fsync or close, and is logged`, async () => {
    spot.errno = errno;
    const before = logged(errno);
    const failedBefore = spot.failed;
    const found = await calls(`
for after in "write", "fsync", "close":
    fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    call("acknowledged", os.pwrite, fd, data, BAD)
    known(fd)
    if after == "write": call("write", os.pwrite, fd, data, 0)
    elif after == "fsync": call("fsync", os.fsync, fd)
    if after != "close":
        call("write", os.pwrite, fd, data, 0)
        call("fsync", os.fsync, fd)
        call("fsync", os.fsync, fd)
    call("close", os.close, fd)
`);
    const good = ["write ok", "fsync ok", "fsync ok", "close ok"];
    assert.deepEqual(found, [
      ...["acknowledged ok", `write ${errno}`, ...good],
      ...["acknowledged ok", `fsync ${errno}`, ...good],
      ...["acknowledged ok", `close ${errno}`],
    ]);
    assert.equal(spot.failed - failedBefore, 3);
    assert.equal(logged(errno) - before, 3);
  });

  test(`${errno} of an unbuffered write is that write's own, and is not reported again`, async () => {
    spot.errno = errno;
    const before = logged(errno);
    const found = await calls(`
for flags in os.O_DIRECT, os.O_SYNC, os.O_DSYNC, os.O_DIRECT | os.O_SYNC:
    fd = os.open("g", os.O_RDWR | os.O_CREAT | os.O_TRUNC | flags)
    call("before", os.pwrite, fd, data, BAD - MIB)
    call("write", os.pwrite, fd, data, BAD)
    call("behind", os.pwrite, fd, data, BAD + MIB)
    call("fsync", os.fsync, fd)
    call("close", os.close, fd)
`);
    const each = ["before ok", `write ${errno}`, "behind ok", "fsync ok", "close ok"];
    assert.deepEqual(found, [...each, ...each, ...each, ...each]);
    assert.equal(logged(errno), before, "whoever waits for the answer needs no log");
  });
}

test("every open that can write to the file is told once, others and other files are not", async () => {
  spot.errno = "EIO";
  const found = await calls(`
first = os.open("f", os.O_RDWR | os.O_CREAT)
second = os.open("f", os.O_WRONLY)
reader = os.open("f", os.O_RDONLY)
other = os.open("other", os.O_RDWR | os.O_CREAT)
call("acknowledged", os.pwrite, first, data, BAD)
call("other", os.pwrite, other, data, 0)
known(first)
call("reader", os.fsync, reader)
call("other", os.fsync, other)
call("second", os.fsync, second)
call("second", os.fsync, second)
call("first", os.fsync, first)
call("first", os.fsync, first)
later = os.open("f", os.O_RDWR)
call("later", os.fsync, later)
for name, fd in (("first", first), ("second", second), ("reader", reader), ("other", other), ("later", later)):
    call("close " + name, os.close, fd)
`);
  assert.deepEqual(found, [
    ...["acknowledged ok", "other ok", "reader ok", "other ok", "second EIO", "second ok", "first EIO", "first ok"],
    ...["later ok", "close first ok", "close second ok", "close reader ok", "close other ok", "close later ok"],
  ]);
});

test("after a late error whoever opens the file reads what the server has, not what was lost", async () => {
  spot.errno = "ENOSPC";
  const found = await calls(`
for told in "write", "fsync", "close":
    name = "kept" + told
    fd = os.open(name, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 8 * MIB)
    os.fsync(fd)
    os.pwrite(fd, data, BAD)
    known(fd)
    if told == "write": call("write", os.pwrite, fd, data, 0)
    if told == "fsync": call("fsync", os.fsync, fd)
    call("close", os.close, fd)
    with open(name, "rb") as file:
        file.seek(BAD)
        print(set(file.read(MIB)))
`);
  assert.deepEqual(found, [
    "write ENOSPC",
    "close ok",
    "{0}",
    "fsync ENOSPC",
    "close ok",
    "{0}",
    "close ENOSPC",
    "{0}",
  ]);
});

test("with -o sync the write itself fails", async () => {
  await using sync = await startDriveHere({
    disturb: (disk) => {
      const own = new BadSpot(disk);
      own.errno = "EDQUOT";
      return own;
    },
    mount: ["-o", "sync"],
  });
  const script = "dd if=/dev/zero of=f bs=1M count=6 conv=notrunc";
  const { stderr } = await command("bash", ["-c", `cd ${sync.path} && LC_ALL=C ${script}`], { codes: [1] });
  assert.match(stderr, /error writing 'f': Disk quota exceeded\n5\+0 records in\n4\+0 records out/);
});
