import assert from "node:assert/strict";
import { constants } from "node:fs";
import { describe, test } from "node:test";
import { ERRNO } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import type { Name } from "../../src/base/name.ts";
import { FUSE_MINOR, Notify, OPCODE_ROWS, Opcode, OpenReply, WRITE_CACHE } from "../../src/fuse/abi.ts";
import { forgetNode } from "../../src/fuse/notify.ts";
import type { FileSystem, HandleId, NewNode, NodeId, Opened, RequestContext } from "../../src/vfs/file-system.ts";
import { hex, requestBytes } from "./fake-device.ts";
import { type Fixture, startSession } from "./fixture.ts";
import {
  ATTR_REQUESTS,
  DIR_REQUESTS,
  FILE_REQUESTS,
  INIT_BODY,
  type KernelRequestCase,
  NAME_REQUESTS,
} from "./kernel-requests.ts";
import { type Call, recordingFs, SAMPLE_ATTR } from "./recording-fs.ts";

const ALL = [...NAME_REQUESTS, ...FILE_REQUESTS, ...ATTR_REQUESTS, ...DIR_REQUESTS];

/** A session that was initialized, in which node 2 is known and open as file and directory 0x33. */
async function prepared({ fileSystem, calls } = recordingFs()): Promise<Fixture & { calls: Call[] }> {
  const fixture = await startSession(fileSystem);
  await fixture.device.ask(requestBytes(Opcode.INIT, hex(INIT_BODY), { node: 0 }));
  await fixture.device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("x\0")));
  await fixture.device.ask(requestBytes(Opcode.OPEN, hex("02800000 00000000"), { node: 2 }));
  await fixture.device.ask(requestBytes(Opcode.OPENDIR, hex("00800000 00000000"), { node: 2 }));
  calls.length = 0;
  fixture.device.replies.length = 0;
  return { ...fixture, calls };
}

async function serve(each: KernelRequestCase) {
  const fixture = await prepared();
  const bytes = requestBytes(Opcode[each.name], hex(each.body), { node: each.node ?? 2 });
  if (each.reply !== undefined || each.errno !== undefined) await fixture.device.ask(bytes);
  else fixture.device.inject(bytes);
  return fixture;
}

describe("requests of Linux 6.18 become calls, and results become replies", () => {
  for (const each of ALL) {
    test(`${each.name}${each.label === undefined ? "" : ` ${each.label}`}`, async () => {
      const { device, calls, lines } = await serve(each);
      assert.deepEqual(calls, each.calls);
      const [reply] = device.replies;
      assert.equal(reply?.errno, each.errno ?? (each.reply === undefined ? undefined : 0));
      assert.equal(
        reply?.body.toString("hex"),
        each.reply === undefined ? each.errno && "" : hex(each.reply).toString("hex"),
      );
      assert.equal(device.freeSlots, device.slotCount, "the slot is free again");
      assert.deepEqual(lines, []);
    });
  }

  test("every opcode of the table is among them, but for those that are tested apart", () => {
    const shown = new Set<string>(ALL.map(({ name }) => name));
    const missing = OPCODE_ROWS.map(({ name }) => name).filter((name) => !shown.has(name));
    assert.deepEqual(missing, ["INIT", "INTERRUPT"]);
  });
});

test("a request whose body is cut at any byte fails with EIO and calls nothing", async () => {
  for (const each of ALL) {
    const body = hex(each.body);
    for (let bytes = 0; bytes < body.length; bytes++) {
      const { device, session, calls, lines } = await prepared();
      const request = requestBytes(Opcode[each.name], body.subarray(0, bytes), { node: each.node ?? 2 });
      const isAnswered = each.reply !== undefined || each.errno !== undefined;
      if (isAnswered) assert.equal((await device.ask(request)).errno, ERRNO.EIO, `${each.name} of ${bytes} bytes`);
      else device.inject(request);
      assert.deepEqual(calls, []);
      assert.ok(isAnswered || lines.length === 1, `${each.name} of ${bytes} bytes is logged`);
      assert.equal(session.counters().inFlight, 0);
      assert.equal(device.freeSlots, device.slotCount);
    }
  }
});

