/** Large reads and writes in sections: any order of answers, errors at every place, ends of files, interrupts, lost links. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ConnectionError, FsError } from "../../src/base/errors.ts";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { attrOf } from "../support/attr.ts";
import { settle } from "../support/fake-clock.ts";
import { type Asked, connectedDrive } from "../support/fake-server.ts";
import { ctx } from "../support/link-drive.ts";
import { seeded } from "../support/seed.ts";

const SECTION = 4096;
const id = "node" as NodeId;
const KEYS = { resumeKey: Buffer.alloc(0), serviceBlob: Buffer.alloc(0), challenge: Buffer.alloc(0) };

async function opened(options: { credits?: number; flags?: number } = {}) {
  const drive = await connectedDrive({ sectionBytes: SECTION, credits: options.credits ?? 64 });
  const flags = options.flags ?? OpenFlag.READ | OpenFlag.WRITE;
  const opening = drive.remote.fileSystem.open(ctx, id, flags);
  await settle();
  drive.server.answer(drive.server.next("open"), { attr: attrOf({}), ...KEYS }, { handle: 9 });
  const { handle } = await opening;
  return { ...drive, handle };
}

/** The data a file would have: each byte tells its place. */
function content(offsetBytes: number, lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes);
  for (let at = 0; at < lengthBytes; at += 1) bytes[at] = ((offsetBytes + at) * 31) & 255;
  return bytes;
}

function answerRead(
  drive: Awaited<ReturnType<typeof opened>>,
  asked: Asked,
  endBytes = Number.POSITIVE_INFINITY,
): void {
  const { offsetBytes, lengthBytes } = asked.fields as { offsetBytes: number; lengthBytes: number };
  const bytes = Math.max(0, Math.min(lengthBytes, endBytes - offsetBytes));
  drive.server.answer(asked, {}, {}, bytes === 0 ? undefined : content(offsetBytes, bytes));
}

test("sections leave without waiting, and answers in any order are placed by position", async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 9 * SECTION }),
      fc.nat({ max: 10_000 }),
      fc.gen(),
      async (length, at, pick) => {
        const drive = await opened();
        const target = Buffer.alloc(length, 0xee);
        const reading = drive.remote.fileSystem.read(ctx, drive.handle, at, target);
        await settle();
        assert.equal(drive.server.asked.length, Math.min(4, Math.ceil(length / SECTION)), "the first window");
        while (drive.server.asked.length > 0) {
          const asked = drive.server.asked[pick(fc.nat, { max: drive.server.asked.length - 1 })] as Asked;
          answerRead(drive, asked);
          if (pick(fc.boolean) || drive.server.asked.length === 0) await settle();
        }
        assert.equal(await reading, length);
        assert.ok(target.equals(content(at, length)));
        assert.equal(drive.remote.status().sectionsOutstanding, 0);
      },
    ),
    seeded(t, 25),
  );
});

for (const count of [1, 7, 8, 9, 64, 65, 4096]) {
  test(`a request of ${count} sections succeeds with the last answer and not before, in whatever order they come`, async () => {
    const orders: Record<string, (asked: readonly Asked[]) => readonly Asked[]> = {
      "as sent": (asked) => [...asked],
      reversed: (asked) => [...asked].reverse(),
      shuffled: (asked) => [...asked].sort((a, b) => ((a.header.tag * 7919) % 31) - ((b.header.tag * 7919) % 31)),
    };
    for (const [name, order] of Object.entries(orders)) {
      for (const kind of ["read", "write"] as const) {
        const drive = await opened({ credits: 128 });
        const { server, remote } = drive;
        const buffer = kind === "write" ? content(0, count * SECTION - 3) : Buffer.alloc(count * SECTION - 3);
        let isSettled = false;
        const running = remote.fileSystem[kind](ctx, drive.handle, 0, buffer).finally(() => {
          isSettled = true;
        });
        for (let answered = 0; answered < count; ) {
          await settle();
          assert.equal(isSettled, false, `${name}: ${answered} of ${count} are answered`);
          for (const asked of order(server.asked)) {
            // The very last answer is given alone.
            if (server.asked.length === 1 && answered < count - 1) break;
            if (kind === "read") answerRead(drive, asked);
            else server.answer(asked, { writtenBytes: asked.payload?.length });
            answered += 1;
            if (answered === count - 1) break;
          }
        }
        assert.equal(await running, buffer.length);
        if (kind === "read") assert.ok(buffer.equals(content(0, buffer.length)), name);
        assert.equal(remote.status().sectionsOutstanding, 0);
      }
    }
  });
}

