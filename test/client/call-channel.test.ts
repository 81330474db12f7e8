/** Calls of the client: interrupts, what is borrowed until when, slots, opens and their release. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError, FsError, ProtocolError } from "../../src/base/errors.ts";
import type { HandleId, NodeId } from "../../src/vfs/file-system.ts";
import { type BodyCodec, messages } from "../../src/wire/codec.ts";
import { attrOf } from "../support/attr.ts";
import { settle } from "../support/fake-clock.ts";
import { type Asked, connectedDrive, type FakeServer } from "../support/fake-server.ts";
import { ctx, linkDrive, named } from "../support/link-drive.ts";

const id = "node" as NodeId;
const attr = attrOf({ mode: 0o100644 });
const KEYS = { resumeKey: Buffer.alloc(3), serviceBlob: Buffer.alloc(0), challenge: Buffer.alloc(1) };
const isInterrupted = (error: unknown) => error instanceof FsError && error.errno === "EINTR";

type Connected = Awaited<ReturnType<typeof connectedDrive>>;

async function openFile({ remote, server }: Connected, handle = 77): Promise<HandleId> {
  const opening = remote.fileSystem.open(ctx, id, 3);
  await settle();
  server.answer(server.next("open"), { attr, ...KEYS }, { handle });
  return (await opening).handle;
}

/** Settles when a request has begun to arrive, before all of it has. */
async function firstBytes(server: FakeServer): Promise<void> {
  await new Promise<void>((resolve) => process.nextTick(resolve));
  while (server.asked.length === 0) await new Promise<void>((resolve) => queueMicrotask(resolve));
}

function slotOf(asked: Asked): number {
  return asked.header.tag & 0xffff;
}

function interruptible(): { controller: AbortController; context: typeof ctx } {
  const controller = new AbortController();
  return { controller, context: { ...ctx, signal: controller.signal } };
}

test("an interrupted call fails at once, the server is told, and the slot is free only with the answer", async () => {
  const drive = await connectedDrive({ credits: 6 });
  const { remote, server } = drive;
  const { controller, context } = interruptible();
  const interrupted = assert.rejects(remote.fileSystem.getattr(context, id), isInterrupted);
  const other = remote.fileSystem.getattr(ctx, id);
  await settle();
  const [first, second] = server.asked as [Asked, Asked];
  controller.abort();
  await interrupted;
  await settle();
  assert.deepEqual(server.notices, [`cancel tag=0 canceledTag=${first.header.tag}`]);
  const waiting = remote.fileSystem.getattr(ctx, id);
  await settle();
  assert.equal(server.asked.length, 2, "both slots are in use");
  server.answer(first, {}, { status: 4 });
  await settle();
  const third = server.asked.at(-1) as Asked;
  assert.equal(slotOf(third), slotOf(first));
  assert.notEqual(third.header.tag, first.header.tag);
  server.answer(second, { attr });
  server.answer(third, { attr });
  assert.deepEqual(await Promise.all([other, waiting]), [attr, attr]);
  assert.equal(remote.status().requestsOutstanding, 0);
});

test("a call interrupted before it was sent is not sent", async () => {
  const { remote, server } = await connectedDrive({ credits: 6 });
  await assert.rejects(remote.fileSystem.getattr({ ...ctx, signal: AbortSignal.abort() }, id), isInterrupted);
  const busy = [remote.fileSystem.getattr(ctx, id), remote.fileSystem.getattr(ctx, id)];
  const { controller, context } = interruptible();
  const waiting = assert.rejects(remote.fileSystem.getattr(context, id), isInterrupted);
  await settle();
  controller.abort();
  await waiting;
  for (const asked of [...server.asked]) server.answer(asked, { attr });
  await Promise.all(busy);
  await settle();
  assert.equal(server.asked.length, 0);
  assert.deepEqual(server.notices, []);
});

test("an interrupt after the answer changes nothing", async () => {
  const { remote, server } = await connectedDrive();
  const { controller, context } = interruptible();
  const call = remote.fileSystem.getattr(context, id);
  await settle();
  server.answer(server.next("getattr"), { attr });
  assert.deepEqual(await call, attr);
  controller.abort();
  await settle();
  assert.deepEqual(server.notices, []);
});

