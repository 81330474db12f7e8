/**
 * Times: what changes atime, mtime and ctime, and setting them to the nanosecond.
 */
import assert from "node:assert/strict";
import type { Attr } from "../../../src/vfs/attr.ts";
import { ALICE, BOB, O, type Posix } from "../../support/posix.ts";
import { type Cases, fails, outcome, put, same, timeNs, withFd } from "../case.ts";

/** Long ago, so that "changed" is never a question of the clock's step. */
const OLD = { sec: 1_000_000_000, nsec: 123_456_789 };

/** Which times `change` of `change()` moved, on each of `paths`; all are set to OLD before, ctime is waited out. */
async function moved(posix: Posix, paths: readonly string[], change: () => Promise<unknown>): Promise<string[]> {
  const before: Attr[] = [];
  for (const path of paths) await posix.lutimens(path, OLD, OLD);
  for (const path of paths) before.push(await posix.lstat(path));
  // The kernel's clock for files steps at every tick; the change has to come after the next step to be seen in ctime.
  await put(posix, "clock");
  const first = timeNs(await posix.stat("clock"), "ctime");
  for (let now = first; now === first; now = timeNs(await posix.stat("clock"), "ctime"))
    await posix.chmod("clock", 0o600);
  const result = await outcome(change());
  const found: string[] = "errno" in result ? [result.errno] : [];
  for (const [index, path] of paths.entries()) {
    const after = await posix.lstat(path);
    for (const kind of ["atime", "mtime", "ctime"] as const) {
      if (timeNs(after, kind) !== timeNs(before[index] as Attr, kind)) found.push(`${path} ${kind}`);
    }
  }
  return found;
}

/** Calls, the nodes to look at, and the times that move. atime is the mount's choice and is compared with the plain directory only. */
const CHANGES: Record<string, [paths: string[], change: (posix: Posix) => Promise<unknown>, expected: string[]]> = {
  write: [["f"], (p) => withFd(p, "f", O.WRONLY, (fd) => p.pwrite(fd, Buffer.from("x"), 0)), ["f mtime", "f ctime"]],
  truncate: [["f"], (p) => p.truncate("f", 2), ["f mtime", "f ctime"]],
  "truncate to the same size": [["f"], (p) => p.truncate("f", 7), ["f mtime", "f ctime"]],
  "open with O_TRUNC": [["f"], (p) => withFd(p, "f", O.WRONLY | O.TRUNC, async () => 0), ["f mtime", "f ctime"]],
  "open for writing": [["f"], (p) => withFd(p, "f", O.RDWR, async () => 0), []],
  chmod: [["f"], (p) => p.chmod("f", 0o600), ["f ctime"]],
  chown: [["f"], (p) => p.chown("f", ALICE.uid, -1), ["f ctime"]],
  link: [["f", "d"], (p) => p.link("f", "d/new"), ["f ctime", "d mtime", "d ctime"]],
  create: [["d"], (p) => put(p, "d/new"), ["d mtime", "d ctime"]],
  mkdir: [["d"], (p) => p.mkdir("d/new"), ["d mtime", "d ctime"]],
  symlink: [["d"], (p) => p.symlink("x", "d/new"), ["d mtime", "d ctime"]],
  mknod: [["d"], (p) => p.mknod("d/new", 0o010644), ["d mtime", "d ctime"]],
  unlink: [["d"], (p) => p.unlink("d/in"), ["d mtime", "d ctime"]],
  "unlink of one of two names": [["f", "d"], (p) => p.unlink("d/hard"), ["f ctime", "d mtime", "d ctime"]],
  rmdir: [["d"], (p) => p.rmdir("d/sub"), ["d mtime", "d ctime"]],
  "rename between directories": [
    ["d", "e"],
    (p) => p.rename("d/in", "e/in"),
    ["d mtime", "d ctime", "e mtime", "e ctime"],
  ],
  "failed unlink": [["d"], (p) => p.unlink("d/missing"), ["ENOENT"]],
  "failed rename": [["d"], (p) => p.rename("d/in", "d/missing/x"), ["ENOENT"]],
  utimens: [["f"], (p) => p.utimens("f", "omit", { sec: 9, nsec: 9 }), ["f mtime", "f ctime"]],
  "utimens that sets nothing": [["f"], (p) => p.utimens("f", "omit", "omit"), []],
  "stat, access, readlink and readdir": [["f", "l"], async (p) => [await p.stat("f"), await p.access("f", 4)], []],
};

