/**
 * A server that stops answering in the middle: one request of many, or all of them. Whoever waits can be killed at once, others go on, and a request that
 * stays unanswered while others are answered ends with ETIMEDOUT.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import type { LinkProcess } from "../../scripts/bench/link-process.ts";
import { FsError } from "../../src/base/errors.ts";
import type { DriveStatus } from "../../src/cli/status-socket.ts";
import type { FileSystem, HandleId, RequestContext } from "../../src/vfs/file-system.ts";
import { ForwardingFileSystem } from "../../src/vfs/forwarding-file-system.ts";
import { command, type Service, shell, startService } from "../support/child.ts";
import { netdrive, startDrive } from "../support/drive.ts";
import { startDriveHere } from "../support/served-here.ts";

const MIB = 1024 * 1024;
/** Nothing here takes longer, unless it hangs. */
const PROMPT_MS = 10_000;

/** Requests that touch the first bytes of the sixth megabyte of a file get no answer while `isStuck`, not even when they are cancelled. */
class StuckSpot extends ForwardingFileSystem {
  isStuck = false;
  /** Requests that wait. */
  readonly waiting: (() => void)[] = [];
  #wake: () => void = () => {};

  override async read(ctx: RequestContext, handle: HandleId, offsetBytes: number, target: Buffer): Promise<number> {
    await this.#pass(offsetBytes, target.length);
    return this.inner.read(ctx, handle, offsetBytes, target);
  }

  override async write(ctx: RequestContext, handle: HandleId, offsetBytes: number, data: Buffer): Promise<number> {
    await this.#pass(offsetBytes, data.length);
    if (ctx.signal?.aborted === true) throw new FsError("EINTR", "write");
    return this.inner.write(ctx, handle, offsetBytes, data);
  }

  override readonly writev: FileSystem["writev"] = undefined;

  /** Settles when `count` requests wait. */
  async holding(count: number): Promise<void> {
    while (this.waiting.length < count) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  thaw(): void {
    this.isStuck = false;
    for (const go of this.waiting.splice(0)) go();
  }

  async #pass(offsetBytes: number, lengthBytes: number): Promise<void> {
    const place = 6 * MIB;
    if (!this.isStuck || offsetBytes > place || offsetBytes + lengthBytes <= place) return;
    await new Promise<void>((resolve) => {
      this.waiting.push(resolve);
      this.#wake();
    });
  }
}

async function stuckDrive(...mount: string[]) {
  let spot: StuckSpot | undefined;
  const drive = await startDriveHere({
    disturb: (disk) => {
      spot = new StuckSpot(disk);
      return spot;
    },
    mount,
  });
  return { drive, spot: spot as unknown as StuckSpot };
}

/** Starts a shell command that will wait. */
async function waiter(script: string): Promise<Service> {
  const service = startService("bash", ["-c", `echo started; exec ${script}`]);
  await service.firstLine;
  return service;
}

/** Kills it, and fails if it does not go. */
async function dies(service: Service, what: string): Promise<void> {
  const startedMs = performance.now();
  assert.equal(await service.end("SIGKILL"), "SIGKILL", what);
  assert.ok(performance.now() - startedMs < 2000, `${what} took ${performance.now() - startedMs} ms to die`);
}

const dropCaches = () => void spawnSync("bash", ["-c", "echo 3 > /proc/sys/vm/drop_caches"]);

test("one section of many without an answer: its reader can be killed, other programs and files go on", async () => {
  const { drive, spot } = await stuckDrive();
  await using _ = drive;
  const { path } = drive;
  await shell(
    `dd if=/dev/urandom of=${path}/f bs=1M count=12 conv=fsync status=none; cp ${path}/f ${path}/g; sync -f ${path}`,
  );
  dropCaches();
  spot.isStuck = true;
  for (const script of [`cat ${path}/f`, `dd if=${path}/f of=/dev/null bs=1M iflag=direct status=none`]) {
    const reader = await waiter(`${script} > /dev/null`);
    await spot.holding(1);
    // What does not touch the place is read meanwhile, of the same file too.
    const others = `head -c 5000000 ${path}/f | cmp -n 5000000 - ${drive.directory}/f; echo x > ${path}/new; ls -l ${path}; rm ${path}/new`;
    await shell(others, { timeoutMs: PROMPT_MS });
    await dies(reader, script);
    spot.thaw();
    spot.isStuck = true;
    dropCaches();
  }
  for (const flag of ["oflag=direct", "oflag=sync"]) {
    const writer = await waiter(`dd if=/dev/zero of=${path}/f bs=1M count=12 conv=notrunc status=none ${flag}`);
    await spot.holding(1);
    await shell(`dd if=/dev/urandom of=${path}/h bs=1M count=4 conv=fsync status=none`, { timeoutMs: PROMPT_MS });
    await dies(writer, flag);
    spot.thaw();
    spot.isStuck = true;
  }
  spot.thaw();
  await shell(`cmp ${path}/f ${drive.directory}/f`, { timeoutMs: PROMPT_MS });
});

