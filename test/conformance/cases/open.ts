/**
 * open(2): every combination of flags against every kind of node, errno values, modes, umask and what a descriptor may do.
 */
import assert from "node:assert/strict";
import { ALICE, BOB, O, type Posix, ROOT } from "../../support/posix.ts";
import { type CaseContext, type Cases, fails, get, getText, outcome, permissions, put, same, withFd } from "../case.ts";

/** Kinds of nodes a path can name, and how they are made. */
const TARGETS: Record<string, (posix: Posix) => Promise<unknown>> = {
  missing: async () => undefined,
  file: (posix) => put(posix, "target", "0123456789"),
  directory: (posix) => posix.mkdir("target"),
  "link to file": async (posix) => {
    await put(posix, "real", "0123456789");
    await posix.symlink("real", "target");
  },
  "link to directory": async (posix) => {
    await posix.mkdir("real");
    await posix.symlink("real", "target");
  },
  "dangling link": (posix) => posix.symlink("nowhere", "target"),
  "looping link": (posix) => posix.symlink("target", "target"),
  socket: (posix) => posix.mknod("target", 0o140644),
};

const ACCESS = { RDONLY: O.RDONLY, WRONLY: O.WRONLY, RDWR: O.RDWR };
const MODIFIERS = ["CREAT", "EXCL", "TRUNC", "APPEND", "DIRECTORY", "NOFOLLOW"] as const;

/** All access modes with all subsets of the modifiers, and their names. */
function* flagCombinations(): Generator<[string, number]> {
  for (const [access, accessBits] of Object.entries(ACCESS)) {
    for (let set = 0; set < 1 << MODIFIERS.length; set++) {
      const chosen = MODIFIERS.filter((_, index) => set & (1 << index));
      yield [[access, ...chosen].join("|"), chosen.reduce((bits, name) => bits | O[name], accessBits)];
    }
  }
}

/** What opening did: the errno, or what the descriptor can do and what became of the file. */
async function openAndUse(posix: Posix, flags: number): Promise<unknown> {
  const opened = await outcome(posix.open("target", flags, 0o640));
  if ("errno" in opened) return opened;
  const fd = opened.value as number;
  const before = await posix.fstat(fd);
  const used = {
    type: before.mode,
    size: before.mode & 0o040000 ? 0 : before.sizeBytes,
    read: await outcome(posix.pread(fd, 4, 0)),
    write: await outcome(posix.pwrite(fd, Buffer.from("ab"), 2)),
    truncate: await outcome(posix.ftruncate(fd, 6)),
  };
  await posix.close(fd);
  const content = await outcome(get(posix, "target"));
  return { ...used, content: "value" in content ? (content.value as Buffer).toString() : content };
}

/** Runs the whole table for one kind of target; a fresh directory for every row. */
async function openTable(posix: Posix, make: (posix: Posix) => Promise<unknown>): Promise<Record<string, unknown>> {
  const rows = await Promise.all(
    [...flagCombinations()].map(async ([label, flags], index) => {
      await posix.mkdir(`d${index}`);
      const own = posix.below(`d${index}`);
      await make(own);
      return [label, await openAndUse(own, flags)] as const;
    }),
  );
  return Object.fromEntries(rows);
}

function tableCases(): Cases {
  const cases: Record<string, (t: CaseContext) => Promise<void>> = {};
  for (const [kind, make] of Object.entries(TARGETS)) {
    cases[`open with every combination of flags on: ${kind}`] = async ({ posix, truth }) => {
      assert.deepEqual(await openTable(posix, make), await openTable(truth, make));
    };
  }
  return cases;
}