test("a file that ends within the range gives what there is, wherever it ends", async () => {
  for (const endBytes of [0, 1, SECTION - 1, SECTION, SECTION + 1, 3 * SECTION, 4 * SECTION - 1]) {
    const drive = await opened();
    const target = Buffer.alloc(4 * SECTION);
    const reading = drive.remote.fileSystem.read(ctx, drive.handle, 0, target);
    await settle();
    for (const asked of [...drive.server.asked].reverse()) answerRead(drive, asked, endBytes);
    assert.equal(await reading, endBytes);
    assert.ok(target.subarray(0, endBytes).equals(content(0, endBytes)));
  }
});

test("a request ends where the file or the disk does, also while a section behind that waits for its credit", async () => {
  const count = 9;
  for (const kind of ["read", "write"] as const) {
    for (let last = 0; last < count; last += 1) {
      const drive = await opened();
      const { server, remote } = drive;
      const endBytes = last * SECTION + 10;
      const buffer = Buffer.alloc(count * SECTION);
      const running = remote.fileSystem[kind](ctx, drive.handle, 0, buffer);
      await settle();
      while (server.asked.length > 0) {
        const asked = server.asked[0] as Asked;
        if (kind === "read") answerRead(drive, asked, endBytes);
        else if (asked.header.section === last) server.answer(asked, { writtenBytes: 10 });
        else server.answer(asked, { writtenBytes: SECTION });
        await settle();
      }
      assert.equal(await running, endBytes, `${kind}, section ${last}`);
      assert.equal(remote.status().channels[0]?.state, "open");
      assert.equal(remote.status().sectionsOutstanding, 0);
    }
  }
});

test("an error in section k of n fails the whole with that error, for every k; late answers are harmless", async () => {
  const count = 4;
  for (const kind of ["read", "write"] as const) {
    for (let k = 0; k < count; k += 1) {
      const drive = await opened();
      const { server, remote } = drive;
      const buffer = Buffer.alloc(count * SECTION);
      const call =
        kind === "read"
          ? remote.fileSystem.read(ctx, drive.handle, 0, buffer)
          : remote.fileSystem.write(ctx, drive.handle, 0, buffer);
      const failed = assert.rejects(call, (error) => error instanceof FsError && error.errno === "ENOSPC");
      await settle();
      const all = [...server.asked];
      server.answer(all[k] as Asked, {}, { status: 28 });
      await failed;
      await settle();
      const canceled = server.notices.map((text) => Number(/canceledTag=(\d+)/.exec(text)?.[1]));
      assert.deepEqual(
        new Set(canceled),
        new Set(all.filter((_, index) => index !== k).map(({ header }) => header.tag)),
      );
      const seen = Buffer.from(buffer);
      for (const [index, asked] of all.entries()) {
        if (index === k) continue;
        if (index % 2 === 0) server.answer(asked, {}, { status: 4 });
        else if (kind === "read") server.answer(asked, {}, {}, Buffer.alloc(SECTION, 0xdd));
        else server.answer(asked, { writtenBytes: SECTION });
      }
      await settle();
      assert.ok(buffer.equals(seen), "late data does not land");
      assert.equal(remote.status().sectionsOutstanding, 0);
      assert.equal(remote.status().channels[0]?.state, "open");
    }
  }
});

test("a write that the disk takes only in part is short there", async () => {
  const drive = await opened();
  const { server, remote } = drive;
  const data = content(0, 4 * SECTION);
  const writing = remote.fileSystem.write(ctx, drive.handle, 100, data);
  await settle();
  for (const asked of [...server.asked].reverse()) {
    const { offsetBytes } = asked.fields as { offsetBytes: number };
    assert.ok(asked.payload?.equals(data.subarray(offsetBytes - 100, offsetBytes - 100 + SECTION)));
    server.answer(asked, { writtenBytes: asked.header.section === 2 ? 10 : SECTION });
  }
  assert.equal(await writing, 2 * SECTION + 10);
});

