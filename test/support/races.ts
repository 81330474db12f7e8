/** Two clients of one server that want the same at the same time. */
import assert from "node:assert/strict";
import { FsError } from "../../src/base/errors.ts";
import type { Remote } from "../../src/client/remote.ts";
import { type FileSystem, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { ctx, named as n } from "./link-drive.ts";
import type { MortalServer } from "./mortal-server.ts";

const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;
const MODE = { mode: 0o100644, umask: 0 };
const DIRECTORY = { mode: 0o755, umask: 0 };

/** What came of a call: "done", or its errno. */
export async function outcomeOf(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => "done",
    (error: unknown) => {
      if (error instanceof FsError) return error.errno;
      throw error;
    },
  );
}

/** Two clients want the same: one gets it, the other is told so. */
const ACTS: Record<string, [act: (fs: FileSystem, root: NodeId, f: NodeId) => Promise<unknown>, loses: string]> = {
  mkdir: [(fs, root) => fs.mkdir(ctx, root, n("new"), DIRECTORY), "EEXIST"],
  "exclusive create": [
    async (fs, root) => {
      const { opened } = await fs.create(ctx, root, n("new"), READ_WRITE | OpenFlag.EXCL, MODE);
      await fs.release(ctx, opened.handle);
    },
    "EEXIST",
  ],
  link: [(fs, root, f) => fs.link(ctx, f, root, n("new")), "EEXIST"],
  unlink: [(fs, root) => fs.unlink(ctx, root, n("f")), "ENOENT"],
};

export const RACES = Object.keys(ACTS);

/** Runs a race, and checks how it ends. */
export async function race(server: MortalServer, kind: string): Promise<void> {
  const [act, loses] = ACTS[kind] as (typeof ACTS)[string];
  const [a, b] = [await server.connect(), await server.connect()];
  const { id: root } = await a.fileSystem.root(ctx);
  const { entry, opened } = await a.fileSystem.create(ctx, root, n("f"), READ_WRITE, MODE);
  await a.fileSystem.release(ctx, opened.handle);
  const outcomes = await Promise.all([a, b].map(({ fileSystem }) => outcomeOf(act(fileSystem, root, entry.id))));
  assert.deepEqual(outcomes.sort(), [loses, "done"].sort());
  for (const remote of [a, b]) await remote.close();
}

const LINE = "the same\n";
const LINES = 3;

/** Two clients append the same to one file: none of it is lost, and none is there twice. */
export async function appendBoth(server: MortalServer): Promise<void> {
  const both = [await server.connect(), await server.connect()];
  const [{ fileSystem: fs }] = both as [Remote, Remote];
  const { id: root } = await fs.root(ctx);
  const append = async ({ fileSystem }: Remote) => {
    const { opened } = await fileSystem.create(ctx, root, n("log"), OpenFlag.WRITE | OpenFlag.APPEND, MODE);
    for (let line = 0; line < LINES; line += 1) await fileSystem.write(ctx, opened.handle, 0, Buffer.from(LINE));
    await fileSystem.release(ctx, opened.handle);
  };
  await Promise.all(both.map(append));
  const { attr } = await fs.lookup(ctx, root, n("log"));
  assert.equal(attr.sizeBytes, 2 * LINES * LINE.length);
  for (const remote of both) await remote.close();
}

/** A client makes a file in a directory that another one is about to make: both are there when both are told so. */
export async function makeInside(server: MortalServer): Promise<void> {
  const [a, b] = [await server.connect(), await server.connect()];
  const { id: root } = await a.fileSystem.root(ctx);
  const making = a.fileSystem.mkdir(ctx, root, n("d"), DIRECTORY);
  const inside = async ({ fileSystem: fs }: Remote) => {
    for (;;) {
      const found = await fs.lookup(ctx, root, n("d")).catch(() => undefined);
      if (found === undefined) continue;
      const outcome = await outcomeOf(fs.mkdir(ctx, found.id, n("e"), DIRECTORY));
      if (outcome === "done") return found.id;
      // It was not there to stay.
      assert.match(outcome, /^(ESTALE|ENOENT)$/);
    }
  };
  const [{ id: d }, found] = await Promise.all([making, inside(b)]);
  server.die();
  server.files.cut(() => false);
  assert.equal(found, d);
  await server.files.lookup(ctx, d, n("e"));
  for (const remote of [a, b]) await remote.close();
}