test("what is no request at all is logged and dropped", async () => {
  const { device, lines } = await prepared();
  device.inject(Buffer.alloc(20));
  const wrongLength = requestBytes(Opcode.STATFS, Buffer.alloc(0));
  wrongLength.writeUInt32LE(1000, 0);
  device.inject(wrongLength);
  const wrongExtensions = requestBytes(Opcode.STATFS, Buffer.alloc(0));
  wrongExtensions.writeUInt16LE(9, 36);
  device.inject(wrongExtensions);
  assert.equal(lines.length, 3);
  assert.deepEqual(device.replies, []);
  assert.equal(device.freeSlots, device.slotCount);
});

test("extensions behind the body are no part of it", async () => {
  const { device, calls } = await prepared();
  const request = requestBytes(Opcode.MKDIR, Buffer.concat([hex("e8010000 12000000 64697200"), Buffer.alloc(8, 0xee)]));
  request.writeUInt16LE(1, 36);
  await device.ask(request);
  assert.deepEqual(calls, [["mkdir", "root", "dir", { mode: 0o750, umask: 0o22 }]]);
});

test("an access control list changes the mode: the kernel is told so before the reply", async () => {
  const { device } = await prepared();
  const name = Buffer.from("system.posix_acl_access\0");
  const body = Buffer.concat([hex("04000000 00000000 00000000 00000000  size flags"), name, hex("02000000")]);
  assert.equal((await device.ask(requestBytes(Opcode.SETXATTR, body, { node: 2 }))).errno, 0);
  const [notice, reply] = device.replies;
  assert.deepEqual([notice?.unique, notice?.errno], [0, Notify.INVAL_INODE]);
  // Node 2, offset -1: the attributes alone, length 0.
  assert.equal(notice?.body.toString("hex"), `0200000000000000${"ff".repeat(8)}${"00".repeat(8)}`);
  assert.notEqual(reply?.unique, 0);
});

/** A file system whose files are opened like this. */
function openingBy(fileSystem: FileSystem, open: FileSystem["open"]): FileSystem {
  return new Proxy(fileSystem, {
    get: (target, method) => (method === "open" ? open : Reflect.get(target, method)),
  });
}

test("the bytes that come with the first open of a small file are given to the kernel before the reply, and only then", async () => {
  const { fileSystem: recorded, calls } = recordingFs();
  const content = Buffer.from("small");
  const attr = { ...SAMPLE_ATTR, sizeBytes: content.length };
  const open: FileSystem["open"] = async () => ({ handle: 0x33 as HandleId, attr: { ...attr }, content });
  const fileSystem = openingBy(recorded, open);
  const { device, session } = await startSession(fileSystem);
  await device.ask(requestBytes(Opcode.INIT, hex(INIT_BODY), { node: 0 }));
  await device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("x\0")));
  device.replies.length = 0;
  await device.ask(requestBytes(Opcode.OPEN, hex("00800000 00000000"), { node: 2 }));
  const [store, reply] = device.replies;
  assert.deepEqual([store?.unique, store?.errno], [0, Notify.STORE]);
  // Node 2, offset 0, 5 bytes.
  const head = hex("0200000000000000 0000000000000000 05000000 00000000");
  assert.equal(store?.body.toString("hex"), Buffer.concat([head, content]).toString("hex"));
  assert.equal(reply?.body.readUInt32LE(8), OpenReply.KEEP_CACHE);
  assert.equal(session.counters().bytesRead, content.length);
  device.replies.length = 0;
  await device.ask(requestBytes(Opcode.OPEN, hex("00800000 00000000"), { node: 2 }));
  attr.mtimeNsec += 1;
  await device.ask(requestBytes(Opcode.OPEN, hex("00800000 00000000"), { node: 2 }));
  // Somebody may read pages by now, and would hold them locked.
  assert.deepEqual(
    device.replies.map(({ body }) => body.readUInt32LE(8)),
    [OpenReply.KEEP_CACHE, 0],
  );
  assert.deepEqual(
    calls.filter(([name]) => name === "read"),
    [],
  );
});

