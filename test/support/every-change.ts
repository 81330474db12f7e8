/**
 * A client's work in which every request that must not run twice comes once at least, and some that may: for tests in which servers die on the way.
 */
import assert from "node:assert/strict";
import { type FileSystem, type HandleId, OpenFlag, RenameFlag, XattrFlag } from "../../src/vfs/file-system.ts";
import { ctx, named as n } from "./link-drive.ts";

export const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;
export const MODE = { mode: 0o100644, umask: 0 };
export const DIRECTORY = { mode: 0o755, umask: 0 };
export const DEVICE = { mode: 0o010644, umask: 0, rdevMajor: 0, rdevMinor: 0 };

/** Works in an empty share; `write` puts a text at the start of a file. Leaves `/d/s` (a link), `/h` ("new", mode 600, user.x) and `/log` (three lines). */
export async function changeEverything(
  fs: FileSystem,
  write: (handle: HandleId, text: string) => Promise<void>,
): Promise<void> {
  const { id: root } = await fs.root(ctx);
  const { id: d } = await fs.mkdir(ctx, root, n("d"), DIRECTORY);
  const f = await fs.create(ctx, d, n("f"), READ_WRITE | OpenFlag.EXCL, MODE);
  await write(f.opened.handle, "file");
  await fs.symlink(ctx, d, n("s"), Buffer.from("target"));
  await fs.mknod(ctx, d, n("p"), DEVICE);
  assert.equal((await fs.link(ctx, f.entry.id, d, n("g"))).attr.nlink, 2);
  await fs.rename(ctx, d, n("g"), root, n("h"), 0);
  await fs.rename(ctx, d, n("s"), d, n("p"), RenameFlag.EXCHANGE);
  await fs.rename(ctx, d, n("p"), d, n("s"), 0);
  await fs.unlink(ctx, d, n("f"));
  assert.equal((await fs.getattr(ctx, f.entry.id, f.opened.handle)).nlink, 1);
  await fs.setxattr(ctx, f.entry.id, n("user.x"), Buffer.from("1"), XattrFlag.CREATE);
  await fs.setxattr(ctx, f.entry.id, n("user.y"), Buffer.from("1"), XattrFlag.CREATE);
  await fs.removexattr(ctx, f.entry.id, n("user.y"));
  await fs.setattr(ctx, f.entry.id, { mode: 0o600 });
  const log = await fs.create(ctx, root, n("log"), OpenFlag.WRITE | OpenFlag.APPEND, MODE);
  for (let line = 0; line < 3; line += 1) {
    assert.equal(await fs.write(ctx, log.opened.handle, 0, Buffer.from("same\n")), 5);
  }
  await fs.release(ctx, log.opened.handle);
  const again = await fs.open(ctx, f.entry.id, READ_WRITE | OpenFlag.TRUNC);
  assert.equal(again.attr.sizeBytes, 0);
  await write(again.handle, "new");
  for (const { handle } of [again, f.opened]) await fs.release(ctx, handle);
  await fs.mkdir(ctx, d, n("e"), DIRECTORY);
  await fs.rmdir(ctx, d, n("e"));
}