test("a buffered write without an answer: close and fsync wait and can be killed, and the data arrives when the server goes on", async () => {
  const { drive, spot } = await stuckDrive();
  await using _ = drive;
  const { path, directory, scratch } = drive;
  await shell(`dd if=/dev/urandom of=${scratch}/data bs=1M count=12 status=none`);
  for (const end of ["", "conv=fsync"]) {
    spot.isStuck = true;
    const writer = await waiter(`dd if=${scratch}/data of=${path}/f bs=1M status=none ${end}`);
    await spot.holding(1);
    await shell(`echo other > ${path}/other; sync ${path}/other; cat ${path}/other`, { timeoutMs: PROMPT_MS });
    // Whoever looks at the file waits for what was written, and can be killed as well.
    for (const look of [`stat ${path}/f`, `cat ${path}/f`, `mv ${path}/f ${path}/g`, `truncate -s 1 ${path}/f`]) {
      const looking = await waiter(`${look} > /dev/null`);
      await dies(looking, look);
    }
    await dies(writer, `dd ${end}`);
    spot.thaw();
    await shell(`cmp ${path}/f ${scratch}/data; cmp ${directory}/f ${scratch}/data; rm ${path}/f`, {
      timeoutMs: PROMPT_MS,
    });
  }
});

test("what stays unanswered while others are answered fails with ETIMEDOUT after the mount's timeout, once, and is logged", async () => {
  const { drive, spot } = await stuckDrive("--timeout", "2");
  await using _ = drive;
  const { path, mounted } = drive;
  await shell(`dd if=/dev/urandom of=${path}/f bs=1M count=12 conv=fsync status=none`);
  dropCaches();
  spot.isStuck = true;
  const python = `import errno, mmap, os, sys
MIB = 1 << 20
data = mmap.mmap(-1, MIB)
def outcome(act, *args):
    try:
        act(*args)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
direct = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
print("read", outcome(os.preadv, direct, [data], 6 * MIB), outcome(os.preadv, direct, [data], 7 * MIB))
print("write", outcome(os.pwrite, direct, data, 6 * MIB), outcome(os.pwrite, direct, data, 7 * MIB))
buffered = os.open(sys.argv[1], os.O_RDWR)
print("buffered", outcome(os.pwrite, buffered, data, 6 * MIB), outcome(os.fsync, buffered), outcome(os.fsync, buffered))
print("close", outcome(os.close, buffered), outcome(os.close, direct))
`;
  const traffic = startService("bash", ["-c", `while :; do stat -f ${path}; done`]);
  const { stdout } = await command("python3", ["-c", python, `${path}/f`], { timeoutMs: 60_000 }).finally(() =>
    traffic.end("SIGKILL"),
  );
  assert.deepEqual(stdout.trim().split("\n"), [
    "read ETIMEDOUT ok",
    "write ETIMEDOUT ok",
    "buffered ok ETIMEDOUT ok",
    // The other open can write to the file, so it is told as well.
    "close ok ETIMEDOUT",
  ]);
  assert.match(mounted.service.errors(), /sections without an answer for 1 s, while the server answers others: 1/);
  assert.match(mounted.service.errors(), /acknowledged and failed: ETIMEDOUT/);
  spot.thaw();
  await shell(`cmp ${path}/f ${drive.directory}/f`, { timeoutMs: PROMPT_MS });
});