test("an open that succeeds though it was interrupted is released", async () => {
  const { remote, server, clock } = await connectedDrive();
  for (const name of ["open", "opendir"] as const) {
    const { controller, context } = interruptible();
    const opening = name === "open" ? remote.fileSystem.open(context, id, 1) : remote.fileSystem.opendir(context, id);
    const failed = assert.rejects(opening, isInterrupted);
    await settle();
    controller.abort();
    await failed;
    server.answer(server.next(name), name === "open" ? { attr, ...KEYS } : {}, { handle: 55 });
    await settle();
    clock.advance(2);
    await settle();
    const release = server.next("release");
    assert.equal(release.header.handle, 55);
    server.answer(release);
    await settle();
    assert.equal(remote.status().opens, 0);
  }
});

test("a read interrupted in the middle of its data leaves the target alone from then on", async () => {
  const drive = await connectedDrive();
  const { remote, server } = drive;
  const file = await openFile(drive);
  server.link.faults.splitBytes = 1000;
  const { controller, context } = interruptible();
  const target = Buffer.alloc(50_000);
  const interrupted = assert.rejects(remote.fileSystem.read(context, file, 0, target), isInterrupted);
  await settle();
  const sent = server.channel.sentBytes;
  server.link.faults.isStalled = true;
  server.answer(server.next("read"), {}, {}, Buffer.alloc(50_000, 7));
  await settle();
  assert.ok(server.channel.sentBytes > sent);
  server.link.faults.isStalled = false;
  server.link.kick();
  for (let step = 0; step < 6 && target[0] === 0; step += 1)
    await new Promise((resolve) => queueMicrotask(() => resolve(0)));
  controller.abort();
  await interrupted;
  const seen = Buffer.from(target);
  await settle();
  assert.ok(target.equals(seen));
  assert.equal(target.at(-1), 0);
  const next = remote.fileSystem.getattr(ctx, id);
  await settle();
  server.answer(server.next("getattr"), { attr });
  assert.deepEqual(await next, attr);
});

test("the data of an interrupted write is the caller's again when it fails, and what was sent is whole", async () => {
  const drive = await connectedDrive();
  const { remote, server, clientLink } = drive;
  const file = await openFile(drive);
  clientLink.faults.isStalled = true;
  const first = interruptible();
  const second = interruptible();
  const firstData = Buffer.alloc(10_000, 1);
  const secondData = Buffer.alloc(10_000, 2);
  let isFirstFree = false;
  const firstFailed = assert
    .rejects(remote.fileSystem.write(first.context, file, 0, firstData), isInterrupted)
    .then(() => {
      isFirstFree = true;
    });
  await settle();
  const secondFailed = assert.rejects(remote.fileSystem.write(second.context, file, 0, secondData), isInterrupted);
  await settle();
  second.controller.abort();
  await secondFailed;
  secondData.fill(0);
  first.controller.abort();
  await settle();
  assert.equal(isFirstFree, false, "the kernel has it");
  clientLink.faults.isStalled = false;
  clientLink.kick();
  await firstFailed;
  firstData.fill(0);
  await settle();
  assert.ok(server.asked.every(({ payload }, index) => payload?.every((byte) => byte === index + 1)));
  assert.equal(server.asked.length, 2);
});

test("writes that are written all at once are answered, whole, and those nobody waits for free their slots", async () => {
  const drive = await connectedDrive({ credits: 8 });
  const { remote, server } = drive;
  const file = await openFile(drive);
  const { controller, context } = interruptible();
  const writes = [5, 10_000, 70_000].map((bytes) => remote.fileSystem.write(ctx, file, 0, Buffer.alloc(bytes)));
  const interrupted = assert.rejects(remote.fileSystem.write(context, file, 0, Buffer.alloc(7)), isInterrupted);
  await settle();
  const other = remote.fileSystem.getattr(ctx, id);
  await settle();
  controller.abort();
  await interrupted;
  const asked = server.asked.filter(({ name }) => name === "write");
  assert.equal(asked.length, 4);
  const next = remote.fileSystem.write(ctx, file, 0, Buffer.alloc(9));
  await settle();
  assert.equal(server.asked.filter(({ name }) => name === "write").length, 4, "all slots for data are in use");
  const tags = asked.map(({ header }) => header.tag).reverse();
  server.send({ opcode: 44 }, messages.written.request as BodyCodec, { tags });
  assert.deepEqual(await Promise.all(writes), [5, 10_000, 70_000]);
  await settle();
  server.answer(server.asked.at(-1) as Asked, { writtenBytes: 9 });
  assert.equal(await next, 9);
  server.answer(server.next("getattr"), { attr });
  await other;
  assert.equal(remote.status().requestsOutstanding, 0);
  assert.equal(remote.status().channels[0]?.state, "open");
});

