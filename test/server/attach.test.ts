/** Attaching to opens of other sessions: what is given, and everything that must not be. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../src/base/errors.ts";
import type { OpenTicket } from "../../src/client/attach.ts";
import { connectLink, type Remote } from "../../src/client/remote.ts";
import { keySecret } from "../../src/resume/proof.ts";
import { attachProof, ticketKey } from "../../src/resume/resume-proof.ts";
import type { ServerLimits } from "../../src/server/limits.ts";
import { attachedRecord, sessionRecord } from "../../src/server/state/records.ts";
import { memoryLinkPair } from "../../src/transport/memory-link.ts";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { ctx, type LinkDrive, linkDrive, named, TOKEN } from "../support/link-drive.ts";
import { MemoryStore } from "../support/memory-store.ts";

const { READ, WRITE, APPEND } = OpenFlag;
const STALE = { errno: "ESTALE" };

interface Held {
  readonly drive: LinkDrive;
  readonly memory: MemoryFs;
  readonly first: Remote;
  readonly links: Awaited<ReturnType<LinkDrive["connect"]>>["links"];
  readonly id: NodeId;
  readonly parent: NodeId;
  readonly handle: HandleId;
  readonly ticket: OpenTicket;
}

/** A client that holds a file, with "first" in it, and a ticket for it. */
async function held(limits: Partial<ServerLimits> = {}, flags: number = READ | WRITE): Promise<Held> {
  const memory = new MemoryFs();
  const drive = linkDrive({ fileSystem: memory, limits: { keepMsMax: 60_000, courtesyMs: 60_000, ...limits } });
  const { remote: first, links } = await drive.connect();
  const { fileSystem } = first;
  const { id: parent } = await fileSystem.root(ctx);
  const { entry, opened } = await fileSystem.create(ctx, parent, named("f"), flags, { mode: 0o100600, umask: 0 });
  await fileSystem.write(ctx, opened.handle, 0, Buffer.from("first"));
  const ticket = await first.ticketFor(ctx, opened.handle);
  return { drive, memory, first, links, id: entry.id, parent, handle: opened.handle, ticket };
}

async function contentBy(remote: Remote, handle: HandleId): Promise<string> {
  const target = Buffer.alloc(100);
  return target.toString("utf8", 0, await remote.fileSystem.read(ctx, handle, 0, target));
}

/** Releases that nobody waits for have left. */
async function releasesLeft({ clock }: LinkDrive): Promise<void> {
  await settle();
  clock.advance(4);
  await settle();
}

function flipped(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  copy[20 % copy.length] = (copy[20 % copy.length] ?? 0) ^ 1;
  return copy;
}

test("who has a ticket, and nothing else, reads and writes the one open it is for", async () => {
  const { drive, first, id, handle, ticket } = await held();
  const { remote: second } = await drive.connect({ token: Buffer.from("not the token"), ticket });
  const attached = await second.attach(ctx, ticket);
  assert.equal(attached.id, id);
  assert.equal(attached.flags, READ | WRITE);
  assert.equal(await contentBy(second, attached.handle), "first");
  await second.fileSystem.write(ctx, attached.handle, 5, Buffer.from(" second"));
  await second.fileSystem.fsync(ctx, attached.handle, false);
  assert.equal(await contentBy(first, handle), "first second");
  assert.equal((await second.fileSystem.getattr(ctx, id, attached.handle)).sizeBytes, 12);
  await Promise.all([first.close(), second.close()]);
});

test("a guest gets nothing beyond its open", async () => {
  const { drive, first, id, parent, ticket } = await held();
  const { remote: second } = await drive.connect({ ticket });
  const { handle } = await second.attach(ctx, ticket);
  const { fileSystem } = second;
  const other = await first.fileSystem.create(ctx, parent, named("g"), READ, { mode: 0o100666, umask: 0 });
  const refused = { errno: "EACCES" };
  await assert.rejects(fileSystem.root(ctx), refused);
  await assert.rejects(fileSystem.lookup(ctx, parent, named("f")), refused);
  await assert.rejects(fileSystem.open(ctx, id, READ), refused);
  await assert.rejects(fileSystem.getattr(ctx, id), refused);
  await assert.rejects(fileSystem.getattr(ctx, other.entry.id, handle), refused);
  await assert.rejects(fileSystem.setattr(ctx, id, { mode: 0o777 }, handle), refused);
  await assert.rejects(fileSystem.unlink(ctx, parent, named("f")), refused);
  await assert.rejects(fileSystem.opendir(ctx, parent), refused);
  const another = await first.ticketFor(ctx, other.opened.handle);
  await assert.rejects(second.attach(ctx, another), STALE, "an open it was not let in for");
  await Promise.all([first.close(), second.close()]);
});