test("status tells what is outstanding while a transfer waits, and that nothing is when it is over", async () => {
  const { drive, spot } = await stuckDrive("-o", "write_behind=8m");
  await using _ = drive;
  const { path } = drive;
  const status = async () => {
    const { stdout } = await command(process.execPath, netdrive("status", path, "--json"), { timeoutMs: PROMPT_MS });
    return (JSON.parse(stdout) as [DriveStatus])[0];
  };
  spot.isStuck = true;
  const writer = await waiter(`dd if=/dev/zero of=${path}/f bs=1M count=12 conv=fsync status=none`);
  await spot.holding(1);
  let seen = await status();
  for (let looks = 0; seen.dirtyBytes !== MIB && looks < 20; looks++) seen = await status();
  const { remote } = seen;
  // Of twelve megabytes only the one that is stuck is not on the server; the others have told how fast the line is.
  assert.equal(seen.dirtyBytes, MIB);
  assert.ok(remote.sectionsOutstanding >= 1 && remote.inFlightBytes >= MIB);
  assert.ok(remote.windowBytes >= remote.inFlightBytes && remote.bytesPerSecond > MIB);
  assert.ok((remote.roundTripMs ?? 0) > 0 && seen.credits > 0 && seen.sectionBytes === MIB);
  assert.ok(remote.channels.every(({ sentBytes }) => sentBytes > 0));
  assert.ok(remote.channels.some(({ sentBytes }) => sentBytes > 12 * MIB));
  spot.thaw();
  assert.equal(await writer.exited, 0);
  seen = await status();
  assert.deepEqual([seen.dirtyBytes, seen.remote.sectionsOutstanding, seen.remote.inFlightBytes], [0, 0, 0]);
});

test("a server frozen in the middle of large transfers: every program can be killed at once, and the rest goes on when it thaws", async () => {
  // Slow enough to be in the middle of something.
  await using drive = await startDrive({ link: ["rate 400000000"] });
  const { path, directory, scratch } = drive;
  const link = drive.link as LinkProcess;
  const server = drive.served.service.pid;
  await shell(
    `dd if=/dev/urandom of=${scratch}/data bs=1M count=64 status=none; cp ${scratch}/data ${directory}/source`,
  );
  const fio = "fio --name=f --size=64M --bs=1M --ioengine=libaio --iodepth=16 --direct=1 --thread --output=/dev/null";
  const transfers = {
    read: `cat ${path}/source`,
    unbuffered: `dd if=${path}/source bs=4M iflag=direct status=none`,
    buffered: `dd if=${scratch}/data of=${path}/buffered bs=1M status=none`,
    fsynced: `dd if=${scratch}/data of=${path}/fsynced bs=1M conv=fsync status=none`,
    direct: `dd if=${scratch}/data of=${path}/direct bs=4M oflag=direct status=none`,
    sync: `dd if=${scratch}/data of=${path}/sync bs=1M oflag=sync status=none`,
    aio: `${fio} --rw=write --filename=${path}/aio`,
    copy: `cp --reflink=never ${path}/source ${path}/copy`,
  };
  /** Settles when a part of it has been done. */
  const isUnderWay = async (name: string, { pid }: Service) => {
    const done = ["read", "unbuffered"].includes(name)
      ? `$(awk '/rchar/ { print $2 }' /proc/${pid}/io)`
      : `$(stat -c %s ${directory}/${name} 2> /dev/null || echo 0)`;
    await shell(`until [ ${done} -ge 12000000 ]; do sleep 0.01; done`, { timeoutMs: PROMPT_MS });
  };
  for (const [name, script] of Object.entries(transfers)) {
    dropCaches();
    const service = await waiter(`${script} > /dev/null`);
    await isUnderWay(name, service);
    process.kill(server, "SIGSTOP");
    try {
      await stuck(link);
      await dies(service, name);
    } finally {
      process.kill(server, "SIGCONT");
    }
    await shell(`echo alive > ${path}/alive; cat ${path}/alive; rm ${path}/alive`, { timeoutMs: PROMPT_MS });
  }
  const survivor = await waiter(`dd if=${scratch}/data of=${path}/survivor bs=1M conv=fsync status=none`);
  await isUnderWay("survivor", survivor);
  process.kill(server, "SIGSTOP");
  await stuck(link);
  process.kill(server, "SIGCONT");
  assert.equal(await survivor.exited, 0, survivor.errors());
  await shell(`cmp ${directory}/survivor ${scratch}/data; cmp ${path}/source ${scratch}/data`);
});

/** Settles when nothing moves on the link any more: what is on its way is full. */
async function stuck(link: LinkProcess): Promise<void> {
  let [before, same] = ["", 0];
  for (const startedMs = performance.now(); same < 5; ) {
    assert.ok(performance.now() - startedMs < PROMPT_MS, "the link does not come to rest");
    await shell("sleep 0.1");
    const { up, down } = await link.stats();
    const now = JSON.stringify({ up, down });
    same = now === before ? same + 1 : 0;
    before = now;
  }
}
