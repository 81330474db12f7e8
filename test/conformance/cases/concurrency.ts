/**
 * Several processes at once: who wins is open, but the result is one of those a local disk gives.
 */
import assert from "node:assert/strict";
import { RenameFlag } from "../../../src/vfs/file-system.ts";
import { O, type Posix, ROOT } from "../../support/posix.ts";
import { type Cases, get, names, outcome, put, tree, withFd } from "../case.ts";
import { pattern } from "./data.ts";

const PROCESSES = [0, 1, 2];

/** Runs `body` in three processes at once. */
function together<T>(posix: Posix, body: (own: Posix, process: number) => Promise<T>): Promise<T[]> {
  return Promise.all(PROCESSES.map((process) => body(posix.as({ ...ROOT, process }), process)));
}

const won = async (call: Promise<unknown>): Promise<string> => {
  const came = await outcome(call);
  return "errno" in came ? came.errno : "ok";
};

export const concurrencyCases: Cases = {
  "exactly one of three makes each name": async ({ posix }) => {
    const ways: Record<string, (own: Posix, path: string) => Promise<unknown>> = {
      mkdir: (own, path) => own.mkdir(path),
      exclusive: (own, path) => withFd(own, path, O.WRONLY | O.CREAT | O.EXCL, async () => 0),
      symlink: (own, path) => own.symlink("x", path),
      link: (own, path) => own.link("source", path),
      rename: (own, path) => own.rename(`source-${own.identity.process}-${path}`, path, RenameFlag.NOREPLACE),
    };
    await put(posix, "source");
    for (const [label, make] of Object.entries(ways)) {
      const paths = Array.from({ length: 20 }, (_, i) => `${label}-${i}`);
      for (const process of PROCESSES) for (const path of paths) await put(posix, `source-${process}-${path}`);
      const results = await together(posix, (own) => Promise.all(paths.map((path) => won(make(own, path)))));
      for (const [index, path] of paths.entries()) {
        assert.deepEqual(results.map((row) => row[index]).sort(), ["EEXIST", "EEXIST", "ok"], path);
      }
    }
  },

  "exactly one of three removes each name": async ({ posix }) => {
    const paths = Array.from({ length: 60 }, (_, i) => `f${i}`);
    await Promise.all(paths.map((path) => put(posix, path)));
    const results = await together(posix, (own) => Promise.all(paths.map((path) => won(own.unlink(path)))));
    for (const index of paths.keys()) {
      assert.deepEqual(results.map((row) => row[index]).sort(), ["ENOENT", "ENOENT", "ok"]);
    }
    assert.deepEqual(await names(posix, "."), []);
  },

  "three processes write their own parts of one file": async ({ posix }) => {
    const part = 200_000;
    await put(posix, "f");
    await together(posix, (own, process) =>
      withFd(own, "f", O.RDWR, async (fd) => {
        const data = pattern(part, process + 1);
        const writes = [];
        for (let at = 0; at < part; at += 7001) {
          writes.push(own.pwrite(fd, data.subarray(at, Math.min(at + 7001, part)), process * part + at));
        }
        await Promise.all(writes);
      }),
    );
    const whole = await get(posix, "f");
    for (const process of PROCESSES) {
      assert.ok(whole.subarray(process * part, (process + 1) * part).equals(pattern(part, process + 1)));
    }
  },

  "replacing a file by rename shows the old or the new, never neither": async ({ posix }) => {
    await put(posix, "f", "version 0");
    const writer = posix.as({ ...ROOT, process: 1 });
    const reader = posix.as({ ...ROOT, process: 2 });
    const write = (async () => {
      for (let i = 1; i <= 60; i++) {
        await put(writer, "next", `version ${i}`);
        await writer.rename("next", "f");
      }
    })();
    const read = (async () => {
      let last = 0;
      for (let i = 0; i < 120; i++) {
        const version = Number((await get(reader, "f")).toString().match(/^version (\d+)$/)?.[1]);
        assert.ok(version >= last, `version ${version} after ${last}`);
        last = version;
      }
    })();
    await Promise.all([write, read]);
    assert.equal((await get(posix, "f")).toString(), "version 60");
  },

  "three processes build and remove trees side by side": async ({ posix }) => {
    await together(posix, async (own, process) => {
      for (let round = 0; round < 3; round++) {
        const top = `t${process}`;
        await own.mkdir(top);
        for (let i = 0; i < 10; i++) {
          await own.mkdir(`${top}/d${i}`);
          await put(own, `${top}/d${i}/f`, `${process} ${i}`);
          await own.rename(`${top}/d${i}/f`, `${top}/f${i}`);
          await own.rmdir(`${top}/d${i}`);
        }
        for (const name of await names(own, top)) await own.unlink(`${top}/${name}`);
        await own.rmdir(top);
      }
    });
    assert.equal((await tree(posix)).length, 1);
  },

  "directories renamed against each other never make a loop": async ({ posix }) => {
    await posix.mkdir("a");
    await posix.mkdir("b");
    const results = await together(posix, async (own, process) => {
      const came = [];
      for (let i = 0; i < 20; i++) {
        came.push(await won(process === 0 ? own.rename("a", "b/a") : own.rename("b", "a/b")));
        came.push(await won(process === 0 ? own.rename("b/a", "a") : own.rename("a/b", "b")));
      }
      return came;
    });
    const allowed = new Set(["ok", "ENOENT", "EINVAL", "ENOTEMPTY", "ENOTDIR"]);
    assert.deepEqual(
      results.flat().filter((result) => !allowed.has(result)),
      [],
    );
    assert.equal((await tree(posix)).length, 3);
  },

  "fsync, truncate and writes at once on one file": async ({ posix }) => {
    await put(posix, "f");
    await together(posix, (own, process) =>
      withFd(own, "f", O.RDWR, async (fd) => {
        for (let i = 0; i < 30; i++) {
          if (process === 0) await own.ftruncate(fd, (i % 3) * 5000);
          else if (process === 1) await own.pwrite(fd, Buffer.alloc(3000, 0x61), i * 100);
          else await own.fsync(fd);
        }
      }),
    );
    const data = await get(posix, "f");
    assert.ok(data.every((byte) => byte === 0 || byte === 0x61));
    assert.equal((await posix.stat("f")).sizeBytes, data.length);
  },
};
