import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { silentLog } from "../../src/base/log.ts";
import { createDisk } from "../../src/disk/disk.ts";
import { S_IFCHR, S_IFIFO, S_IFLNK, S_IFMT, S_IFSOCK } from "../../src/vfs/attr.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import { OpenFlag } from "../../src/vfs/file-system.ts";
import { asRoot, mode, n, READ_WRITE, refused, scratchDisk } from "../support/scratch-disk.ts";
import { makeTemp } from "../support/temp.ts";

for (const withoutOpenat2 of [false, true]) {
  const how = withoutOpenat2 ? ", without openat2" : "";
  test(`symbolic links are things to be read, and lead nowhere${how}`, async () => {
    await using scratch = await scratchDisk({ withoutOpenat2 });
    const { disk, root } = scratch;
    mkdirSync(scratch.at("inside"));
    for (const target of ["/etc", "..", ".", "inside", "/proc/self/root"]) {
      rmSync(scratch.at("l"), { force: true });
      symlinkSync(target, scratch.at("l"));
      const { id, attr } = await disk.lookup(asRoot, root, n("l"));
      assert.equal(attr.mode & S_IFMT, S_IFLNK);
      await refused("ENOTDIR", disk.lookup(asRoot, id, n("passwd")));
      await refused("ENOTDIR", disk.mkdir(asRoot, id, n("x"), mode(0o755)));
      await refused("ENOTDIR", disk.create(asRoot, id, n("x"), READ_WRITE, mode(0o644)));
      await refused("ENOTDIR", disk.unlink(asRoot, id, n("passwd")));
      await refused("ENOTDIR", disk.rename(asRoot, root, n("inside"), id, n("x"), 0));
      await refused("ENOTDIR", disk.opendir(asRoot, id));
      await refused("ELOOP", disk.open(asRoot, id, OpenFlag.READ));
      await refused("ELOOP", disk.create(asRoot, root, n("l"), READ_WRITE, mode(0o644)));
    }
  });

  test(`only regular files are opened: no pipe is waited for, no device touched${how}`, async () => {
    await using scratch = await scratchDisk({ withoutOpenat2 });
    const { disk, root } = scratch;
    for (const [type, errno] of [
      [S_IFIFO, "ENXIO"],
      [S_IFSOCK, "ENXIO"],
      [S_IFCHR, "EACCES"],
    ] as const) {
      const node = { ...mode(type | 0o666), rdevMajor: 1, rdevMinor: 3 };
      const { id } = await disk.mknod(asRoot, root, n("special"), node);
      for (const flags of [OpenFlag.READ, OpenFlag.WRITE, READ_WRITE | OpenFlag.TRUNC]) {
        await refused(errno, disk.open(asRoot, id, flags));
        await refused(errno, disk.create(asRoot, root, n("special"), flags, mode(0o644)));
      }
      await disk.unlink(asRoot, root, n("special"));
    }
  });

  test(`a mount point inside the share is shown and not entered${how}`, async () => {
    await using scratch = await scratchDisk({ withoutOpenat2 });
    const { disk, root } = scratch;
    mkdirSync(scratch.at("other"));
    writeFileSync(scratch.at("file"), "");
    execFileSync("mount", ["-t", "tmpfs", "none", scratch.at("other")]);
    try {
      execFileSync("mount", ["--bind", "/etc/passwd", scratch.at("file")]);
      try {
        for (const name of ["other", "file"]) {
          await refused("EXDEV", disk.lookup(asRoot, root, n(name)));
          await refused("EXDEV", disk.create(asRoot, root, n(name), READ_WRITE, mode(0o644)));
          await refused("EBUSY", disk.rename(asRoot, root, n(name), root, n("moved"), 0));
        }
        await refused("EBUSY", disk.rmdir(asRoot, root, n("other")));
        await refused("EBUSY", disk.unlink(asRoot, root, n("file")));
        const handle = await disk.opendir(asRoot, root);
        const entries = [...decodeDirents(await disk.readdir(asRoot, handle, 0n, 4096, true))];
        await disk.releasedir(asRoot, handle);
        assert.deepEqual(entries.map(({ name }) => name as string).sort(), [".", "..", "file", "other"]);
        assert.ok(entries.every(({ entry }) => entry === undefined));
      } finally {
        execFileSync("umount", [scratch.at("file")]);
      }
    } finally {
      execFileSync("umount", [scratch.at("other")]);
    }
    assert.ok(await disk.lookup(asRoot, root, n("other")));
  });

  test(`a directory replaced by a link to elsewhere is still the directory that was looked up${how}`, async () => {
    await using scratch = await scratchDisk({ withoutOpenat2, limits: { nodeDescriptorsMax: 1 } });
    await using outside = makeTemp("outside");
    writeFileSync(join(outside.path, "secret"), "secret");
    const { disk } = scratch;
    const directory = await scratch.directory("d");
    await disk.mkdir(asRoot, directory, n("secret"), mode(0o755));
    renameSync(scratch.at("d"), scratch.at("moved"));
    symlinkSync(outside.path, scratch.at("d"));
    const { id } = await disk.lookup(asRoot, directory, n("secret"));
    await refused("EISDIR", disk.open(asRoot, id, OpenFlag.READ));
    await disk.mkdir(asRoot, directory, n("new"), mode(0o755));
    assert.deepEqual(readdirSync(outside.path), ["secret"]);
    assert.deepEqual(readdirSync(scratch.at("moved")).sort(), ["new", "secret"]);
  });

  test(`the links of /proc are links, too, in a share of /proc itself${how}`, async () => {
    const disk = await createDisk({ directory: "/proc/self", applyCredentials: false, log: silentLog, withoutOpenat2 });
    const { id: root } = await disk.root(asRoot);
    const { id, attr } = await disk.lookup(asRoot, root, n("root"));
    assert.equal(attr.mode & S_IFMT, S_IFLNK);
    await refused("ENOTDIR", disk.lookup(asRoot, id, n("etc")));
    await refused("ELOOP", disk.open(asRoot, id, OpenFlag.READ));
    await refused("ENOTDIR", disk.opendir(asRoot, id));
    assert.equal((await disk.readlink(asRoot, id)).toString(), "/");
    const comm = await disk.lookup(asRoot, root, n("comm"));
    const { handle } = await disk.open(asRoot, comm.id, OpenFlag.READ);
    const target = Buffer.alloc(100);
    assert.equal(
      target.toString("latin1", 0, await disk.read(asRoot, handle, 0, target)),
      readFileSync("/proc/self/comm", "latin1"),
    );
    await disk.close();
  });

  /**
   * Goal: a name that is now a directory of the share and now a link out of it never leads out, whatever the moment.
   *
   * Method: another process exchanges the two thousands of times while every operation goes through the name.
   */
  test(`a name swapped with a link out of the share, thousands of times, never leads out${how}`, async () => {
    await using scratch = await scratchDisk({ withoutOpenat2, limits: { nodeDescriptorsMax: 8 } });
    await using outside = makeTemp("outside");
    const { disk, root } = scratch;
    writeFileSync(join(outside.path, "file"), "secret");
    const directory = await scratch.directory("x");
    const inside = await disk.create(asRoot, directory, n("file"), READ_WRITE, mode(0o644));
    await disk.write(asRoot, inside.opened.handle, 0, Buffer.from("inside"));
    await disk.release(asRoot, inside.opened.handle);
    symlinkSync(outside.path, scratch.at("y"));
    const program = `
    import { rename } from ${JSON.stringify(new URL("../../src/sys/syscalls.js", import.meta.url))};
    const [x, y] = process.argv.slice(1);
    for (let i = 0; i < 60001; i++) rename(x, y, 2);`;
    const args = ["--input-type=module", "-e", program, scratch.at("x"), scratch.at("y")];
    const swapper = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit"] });
    const ended = once(swapper, "exit");
    let running = true;
    void ended.then(() => {
      running = false;
    });
    const seen = { directory: 0, link: 0 };
    const errors = /^(ENOTDIR|ENOENT|ELOOP|EEXIST|EISDIR|ENOTEMPTY|EBUSY|ESTALE|EINVAL): /;
    const attempt = (promise: Promise<unknown>) => promise.catch((error: Error) => assert.match(error.message, errors));
    do {
      const { id, attr } = await disk.lookup(asRoot, root, n("x"));
      if ((attr.mode & S_IFMT) === S_IFLNK) seen.link++;
      else seen.directory++;
      await Promise.all([
        attempt(
          disk.lookup(asRoot, id, n("file")).then(async (entry) => {
            const { handle } = await disk.open(asRoot, entry.id, OpenFlag.READ);
            assert.equal((await scratch.content(handle)).toString(), "inside");
            await disk.release(asRoot, handle);
          }),
        ),
        attempt(
          disk
            .create(asRoot, id, n("made"), READ_WRITE, mode(0o644))
            .then(({ opened }) => disk.release(asRoot, opened.handle)),
        ),
        attempt(disk.create(asRoot, root, n("x"), READ_WRITE | OpenFlag.TRUNC, mode(0o644))),
        attempt(disk.unlink(asRoot, id, n("made"))),
        attempt(disk.mkdir(asRoot, id, n("dir"), mode(0o755))),
        attempt(disk.rename(asRoot, id, n("dir"), id, n("dir2"), 0)),
        attempt(disk.rmdir(asRoot, id, n("dir2"))),
        attempt(disk.opendir(asRoot, id).then((handle) => disk.releasedir(asRoot, handle))),
        attempt(disk.setattr(asRoot, id, { mtime: { sec: 1, nsec: 0 } })),
      ]);
    } while (running);
    assert.deepEqual(await ended, [0, null]);
    assert.ok(seen.directory > 10 && seen.link > 10, JSON.stringify(seen));
    assert.deepEqual(readdirSync(outside.path), ["file"]);
    assert.equal(readFileSync(join(outside.path, "file"), "utf8"), "secret");
    assert.equal(disk.counters().handles, 0);
  });
}