test("a write under way when the link dies fails when the link has let go of its data", async () => {
  const drive = await connectedDrive();
  const { remote, clientLink } = drive;
  const file = await openFile(drive);
  clientLink.faults.isStalled = true;
  const failed = assert.rejects(remote.fileSystem.write(ctx, file, 0, Buffer.alloc(10_000)), ConnectionError);
  await settle();
  clientLink.destroy();
  await failed;
});

test("an answer that comes while the kernel still has a write's data settles it when the data has left", async () => {
  for (const answer of ["reply", "error", "written", "nonsense"] as const) {
    const drive = await connectedDrive();
    const { remote, server, clientLink } = drive;
    const file = await openFile(drive);
    clientLink.faults.splitBytes = 1000;
    let isSettled = false;
    const writing = remote.fileSystem.write(ctx, file, 0, Buffer.alloc(600_000, 1)).finally(() => {
      isSettled = true;
    });
    writing.catch(() => undefined);
    await firstBytes(server);
    clientLink.faults.isStalled = true;
    const asked = server.next("write");
    if (answer === "reply") server.answer(asked, { writtenBytes: 600_000 });
    else if (answer === "error") server.answer(asked, {}, { status: 28 });
    else if (answer === "nonsense") server.answer(asked, { writtenBytes: 600_001 });
    else server.send({ opcode: 44 }, messages.written.request as BodyCodec, { tags: [asked.header.tag] });
    await settle();
    assert.equal(isSettled, false, answer);
    assert.equal(remote.status().requestsOutstanding, 0, "the answer was taken");
    clientLink.faults.isStalled = false;
    clientLink.kick();
    if (answer === "error") await assert.rejects(writing, { errno: "ENOSPC" });
    else if (answer === "nonsense") {
      await assert.rejects(writing, ProtocolError);
      assert.ok((await remote.closed) instanceof ProtocolError);
    } else assert.equal(await writing, 600_000);
  }
});

test("a write answered while the kernel has its data fails or succeeds by its answer when the link dies", async () => {
  const drive = await connectedDrive();
  const { remote, server, clientLink } = drive;
  const file = await openFile(drive);
  clientLink.faults.splitBytes = 1000;
  const writing = remote.fileSystem.write(ctx, file, 0, Buffer.alloc(600_000, 1));
  await firstBytes(server);
  clientLink.faults.isStalled = true;
  server.answer(server.next("write"), { writtenBytes: 600_000 });
  await settle();
  clientLink.destroy();
  assert.equal(await writing, 600_000);
});

test("a success before anything of a write was sent ends the channel, an error does not, and its data is free", async () => {
  for (const status of [0, 5]) {
    const drive = await connectedDrive();
    const { remote, server, clientLink } = drive;
    const file = await openFile(drive);
    clientLink.faults.isStalled = true;
    const blocking = remote.fileSystem.write(ctx, file, 0, Buffer.alloc(300_000, 1));
    blocking.catch(() => undefined);
    await settle();
    const data = Buffer.alloc(10_000, 2);
    const writing = remote.fileSystem.write(ctx, file, 300_000, data);
    // The server has seen neither; it knows how tags are made.
    const header = { opcode: messages.write.row.code, flags: 1, handle: 77, tag: 65_536 + 65 };
    const codec = status === 0 ? (messages.write.reply as BodyCodec) : undefined;
    server.send({ ...header, status }, codec, { writtenBytes: 10_000 });
    if (status === 0) {
      await assert.rejects(writing, ProtocolError);
      assert.ok((await remote.closed) instanceof ProtocolError);
      continue;
    }
    await assert.rejects(writing, { errno: "EIO" });
    data.fill(9);
    clientLink.faults.isStalled = false;
    clientLink.kick();
    await settle();
    assert.ok(server.asked.at(-1)?.payload?.every((byte) => byte === 2));
    server.answer(server.next("write"), { writtenBytes: 300_000 });
    assert.equal(await blocking, 300_000);
  }
});

test("release settles at once, is sent after the calls on the handle, and makes it invalid", async () => {
  const drive = await connectedDrive();
  const { remote, server } = drive;
  const file = await openFile(drive);
  const reading = remote.fileSystem.read(ctx, file, 0, Buffer.alloc(10));
  await settle();
  await remote.fileSystem.release(ctx, file);
  await assert.rejects(remote.fileSystem.read(ctx, file, 0, Buffer.alloc(1)), { errno: "EBADF" });
  await assert.rejects(remote.fileSystem.release(ctx, file), { errno: "EBADF" });
  await settle();
  assert.deepEqual(
    server.asked.map(({ name }) => name),
    ["read"],
  );
  server.answer(server.next("read"), {}, {}, Buffer.alloc(3));
  assert.equal(await reading, 3);
  await settle();
  drive.clock.advance(2);
  await settle();
  const release = server.next("release");
  assert.equal(release.header.handle, 77);
  server.answer(release, {}, { status: 5 });
  await settle();
  assert.equal(remote.status().channels[0]?.state, "open");
});

