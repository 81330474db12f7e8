/**
 * Real disks that take no more, behind a real server and mount: full, too small for such a file, broken. The program sees the disk's error, nothing hangs,
 * and what an unbuffered write has acknowledged is there.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { command, shell } from "../support/child.ts";
import { type Drive, startDrive } from "../support/drive.ts";
import { smallExt4, smallTmpfs } from "../support/small-disk.ts";
import { makeTemp } from "../support/temp.ts";

const MIB = 1024 * 1024;
const DISK_BYTES = 24 * MIB;

/** What the scripts below begin with: in the folder of the drive, with the data that a file should have at a place. */
const OPENING = `import errno, mmap, os, sys, threading
os.chdir(sys.argv[1])
MIB = 1 << 20
seed = os.urandom(MIB)
def block(index, size=MIB):
    data = mmap.mmap(-1, size)
    data[:] = (b"%8d" % index + seed)[:size]
    return data
def outcome(act, *args):
    try:
        act(*args)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
def check(name, index, size=MIB):
    "On the server, beside the drive."
    with open(sys.argv[2] + "/" + name, "rb") as file:
        file.seek(index * size)
        assert file.read(size) == block(index, size)[:], index
`;

/** Runs Python on the drive; `argv[2]` is the directory that is served. @returns the lines it printed. */
async function python({ path, directory }: Drive, script: string): Promise<string[]> {
  const options = { cwd: "/", timeoutMs: 60_000 };
  const { stdout } = await command("python3", ["-c", OPENING + script, path, directory], options);
  return stdout.trim().split("\n");
}

/** Once there is room again, everything works. */
async function recovers({ path, directory }: Drive): Promise<void> {
  const script = `rm -f ${path}/full*; dd if=/dev/urandom of=${path}/again bs=1M count=12 conv=fsync status=none`;
  await shell(`${script}; cmp ${path}/again ${directory}/again; rm ${path}/again`);
}

for (const [how, flags] of Object.entries({ O_DIRECT: "os.O_DIRECT", O_SYNC: "os.O_SYNC" })) {
  test(`a full disk in the middle of ${how} writes, eight at once: ENOSPC, and every acknowledged one is there`, async () => {
    await using disk = await smallTmpfs(DISK_BYTES);
    await using drive = await startDrive({ directory: disk.path });
    const found = await python(
      drive,
      `
fd = os.open("full", os.O_RDWR | os.O_CREAT | ${flags})
ends = {}
def whole(index):
    data = memoryview(block(index))
    done = 0
    # A short write says that a part has found room; the rest does not.
    while done < MIB: done += os.pwrite(fd, data[done:], index * MIB + done)
def some(first):
    for index in range(first, 48, 8): ends[index] = outcome(whole, index)
threads = [threading.Thread(target=some, args=(first,)) for first in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("fsync", outcome(os.fsync, fd), "close", outcome(os.close, fd))
print(*sorted(set(ends.values())))
good = [index for index, end in ends.items() if end == "ok"]
for index in good: check("full", index)
print(len(ends), 16 <= len(good) <= 24)
`,
    );
    assert.deepEqual(found, ["fsync ok close ok", "ENOSPC ok", "48 True"]);
    await recovers(drive);
  });
}

test("a full disk in the middle of buffered writes: ENOSPC at a later write, and what fsync has promised is there", async () => {
  await using disk = await smallTmpfs(DISK_BYTES);
  await using drive = await startDrive({ directory: disk.path });
  const found = await python(
    drive,
    `
fd = os.open("full", os.O_RDWR | os.O_CREAT)
for index in range(8): os.pwrite(fd, block(index), index * MIB)
os.fsync(fd)
for index in range(8, 200):
    end = outcome(os.pwrite, fd, block(index), index * MIB)
    if end != "ok": break
print("write", end, index > 20)
# What was under way when the first error was told may have failed after it.
print("close", outcome(os.close, fd) in ("ok", "ENOSPC"))
for index in range(8): check("full", index)
`,
  );
  assert.deepEqual(found, ["write ENOSPC True", "close True"]);
  assert.match(drive.mounted.service.errors(), /acknowledged and failed: ENOSPC/);
  await recovers(drive);
});

for (const where of ["fsync", "close"] as const) {
  test(`a buffered write that finds no room: ENOSPC at ${where}, once`, async () => {
    await using disk = await smallTmpfs(DISK_BYTES);
    await using drive = await startDrive({ directory: disk.path });
    const found = await python(
      drive,
      `
fd = os.open("full", os.O_RDWR | os.O_CREAT)
for index in range(24): os.pwrite(fd, block(index), index * MIB)
print("fsync", outcome(os.fsync, fd))
print("write", outcome(os.pwrite, fd, block(24), 24 * MIB))
if "${where}" == "fsync": print("fsync", outcome(os.fsync, fd), outcome(os.fsync, fd))
print("close", outcome(os.close, fd))
for index in range(24): check("full", index)
`,
    );
    const told = where === "fsync" ? ["fsync ENOSPC ok", "close ok"] : ["close ENOSPC"];
    assert.deepEqual(found, ["fsync ok", "write ok", ...told]);
    await recovers(drive);
  });
}