test("bytes that came with an open are not given to the kernel when it was told meanwhile to drop what it has", async () => {
  const { fileSystem: recorded } = recordingFs();
  const opened: Opened = {
    handle: 0x33 as HandleId,
    attr: { ...SAMPLE_ATTR, sizeBytes: 3 },
    content: Buffer.from("old"),
  };
  let answer = (_opened: Opened) => {};
  const open = () => new Promise<Opened>((resolve) => (answer = resolve));
  const fileSystem = openingBy(recorded, open);
  const { device, session } = await startSession(fileSystem);
  await device.ask(requestBytes(Opcode.INIT, hex(INIT_BODY), { node: 0 }));
  await device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("x\0")));
  device.replies.length = 0;
  const opening = device.ask(requestBytes(Opcode.OPEN, hex("00800000 00000000"), { node: 2 }));
  answer(opened);
  await Promise.all([forgetNode(session, "node-x" as NodeId), opening]);
  assert.deepEqual(
    device.replies.map(({ unique, errno, body }) => [unique === 0, errno, body.readUInt32LE(8)]),
    [[false, 0, 0]],
  );
});

test("an unknown opcode is ENOSYS, an unknown node ESTALE, an unknown handle EBADF", async () => {
  const { device } = await prepared();
  assert.equal((await device.ask(requestBytes(4000, Buffer.alloc(8)))).errno, ERRNO.ENOSYS);
  assert.equal((await device.ask(requestBytes(Opcode.BMAP, Buffer.alloc(64)))).errno, ERRNO.ENOSYS);
  assert.equal((await device.ask(requestBytes(Opcode.GETATTR, Buffer.alloc(16), { node: 99 }))).errno, ERRNO.ESTALE);
  assert.equal((await device.ask(requestBytes(Opcode.FSYNC, Buffer.alloc(16)))).errno, ERRNO.EBADF);
  assert.equal((await device.ask(requestBytes(Opcode.FSYNCDIR, Buffer.alloc(16)))).errno, ERRNO.EBADF);
  const beyond = Buffer.alloc(8, 0xff);
  assert.equal((await device.ask(requestBytes(Opcode.FSYNC, Buffer.concat([beyond, beyond])))).errno, ERRNO.EBADF);
});

test("offsets a double cannot hold are refused: EFBIG for a write, the end for a read, ENXIO for a hole", async () => {
  const { device, calls } = await prepared();
  const fh = hex("33000000 00000000");
  const far = hex("00000000 00002000  2^53");
  const rest = Buffer.alloc(24);
  assert.equal((await device.ask(requestBytes(Opcode.WRITE, Buffer.concat([fh, far, rest])))).errno, ERRNO.EFBIG);
  const read = await device.ask(requestBytes(Opcode.READ, Buffer.concat([fh, far, rest])));
  assert.deepEqual([read.errno, read.body.length], [0, 0]);
  const lseek = Buffer.concat([fh, far, hex("03000000 00000000")]);
  assert.equal((await device.ask(requestBytes(Opcode.LSEEK, lseek))).errno, ERRNO.ENXIO);
  assert.equal(
    (await device.ask(requestBytes(Opcode.FALLOCATE, Buffer.concat([fh, far, rest.subarray(8)])))).errno,
    ERRNO.EFBIG,
  );
  assert.deepEqual(calls, []);
});

test("after a short write of pages, or a direct one, the rest is written, or its error is the answer", async () => {
  const recording = recordingFs();
  const asked: number[][] = [];
  let room = 0;
  const small = new Proxy(recording.fileSystem, {
    get: (target, method) =>
      method !== "write"
        ? Reflect.get(target, method)
        : async (_ctx: unknown, _handle: unknown, offset: number, data: Buffer) => {
            asked.push([offset, data.length]);
            const put = Math.min(data.length, 2, room);
            room -= put;
            if (put === 0) throw new FsError("ENOSPC", "write");
            return put;
          },
  });
  const { device } = await prepared({ ...recording, fileSystem: small });
  const write = async (writeFlags: number, fileFlags: number, bytes: number) => {
    const body = Buffer.alloc(40 + 5);
    body.writeUInt32LE(0x33, 0);
    body.writeUInt32LE(5, 16);
    body.writeUInt32LE(writeFlags, 20);
    body.writeUInt32LE(fileFlags, 32);
    room = bytes;
    asked.length = 0;
    const { errno, body: reply } = await device.ask(requestBytes(Opcode.WRITE, body));
    return [errno, reply.length > 0 ? reply.readUInt32LE(0) : -1, asked.length];
  };
  assert.deepEqual(await write(0, 2, 5), [0, 2, 1]);
  for (const [writeFlags, fileFlags] of [
    [WRITE_CACHE, 2],
    [0, 2 | constants.O_DIRECT],
  ] as const) {
    assert.deepEqual(await write(writeFlags, fileFlags, 5), [0, 5, 3]);
    assert.deepEqual(asked, [
      [0, 5],
      [2, 3],
      [4, 1],
    ]);
    assert.deepEqual(await write(writeFlags, fileFlags, 3), [ERRNO.ENOSPC, -1, 3]);
  }
});

