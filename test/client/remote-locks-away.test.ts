/** Locks of a client that is cut off for longer than its patience (--timeout), and comes back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../src/base/errors.ts";
import { CancelSource } from "../../src/base/signals.ts";
import { RemoteLocks } from "../../src/client/remote-locks.ts";
import { RemoteOpen } from "../../src/client/remote-open.ts";
import { NO_ATTR } from "../../src/vfs/attr.ts";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import type { LockOwner } from "../../src/vfs/lock.ts";
import { settle } from "../support/fake-clock.ts";
import { ctx } from "../support/link-drive.ts";
import { type Locking, lock, open, outcome } from "../support/locking.ts";
import { type ReturningDrive, returningDrive } from "../support/returning-drive.ts";

/** A client that is patient for 5 s, and is cut off for longer. */
async function impatient(): Promise<{
  drive: ReturningDrive;
  mine: Locking;
  theirs: Locking;
  comeBack: () => Promise<void>;
}> {
  const drive = await returningDrive({ client: { timeoutMs: 5000 } });
  const mine = await open(drive.remote);
  const theirs = await open((await drive.connect()).remote, mine.id);
  const comeBack = async () => {
    await drive.pass(10_000);
    drive.isDown = false;
    await drive.pass(60_000, () => drive.remote.state === "connected");
    await settle();
    assert.equal(drive.remote.state, "connected");
  };
  return { drive, mine, theirs, comeBack };
}

/** What the server says from now on is lost; when all is heard that the client says, nobody can be reached. */
async function loseAfter(drive: ReturningDrive, act: () => Promise<void>): Promise<void> {
  const link = drive.connections[0];
  assert.ok(link !== undefined);
  link.server.faults.isDropping = true;
  await act();
  await settle();
  drive.isDown = true;
  await drive.cut();
}

function isAway({ value }: { value: unknown }): boolean {
  return value instanceof ConnectionError;
}

test("a lock the server does not know to be had, while it is away for too long, can be unlocked in parts when it is back", async () => {
  for (const unlocks of ["away", "back", "never"]) {
    const { drive, mine, theirs, comeBack } = await impatient();
    await theirs.setlk(lock("write"));
    const waiting = outcome(mine.setlk(lock("write", 0, 9), true));
    await settle();
    const link = drive.connections[0];
    assert.ok(link !== undefined);
    // The word that it is free comes, and nothing the client says after.
    link.client.faults.isDropping = true;
    await theirs.setlk(lock("unlock"));
    await settle();
    assert.equal(waiting.value, "locked");
    drive.isDown = true;
    await drive.cut();
    const halves = [lock("unlock", 0, 4), lock("unlock", 5, 9)];
    await drive.pass(7000);
    const early = unlocks === "away" ? halves.map((half) => outcome(mine.setlk(half))) : [];
    await comeBack();
    assert.ok(early.every(isAway), unlocks);
    if (unlocks === "back") for (const half of halves) await mine.setlk(half);
    assert.equal(await theirs.find(lock("write")), unlocks === "never" ? "write 0-9" : undefined, unlocks);
  }
});

test("a wish that is given up while the server is away for too long reserves nothing when it is back", async () => {
  for (const isGranted of [true, false]) {
    const { drive, mine, theirs, comeBack } = await impatient();
    await mine.setlk(lock("read", 0, 4));
    if (!isGranted) await theirs.setlk(lock("write", 5, 9));
    let waiting = { value: "pending" as unknown };
    await loseAfter(drive, async () => {
      waiting = outcome(mine.setlk(lock("write", 0, 9), true));
    });
    await drive.pass(7000);
    assert.ok(isAway(waiting));
    await comeBack();
    if (!isGranted) await theirs.setlk(lock("unlock"));
    await settle();
    assert.equal(await theirs.find(lock("write")), "read 0-4");
    assert.equal(await theirs.find(lock("write", 5)), undefined);
  }
});