test("sections of a file opened to append go one after the other", async () => {
  const drive = await opened({ flags: OpenFlag.WRITE | OpenFlag.APPEND });
  const { server, remote } = drive;
  const writing = remote.fileSystem.write(ctx, drive.handle, 0, content(0, 3 * SECTION));
  for (let section = 0; section < 3; section += 1) {
    await settle();
    assert.deepEqual(
      server.asked.map(({ header }) => header.section),
      [section],
    );
    server.answer(server.next("write"), { writtenBytes: SECTION });
  }
  assert.equal(await writing, 3 * SECTION);
});

test("no more sections are under way than there are credits, and answers let the next ones go", async () => {
  const drive = await opened({ credits: 8 });
  const target = Buffer.alloc(20 * SECTION);
  const reading = drive.remote.fileSystem.read(ctx, drive.handle, 0, target);
  let answered = 0;
  let mostAtOnce = 0;
  while (answered < 20) {
    await settle();
    mostAtOnce = Math.max(mostAtOnce, drive.server.asked.length);
    answerRead(drive, drive.server.asked.at(-1) as Asked);
    answered += 1;
  }
  assert.equal(await reading, target.length);
  assert.ok(mostAtOnce <= 4 && mostAtOnce >= 2, `${mostAtOnce} at once`);
  assert.ok(target.equals(content(0, target.length)));
});

test("an interrupt stops the sending, withdraws what is under way and fails at once", async () => {
  const drive = await opened({ credits: 8 });
  const controller = new AbortController();
  const target = Buffer.alloc(20 * SECTION);
  const reading = drive.remote.fileSystem.read({ ...ctx, signal: controller.signal }, drive.handle, 0, target);
  const failed = assert.rejects(reading, (error) => error instanceof FsError && error.errno === "EINTR");
  await settle();
  const sent = drive.server.asked.length;
  controller.abort();
  await failed;
  for (const asked of [...drive.server.asked]) answerRead(drive, asked);
  await settle();
  assert.equal(drive.server.asked.length, 0);
  assert.equal(drive.server.notices.length, sent);
  assert.ok(target.every((byte) => byte === 0));
  const before = AbortSignal.abort();
  await assert.rejects(drive.remote.fileSystem.read({ ...ctx, signal: before }, drive.handle, 0, target), {
    errno: "EINTR",
  });
});

test("a lost link fails the whole with a lost connection, whatever was answered", async () => {
  for (const kind of ["read", "write"] as const) {
    const drive = await opened({ credits: 8 });
    const buffer = Buffer.alloc(10 * SECTION);
    const { fileSystem } = drive.remote;
    const call =
      kind === "read" ? fileSystem.read(ctx, drive.handle, 0, buffer) : fileSystem.write(ctx, drive.handle, 0, buffer);
    const failed = assert.rejects(call, ConnectionError);
    await settle();
    if (kind === "read") answerRead(drive, drive.server.next("read"));
    else drive.server.answer(drive.server.next("write"), { writtenBytes: SECTION });
    await settle();
    drive.clientLink.destroy();
    await failed;
  }
});

test("many large requests at once each get their own", async () => {
  const drive = await opened({ credits: 32 });
  const targets = Array.from({ length: 12 }, () => Buffer.alloc(3 * SECTION + 5));
  const readings = targets.map((target, index) => {
    return drive.remote.fileSystem.read(ctx, drive.handle as HandleId, index * 1000, target);
  });
  for (let round = 0; round < 200; round += 1) {
    await settle();
    const asked = drive.server.asked[round % Math.max(1, drive.server.asked.length)];
    if (asked === undefined) break;
    answerRead(drive, asked);
  }
  await Promise.all(readings);
  for (const [index, target] of targets.entries()) assert.ok(target.equals(content(index * 1000, target.length)));
});