test("pages of a file that is open for appending are written back at their place, also after that could not be opened once", async () => {
  const { fileSystem: recorded, calls } = recordingFs();
  const handles = [0x33, undefined, 0x44];
  const open = async () => {
    const handle = handles.shift();
    if (handle === undefined) throw new FsError("ENFILE", "open");
    return { handle: handle as HandleId, attr: { ...SAMPLE_ATTR } };
  };
  const fileSystem = openingBy(recorded, open);
  const { device } = await startSession(fileSystem);
  await device.ask(requestBytes(Opcode.INIT, hex(INIT_BODY), { node: 0 }));
  await device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("x\0")));
  const flags = Buffer.alloc(8);
  flags.writeUInt32LE(constants.O_RDWR | constants.O_APPEND);
  await device.ask(requestBytes(Opcode.OPEN, flags, { node: 2 }));
  const writeBack = async () => {
    // Of handle 0x33, at offset 0, 1 byte.
    const body = hex(`3300000000000000 ${"00".repeat(8)} 01000000 ${"00".repeat(20)} 41`);
    body.writeUInt32LE(WRITE_CACHE, 20);
    return (await device.ask(requestBytes(Opcode.WRITE, body, { node: 2 }))).errno;
  };
  const both = [writeBack(), writeBack()];
  assert.deepEqual(await Promise.all(both), [ERRNO.ENFILE, ERRNO.ENFILE]);
  for (let at = 0; at < 2; at += 1) assert.equal(await writeBack(), 0);
  assert.deepEqual(
    calls.filter(([name]) => name === "write").map(([, handle]) => handle),
    [0x44, 0x44],
  );
  await device.ask(requestBytes(Opcode.RELEASE, hex(`3300000000000000 ${"00".repeat(16)}`), { node: 2 }));
  assert.deepEqual(
    calls.filter(([name]) => name === "release").map(([, handle]) => handle),
    [0x33, 0x44],
  );
});

test("what the FileSystem throws is the answer; what nobody expected is EIO and one line with its stack", async () => {
  const { fileSystem } = recordingFs();
  let thrown: unknown = new FsError("EDQUOT", "mkdir");
  const failing = new Proxy(fileSystem, {
    get: (target, method) => (method === "mkdir" ? () => Promise.reject(thrown) : Reflect.get(target, method)),
  });
  const { device, lines } = await startSession(failing);
  const mkdir = () => device.ask(requestBytes(Opcode.MKDIR, hex("e8010000 12000000 64697200")));
  assert.equal((await mkdir()).errno, ERRNO.EDQUOT);
  assert.deepEqual(lines, []);
  thrown = new TypeError("a bug");
  assert.equal((await mkdir()).errno, ERRNO.EIO);
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? "", /MKDIR.*TypeError: a bug.*session\.test/);
});

test("INIT is answered with what we can do of what the kernel offers", async () => {
  const { fileSystem } = recordingFs();
  const { device, session } = await startSession(fileSystem);
  const { errno, body } = await device.ask(requestBytes(Opcode.INIT, hex(INIT_BODY), { node: 0 }));
  assert.equal(errno, 0);
  const expected = hex(`
    07000000 2d000000  major minor
    00000200  max_readahead
    6be4e470  flags
    04000300 00000800  max_background congestion_threshold max_write
    01000000  time_gran
    80000000  max_pages map_alignment
    ${"00".repeat(32)}`);
  assert.equal(body.toString("hex"), expected.toString("hex"));
  await session.initialized;
});

test("a kernel with a newer major version is asked to come down, one that is too old is refused", async () => {
  const { fileSystem } = recordingFs();
  const newer = await startSession(fileSystem);
  const init = hex(INIT_BODY);
  init.writeUInt32LE(8, 0);
  const first = await newer.device.ask(requestBytes(Opcode.INIT, init, { node: 0 }));
  assert.deepEqual([first.body.readUInt32LE(0), first.body.readUInt32LE(4)], [7, FUSE_MINOR]);
  await newer.device.ask(requestBytes(Opcode.INIT, hex(INIT_BODY), { node: 0 }));
  await newer.session.initialized;
  const older = await startSession(fileSystem);
  init.writeUInt32LE(7, 0);
  init.writeUInt32LE(30, 4);
  assert.equal((await older.device.ask(requestBytes(Opcode.INIT, init, { node: 0 }))).errno, ERRNO.EPROTO);
  await assert.rejects(older.session.initialized, /7\.30.*7\.31/);
});