async function prepare(posix: Posix): Promise<void> {
  await put(posix, "f", "content");
  await posix.symlink("f", "l");
  for (const path of ["d", "e", "d/sub"]) await posix.mkdir(path);
  await put(posix, "d/in");
  await posix.link("f", "d/hard");
}

function changeCases(): Cases {
  const cases: Record<string, Cases[string]> = {};
  for (const [label, [paths, change, expected]] of Object.entries(CHANGES)) {
    cases[`which times move: ${label}`] = async ({ posix }) => {
      await prepare(posix);
      assert.deepEqual(await moved(posix, paths, () => change(posix)), expected);
    };
  }
  return cases;
}

export const timeCases: Cases = {
  ...changeCases(),

  "times are kept to the nanosecond, before 1970 and after 2038": async (t) => {
    const times = [
      { sec: 0, nsec: 0 },
      { sec: 1, nsec: 1 },
      { sec: 1_700_000_000, nsec: 999_999_999 },
      { sec: 2 ** 31 - 1, nsec: 1 },
      { sec: 2 ** 31, nsec: 2 },
      { sec: 2 ** 33, nsec: 3 },
      { sec: -1, nsec: 999_999_999 },
      { sec: -(2 ** 31), nsec: 5 },
    ];
    await same(t, "times", async (posix) => {
      await put(posix, "f");
      await posix.mkdir("d");
      const results = [];
      for (const path of ["f", "d"]) {
        for (const time of times) {
          await posix.utimens(path, time, { sec: time.sec, nsec: (time.nsec + 7) % 1_000_000_000 });
          const attr = await posix.stat(path);
          results.push([path, attr.atimeSec, attr.atimeNsec, attr.mtimeSec, attr.mtimeNsec]);
        }
      }
      return results;
    });
  },

  "one time is set and the other left, by name and by descriptor": async ({ posix }) => {
    await put(posix, "f");
    await posix.utimens("f", OLD, OLD);
    await posix.utimens("f", { sec: 5, nsec: 50 }, "omit");
    let attr = await posix.stat("f");
    assert.deepEqual([timeNs(attr, "atime"), attr.mtimeSec], [5_000_000_050n, OLD.sec]);
    await withFd(posix, "f", O.RDONLY, (fd) => posix.futimens(fd, "omit", { sec: 6, nsec: 60 }));
    attr = await posix.stat("f");
    assert.deepEqual([timeNs(attr, "atime"), timeNs(attr, "mtime")], [5_000_000_050n, 6_000_000_060n]);
  },

  "'now' is now": async ({ posix }) => {
    await put(posix, "f");
    await put(posix, "g");
    const before = timeNs(await posix.stat("g"), "ctime");
    await posix.utimens("f", OLD, OLD);
    await posix.utimens("f", "now", "now");
    const attr = await posix.stat("f");
    assert.ok(timeNs(attr, "mtime") >= before && timeNs(attr, "atime") >= before);
    assert.ok(timeNs(attr, "mtime") < before + 60_000_000_000n);
  },

  "who may set times": async (t) => {
    await same(t, "who", async (posix) => {
      await put(posix, "f", "", 0o664);
      await posix.chown("f", ALICE.uid, BOB.gid);
      const results = [];
      for (const who of [ALICE, BOB, { ...BOB, gid: 99 }]) {
        const own = posix.as(who);
        results.push(await outcome(own.utimens("f", "now", "now")));
        results.push(await outcome(own.utimens("f", OLD, OLD)));
        results.push(await outcome(own.utimens("f", "now", "omit")));
        results.push(await outcome(own.utimens("f", "omit", "omit")));
      }
      return results;
    });
    await fails("EINVAL", t.posix.utimens("f", { sec: 1, nsec: 1_000_000_000 }, "now"));
    await fails("EINVAL", t.posix.utimens("f", "now", { sec: 1, nsec: -1 }));
    await fails("ENOENT", t.posix.utimens("missing", "now", "now"));
  },

  "a new node's times are the present, and it has a birth time that stays": async (t) => {
    const made = await t.posix.mkdir("d").then(() => t.posix.stat("d"));
    const plain = await t.truth.mkdir("d").then(() => t.truth.stat("d"));
    assert.equal(made.btimeSec === 0, plain.btimeSec === 0);
    await t.posix.utimens("d", OLD, OLD);
    assert.equal(timeNs(await t.posix.stat("d"), "btime"), timeNs(made, "btime"));
    const difference = timeNs(made, "mtime") - timeNs(plain, "mtime");
    assert.ok(difference < 60_000_000_000n && difference > -60_000_000_000n);
  },
};
