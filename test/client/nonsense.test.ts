/** The client against a server whose answers make no sense: the call fails, the channel is closed with a reason, nothing hangs and nothing is believed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError, FsError, ProtocolError } from "../../src/base/errors.ts";
import type { FileSystem, HandleId, NodeId } from "../../src/vfs/file-system.ts";
import { type BodyCodec, messages } from "../../src/wire/codec.ts";
import { WRITTEN_TAGS_MAX } from "../../src/wire/limits.ts";
import { FLAG_REPLY, type MessageName } from "../../src/wire/messages.ts";
import { attrOf } from "../support/attr.ts";
import { settle } from "../support/fake-clock.ts";
import { type Asked, connectedDrive, type FakeServer } from "../support/fake-server.ts";
import { ctx, named } from "../support/link-drive.ts";

const attr = attrOf({ mode: 0o100644 });
const id = "node" as NodeId;
const KEYS = { resumeKey: Buffer.alloc(3), serviceBlob: Buffer.alloc(0), challenge: Buffer.alloc(1) };

/** Opens a file or directory at a fake server that answers rightly. */
async function opened(server: FakeServer, fileSystem: FileSystem, kind: "open" | "opendir"): Promise<HandleId> {
  const opening =
    kind === "open" ? fileSystem.open(ctx, id, 3).then(({ handle }) => handle) : fileSystem.opendir(ctx, id);
  await settle();
  server.answer(server.next(kind), kind === "open" ? { attr, ...KEYS } : {}, { handle: 77 });
  return opening;
}

interface Case {
  readonly what: string;
  /** The call; `file` and `directory` are open. */
  readonly call: (fileSystem: FileSystem, handles: { file: HandleId; directory: HandleId }) => Promise<unknown>;
  readonly name: MessageName;
  readonly answer: (server: FakeServer, asked: Asked) => void;
}

const getattr: Case["call"] = (fileSystem) => fileSystem.getattr(ctx, id);
const readAt: Case["call"] = (fileSystem, { file }) => fileSystem.read(ctx, file, 0, Buffer.alloc(100));
const readdirAt: Case["call"] = (fileSystem, { directory }) => fileSystem.readdir(ctx, directory, 0n, 4096, true);

const writeAt: Case["call"] = (fileSystem, { file }) => fileSystem.write(ctx, file, 0, Buffer.alloc(100));

function sendWritten(
  server: FakeServer,
  tags: readonly number[],
  header: { tag?: number } = {},
  payload?: Buffer,
): void {
  server.send({ opcode: 44, ...header }, messages.written.request as BodyCodec, { tags }, payload);
}