test("an open is there as long as anybody has a handle of it, whoever made it", async () => {
  const { drive, memory, first, parent, handle, ticket } = await held({}, WRITE | APPEND | READ);
  const { remote: second } = await drive.connect({ ticket });
  const attached = await second.attach(ctx, ticket);
  await first.fileSystem.unlink(ctx, parent, named("f"));
  await first.fileSystem.release(ctx, handle);
  await first.close();
  await settle();
  assert.equal(drive.server.counters().sessions, 1);
  await second.fileSystem.write(ctx, attached.handle, 0, Buffer.from(" more"));
  assert.equal(await contentBy(second, attached.handle), "first more", "it appends, as it was opened to");
  await second.fileSystem.release(ctx, attached.handle);
  await second.close();
  await settle();
  assert.deepEqual([drive.server.counters().handles, memory.openCount], [0, 0]);
});

test("the end of a guest takes nothing from who made the open", async () => {
  const { drive, first, handle, ticket } = await held();
  const { remote: second } = await drive.connect({ ticket });
  await second.attach(ctx, ticket);
  await second.close();
  await settle();
  assert.equal(await contentBy(first, handle), "first");
  assert.equal(drive.server.counters().handles, 1);
  await first.close();
});

test("a ticket is good once, for attaching and for coming in", async () => {
  const { drive, first, ticket } = await held();
  const { remote: second } = await drive.connect({ ticket });
  const { remote: third } = await drive.connect();
  const before = drive.server.counters().refused;
  await second.attach(ctx, ticket);
  await assert.rejects(third.attach(ctx, ticket), STALE);
  await assert.rejects(second.attach(ctx, ticket), STALE);
  await assert.rejects(drive.connect({ ticket }), /a ticket that was used, or whose file is closed/);
  assert.equal(drive.server.counters().refused, before + 3);
  await Promise.all([first.close(), second.close(), third.close()]);
});

test("what is altered, old, of a closed open or of another server lets nobody in, all in the same words", async () => {
  const { drive, first, handle, ticket } = await held();
  const { ticket: foreign } = await held();
  const wrong: OpenTicket[] = [
    foreign,
    { ...ticket, resumeKey: flipped(ticket.resumeKey) },
    { ...ticket, resumeKey: ticket.resumeKey.subarray(0, -1) },
    { ...ticket, key: flipped(ticket.key) },
    { ...ticket, challenge: flipped(ticket.challenge) },
  ];
  const { remote: inside } = await drive.connect();
  for (const given of wrong) {
    await assert.rejects(drive.connect({ ticket: given }), /a ticket that was used, or whose file is closed/);
    await assert.rejects(inside.attach(ctx, given), STALE);
  }
  const newer = await first.ticketFor(ctx, handle);
  await assert.rejects(drive.connect({ ticket }), /a ticket that was used/, "a newer one makes it void");
  await first.fileSystem.release(ctx, handle);
  await releasesLeft(drive);
  await assert.rejects(drive.connect({ ticket: newer }), /a ticket that was used/);
  await assert.rejects(inside.attach(ctx, newer), STALE);
  await Promise.all([first.close(), inside.close()]);
});

