/** A drive over a real socket on loopback: what works when nothing is wrong. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { FsError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { nameFromText } from "../../src/base/name.ts";
import { connectRemote, type Remote } from "../../src/client/remote.ts";
import { type Server, startServer } from "../../src/server/server.ts";
import { type Attr, S_IFREG } from "../../src/vfs/attr.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import { type NodeId, OpenFlag, type RequestContext } from "../../src/vfs/file-system.ts";
import { OPEN_CONTENT_BYTES_MAX } from "../../src/wire/limits.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { linkDrive } from "../support/link-drive.ts";

const ctx: RequestContext = { caller: { uid: 0, gid: 0, groups: [4, 5], pid: 77 } };
const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;
const NEW_FILE = { mode: S_IFREG | 0o644, umask: 0o022 };
const token = Buffer.from("a token of this test");

/** Runs `body` with a server of one share in memory and a client of it. */
async function withDrive(
  body: (drive: { remote: Remote; server: Server; share: MemoryFs; root: NodeId }) => Promise<void>,
  options: { readOnly?: boolean } = {},
): Promise<void> {
  const share = new MemoryFs();
  const server = await startServer({
    shares: new Map([["share", { fileSystem: share, readOnly: options.readOnly === true }]]),
    token,
    squash: "none",
    listen: { host: "127.0.0.1", port: 0 },
    log: silentLog,
    clock: systemClock,
  });
  try {
    const remote = await connectRemote({
      url: { token, host: "127.0.0.1", port: server.address.port, share: "share" },
      log: silentLog,
      clock: systemClock,
    });
    const { id: root } = await remote.fileSystem.root(ctx);
    await body({ remote, server, share, root });
    await remote.close();
    assert.equal(await remote.closed, undefined);
  } finally {
    await server.close();
  }
  assert.equal(share.openCount, 0);
  assert.equal(server.counters().channels, 0);
  assert.equal(server.counters().bufferBytes, 0);
}

function pattern(bytes: number): Buffer {
  const data = Buffer.alloc(bytes);
  for (let at = 0; at + 4 <= bytes; at += 4) data.writeUInt32LE((at * 2654435761) >>> 0, at);
  return data;
}

test("what is written through a drive is read through it, across sections and at odd places", async () => {
  await withDrive(async ({ remote, root }) => {
    const { fileSystem } = remote;
    const { opened } = await fileSystem.create(ctx, root, nameFromText("file"), READ_WRITE, NEW_FILE);
    const data = pattern(3 * remote.share.sectionBytes + 12_345);
    assert.equal(await fileSystem.write(ctx, opened.handle, 7, data), data.length);
    const target = Buffer.alloc(data.length + 1000, 0xee);
    assert.equal(await fileSystem.read(ctx, opened.handle, 7, target), data.length);
    assert.ok(target.subarray(0, data.length).equals(data));
    const some = Buffer.alloc(5);
    assert.equal(await fileSystem.read(ctx, opened.handle, 7 + data.length - 3, some), 3);
    assert.ok(some.subarray(0, 3).equals(data.subarray(-3)));
    assert.equal(await fileSystem.read(ctx, opened.handle, 1e9, some), 0);
    await fileSystem.release(ctx, opened.handle);
  });
});

test("all bytes of a small file come with an open for reading, and only then", async () => {
  await withDrive(async ({ remote, root }) => {
    const { fileSystem } = remote;
    const sizes = [0, 1, OPEN_CONTENT_BYTES_MAX, OPEN_CONTENT_BYTES_MAX + 1];
    for (const [index, sizeBytes] of sizes.entries()) {
      const name = nameFromText(`file ${index}`);
      const { entry, opened } = await fileSystem.create(ctx, root, name, READ_WRITE, NEW_FILE);
      const data = pattern(sizeBytes);
      if (sizeBytes > 0) await fileSystem.write(ctx, opened.handle, 0, data);
      const comes = sizeBytes > 0 && sizeBytes <= OPEN_CONTENT_BYTES_MAX;
      for (const flags of [OpenFlag.READ, READ_WRITE, OpenFlag.WRITE, OpenFlag.READ | OpenFlag.DIRECT]) {
        const { handle, content } = await fileSystem.open(ctx, entry.id, flags);
        assert.deepEqual(content, comes && flags === OpenFlag.READ ? data : undefined);
        await fileSystem.release(ctx, handle);
      }
      await fileSystem.release(ctx, opened.handle);
    }
  });
});