const CASES: readonly Case[] = [
  {
    what: "a write written whose tag is not in use",
    call: writeAt,
    name: "write",
    answer: (server, { header }) => sendWritten(server, [header.tag + 1]),
  },
  {
    what: "a write written in an earlier turn of its slot",
    call: writeAt,
    name: "write",
    answer: (server, { header }) => sendWritten(server, [(header.tag - 65_536) >>> 0]),
  },
  {
    what: "a write written in a slot beyond the credits",
    call: writeAt,
    name: "write",
    answer: (server) => sendWritten(server, [0xffffffff]),
  },
  {
    what: "a read that is written",
    call: readAt,
    name: "read",
    answer: (server, { header }) => sendWritten(server, [header.tag]),
  },
  {
    what: "no write written",
    call: writeAt,
    name: "write",
    answer: (server) => sendWritten(server, []),
  },
  {
    what: "more writes written than one notice may say",
    call: writeAt,
    name: "write",
    answer: (server, { header }) => sendWritten(server, new Array<number>(WRITTEN_TAGS_MAX + 1).fill(header.tag)),
  },
  {
    what: "writes written with a tag of the notice's own",
    call: writeAt,
    name: "write",
    answer: (server, { header }) => sendWritten(server, [header.tag], { tag: header.tag }),
  },
  {
    what: "writes written with a payload",
    call: writeAt,
    name: "write",
    answer: (server, { header }) => sendWritten(server, [header.tag], {}, Buffer.alloc(1)),
  },
  {
    what: "a reply to a tag that is not in use",
    call: getattr,
    name: "getattr",
    answer: (server, asked) => server.answer(asked, { attr }, { tag: asked.header.tag + 1 }),
  },
  {
    what: "a reply to an earlier turn of the slot",
    call: getattr,
    name: "getattr",
    answer: (server, asked) => server.answer(asked, { attr }, { tag: (asked.header.tag - 65_536) >>> 0 }),
  },
  {
    what: "a reply of another kind",
    call: getattr,
    name: "getattr",
    answer: (server, asked) => server.answer(asked, { attr }, { opcode: 20 }),
  },
  {
    what: "a reply for another handle",
    call: readAt,
    name: "read",
    answer: (server, asked) => server.answer(asked, {}, { handle: 78 }),
  },
  {
    what: "a reply for another section",
    call: readAt,
    name: "read",
    answer: (server, asked) => server.answer(asked, {}, { section: 1 }),
  },
  {
    what: "a request instead of a reply",
    call: getattr,
    name: "getattr",
    answer: (server, asked) => server.answer(asked, { attr }, { flags: 0 }),
  },
  {
    what: "a reply with another flag",
    call: getattr,
    name: "getattr",
    answer: (server, asked) => server.answer(asked, { attr }, { flags: 3 }),
  },
  {
    what: "an unknown opcode",
    call: getattr,
    name: "getattr",
    answer: (server) => server.send({ opcode: 200, flags: FLAG_REPLY }),
  },
  {
    what: "a notice only a client may send",
    call: getattr,
    name: "getattr",
    answer: (server) => server.send({ opcode: 4 }),
  },
  {
    what: "a payload where there is none",
    call: getattr,
    name: "getattr",
    answer: (server, asked) => server.answer(asked, { attr }, {}, Buffer.alloc(1)),
  },
  {
    what: "an error with a payload",
    call: readAt,
    name: "read",
    answer: (server, asked) => server.answer(asked, {}, { status: 5 }, Buffer.alloc(1)),
  },
  {
    what: "more data than asked for",
    call: readAt,
    name: "read",
    answer: (server, asked) => server.answer(asked, {}, {}, Buffer.alloc(101)),
  },
  {
    what: "a page longer than asked for",
    call: readdirAt,
    name: "readdir",
    answer: (server, asked) => server.answer(asked, {}, {}, Buffer.alloc(4104)),
  },
  {
    what: "a page of garbage",
    call: readdirAt,
    name: "readdir",
    answer: (server, asked) => server.answer(asked, {}, {}, Buffer.alloc(64, 0x41)),
  },
  {
    what: "an open without a handle",
    call: (fileSystem) => fileSystem.open(ctx, id, 1),
    name: "open",
    answer: (server, asked) => server.answer(asked, { attr, ...KEYS }, { handle: 0 }),
  },
  {
    what: "more bytes written than were sent",
    call: (fileSystem, { file }) => fileSystem.write(ctx, file, 0, Buffer.alloc(10)),
    name: "write",
    answer: (server, asked) => server.answer(asked, { writtenBytes: 11 }),
  },
  {
    what: "no bytes written and no error",
    call: (fileSystem, { file }) => fileSystem.write(ctx, file, 0, Buffer.alloc(10)),
    name: "write",
    answer: (server, asked) => server.answer(asked, { writtenBytes: 0 }),
  },
  {
    what: "an offset before the one asked from",
    call: (fileSystem, { file }) => fileSystem.lseek(ctx, file, 100, "data"),
    name: "lseek",
    answer: (server, asked) => server.answer(asked, { offsetBytes: 99 }),
  },
  {
    what: "more bytes copied than asked for",
    call: (fileSystem, { file }) =>
      fileSystem.copyFileRange(ctx, { handle: file, offsetBytes: 0 }, { handle: file, offsetBytes: 50 }, 10),
    name: "copyFileRange",
    answer: (server, asked) => server.answer(asked, { copiedBytes: 11 }),
  },
  {
    what: "an empty symbolic link",
    call: (fileSystem) => fileSystem.readlink(ctx, id),
    name: "readlink",
    answer: (server, asked) => server.answer(asked),
  },
  {
    what: "a symbolic link with a NUL",
    call: (fileSystem) => fileSystem.readlink(ctx, id),
    name: "readlink",
    answer: (server, asked) => server.answer(asked, {}, {}, Buffer.from("a\0b")),
  },
  {
    what: "a symbolic link of 4096 bytes",
    call: (fileSystem) => fileSystem.readlink(ctx, id),
    name: "readlink",
    answer: (server, asked) => server.answer(asked, {}, {}, Buffer.alloc(4096, 0x61)),
  },
  {
    what: "names of attributes without an end",
    call: (fileSystem) => fileSystem.listxattr(ctx, id),
    name: "listxattr",
    answer: (server, asked) => server.answer(asked, {}, {}, Buffer.from("user.a")),
  },
];