test("a proof made for another channel, and one that was seen before, attach nothing", async () => {
  const { drive, first, ticket } = await held();
  const [one, two] = [drive.peer(), drive.peer()];
  for (const peer of [one, two]) await peer.setUp();
  const { resumeKey, key, challenge } = ticket;
  const clientNonce = Buffer.alloc(32, 7);
  const proof = attachProof(key, { transcript: one.transcript, challenge, clientNonce, resumeKey });
  const before = drive.server.counters().refused;
  two.send("attach", { resumeKey, clientNonce, proof }, { tag: 1 });
  await settle();
  assert.equal(two.headers.at(-1)?.status, 116, "ESTALE");
  one.send("attach", { resumeKey, clientNonce, proof }, { tag: 1 });
  await settle();
  assert.equal(one.headers.at(-1)?.status, 0);
  one.send("attach", { resumeKey, clientNonce, proof }, { tag: 2 });
  await settle();
  assert.equal(one.headers.at(-1)?.status, 116);
  assert.equal(drive.server.counters().refused, before + 2);
  await first.close();
});

test("a ticket and the session it joins do not go together with a user or another session", async () => {
  const { drive, ticket } = await held();
  const { resumeKey } = ticket;
  const key = ticketKey(ticket.key, ticket.challenge);
  assert.match(await drive.peer(Buffer.alloc(32, 1)).setUp({ resumeKey, user: "u" }, key), /goodbye tag=0 code=1 /);
  assert.match(await drive.peer().setUp({ resumeKey, sessionId: Buffer.alloc(16) }, key), /goodbye tag=0 code=1 /);
  assert.match(await drive.peer().setUp({ resumeKey, share: "other" }, key), /goodbye tag=0 code=6 /);
  assert.match(await drive.peer().setUp({ resumeKey }, key), /^auth reply/);
});

test("whoever comes in by a ticket before it was used takes the place of the one before", async () => {
  const { drive, first, ticket } = await held();
  const key = ticketKey(ticket.key, ticket.challenge);
  const { resumeKey } = ticket;
  for (let count = 0; count < 5; count += 1) {
    const peer = drive.peer();
    assert.match(await peer.setUp({ resumeKey }, key), /^auth reply/);
    peer.channel.destroy();
    await settle();
    assert.equal(drive.server.counters().sessions, 2);
  }
  const [present, next] = [drive.peer(), drive.peer()];
  await present.setUp({ resumeKey }, key);
  await next.setUp({ resumeKey }, key);
  assert.equal(present.frames.at(-1), 'goodbye tag=0 code=5 reason="the ticket was used again"');
  assert.equal(drive.server.counters().sessions, 2);
  await first.close();
});

test("guests have half of the sessions at most, and are kept for a short time", async () => {
  const { drive, first, handle } = await held({ sessionsMax: 4, guestKeepMsMax: 2000 });
  const comeIn = async () => {
    const { resumeKey, key, challenge } = await first.ticketFor(ctx, handle);
    const peer = drive.peer();
    const said = await peer.setUp({ resumeKey, keepMs: 3_600_000 }, ticketKey(key, challenge));
    peer.channel.destroy();
    await settle();
    return said;
  };
  for (let count = 0; count < 2; count += 1) assert.match(await comeIn(), /^auth reply .*keepMs=2000 /);
  assert.match(await comeIn(), /^goodbye tag=0 code=7 /);
  assert.match(await drive.peer().setUp(), /^auth reply/);
  drive.clock.advance(2000);
  await settle();
  assert.match(await comeIn(), /^auth reply/, "one that is late makes room");
  assert.equal(drive.server.counters().sessions, 4);
  await first.close();
});

test("a guest is over when its open is closed", async () => {
  const { drive, first, handle } = await held();
  const guest = async () => {
    const { resumeKey, key, challenge } = await first.ticketFor(ctx, handle);
    const peer = drive.peer();
    assert.match(await peer.setUp({ resumeKey }, ticketKey(key, challenge)), /^auth reply/);
    return peer;
  };
  const [present, away] = [await guest(), await guest()];
  away.channel.destroy();
  await settle();
  assert.equal(drive.server.counters().sessions, 3);
  await first.fileSystem.release(ctx, handle);
  await releasesLeft(drive);
  assert.equal(present.frames.at(-1), 'goodbye tag=0 code=5 reason="the file of the ticket is closed"');
  assert.equal(drive.server.counters().sessions, 1);
  await first.close();
});

