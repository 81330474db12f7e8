/**
 * Who may do what: the matrix of owner, group, supplementary group and others against all permission bits, and changes of mode and owner.
 */
import assert from "node:assert/strict";
import { ALICE, BOB, type Identity, O, type Posix, ROOT } from "../../support/posix.ts";
import { type Cases, fails, outcome, permissions, put, same, withFd } from "../case.ts";

const GROUP = 62_100;
/** Who looks at nodes of owner ALICE and group GROUP. */
const PEOPLE: Record<string, Identity> = {
  root: ROOT,
  owner: ALICE,
  "owner in the group": { ...ALICE, gid: GROUP },
  group: { uid: 61_003, gid: GROUP },
  "supplementary group": { uid: 61_004, gid: 62_004, groups: [7, GROUP, 62_200] },
  other: { uid: 61_005, gid: 62_005, groups: [62_101] },
};

const result = async (call: Promise<unknown>): Promise<string> => {
  const came = await outcome(call);
  return "errno" in came ? came.errno : "ok";
};

/** What `own` can do with the file. */
async function fileRights(own: Posix, path: string): Promise<Record<string, string>> {
  const opened = (flags: number) => result(withFd(own, path, flags, async () => 0));
  return {
    read: await opened(O.RDONLY),
    write: await opened(O.WRONLY),
    both: await opened(O.RDWR),
    append: await opened(O.WRONLY | O.APPEND),
    access4: await result(own.access(path, 4)),
    access2: await result(own.access(path, 2)),
    access1: await result(own.access(path, 1)),
    access7: await result(own.access(path, 7)),
    access0: await result(own.access(path, 0)),
    truncate: await result(own.truncate(path, 1)),
  };
}

/** What `own` can do with the directory and in it. */
async function directoryRights(own: Posix, path: string): Promise<Record<string, string>> {
  return {
    list: await result(withFd(own, path, O.RDONLY | O.DIRECTORY, (fd) => own.getdents(fd, 0n, 4096).then(() => 0))),
    search: await result(own.stat(`${path}/in`)),
    dot: await result(own.stat(`${path}/.`)),
    make: await result(own.mkdir(`${path}/new-${own.identity.uid}-${own.identity.gid}`)),
    unlink: await result(own.unlink(`${path}/missing`)),
    access: await result(own.access(path, 7)),
    open: await result(withFd(own, `${path}/in`, O.RDONLY, async () => 0)),
  };
}

/** Every mode with each of the three triples at each value, the others empty and full. */
function* modes(): Generator<number> {
  for (const shift of [0, 3, 6]) {
    for (let bits = 0; bits < 8; bits++) {
      yield bits << shift;
      yield (0o777 & ~(7 << shift)) | (bits << shift);
    }
  }
}