export const openCases: Cases = {
  ...tableCases(),

  "a new file has the mode asked for less the umask": async ({ posix }) => {
    for (const umask of [0o000, 0o022, 0o077, 0o777]) {
      const own = posix.as({ ...ROOT, umask });
      for (const mode of [0o000, 0o600, 0o666, 0o777, 0o4755, 0o2755, 0o1777]) {
        const name = `f-${umask.toString(8)}-${mode.toString(8)}`;
        await own.close(await own.open(name, O.RDWR | O.CREAT, mode));
        assert.equal(permissions(await posix.stat(name)), mode & ~umask, name);
      }
    }
  },

  "a new file of mode 0 can be written by the open that made it": async ({ posix }) => {
    const own = posix.as(ALICE);
    await posix.chmod(".", 0o777);
    const fd = await own.open("f", O.RDWR | O.CREAT, 0);
    assert.equal(await own.pwrite(fd, Buffer.from("still"), 0), 5);
    assert.equal((await own.pread(fd, 10, 0)).toString(), "still");
    await own.close(fd);
    await fails("EACCES", own.open("f", O.RDONLY));
    assert.equal(await getText(posix, "f"), "still");
  },

  "a new file belongs to who made it": async ({ posix }) => {
    await posix.chmod(".", 0o777);
    await posix.as(BOB).close(await posix.as(BOB).open("f", O.WRONLY | O.CREAT, 0o600));
    const attr = await posix.stat("f");
    assert.deepEqual([attr.uid, attr.gid, attr.nlink, attr.sizeBytes], [BOB.uid, BOB.gid, 1, 0]);
  },

  "O_EXCL fails on a dangling link and leaves it": async ({ posix }) => {
    await posix.symlink("nowhere", "l");
    await fails("EEXIST", posix.open("l", O.RDWR | O.CREAT | O.EXCL));
    await fails("ENOENT", posix.lstat("nowhere"));
  },

  "O_CREAT through a dangling link makes its target": async ({ posix }) => {
    await posix.mkdir("d");
    await posix.symlink("d/made", "l");
    await put(posix, "l", "x");
    assert.equal(await getText(posix, "d/made"), "x");
  },

  "O_CREAT at the end of a chain of 40 links works, of 41 is ELOOP": async ({ posix }) => {
    await posix.symlink("made", "l1");
    for (let i = 2; i <= 41; i++) await posix.symlink(`l${i - 1}`, `l${i}`);
    await fails("ELOOP", posix.open("l41", O.RDWR | O.CREAT));
    await put(posix, "l40", "x");
    assert.equal(await getText(posix, "made"), "x");
  },

  "O_TRUNC empties the file also when opened for reading only": async ({ posix }) => {
    await put(posix, "f", "content");
    await posix.close(await posix.open("f", O.RDONLY | O.TRUNC));
    assert.equal((await posix.stat("f")).sizeBytes, 0);
  },

  "O_TRUNC needs permission to write": async ({ posix }) => {
    await put(posix, "f", "content", 0o444);
    await fails("EACCES", posix.as(ALICE).open("f", O.RDONLY | O.TRUNC));
    assert.equal(await getText(posix, "f"), "content");
  },

  "a path through a file is ENOTDIR, with a trailing slash too": async ({ posix }) => {
    await put(posix, "f");
    for (const path of ["f/x", "f/", "f/."]) await fails("ENOTDIR", posix.open(path, O.RDONLY));
    await fails("ENOENT", posix.open("", O.RDONLY));
    await fails("ENOENT", posix.open("no/x", O.RDWR | O.CREAT));
    await fails("EISDIR", posix.open("new/", O.RDWR | O.CREAT));
  },

  "O_NOATIME is for the owner": async ({ posix }) => {
    await put(posix, "f", "x", 0o666);
    await fails("EPERM", posix.as(ALICE).open("f", O.RDONLY | O.NOATIME));
    await posix.chown("f", ALICE.uid, ALICE.gid);
    await posix.as(ALICE).close(await posix.as(ALICE).open("f", O.RDONLY | O.NOATIME));
  },

  "O_PATH opens without permission to read, and only names": async ({ posix }) => {
    await put(posix, "f", "x", 0o000);
    const own = posix.as(ALICE);
    const fd = await own.open("f", O.PATH);
    assert.equal((await own.fstat(fd)).sizeBytes, 1);
    await fails("EBADF", own.pread(fd, 1, 0));
    await fails("EBADF", own.pwrite(fd, Buffer.from("x"), 0));
    await own.close(fd);
    await posix.symlink("f", "l");
    await withFd(posix, "l", O.PATH | O.NOFOLLOW, async (link) => {
      assert.equal((await posix.fstat(link)).mode & 0o170000, 0o120000);
    });
  },

  "O_SYNC and O_DSYNC opens read what they wrote": async (t) => {
    for (const [label, flag] of Object.entries({ SYNC: O.SYNC, DSYNC: O.DSYNC })) {
      await same(t, label, async (posix) => {
        const block = Buffer.alloc(8192, label);
        await withFd(posix, label, O.RDWR | O.CREAT | flag, async (fd) => {
          assert.equal(await posix.pwrite(fd, block, 4096), 8192);
        });
        const read = await get(posix, label);
        return [read.length, read.subarray(4096).equals(block)];
      });
    }
  },

  "a closed descriptor is EBADF everywhere": async ({ posix }) => {
    const fd = await posix.open("f", O.RDWR | O.CREAT);
    await posix.close(fd);
    await fails("EBADF", posix.close(fd));
    await fails("EBADF", posix.fstat(fd));
    await fails("EBADF", posix.pread(fd, 1, 0));
    await fails("EBADF", posix.pwrite(fd, Buffer.from("x"), 0));
    await fails("EBADF", posix.ftruncate(fd, 0));
    await fails("EBADF", posix.fsync(fd));
    await fails("EBADF", posix.getdents(fd, 0n, 4096));
  },

  "fsync and fdatasync work on files, and on directories": async ({ posix }) => {
    await withFd(posix, "f", O.RDWR | O.CREAT, async (fd) => {
      await posix.pwrite(fd, Buffer.from("x"), 0);
      await posix.fdatasync(fd);
      await posix.fsync(fd);
    });
    await withFd(posix, ".", O.RDONLY | O.DIRECTORY, (fd) => posix.fsync(fd));
  },
};