test("on a share whose writes have no late errors, flush asks nobody", async () => {
  const drive = await connectedDrive({ faults: { welcome: { flushless: true } } });
  const { remote, server } = drive;
  const file = await openFile(drive);
  assert.equal(remote.fileSystem.isFlushless, true);
  const writing = remote.fileSystem.write(ctx, file, 0, Buffer.alloc(5));
  await settle();
  server.answer(server.next("write"), { writtenBytes: 5 });
  await writing;
  await remote.fileSystem.flush(ctx, file);
  await settle();
  assert.equal(server.asked.length, 0);
});

test("flush asks the server only when something was written since the last one", async () => {
  const drive = await connectedDrive();
  const { remote, server } = drive;
  const file = await openFile(drive);
  await remote.fileSystem.flush(ctx, file);
  const writing = remote.fileSystem.write(ctx, file, 0, Buffer.alloc(5));
  await settle();
  server.answer(server.next("write"), { writtenBytes: 5 });
  await writing;
  const flushing = assert.rejects(remote.fileSystem.flush(ctx, file), { errno: "ENOSPC" });
  await settle();
  server.answer(server.next("flush"), {}, { status: 28 });
  await flushing;
  const again = remote.fileSystem.flush(ctx, file);
  await settle();
  server.answer(server.next("flush"));
  await again;
  await remote.fileSystem.flush(ctx, file);
  assert.equal(server.asked.length, 0);
});

test("forgotten nodes travel together, as many as fit", async () => {
  const { remote, server } = await connectedDrive();
  for (let at = 0; at < 3; at += 1) remote.fileSystem.forget([`${at}` as NodeId]);
  await settle();
  assert.deepEqual(server.notices, ["forget tag=0 ids=[30 31 32]"]);
  remote.fileSystem.forget(Array.from({ length: 1200 }, (_, at) => `n${at}` as NodeId));
  await settle();
  assert.equal(server.notices.length, 4);
});

test("names and values that cannot be sent are refused here", async () => {
  const drive = await connectedDrive();
  const { fileSystem } = drive.remote;
  const file = await openFile(drive);
  const refusals: [Promise<unknown>, string][] = [
    [fileSystem.lookup(ctx, id, named("")), "EINVAL"],
    [fileSystem.lookup(ctx, id, named("a/b")), "EINVAL"],
    [fileSystem.lookup(ctx, id, named("..")), "EINVAL"],
    [fileSystem.lookup(ctx, id, named("\u0100")), "EINVAL"],
    [fileSystem.lookup(ctx, id, named("x".repeat(256))), "ENAMETOOLONG"],
    [fileSystem.rename(ctx, id, named("a"), id, named("x".repeat(256)), 0), "ENAMETOOLONG"],
    [fileSystem.lookup(ctx, "" as NodeId, named("a")), "ESTALE"],
    [fileSystem.getattr(ctx, "x".repeat(65) as NodeId), "ESTALE"],
    [fileSystem.symlink(ctx, id, named("l"), Buffer.alloc(0)), "ENOENT"],
    [fileSystem.symlink(ctx, id, named("l"), Buffer.alloc(4096, 1)), "ENAMETOOLONG"],
    [fileSystem.setxattr(ctx, id, named("x".repeat(256)), Buffer.alloc(1), 0), "ERANGE"],
    [fileSystem.getxattr(ctx, id, named("a\0b")), "EINVAL"],
    [fileSystem.setxattr(ctx, id, named("user.a"), Buffer.alloc(65_537), 0), "E2BIG"],
    [fileSystem.read(ctx, file, -1, Buffer.alloc(1)), "EINVAL"],
    [fileSystem.read(ctx, file, 2 ** 53, Buffer.alloc(1)), "EFBIG"],
    [fileSystem.write(ctx, file, 0.5, Buffer.alloc(1)), "EINVAL"],
    [fileSystem.setattr(ctx, id, { sizeBytes: -1 }), "EINVAL"],
    [fileSystem.getattr(ctx, id, 999 as HandleId), "EBADF"],
  ];
  for (const [call, errno] of refusals) await assert.rejects(call, { errno });
  assert.equal(await fileSystem.read(ctx, file, 0, Buffer.alloc(0)), 0);
  assert.equal(await fileSystem.write(ctx, file, 0, Buffer.alloc(0)), 0);
  await settle();
  assert.equal(drive.server.asked.length, 0);
});

