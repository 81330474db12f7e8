/**
 * What a disk does in a process that is not root: the program of unprivileged.test.ts, started with the directory to serve.
 *
 * It starts as root, because the code may lie where only root may read, and gives that up before it opens the disk.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { silentLog } from "../../src/base/log.ts";
import { createDisk } from "../../src/disk/disk.ts";
import { loadAddon } from "../../src/sys/addon.ts";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { type NodeLock, WHOLE_FILE } from "../../src/vfs/lock.ts";
import { as, asRoot, mode, n, READ_WRITE, refused } from "../support/scratch-disk.ts";

const exclusive: NodeLock = { ...WHOLE_FILE, kind: "posix", type: "write" };
const directory = process.argv[2] as string;
loadAddon();
process.setgroups?.([]);
process.setgid?.(65534);
process.setuid?.(65534);

await refused("EPERM", createDisk({ directory, applyCredentials: true, log: silentLog }));
const limits = { nodeDescriptorsMax: 2 };
const disk = await createDisk({ directory, applyCredentials: false, log: silentLog, limits });
const { id: root } = await disk.root(asRoot);

// Everything is the process's, whoever asks; the umask is the caller's.
const { entry, opened } = await disk.create(as(1000), root, n("f"), READ_WRITE, mode(0o6777, 0o027));
assert.deepEqual([entry.attr.uid, entry.attr.mode & 0o7777], [65534, 0o6750]);
await disk.write(asRoot, opened.handle, 0, Buffer.from("x"));
assert.equal((await disk.getattr(asRoot, entry.id)).mode & 0o7777, 0o750);
await disk.release(asRoot, opened.handle);
await refused("EPERM", disk.setattr(asRoot, entry.id, { uid: 0 }));
await refused("EPERM", disk.mknod(asRoot, root, n("dev"), { ...mode(0o020666), rdevMajor: 1, rdevMinor: 3 }));
await refused(
  "EACCES",
  disk.setattr(asRoot, entry.id, { mode: 0 }).then(() => disk.open(asRoot, entry.id, OpenFlag.READ)),
);
await disk.setattr(asRoot, entry.id, { mode: 0o644 });

// Shared locks that only the open there is could hold go along when an exclusive one can be had.
const read = await disk.open(asRoot, entry.id, OpenFlag.READ);
const both = await disk.open(asRoot, entry.id, READ_WRITE);
await disk.setattr(asRoot, entry.id, { mode: 0 });
await disk.lockNode?.(asRoot, read.handle, { ...WHOLE_FILE, kind: "posix", type: "read" });
await refused("ENOLCK", disk.lockNode?.(asRoot, read.handle, exclusive) as Promise<unknown>);
await disk.setattr(asRoot, entry.id, { mode: 0o644 });
await disk.lockNode?.(asRoot, both.handle, exclusive);
// What it held of flock's is free when it is unlocked, though it stays.
await disk.setattr(asRoot, entry.id, { mode: 0 });
await disk.lockNode?.(asRoot, both.handle, { ...exclusive, kind: "flock" });
await disk.setattr(asRoot, entry.id, { mode: 0o644 });
const flockBeside = () => spawnSync("flock", ["--nonblock", join(directory, "f"), "true"]).status;
assert.equal(flockBeside(), 1);
await disk.lockNode?.(asRoot, both.handle, { ...exclusive, kind: "flock", type: "unlock" });
assert.equal(flockBeside(), 0);
for (const { handle } of [read, both]) await disk.release(asRoot, handle);

// Nodes whose descriptor was closed are found by name, through directories that moved since.
let parent = root;
const chain: NodeId[] = [];
for (let depth = 0; depth < 20; depth++) {
  parent = (await disk.mkdir(asRoot, parent, n("d"), mode(0o755))).id;
  chain.push(parent);
}
const deep = await disk.create(asRoot, parent, n("deep"), READ_WRITE, mode(0o644));
await disk.release(asRoot, deep.opened.handle);
await disk.rename(asRoot, root, n("d"), root, n("moved"), 0);
await disk.rename(asRoot, parent, n("deep"), chain[3] as NodeId, n("deeper"), 0);
for (const id of [...chain, deep.entry.id, root]) await disk.access(asRoot, id, 4);
assert.equal((await disk.getattr(asRoot, deep.entry.id)).nlink, 1);

// One of two names goes: the other still leads there, after a lookup.
await disk.link(asRoot, entry.id, root, n("g"));
await disk.unlink(asRoot, root, n("g"));
assert.equal((await disk.lookup(asRoot, root, n("f"))).id, entry.id);
for (const id of chain) await disk.getattr(asRoot, id);
assert.equal((await disk.getattr(asRoot, entry.id)).nlink, 1);

// Moved beside the disk while nothing held it: stale, until it is looked up where it is now.
for (const id of chain) await disk.getattr(asRoot, id);
renameSync(join(directory, "f"), join(directory, "h"));
await refused("ESTALE", disk.getattr(asRoot, entry.id));
assert.equal((await disk.lookup(asRoot, root, n("h"))).id, entry.id);
assert.equal((await disk.getattr(asRoot, entry.id)).nlink, 1);
assert.equal(statSync(join(directory, "h")).uid, 65534);

// Another process finds it by its path and knows it from a stranger; what was opened for writing opens so again, though nobody may now.
const written = await disk.open(asRoot, entry.id, READ_WRITE);
const record = disk.recovery?.describe(written.handle) as Buffer;
await disk.release(asRoot, written.handle);
await disk.setattr(asRoot, entry.id, { mode: 0o400 });
const next = await createDisk({ directory, applyCredentials: false, log: silentLog });
assert.equal((await next.recovery?.recall(asRoot, record))?.id, entry.id);
await refused("EACCES", next.open(asRoot, entry.id, READ_WRITE));
const again = await next.recovery?.reopen(asRoot, entry.id, READ_WRITE);
await next.write(asRoot, again?.handle as HandleId, 0, Buffer.from("y"));
await next.release(asRoot, again?.handle as HandleId);
assert.equal((await next.getattr(asRoot, entry.id)).mode & 0o7777, 0o400);
renameSync(join(directory, "h"), join(directory, "i"));
await refused("ENOENT", next.recovery?.recall(asRoot, record) as Promise<unknown>);
writeFileSync(join(directory, "h"), "a stranger");
await refused("ESTALE", next.recovery?.recall(asRoot, record) as Promise<unknown>);
renameSync(join(directory, "i"), join(directory, "h"));
await next.close();

// What is open without a name is kept for the next process as well.
const keeper = await createDisk({ directory, applyCredentials: false, log: silentLog, keepsUnlinked: true });
const doomed = await keeper.create(asRoot, root, n("doomed"), READ_WRITE, mode(0o600));
const doomedRecord = keeper.recovery?.describe(doomed.opened.handle) as Buffer;
await keeper.unlink(asRoot, root, n("doomed"));
assert.equal((await keeper.getattr(asRoot, doomed.entry.id)).nlink, 0);
await keeper.close();
const heir = await createDisk({ directory, applyCredentials: false, log: silentLog, keepsUnlinked: true });
assert.equal((await heir.recovery?.recall(asRoot, doomedRecord))?.id, doomed.entry.id);
const inherited = await heir.recovery?.reopen(asRoot, doomed.entry.id, READ_WRITE);
assert.equal(inherited?.attr.nlink, 0);
await heir.release(asRoot, inherited?.handle as HandleId);
await heir.close();
assert.ok(!readdirSync(directory).includes(".netdrive-kept"));

// A directory one may not read can be served all the same.
await disk.setattr(asRoot, root, { mode: 0o300 });
const blind = await createDisk({ directory, applyCredentials: false, log: silentLog });
const blindRoot = (await blind.root(asRoot)).id;
assert.equal((await blind.lookup(asRoot, blindRoot, n("h"))).id, entry.id);
await refused("EACCES", blind.opendir(asRoot, blindRoot));
await blind.syncfs(asRoot, blindRoot);
await blind.close();
await disk.setattr(asRoot, root, { mode: 0o755 });
await disk.close();
process.stdout.write("done\n");