test("names that are not there are believed missing only if the mount says so", async () => {
  const { fileSystem } = recordingFs();
  const empty = new Proxy(fileSystem, {
    get: (target, method) =>
      method === "lookup" ? () => Promise.reject(new FsError("ENOENT", "lookup")) : Reflect.get(target, method),
  });
  const lookup = requestBytes(Opcode.LOOKUP, Buffer.from("x\0"));
  const plain = await startSession(empty);
  assert.equal((await plain.device.ask(lookup)).errno, ERRNO.ENOENT);
  const believing = await startSession(empty, { negativeTimeoutMs: 3500 });
  const { errno, body } = await believing.device.ask(lookup);
  assert.deepEqual([errno, body.readBigUInt64LE(0), body.readUInt32LE(16), body.readUInt32LE(32)], [0, 0n, 3, 5e8]);
});

test("attributes of a directory that came along with a change answer the kernel's next question about it, once", async () => {
  const { fileSystem, calls } = recordingFs();
  const telling: FileSystem = new Proxy(fileSystem, {
    get: (target, method) =>
      method === "mkdir"
        ? (ctx: RequestContext, parent: NodeId, ...rest: [Name, NewNode]) => {
            ctx.directoryChanged?.(parent, { ...SAMPLE_ATTR, mode: 0o40711 });
            ctx.directoryChanged?.("of another" as NodeId, { ...SAMPLE_ATTR, mode: 0o40700 });
            return target.mkdir(ctx, parent, ...rest);
          }
        : Reflect.get(target, method),
  });
  const { device } = await startSession(telling);
  const mkdir = requestBytes(Opcode.MKDIR, hex("e8010000 12000000 64697200"), { node: 1 });
  const getattr = requestBytes(Opcode.GETATTR, Buffer.alloc(16), { node: 1 });
  const modes: number[] = [];
  for (const bytes of [mkdir, getattr, getattr]) {
    const { body } = await device.ask(bytes);
    if (bytes === getattr) modes.push(body.readUInt32LE(16 + 60));
  }
  assert.deepEqual(modes, [0o40711, SAMPLE_ATTR.mode]);
  assert.deepEqual(
    calls.map(([name]) => name),
    ["root", "mkdir", "getattr"],
  );
});

test("at the end everything in flight is aborted and everything open is released", async () => {
  const { fileSystem, calls } = recordingFs();
  let signal: AbortSignal | undefined;
  const slow: FileSystem = new Proxy(fileSystem, {
    get: (target, method) =>
      method === "statfs"
        ? (ctx: { signal?: AbortSignal }) => {
            signal = ctx.signal;
            return new Promise(() => {});
          }
        : Reflect.get(target, method),
  });
  const { device, session } = await startSession(slow);
  await device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("x\0")));
  await device.ask(requestBytes(Opcode.OPEN, hex("02800000 00000000"), { node: 2 }));
  await device.ask(requestBytes(Opcode.OPENDIR, hex("00800000 00000000"), { node: 2 }));
  device.inject(requestBytes(Opcode.STATFS, Buffer.alloc(0)));
  calls.length = 0;
  device.refuse = ERRNO.ENODEV;
  device.end(ERRNO.ENODEV);
  assert.equal(await session.ended, ERRNO.ENODEV);
  assert.equal(signal?.aborted, true);
  assert.deepEqual(calls, [
    ["release", 0x33],
    ["releasedir", 0x33],
  ]);
  assert.equal(session.counters().opens, 0);
});

test("a root that is looked up below itself is still one node", async () => {
  const { fileSystem } = recordingFs();
  const looping = new Proxy(fileSystem, {
    get: (target, method) =>
      method === "lookup"
        ? async () => ({ ...(await target.root({} as never)), id: "root" as NodeId })
        : Reflect.get(target, method),
  });
  const { device, session } = await startSession(looping);
  const { body } = await device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("x\0")));
  assert.equal(body.readUInt32LE(0), 1);
  session.nodes.checkInvariants();
});