test("a close that nobody waits for travels with the next request, at the latest after 4 ms", async () => {
  const memory = new MemoryFs();
  const drive = linkDrive({ fileSystem: memory });
  const { remote } = await drive.connect();
  const { fileSystem } = remote;
  const { id: root } = await fileSystem.root(ctx);
  const made = async (name: string, flags: number) =>
    (await fileSystem.create(ctx, root, nameFromText(name), flags, NEW_FILE)).opened.handle;
  await fileSystem.release(ctx, await made("a", READ_WRITE));
  await settle();
  assert.equal(memory.openCount, 1, "it has not left");
  const other = await made("b", READ_WRITE);
  await settle();
  assert.equal(memory.openCount, 1, "it left with what was asked next");
  await fileSystem.release(ctx, other);
  await settle();
  drive.clock.advance(4);
  await settle();
  assert.equal(memory.openCount, 0);
  // Others may wait for this one.
  await fileSystem.release(ctx, await made("c", READ_WRITE | OpenFlag.DENY_WRITE));
  await settle();
  assert.equal(memory.openCount, 0);
  await remote.close();
});

test("who changes the names of a directory is told its attributes, as they are after that", async () => {
  await withDrive(async ({ remote, root, share }) => {
    const { fileSystem } = remote;
    const told: { id: NodeId; attr: Attr }[] = [];
    const telling = { ...ctx, directoryChanged: (id: NodeId, attr: Attr) => void told.push({ id, attr }) };
    const [file, other] = [nameFromText("file"), nameFromText("other")];
    const { entry, opened } = await fileSystem.create(telling, root, file, READ_WRITE, NEW_FILE);
    const device = { ...NEW_FILE, rdevMajor: 0, rdevMinor: 0 };
    const changes = [
      () => fileSystem.link(telling, entry.id, root, other),
      () => fileSystem.unlink(telling, root, other),
      () => fileSystem.mknod(telling, root, other, device),
      () => fileSystem.unlink(telling, root, other),
      () => fileSystem.symlink(telling, root, other, Buffer.from("target")),
      () => fileSystem.unlink(telling, root, other),
      () => fileSystem.mkdir(telling, root, other, { mode: 0o755, umask: 0 }),
      () => fileSystem.rmdir(telling, root, other),
    ];
    for (const [index, change] of changes.entries()) {
      assert.equal(told.length, index + 1);
      await change();
      assert.deepEqual(told.at(-1), { id: root, attr: await share.getattr(ctx, root) });
    }
    await assert.rejects(fileSystem.unlink(telling, root, other));
    await fileSystem.lookup(telling, root, file);
    assert.equal(told.length, changes.length + 1, "who changes nothing is told nothing");
    await fileSystem.release(ctx, opened.handle);
  });
});

test("errors of the share arrive by name, and a listing arrives whole", async () => {
  await withDrive(async ({ remote, root }) => {
    const { fileSystem } = remote;
    await assert.rejects(fileSystem.lookup(ctx, root, nameFromText("nothing")), (error) => {
      return error instanceof FsError && error.errno === "ENOENT";
    });
    for (const name of ["a", "b", "\u{1f600}"])
      await fileSystem.mkdir(ctx, root, nameFromText(name), { mode: 0o755, umask: 0 });
    const directory = await fileSystem.opendir(ctx, root);
    const page = await fileSystem.readdir(ctx, directory, 0n, 4096, true);
    const names = [...decodeDirents(page)].map(({ name }) => name);
    assert.deepEqual(names.sort(), [".", "..", "a", "b", nameFromText("\u{1f600}")].sort());
    await fileSystem.releasedir(ctx, directory);
  });
});

test("a read-only share refuses what would change it with EROFS", async () => {
  await withDrive(
    async ({ remote, root }) => {
      const { fileSystem } = remote;
      assert.equal(remote.share.readOnly, true);
      const isReadOnly = (error: unknown) => error instanceof FsError && error.errno === "EROFS";
      await assert.rejects(fileSystem.mkdir(ctx, root, nameFromText("d"), { mode: 0o755, umask: 0 }), isReadOnly);
      await assert.rejects(fileSystem.create(ctx, root, nameFromText("f"), READ_WRITE, NEW_FILE), isReadOnly);
      await assert.rejects(fileSystem.setattr(ctx, root, { mode: 0o700 }), isReadOnly);
      await assert.rejects(fileSystem.access(ctx, root, 2), isReadOnly);
      await fileSystem.getattr(ctx, root);
    },
    { readOnly: true },
  );
});