test("a guest that releases the last handle is answered, and is over when its link is lost", async () => {
  const { drive, first, ticket } = await held();
  const { remote: second, links } = await drive.connect({ ticket });
  const attached = await second.attach(ctx, ticket);
  await first.close();
  await second.fileSystem.release(ctx, attached.handle);
  await releasesLeft(drive);
  assert.equal(second.state, "connected");
  assert.deepEqual([drive.server.counters().handles, drive.server.counters().sessions], [0, 1]);
  links.client.destroy();
  await settle();
  assert.equal(drive.server.counters().sessions, 0);
});

test("a ticket that becomes void between the challenge and the proof lets nobody in", async () => {
  const ends: ((of: Held) => Promise<unknown>)[] = [
    ({ first, handle }) => first.ticketFor(ctx, handle),
    ({ first }) => first.close(),
  ];
  for (const end of ends) {
    const it = await held();
    const { resumeKey } = it.ticket;
    const said = await it.drive.peer().prove({ resumeKey }, async () => {
      await end(it);
      await releasesLeft(it.drive);
      return keySecret(ticketKey(it.ticket.key, it.ticket.challenge), "open");
    });
    assert.match(said, /^goodbye tag=0 code=5 reason="a ticket that was used, or whose file is closed"/);
    await it.first.close();
  }
});

test("an open whose client is away is kept for it, and the other one goes on", async () => {
  const { drive, first, links, handle, ticket } = await held();
  const { remote: second } = await drive.connect();
  const attached = await second.attach(ctx, ticket);
  await second.fileSystem.write(ctx, attached.handle, 0, Buffer.from("F"));
  assert.equal(await contentBy(first, handle), "First");
  links.client.destroy();
  await settle();
  await second.fileSystem.write(ctx, attached.handle, 0, Buffer.from("f"));
  assert.equal(await contentBy(second, attached.handle), "first");
  assert.equal(drive.server.counters().handles, 2, "it is kept for both");
  await second.close();
});

test("who may only read the share only reads the open", async () => {
  const { memory, ticket, first, drive } = await held();
  await first.close();
  const readOnly = linkDrive({ fileSystem: memory, readOnly: true });
  await assert.rejects(readOnly.connect({ ticket }), /a ticket that was used/);
  assert.equal(drive.server.counters().sessions, 0);
  const { remote: reader } = await readOnly.connect({ token: TOKEN });
  const { id: parent } = await reader.fileSystem.root(ctx);
  const { id } = await reader.fileSystem.lookup(ctx, parent, named("f"));
  const { handle } = await reader.fileSystem.open(ctx, id, READ);
  const mine = await reader.ticketFor(ctx, handle);
  const { remote: guest } = await readOnly.connect({ ticket: mine });
  const attached = await guest.attach(ctx, mine);
  assert.equal(await contentBy(guest, attached.handle), "first");
  await assert.rejects(guest.fileSystem.write(ctx, attached.handle, 0, Buffer.from("x")), { errno: "EROFS" });
  await Promise.all([reader.close(), guest.close()]);
});

test("several handles of an open in one session are each good until it is released", async () => {
  const { drive, first, handle, ticket } = await held();
  const again = await first.attach(ctx, ticket);
  const third = await first.attach(ctx, await first.ticketFor(ctx, again.handle));
  assert.equal(drive.server.counters().handles, 3);
  await first.fileSystem.release(ctx, handle);
  await settle();
  assert.equal(await contentBy(first, again.handle), "first");
  const { remote: guest } = await drive.connect({ ticket: await first.ticketFor(ctx, third.handle) });
  await first.fileSystem.release(ctx, again.handle);
  await settle();
  assert.equal(await contentBy(first, third.handle), "first");
  await first.fileSystem.release(ctx, third.handle);
  await releasesLeft(drive);
  assert.equal(drive.server.counters().handles, 0);
  await Promise.all([first.close(), guest.close()]);
});

test("a session that has all the opens it may have attaches to none", async () => {
  const drive = linkDrive({ limits: { opensPerSessionMax: 1 } });
  const { remote } = await drive.connect();
  const { fileSystem } = remote;
  const { id: parent } = await fileSystem.root(ctx);
  const { opened } = await fileSystem.create(ctx, parent, named("f"), READ, { mode: 0o100600, umask: 0 });
  const ticket = await remote.ticketFor(ctx, opened.handle);
  await assert.rejects(remote.attach(ctx, ticket), { errno: "EMFILE" });
  const { remote: guest } = await drive.connect({ ticket });
  await guest.attach(ctx, ticket);
  await Promise.all([remote.close(), guest.close()]);
});

