/**
 * Reading and writing: sizes and offsets, appending from several opens, files without a name, set-user-id bits.
 */
import assert from "node:assert/strict";
import { ALICE, BOB, O, type Posix, ROOT } from "../../support/posix.ts";
import { type Cases, fails, get, getText, inode, names, outcome, permissions, put, same, withFd } from "../case.ts";

/** Bytes that differ at every offset, whatever the alignment. */
export function pattern(lengthBytes: number, seed = 1): Buffer {
  const data = Buffer.alloc(lengthBytes);
  let state = seed >>> 0 || 1;
  for (let i = 0; i < lengthBytes; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    data[i] = state >>> 24;
  }
  return data;
}

/** What set-id bits are left after `change` by each user on a file of ALICE. */
async function bitsAfter(posix: Posix, label: string, change: (own: Posix, path: string) => Promise<unknown>) {
  const results = [];
  for (const who of [ROOT, ALICE, BOB]) {
    for (const mode of [0o6777, 0o4777, 0o2777, 0o2767]) {
      const path = `${label}-${who.uid}-${mode.toString(8)}`;
      await put(posix, path, "content");
      await posix.chown(path, ALICE.uid, ALICE.gid);
      await posix.chmod(path, mode);
      const result = await outcome(change(posix.as(who), path));
      results.push([path, result, permissions(await posix.stat(path)).toString(8)]);
    }
  }
  return results;
}