export const permissionCases: Cases = {
  "files: every triple of bits against everyone": async (t) => {
    await same(t, "files", async (posix) => {
      const rows = [...modes()].map(async (mode, index) => {
        const path = `f${index}`;
        await put(posix, path, "content");
        await posix.chown(path, ALICE.uid, GROUP);
        await posix.chmod(path, mode);
        const people = Object.entries(PEOPLE).map(
          async ([label, who]) => [label, await fileRights(posix.as(who), path)] as const,
        );
        return [mode.toString(8), Object.fromEntries(await Promise.all(people))] as const;
      });
      return Promise.all(rows);
    });
  },

  "directories: every triple of bits against everyone": async (t) => {
    await same(t, "directories", async (posix) => {
      const rows = [...modes()].map(async (mode, index) => {
        const path = `d${index}`;
        await posix.mkdir(path);
        await put(posix, `${path}/in`, "content");
        await posix.chown(path, ALICE.uid, GROUP);
        await posix.chmod(path, mode);
        const people = Object.entries(PEOPLE).map(
          async ([label, who]) => [label, await directoryRights(posix.as(who), path)] as const,
        );
        return [mode.toString(8), Object.fromEntries(await Promise.all(people))] as const;
      });
      return Promise.all(rows);
    });
  },

  "chmod is for the owner and root, and drops set-group-id of strangers to the group": async (t) => {
    await same(t, "chmod", async (posix) => {
      const results = [];
      for (const [label, who] of Object.entries(PEOPLE)) {
        for (const mode of [0o000, 0o7777, 0o2755, 0o4711, 0o1644]) {
          const path = `${label}-${mode.toString(8)}`;
          await put(posix, path);
          await posix.chown(path, ALICE.uid, GROUP);
          await posix.chmod(path, 0o640);
          const came = await result(posix.as(who).chmod(path, mode));
          results.push([path, came, permissions(await posix.stat(path)).toString(8)]);
        }
      }
      return results;
    });
  },

  "chown: root anything, the owner only to own groups": async (t) => {
    await same(t, "chown", async (posix) => {
      const results = [];
      const changes: [number, number][] = [
        [-1, -1],
        [BOB.uid, -1],
        [ALICE.uid, -1],
        [-1, GROUP],
        [-1, 62_200],
        [-1, ALICE.gid],
        [BOB.uid, BOB.gid],
        [ALICE.uid, GROUP],
      ];
      const people = { ...PEOPLE, "owner with groups": { ...ALICE, groups: [GROUP, 62_200] } };
      for (const [label, who] of Object.entries(people)) {
        for (const [uid, gid] of changes) {
          const path = `${label}-${uid}-${gid}`;
          await put(posix, path);
          await posix.chown(path, ALICE.uid, GROUP);
          const came = await result(posix.as(who).chown(path, uid, gid));
          const attr = await posix.stat(path);
          results.push([path, came, attr.uid, attr.gid]);
        }
      }
      return results;
    });
  },

  "search permission is needed on every directory of the path": async ({ posix }) => {
    await posix.mkdir("a");
    await posix.mkdir("a/b");
    await posix.mkdir("a/b/c");
    await put(posix, "a/b/c/f", "x", 0o666);
    const own = posix.as(ALICE);
    await own.stat("a/b/c/f");
    for (const dir of ["a", "a/b", "a/b/c"]) {
      await posix.chmod(dir, 0o766);
      await fails("EACCES", own.stat("a/b/c/f"));
      await fails("EACCES", own.open("a/b/c/f", O.RDONLY));
      await fails("EACCES", own.stat("a/b/c/missing"));
      await fails("EACCES", own.unlink("a/b/c/f"));
      await fails("EACCES", own.chmod("a/b/c/f", 0o600));
      await fails("EACCES", own.readlink("a/b/c/f"));
      await fails("EACCES", own.rename("a/b/c/f", "x"));
      await posix.chmod(dir, 0o755);
    }
    await own.stat("a/b/c/f");
  },

  "an open descriptor keeps its rights when the bits go": async ({ posix }) => {
    await put(posix, "f", "0123456789");
    await posix.chown("f", ALICE.uid, ALICE.gid);
    const own = posix.as(ALICE);
    await withFd(own, "f", O.RDWR, async (fd) => {
      await posix.chmod("f", 0o000);
      assert.equal((await own.pread(fd, 4, 0)).toString(), "0123");
      assert.equal(await own.pwrite(fd, Buffer.from("ab"), 0), 2);
      await own.ftruncate(fd, 4);
      assert.equal((await own.fstat(fd)).sizeBytes, 4);
    });
    await fails("EACCES", own.open("f", O.RDONLY));
    await posix.chown("f", BOB.uid, BOB.gid);
    await posix.chmod("f", 0o644);
    await withFd(own, "f", O.RDONLY, async (fd) => {
      await posix.chmod("f", 0o600);
      assert.equal((await own.pread(fd, 2, 0)).toString(), "ab");
    });
  },

  "execute permission of root needs one bit": async ({ posix }) => {
    await put(posix, "f", "", 0o644);
    await fails("EACCES", posix.access("f", 1));
    await posix.chmod("f", 0o654);
    await posix.access("f", 1);
    await posix.mkdir("d", 0o000);
    await posix.access("d", 7);
  },

  "access of what is not there, and with a wrong mask": async ({ posix }) => {
    await put(posix, "f");
    await fails("ENOENT", posix.access("missing", 0));
    await fails("ENOTDIR", posix.access("f/x", 4));
    await fails("EINVAL", posix.access("f", 8));
  },
};