for (const { what, call, name, answer } of CASES) {
  test(`${what} ends the channel, and every call with it`, async () => {
    const { remote, server, clock } = await connectedDrive();
    const { fileSystem } = remote;
    const handles = {
      file: await opened(server, fileSystem, "open"),
      directory: await opened(server, fileSystem, "opendir"),
    };
    const failed = assert.rejects(call(fileSystem, handles), ProtocolError);
    const alsoFailed = assert.rejects(fileSystem.lookup(ctx, id, named("other")), ProtocolError);
    await settle();
    answer(server, server.next(name));
    await settle();
    await failed;
    await alsoFailed;
    assert.ok((await remote.closed) instanceof ProtocolError);
    assert.match(server.notices.at(-1) ?? "", /^goodbye tag=0 code=[123] /);
    await assert.rejects(fileSystem.getattr(ctx, id), ConnectionError);
    assert.equal(remote.status().channels[0]?.state, "closed");
    server.channel.destroy();
    await settle();
    assert.equal(clock.pendingCount, 0);
  });
}

test("the same reply twice ends the channel, after the call has had its answer", async () => {
  const { remote, server } = await connectedDrive();
  const answered = remote.fileSystem.getattr(ctx, id);
  await settle();
  const asked = server.next("getattr");
  server.answer(asked, { attr });
  server.answer(asked, { attr });
  assert.deepEqual(await answered, attr);
  assert.ok((await remote.closed) instanceof ProtocolError);
});

test("a write said to be written twice ends the channel, after the call has had its answer", async () => {
  const { remote, server } = await connectedDrive();
  const file = await opened(server, remote.fileSystem, "open");
  const written = remote.fileSystem.write(ctx, file, 0, Buffer.alloc(10));
  const waiting = assert.rejects(remote.fileSystem.getattr(ctx, id), ProtocolError);
  await settle();
  const { tag } = server.next("write").header;
  sendWritten(server, [tag, tag]);
  assert.equal(await written, 10);
  await waiting;
  assert.ok((await remote.closed) instanceof ProtocolError);
});

test("an errno nobody knows is EIO", async () => {
  const { remote, server } = await connectedDrive();
  const failed = assert.rejects(remote.fileSystem.getattr(ctx, id), (error) => {
    return error instanceof FsError && error.errno === "EIO";
  });
  await settle();
  server.answer(server.next("getattr"), {}, { status: 60_000 });
  await failed;
  await remote.close();
});

test("garbage instead of a frame fails all calls", async () => {
  const { remote, server } = await connectedDrive();
  const failed = [1, 2, 3].map(() => assert.rejects(remote.fileSystem.getattr(ctx, id), ProtocolError));
  await settle();
  await server.sendRaw(Buffer.alloc(100, 0x42));
  await Promise.all(failed);
});

test("a goodbye of the server fails all calls with its reason", async () => {
  const { remote, server } = await connectedDrive();
  const failed = assert.rejects(remote.fileSystem.getattr(ctx, id), (error) => {
    return error instanceof ConnectionError && error.retryable && /going down/.test(error.message);
  });
  await settle();
  server.goodbye(8, "the server is going down");
  await failed;
  assert.match(String(await remote.closed), /going down/);
});

test("a lost link fails all calls, sent or waiting for a credit, and the drive says so", async () => {
  const { remote, server, lines, clientLink } = await connectedDrive({ credits: 6 });
  const failed = Array.from({ length: 10 }, () => assert.rejects(remote.fileSystem.getattr(ctx, id), ConnectionError));
  await settle();
  assert.equal(server.asked.length, 2);
  clientLink.destroy();
  await Promise.all(failed);
  assert.ok((await remote.closed) instanceof ConnectionError);
  assert.match(lines.at(-1) ?? "", /warn client: .*lost|closed/);
  await assert.rejects(remote.fileSystem.lookup(ctx, id, named("x")), ConnectionError);
  await remote.close();
});