export const dataCases: Cases = {
  "reads and writes of every size around the limits of pages and requests": async ({ posix }) => {
    await withFd(posix, "f", O.RDWR | O.CREAT, async (fd) => {
      for (const size of [1, 511, 4095, 4096, 4097, 65_536, 131_071, 1_048_575, 1_048_576, 1_048_577, 3_000_001]) {
        for (const at of [0, 1, 4095]) {
          const data = pattern(size, size + at);
          assert.equal(await posix.pwrite(fd, data, at), size);
          const back = await posix.pread(fd, size + 10, at);
          assert.ok(back.subarray(0, size).equals(data), `${size} bytes at ${at}`);
        }
      }
    });
  },

  "reading at and beyond the end is short or empty": async ({ posix }) => {
    await put(posix, "f", "0123456789");
    await withFd(posix, "f", O.RDONLY, async (fd) => {
      assert.equal((await posix.pread(fd, 100, 8)).toString(), "89");
      assert.equal((await posix.pread(fd, 100, 10)).length, 0);
      assert.equal((await posix.pread(fd, 100, 1e9)).length, 0);
      assert.equal((await posix.pread(fd, 0, 0)).length, 0);
      await fails("EINVAL", posix.pread(fd, 1, -1));
    });
  },

  "what one open writes another reads at once": async ({ posix }) => {
    await put(posix, "f");
    const other = posix.as({ ...ROOT, process: 1 });
    const [writer, reader] = [await posix.open("f", O.RDWR), await other.open("f", O.RDONLY)];
    for (let i = 0; i < 20; i++) {
      await posix.pwrite(writer, Buffer.from(`line ${i}\n`), i * 10);
      assert.equal((await other.pread(reader, 8, i * 10)).toString().trim(), `line ${i}`);
      assert.equal((await other.fstat(reader)).sizeBytes, i * 10 + `line ${i}\n`.length);
    }
    await posix.close(writer);
    await other.close(reader);
  },

  "O_APPEND writes go to the end, whoever moved it": async ({ posix }) => {
    const other = posix.as({ ...ROOT, process: 1 });
    await put(posix, "f", "start ");
    const [a, b] = [await posix.open("f", O.WRONLY | O.APPEND), await other.open("f", O.RDWR | O.APPEND)];
    await posix.write(a, Buffer.from("a1 "));
    await other.write(b, Buffer.from("b1 "));
    await posix.write(a, Buffer.from("a2 "));
    // pwrite(2): with O_APPEND, Linux appends, whatever the offset.
    await other.pwrite(b, Buffer.from("b2 "), 0);
    await posix.truncate("f", 6);
    await posix.write(a, Buffer.from("a3"));
    assert.equal(await getText(posix, "f"), "start a3");
    await posix.close(a);
    await other.close(b);
  },

  "appending from three processes loses and tears nothing": async ({ posix }) => {
    await put(posix, "log");
    const records = 150;
    const append = async (process: number) => {
      const own = posix.as({ ...ROOT, process });
      const fd = await own.open("log", O.WRONLY | O.APPEND);
      const line = (i: number) => Buffer.from(`${process} ${i} ${String.fromCharCode(97 + process).repeat(50 + i)}\n`);
      await Promise.all(Array.from({ length: records }, (_, i) => own.write(fd, line(i))));
      await own.close(fd);
    };
    await Promise.all([append(0), append(1), append(2)]);
    const seen = new Set((await getText(posix, "log")).trimEnd().split("\n"));
    assert.equal(seen.size, 3 * records);
    for (const line of seen) assert.match(line, /^(0 \d+ a+|1 \d+ b+|2 \d+ c+)$/);
  },

  "an unlinked open file is still a whole file": async ({ posix }) => {
    await put(posix, "f", "content");
    await withFd(posix, "f", O.RDWR, async (fd) => {
      await posix.unlink("f");
      await fails("ENOENT", posix.stat("f"));
      assert.equal((await posix.fstat(fd)).nlink, 0);
      assert.equal((await posix.pread(fd, 100, 0)).toString(), "content");
      await posix.pwrite(fd, Buffer.from("CON"), 0);
      await posix.ftruncate(fd, 5);
      await posix.fchmod(fd, 0o600);
      await posix.fchown(fd, ALICE.uid, ALICE.gid);
      await posix.futimens(fd, { sec: 1, nsec: 2 }, { sec: 3, nsec: 4 });
      await posix.fsync(fd);
      const attr = await posix.fstat(fd);
      assert.deepEqual(
        [attr.sizeBytes, permissions(attr), attr.uid, attr.atimeNsec, attr.mtimeSec],
        [5, 0o600, ALICE.uid, 2, 3],
      );
      assert.equal((await posix.pread(fd, 100, 0)).toString(), "CONte");
      await put(posix, "f", "a new one");
      assert.equal((await posix.pread(fd, 100, 0)).toString(), "CONte");
      assert.notEqual(inode(await posix.stat("f")), inode(attr));
    });
    assert.deepEqual(await names(posix, "."), ["f"]);
  },

  "a file unlinked while two have it open lives until both are done": async ({ posix }) => {
    const other = posix.as({ ...ROOT, process: 1 });
    await put(posix, "f", "x");
    const [a, b] = [await posix.open("f", O.RDWR), await other.open("f", O.RDWR)];
    await other.unlink("f");
    await posix.pwrite(a, Buffer.from("from a"), 0);
    await posix.close(a);
    assert.equal((await other.pread(b, 100, 0)).toString(), "from a");
    await other.close(b);
  },

  "O_TMPFILE has no name until it gets one": async (t) => {
    await same(t, "tmpfile", async (posix) => {
      const opened = await outcome(posix.open(".", O.RDWR | O.TMPFILE, 0o640));
      if ("errno" in opened) return opened;
      const fd = opened.value as number;
      await posix.pwrite(fd, Buffer.from("hidden"), 0);
      const before = [(await posix.fstat(fd)).nlink, await names(posix, ".")];
      await posix.linkFd(fd, "named");
      await posix.pwrite(fd, Buffer.from("!"), 6);
      const attr = await posix.fstat(fd);
      await posix.close(fd);
      return [before, attr.nlink, permissions(attr), await getText(posix, "named")];
    });
  },

  "O_TMPFILE with O_EXCL never gets a name, and needs write access": async (t) => {
    await same(t, "tmpfile excl", async (posix) => {
      const results = [await outcome(posix.open(".", O.RDONLY | O.TMPFILE, 0o640))];
      await put(posix, "f");
      results.push(await outcome(posix.open("f", O.RDWR | O.TMPFILE, 0o640)));
      const opened = await outcome(posix.open(".", O.RDWR | O.TMPFILE | O.EXCL, 0o640));
      if ("errno" in opened) return [...results, opened];
      results.push(await outcome(posix.linkFd(opened.value as number, "named")));
      await posix.close(opened.value as number);
      return results;
    });
  },

  "an O_TMPFILE that is closed leaves nothing": async (t) => {
    await same(t, "tmpfile closed", async (posix) => {
      const opened = await outcome(posix.open(".", O.RDWR | O.TMPFILE, 0o640));
      if ("errno" in opened) return opened;
      await posix.pwrite(opened.value as number, Buffer.alloc(100_000, 1), 0);
      await posix.close(opened.value as number);
      return names(posix, ".");
    });
  },

  "writing clears set-user-id and set-group-id, as the kernel decides": async (t) => {
    const write = (own: Posix, path: string) =>
      withFd(own, path, O.WRONLY, (fd) => own.pwrite(fd, Buffer.from("x"), 0));
    await same(t, "write", (posix) => bitsAfter(posix, "write", write));
  },

  "truncating clears set-user-id and set-group-id, as the kernel decides": async (t) => {
    await same(t, "truncate", (posix) => bitsAfter(posix, "truncate", (own, path) => own.truncate(path, 3)));
    const open = (own: Posix, path: string) => withFd(own, path, O.WRONLY | O.TRUNC, async () => undefined);
    await same(t, "O_TRUNC", (posix) => bitsAfter(posix, "trunc", open));
    const shorten = (own: Posix, path: string) => withFd(own, path, O.RDWR, (fd) => own.ftruncate(fd, 3));
    await same(t, "ftruncate", (posix) => bitsAfter(posix, "ftrunc", shorten));
    const allocate = (own: Posix, path: string) => withFd(own, path, O.RDWR, (fd) => own.fallocate(fd, 0, 0, 100));
    await same(t, "fallocate", (posix) => bitsAfter(posix, "falloc", allocate));
  },

  "changing the owner clears set-user-id and set-group-id, as the kernel decides": async (t) => {
    const nothing = (own: Posix, path: string) => own.chown(path, -1, -1);
    if (!t.isFuse) await same(t, "chown nothing", (posix) => bitsAfter(posix, "nothing", nothing));
    else {
      // The kernel lets a stranger's chown of nothing pass, and does not say who it was; bits are cleared for the others.
      for (const [path, result, left] of await bitsAfter(t.posix, "nothing", nothing)) {
        const [, uid, mode = ""] = String(path).split("-");
        const cleared = mode === "2767" ? mode : "777";
        const wanted = Number(uid) === BOB.uid ? mode : cleared;
        assert.deepEqual([result, left], [{ value: undefined }, wanted], String(path));
      }
    }
    await same(t, "chown uid", (posix) => bitsAfter(posix, "uid", (own, path) => own.chown(path, BOB.uid, -1)));
    await same(t, "chown gid", (posix) => bitsAfter(posix, "gid", (own, path) => own.chown(path, -1, ALICE.gid)));
    await same(t, "directory", async (posix) => {
      await posix.mkdir("d");
      await posix.chmod("d", 0o6755);
      await posix.chown("d", ALICE.uid, ALICE.gid);
      return permissions(await posix.stat("d"));
    });
  },

  "an empty file and an empty write": async ({ posix }) => {
    await put(posix, "f");
    await withFd(posix, "f", O.RDWR, async (fd) => {
      assert.equal(await posix.pwrite(fd, Buffer.alloc(0), 100), 0);
      assert.equal((await posix.fstat(fd)).sizeBytes, 0);
    });
    assert.equal((await get(posix, "f")).length, 0);
  },
};