test("a full disk under a mapping: msync and fsync say so, and nothing hangs", async () => {
  await using disk = await smallTmpfs(DISK_BYTES);
  await using drive = await startDrive({ directory: disk.path });
  const found = await python(
    drive,
    `
fd = os.open("full", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 48 * MIB)
mapping = mmap.mmap(fd, 48 * MIB)
for index in range(48): mapping[index * MIB:(index + 1) * MIB] = block(index)[:]
ends = [outcome(mapping.flush), outcome(os.fsync, fd)]
print("ENOSPC" in ends)
mapping.close()
os.close(fd)
`,
  );
  assert.deepEqual(found, ["True"]);
  await recovers(drive);
});

test("a disk with room for a part of a write: ENOSPC, however the file was opened", async () => {
  await using disk = await smallTmpfs(DISK_BYTES);
  await using drive = await startDrive({ directory: disk.path });
  for (const flag of ["oflag=direct", "oflag=sync", "conv=fsync"]) {
    const script = `dd if=/dev/zero of=${drive.path}/full bs=300k count=100 ${flag}`;
    const { stderr } = await command("bash", ["-c", `LC_ALL=C ${script}`], { codes: [1], timeoutMs: 60_000 });
    assert.match(stderr, /No space left on device/, flag);
    await recovers(drive);
  }
});

test("several programs fill a disk at once: each is told, and a reader beside them goes on", async () => {
  await using disk = await smallTmpfs(DISK_BYTES);
  await using drive = await startDrive({ directory: disk.path });
  const { path } = drive;
  await shell(`dd if=/dev/urandom of=${path}/other bs=1M count=4 conv=fsync status=none`);
  const writers = ["", "oflag=direct", "oflag=sync", "conv=fsync"].map(async (flag, index) => {
    const script = `dd if=/dev/zero of=${path}/full${index} bs=300k count=100 ${flag}`;
    return (await command("bash", ["-c", `LC_ALL=C ${script}`], { codes: [0, 1], timeoutMs: 60_000 })).stderr;
  });
  const reader = shell(`for i in $(seq 20); do cmp ${path}/other ${disk.path}/other; done`, { timeoutMs: 60_000 });
  for (const said of await Promise.all(writers)) assert.match(said, /No space left on device/);
  await reader;
  await recovers(drive);
});

test("a file larger than its disk can hold: EFBIG, buffered and not", async () => {
  await using temp = makeTemp("ext4");
  // Without extents and with blocks of 1 KiB no file reaches 17 GiB.
  await using disk = await smallExt4(temp.path, 32 * MIB, "-b", "1024", "-O", "^extent,^64bit");
  await using drive = await startDrive({ directory: disk.path });
  const found = await python(
    drive,
    `
for flags in 0, os.O_DIRECT, os.O_SYNC:
    fd = os.open("file", os.O_RDWR | os.O_CREAT | flags)
    print(outcome(os.pwrite, fd, block(0), 1 << 35), outcome(os.fsync, fd), outcome(os.fsync, fd), outcome(os.close, fd))
print(outcome(os.truncate, "file", 1 << 35))
`,
  );
  assert.deepEqual(found, ["ok EFBIG ok ok", "EFBIG ok ok ok", "EFBIG ok ok ok", "EFBIG"]);
});

test("a server with a limit on the size of its files: EFBIG, and it lives on", async () => {
  await using drive = await startDrive();
  await command("prlimit", ["--pid", String(drive.served.service.pid), `--fsize=${8 * MIB}:unlimited`]);
  const found = await python(
    drive,
    `
for flags in os.O_DIRECT, 0:
    fd = os.open("full", os.O_RDWR | os.O_CREAT | flags)
    print(outcome(os.pwrite, fd, block(1), 7 * MIB), outcome(os.pwrite, fd, block(2), 8 * MIB), outcome(os.fsync, fd), outcome(os.close, fd))
`,
  );
  assert.deepEqual(found, ["ok EFBIG ok ok", "ok ok EFBIG ok"]);
  await command("prlimit", ["--pid", String(drive.served.service.pid), "--fsize=unlimited"]);
  await recovers(drive);
});

test("a disk that cannot keep what it has taken: fsync says so", async () => {
  await using below = await smallTmpfs(24 * MIB);
  // The file that holds the disk cannot grow to what the disk promises.
  await using disk = await smallExt4(below.path, 64 * MIB);
  await using drive = await startDrive({ directory: disk.path });
  const found = await python(
    drive,
    `
fd = os.open("file", os.O_RDWR | os.O_CREAT)
for index in range(40): os.pwrite(fd, block(index), index * MIB)
print(outcome(os.fsync, fd))
print(outcome(os.close, fd))
`,
  );
  assert.deepEqual(found, ["ENOSPC", "ok"]);
});