test("a guest comes back to its open when its link was lost, and learns what others did to it", async () => {
  const { drive, first, handle, ticket, id } = await held();
  const changed: [NodeId, string][] = [];
  const links: ReturnType<typeof memoryLinkPair>[] = [];
  let isDown = false;
  const dial = async () => {
    if (isDown) throw new ConnectionError("refused", { retryable: true });
    const pair = memoryLinkPair(drive.clock);
    links.push(pair);
    drive.server.accept(pair.server);
    return pair.client;
  };
  const { clock, log } = drive;
  const wish = { url: { token: Buffer.from("-"), share: "share" }, ticket, clock, log, ioChannels: 0, random: () => 0 };
  const guest = await connectLink(await dial(), wish, dial);
  guest.events = { changed: (node, { changedBy }) => changed.push([node, changedBy]), gone: () => assert.fail() };
  const attached = await guest.attach(ctx, ticket);
  isDown = true;
  links[0]?.client.destroy();
  await settle();
  await first.fileSystem.write(ctx, handle, 0, Buffer.from("F"));
  isDown = false;
  clock.advance(1000);
  await settle();
  assert.equal(guest.state, "connected");
  assert.deepEqual(changed, [[id, "memory client"]]);
  assert.equal(await contentBy(guest, attached.handle), "First");
  await Promise.all([first.close(), guest.close()]);
});

test("what is written down of a guest lets it in to its open and nothing else after a crash, and goes with it", async () => {
  const store = new MemoryStore();
  const memory = { store, records: new Map(), life: undefined, hostBootId: "" };
  const drive = linkDrive({ memory });
  const { remote: first } = await drive.connect();
  const { id: parent } = await first.fileSystem.root(ctx);
  const { opened } = await first.fileSystem.create(ctx, parent, named("f"), READ, { mode: 0o100600, umask: 0 });
  const sessions = () => [...store.records.keys()].filter((key) => key.startsWith("s")).length;
  assert.equal(sessions(), 1);
  const ticket = await first.ticketFor(ctx, opened.handle);
  const { remote: guest } = await drive.connect({ ticket });
  await guest.attach(ctx, ticket);
  const guests = [...store.records]
    .filter(([key]) => key.startsWith("s"))
    .flatMap(([, value]) => sessionRecord.decode(value)?.guestOf ?? []);
  assert.equal(sessions(), 2);
  assert.equal(guests.length, 1);
  const attached = () => [...store.records].filter(([key]) => key.startsWith("a"));
  assert.deepEqual(
    attached().map(([, value]) => attachedRecord.decode(value)),
    guests,
  );
  await Promise.all([first.close(), guest.close()]);
  await settle();
  assert.deepEqual([sessions(), attached().length], [0, 0]);
});

test("a guest of an open that a new start of the server does not have any more is over", async () => {
  const store = new MemoryStore();
  const fileSystem = new MemoryFs();
  const started = () => {
    const memory = { store, records: new Map(store.records), life: undefined, hostBootId: "" };
    return linkDrive({ fileSystem, memory, limits: { keepMsMax: 60_000, courtesyMs: 60_000 } });
  };
  const drive = started();
  const { remote: first } = await drive.connect();
  const { id: parent } = await first.fileSystem.root(ctx);
  const { opened } = await first.fileSystem.create(ctx, parent, named("f"), READ, { mode: 0o100600, umask: 0 });
  const ticket = await first.ticketFor(ctx, opened.handle);
  const { remote: guest } = await drive.connect({ ticket });
  await guest.attach(ctx, ticket);
  await first.fileSystem.release(ctx, opened.handle);
  await releasesLeft(drive);
  assert.equal(drive.server.counters().sessions, 2, "it has the file still");
  const { server: next } = started();
  await next.restore();
  await settle();
  assert.deepEqual([next.counters().sessions, next.counters().handles], [1, 0]);
  await Promise.all([first.close(), guest.close()]);
});