test("a lock that was asked for at once, by one whose patience ended, is not left with him, nor taken from him if he has it since", async () => {
  for (const then of ["nothing", "unlock", "again", "close"]) {
    const { drive, mine, theirs, comeBack } = await impatient();
    let asked = { value: "pending" as unknown };
    await loseAfter(drive, async () => {
      asked = outcome(mine.setlk(lock("write", 0, 9)));
    });
    assert.equal(await theirs.find(lock("write")), "write 0-9", "the server has granted it");
    await drive.pass(7000);
    assert.ok(isAway(asked));
    let next = { value: "locked" as unknown };
    if (then === "close") next = outcome(mine.fileSystem.flush(ctx, mine.handle, 1n as LockOwner));
    else if (then !== "nothing") {
      next = outcome(mine.setlk(lock(then === "again" ? "write" : "unlock", 0, 4)));
      await drive.pass(2000);
      assert.equal(next.value, "pending", then);
    }
    drive.isDown = false;
    await comeBack();
    assert.equal(next.value, "locked", then);
    assert.equal(await theirs.find(lock("write")), then === "again" ? "write 0-4" : undefined, then);
  }
});

test("an unlock whose patience ended is done when the server is back, also that of a descriptor that is closed", async () => {
  for (const isClosed of [true, false]) {
    const { drive, mine, theirs, comeBack } = await impatient();
    await mine.setlk(lock("write", 0, 9));
    const again = await open(drive.remote, mine.id);
    drive.isDown = true;
    await drive.cut();
    const { fileSystem } = again;
    const unlocked = outcome(
      isClosed ? fileSystem.flush(ctx, again.handle, 1n as LockOwner) : again.setlk(lock("unlock", 0, 4)),
    );
    await drive.pass(7000);
    assert.ok(isClosed ? unlocked.value === "locked" : isAway(unlocked));
    const released = outcome(fileSystem.release(ctx, again.handle));
    await comeBack();
    assert.notEqual(released.value, "pending");
    assert.equal(await theirs.find(lock("write")), isClosed ? undefined : "write 5-9");
  }
});

test("a lock that is asked for again while the server is away is had when it is back", async () => {
  for (const then of ["again", "upgraded", "waited for"]) {
    const { drive, mine, theirs, comeBack } = await impatient();
    if (then === "upgraded") await mine.setlk(lock("read", 0, 9));
    let asked = { value: "pending" as unknown };
    await loseAfter(drive, async () => {
      asked = outcome(mine.setlk(lock("write", 0, 9), false, new CancelSource()));
    });
    await drive.pass(7000);
    assert.ok(isAway(asked));
    const next = outcome(mine.setlk(lock("write", 0, 9), then === "waited for", new CancelSource()));
    // Impatient once more, and asked for once more.
    await drive.pass(7000);
    assert.ok(isAway(next));
    const last = outcome(mine.setlk(lock("write", 0, 9), then === "waited for", new CancelSource()));
    await settle();
    assert.equal(last.value, "pending");
    if (then === "waited for") {
      const interest = new CancelSource();
      const interrupted = outcome(mine.setlk(lock("write", 0, 9), true, interest));
      interest.abort();
      await settle();
      assert.ok(interrupted.value instanceof Error);
    }
    drive.isDown = false;
    await comeBack();
    assert.equal(last.value, "locked", then);
    assert.equal(await theirs.find(lock("write")), "write 0-9", then);
    await mine.setlk(lock("unlock"));
    assert.equal(await theirs.find(lock("write")), undefined, then);
  }
});

interface CallSeen {
  readonly text: string;
  answer(): void;
  expire(): void;
}