test("a drive that is read-only by its client's will refuses changes without asking", async () => {
  const { remote, server } = await connectedDrive({ readOnly: true });
  assert.equal(remote.share.readOnly, true);
  await assert.rejects(remote.fileSystem.unlink(ctx, id, named("a")), { errno: "EROFS" });
  await assert.rejects(remote.fileSystem.open(ctx, id, 2), { errno: "EROFS" });
  await settle();
  assert.equal(server.asked.length, 0);
});

test("the resume key of an open can be asked for again: sealed anew, with a fresh challenge", async () => {
  const drive = linkDrive();
  const { remote } = await drive.connect();
  const { id: root } = await remote.fileSystem.root(ctx);
  const { opened } = await remote.fileSystem.create(ctx, root, named("f"), 3, { mode: 0o100644, umask: 0 });
  const [first, second] = [await remote.queryKey(ctx, opened.handle), await remote.queryKey(ctx, opened.handle)];
  assert.ok(!first.resumeKey.equals(second.resumeKey) && !first.challenge.equals(second.challenge));
  assert.deepEqual(first.serviceBlob, second.serviceBlob);
  const directory = await remote.fileSystem.opendir(ctx, root);
  await assert.rejects(remote.queryKey(ctx, directory), { errno: "EISDIR" });
  await assert.rejects(remote.queryKey(ctx, 999 as HandleId), { errno: "EBADF" });
  await remote.close();
});

test("close says goodbye, fails what is under way, and nothing is left on the server", async () => {
  const drive = linkDrive();
  const { remote } = await drive.connect();
  const { id: root } = await remote.fileSystem.root(ctx);
  await remote.fileSystem.create(ctx, root, named("f"), 3, { mode: 0o100644, umask: 0 });
  assert.equal(drive.server.counters().handles, 1);
  const late = assert.rejects(remote.fileSystem.getattr(ctx, root), ConnectionError);
  await remote.close();
  await late;
  assert.equal(await remote.closed, undefined);
  await settle();
  assert.equal(drive.server.counters().handles, 0);
  assert.equal(drive.server.counters().sessions, 0);
  assert.equal(drive.clock.pendingCount, 0);
  await assert.rejects(remote.fileSystem.getattr(ctx, root), /the drive is closed/);
  await remote.close();
});

test("close does not wait for a server that takes nothing", async () => {
  const { remote, clientLink, clock } = await connectedDrive();
  clientLink.faults.isStalled = true;
  const closing = remote.close();
  await settle();
  clock.advance(2000);
  await closing;
  assert.equal(clock.pendingCount, 0);
});

test("status says what is under way", async () => {
  const drive = await connectedDrive();
  const { remote, server, clock } = drive;
  const file = await openFile(drive);
  const reading = remote.fileSystem.read(ctx, file, 0, Buffer.alloc(5000));
  const looking = remote.fileSystem.getattr(ctx, id);
  await settle();
  const status = remote.status();
  assert.equal(status.requestsOutstanding, 2);
  assert.equal(status.sectionsOutstanding, 1);
  assert.equal(status.inFlightBytes, 5000);
  assert.equal(status.opens, 1);
  clock.advance(30);
  answerAll(server);
  await Promise.all([reading, looking]);
  assert.equal(remote.status().requestsOutstanding, 0);
  assert.ok((remote.status().roundTripMs ?? 99) <= 30);
});

function answerAll(server: FakeServer): void {
  for (const asked of [...server.asked]) server.answer(asked, { attr });
}

test("when no section is answered, one more goes each second, so that all of them hanging is found out", async () => {
  const { remote, server, clock } = await connectedDrive({ credits: 64 });
  const handle = await openFile({ remote, server } as Connected);
  const { sectionBytes } = remote.share;
  const reads = Array.from({ length: 20 }, (_, at) =>
    remote.fileSystem.read(ctx, handle, at * sectionBytes, Buffer.alloc(sectionBytes)),
  );
  const asked = () => server.asked.filter(({ name }) => name === "read").length;
  await settle();
  const first = asked();
  assert.ok(first < 20, "the window is full");
  for (const more of [1, 2, 3]) {
    clock.advance(1000);
    await settle();
    assert.equal(asked(), first + more);
  }
  while (asked() > 0) {
    server.answer(server.next("read"), {}, {}, Buffer.alloc(sectionBytes));
    await settle();
  }
  await Promise.all(reads);
  clock.advance(1000);
  await remote.close();
  assert.equal(clock.pendingCount, 0, "the clock is left alone when nobody waits");
});
