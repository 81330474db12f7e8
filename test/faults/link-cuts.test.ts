/**
 * A link that breaks at every place, between a real client and a real server in memory.
 *
 * The scenario uses every kind of frame. For N = 1, 2, ... the link is cut after N bytes in one direction, until the scenario passes uncut. Each time: every
 * call ends, with its result or as a lost connection; then, after the session's grace, the server holds nothing.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError, FsError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { connectLink, type Remote } from "../../src/client/remote.ts";
import { LinkServer } from "../../src/server/server.ts";
import { memoryLinkPair } from "../../src/transport/memory-link.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import { type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import type { Security } from "../../src/wire/messages.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { ctx, named, TOKEN } from "../support/link-drive.ts";

const SECTION = 4096;
const NEW_FILE = { mode: 0o100644, umask: 0 };
const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;
const DATA = Buffer.from(Array.from({ length: 3 * SECTION + 100 }, (_, at) => (at * 7) & 255));

/** Uses the drive; throws if anything it gets is not what it should be. */
async function scenario({ fileSystem }: Remote): Promise<void> {
  const { id: root } = await fileSystem.root(ctx);
  const { id: directory } = await fileSystem.mkdir(ctx, root, named("d"), { mode: 0o755, umask: 0 });
  const { entry, opened } = await fileSystem.create(ctx, directory, named("f"), READ_WRITE, NEW_FILE);
  const { handle } = opened;
  assert.equal(await fileSystem.write(ctx, handle, 0, DATA), DATA.length);
  const target = Buffer.alloc(DATA.length);
  const [read, attr] = await Promise.all([
    fileSystem.read(ctx, handle, 0, target),
    fileSystem.getattr(ctx, entry.id, handle),
  ]);
  assert.equal(read, DATA.length);
  assert.ok(target.equals(DATA));
  assert.equal(attr.sizeBytes, DATA.length);
  await fileSystem.fsync(ctx, handle, false);
  await fileSystem.flush(ctx, handle);
  await fileSystem.setxattr(ctx, entry.id, named("user.a"), Buffer.from("value"), 0);
  assert.equal(String(await fileSystem.getxattr(ctx, entry.id, named("user.a"))), "value");
  await fileSystem.rename(ctx, directory, named("f"), directory, named("g"), 0);
  await assert.rejects(fileSystem.lookup(ctx, directory, named("f")), (error) => {
    if (error instanceof ConnectionError) throw error;
    return error instanceof FsError && error.errno === "ENOENT";
  });
  const listing = await fileSystem.opendir(ctx, directory);
  const page = await fileSystem.readdir(ctx, listing, 0n, 4096, true);
  assert.ok([...decodeDirents(page)].some(({ name }) => name === "g"));
  await fileSystem.releasedir(ctx, listing);
  await fileSystem.release(ctx, handle);
  fileSystem.forget([entry.id as NodeId]);
  await fileSystem.unlink(ctx, directory, named("g"));
  assert.ok((await fileSystem.statfs(ctx, root)).blockBytes > 0);
}

interface Run {
  /** Whether the scenario passed. */
  isPassed: boolean;
}

/** Runs the scenario with the link cut after `cutAtByte` bytes in one direction, and checks what is left. */
async function run(
  direction: "client" | "server",
  cutAtByte: number,
  splitBytes: number,
  level: Security = "plain",
): Promise<Run> {
  const clock = new FakeClock();
  const share = new MemoryFs();
  const server = new LinkServer({
    shares: new Map([["share", { fileSystem: share, readOnly: false }]]),
    token: TOKEN,
    squash: "none",
    log: silentLog,
    clock,
    limits: { keepMsMax: 10_000, courtesyMs: 0 },
  });
  const links = memoryLinkPair(clock);
  links[direction].faults.cutAtByte = cutAtByte;
  links.client.faults.splitBytes = splitBytes;
  links.server.faults.splitBytes = splitBytes;
  server.accept(links.server);
  let isPassed = true;
  try {
    const url = { token: TOKEN, share: "share" };
    const wish = { sectionBytes: SECTION, credits: 8, security: { control: level, io: level } };
    const remote = await connectLink(links.client, { url, log: silentLog, clock, ...wish });
    await scenario(remote);
    await remote.close();
  } catch (error) {
    assert.ok(error instanceof ConnectionError, `after ${cutAtByte} bytes of the ${direction}: ${String(error)}`);
    isPassed = false;
  }
  await settle();
  clock.advance(60_000);
  await settle();
  const { channels, sessions, handles, bufferBytes } = server.counters();
  assert.deepEqual(
    { channels, sessions, handles, bufferBytes, opens: share.openCount, timers: clock.pendingCount },
    { channels: 0, sessions: 0, handles: 0, bufferBytes: 0, opens: 0, timers: 0 },
    `after ${cutAtByte} bytes of the ${direction}`,
  );
  return { isPassed };
}

for (const direction of ["client", "server"] as const) {
  test(`a link cut after any byte the ${direction} sends leaves nothing hanging and nothing behind`, async () => {
    let cuts = 0;
    let step = 0;
    // Every byte of set-up and of the first calls, then every 23rd: a prime, so that it meets every place of a frame.
    for (let cutAtByte = 1; ; cutAtByte += step) {
      step = cutAtByte < 600 ? 1 : 23;
      cuts += 1;
      const { isPassed } = await run(direction, cutAtByte, 0);
      if (isPassed) break;
    }
    assert.ok(cuts > 800, `${cuts} cuts`);
  });
}

test("the scenario passes over a link that cuts every chunk small", async () => {
  for (const splitBytes of [1, 2, 23, 24, 25, 1000]) {
    for (const level of ["plain", "signed"] as const) {
      const { isPassed } = await run("client", Number.POSITIVE_INFINITY, splitBytes, level);
      assert.equal(isPassed, true);
    }
  }
});

test("a signed link cut after any byte leaves nothing hanging and nothing behind", async () => {
  for (const direction of ["client", "server"] as const) {
    let cuts = 0;
    for (let cutAtByte = 400; ; cutAtByte += 61) {
      cuts += 1;
      const { isPassed } = await run(direction, cutAtByte, 0, "signed");
      if (isPassed) break;
    }
    assert.ok(cuts > 200, `${cuts} cuts`);
  }
});