/** Locks of a client whose server is played, and an open. */
function played(): { calls: CallSeen[]; locks: RemoteLocks; file: RemoteOpen } {
  const calls: CallSeen[] = [];
  const call = (
    { message, fields }: { message: { name: string }; fields: { type?: number; waitId: number } },
    result: (reply: unknown) => unknown,
  ) =>
    new Promise((resolve, reject) => {
      calls.push({
        text: `${message.name} ${fields.type ?? "-"} ${fields.waitId}`,
        answer: () => resolve(result({ waits: false, attr: NO_ATTR })),
        expire: () => reject(new ConnectionError("away", { retryable: true })),
      });
    });
  const locks = new RemoteLocks({ call } as never);
  const parts = { id: 1 as HandleId, kind: "file", node: "n" as NodeId, handle: 1, flags: OpenFlag.READ } as const;
  return { calls, locks, file: new RemoteOpen({ ...parts, caller: ctx.caller }) };
}

test("nothing is asked for, or given up, by one of whom something is still to be undone", async () => {
  for (const [type, wait, text] of [
    ["write", false, "setlk 2 0"],
    ["write", true, "setlk 2 1"],
    ["unlock", false, undefined],
  ] as const) {
    const { calls, locks, file } = played();
    const signal = new CancelSource();
    const given = assert.rejects(locks.setlk({ ...ctx, signal }, file, lock("write", 0, 9), false), ConnectionError);
    calls[0]?.expire();
    await given;
    const next = outcome(locks.setlk({ ...ctx, signal }, file, lock(type, 0, 9), wait));
    await settle();
    locks.returned();
    // Harmless, and answered as soon as anything is.
    calls[1]?.answer();
    await settle();
    const texts = () => calls.slice(1).map((seen) => seen.text);
    assert.deepEqual(texts(), ["cancelLock - 0", "setlk 0 0"]);
    calls[2]?.answer();
    await settle();
    assert.deepEqual(texts().slice(2), text === undefined ? [] : [text]);
    calls[3]?.answer();
    await settle();
    assert.equal(next.value, "locked");
    assert.equal(calls.length, text === undefined ? 3 : 4);
  }
});

test("a lock that was asked for before another of its owner was given up, and is granted when the server is back, is kept", async () => {
  for (const [before, type, undoing] of [
    ["unlock", "write", "setlk 2 0"],
    ["write", "unlock", "setlk 0 0"],
  ] as const) {
    const { calls, locks, file } = played();
    const signal = new CancelSource();
    if (before === "write") {
      const held = locks.setlk(ctx, file, lock("write", 0, 9), false);
      calls[0]?.answer();
      await held;
    }
    const from = calls.length;
    const given = assert.rejects(locks.setlk({ ...ctx, signal }, file, lock("write", 0, 9), false), ConnectionError);
    const kept = outcome(locks.setlk({ ...ctx, signal }, file, lock(type, 0, 9), false));
    calls[from]?.expire();
    await given;
    locks.returned();
    calls[from + 1]?.answer();
    await settle();
    assert.equal(kept.value, "locked");
    assert.deepEqual(
      calls.slice(from + 2).map((seen) => seen.text),
      [undoing],
    );
  }
});

test("what could not be undone as the server went away once more is undone the next time, and then nothing is in doubt", async () => {
  const { calls, locks, file } = played();
  const given = assert.rejects(locks.setlk(ctx, file, lock("read", 0, 9), true), ConnectionError);
  calls[0]?.expire();
  await given;
  for (const ends of [["expire"], ["answer", "expire"], ["answer", "answer"]] as const) {
    const from = calls.length;
    locks.returned();
    await settle();
    for (const [index, end] of ends.entries()) {
      calls[from + index]?.[end]();
      await settle();
    }
    if (ends[0] === "expire") calls[from + 1]?.expire();
    await settle();
    assert.deepEqual(
      calls.slice(from).map(({ text }) => text),
      ["setlk 0 0", "cancelLock - 1"],
    );
  }
  locks.returned();
  await locks.setlk(ctx, file, lock("unlock"), false);
  await settle();
  assert.equal(calls.length, 7);
  assert.equal(locks.release(file), false);
});
