/** Effects on the disk: each sync is of everything that was done before it began, many requests share one, and a failed one is told to all it was for. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../../src/base/errors.ts";
import type { ServedRequest } from "../../../src/server/served-request.ts";
import { Effects, SharedSyncs } from "../../../src/server/state/effects.ts";
import { settle } from "../../support/fake-clock.ts";

/** Syncs that end when they are told to. */
class HeldSyncs {
  readonly begun: string[] = [];
  readonly #ends: ((error?: Error) => void)[] = [];

  sync = (name: string) => () =>
    new Promise<void>((resolve, reject) => {
      this.begun.push(name);
      this.#ends.push((error) => (error === undefined ? resolve() : reject(error)));
    });

  /** The two oldest will end in the other order. */
  swap(): void {
    this.#ends.splice(0, 2, ...this.#ends.slice(0, 2).reverse());
  }

  async end(error?: Error): Promise<void> {
    this.#ends.shift()?.(error);
    await settle();
  }
}

test("what is done in one turn shares a sync, and so does all that comes while another one is under way", async () => {
  const [syncs, held] = [new SharedSyncs(), new HeldSyncs()];
  const ended: string[] = [];
  const ask = (name: string) => void syncs.of("d", held.sync(name)).then(() => ended.push(name));
  ask("a");
  ask("b");
  await settle();
  for (const name of ["c", "d", "e"]) ask(name);
  await settle();
  assert.deepEqual(held.begun, ["a"], "nothing of c, d and e may be in it");
  await held.end();
  assert.deepEqual(ended, ["a", "b"]);
  assert.deepEqual(held.begun, ["a", "c"]);
  ask("f");
  await settle();
  await held.end();
  assert.deepEqual(ended, ["a", "b", "c", "d", "e"]);
  await held.end();
  assert.deepEqual(ended, ["a", "b", "c", "d", "e", "f"]);
  assert.deepEqual(held.begun, ["a", "c", "f"]);
  assert.equal(syncs.size, 0);
});

test("syncs of different nodes do not wait for each other", async () => {
  const [syncs, held] = [new SharedSyncs(), new HeldSyncs()];
  const both = [syncs.of("d", held.sync("d")), syncs.of("e", held.sync("e"))];
  await settle();
  assert.deepEqual(held.begun, ["d", "e"]);
  await held.end();
  await held.end();
  await Promise.all(both);
});

test("a sync that fails is told to all whom it was for, and to nobody after", async () => {
  const [syncs, held] = [new SharedSyncs(), new HeldSyncs()];
  const outcomes: string[] = [];
  const ask = (name: string) => {
    syncs.of("d", held.sync(name)).then(
      () => outcomes.push(`${name} done`),
      ({ errno }: FsError) => outcomes.push(`${name} ${errno}`),
    );
  };
  ask("a");
  ask("b");
  await settle();
  ask("c");
  await held.end(new FsError("EIO", "sync"));
  await held.end();
  assert.deepEqual(outcomes, ["a EIO", "b EIO", "c done"]);
  assert.equal(syncs.size, 0);
});

test("a name in a directory that is only being made is not on the disk before the directory is", async () => {
  const [effects, held] = [new Effects(), new HeldSyncs()];
  const recovery = { syncNode: (_ctx: unknown, id: string) => held.sync(id)() };
  const fs = { recovery };
  const ended: string[] = [];
  const mkdir = (parent: string, id: string) => {
    const request = { message: { name: "mkdir" }, asked: { parent }, fs } as unknown as ServedRequest;
    void effects.settle(request, { id }, true).then(() => ended.push(id));
  };
  mkdir("root", "d");
  mkdir("d", "e");
  await settle();
  assert.deepEqual(held.begun, ["root", "d"]);
  // That of d ends first.
  held.swap();
  await held.end();
  assert.deepEqual(ended, []);
  await held.end();
  assert.deepEqual(ended.sort(), ["d", "e"]);
});
