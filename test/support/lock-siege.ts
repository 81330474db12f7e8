/**
 * A program on one mount that has locks, and others on another mount that try to get them all the time: whatever happens in between, they must not.
 *
 * One lock of each kind, each in a file of its own. Of the others one asks without waiting, again and again, and one for each kind waits. In the end the locks are given up: those
 * who wait have them at once, and when they have given them up as well, nothing is locked on the server's machine either.
 */
import { systemClock } from "../../src/base/clock.ts";
import { type Locker, startLocker } from "./locker.ts";

const KINDS = ["posix", "ofd", "flock"] as const;
type Kind = (typeof KINDS)[number];

/** By kind: how it is taken, how others try to get something of it, how it is given up. The number of a kind's file is the kind's. */
const TAKE: Record<Kind, string> = {
  posix: "lock 0 posix write 0 10",
  ofd: "lock 1 ofd write 0 0",
  flock: "flock 2 ex",
};
const TRY: Record<Kind, readonly string[]> = {
  posix: ["lock 0 posix write 9 1", "lock 0 posix read 0 0"],
  ofd: ["lock 1 ofd write 1000000 1", "lock 1 posix read 0 1"],
  flock: ["flock 2 sh", "flock 2 ex"],
};
const GIVE_UP: Record<Kind, string> = {
  posix: "lock 0 posix unlock 0 0",
  ofd: "lock 1 ofd unlock 0 0",
  flock: "flock 2 un",
};
/** What nobody has is free all the time. */
const FREE = ["lock 0 posix write 20 5", "lock 0 posix unlock 20 5"];

/** Between rounds of attempts, so that others have the processor too. */
const PAUSE_MS = 20;
/** After its release a lock is had by who waits for it within so long, on a loaded machine. */
const GRANT_MS_MAX = 2000;

export interface LockSiege extends AsyncDisposable {
  /** Rejects as soon as somebody has got a lock that is held; resolves after `end`. */
  readonly lasted: Promise<void>;
  /** Sees the locks given up and had by those who wait, and ends all. @returns how many attempts got nothing. */
  end(): Promise<number>;
}

/** Starts it; `held` and `besieged` are where the two mounts are, `beside` what is served. */
export async function besiegeLocks(places: { held: string; besieged: string; beside: string }): Promise<LockSiege> {
  const lockers: Locker[] = [];
  const start = async (directory: string, kinds: readonly Kind[] = KINDS) => {
    const locker = await startLocker(directory, { answerMsMax: Number.POSITIVE_INFINITY });
    lockers.push(locker);
    for (const kind of kinds) await expect(locker, `open ${KINDS.indexOf(kind)} locked-${kind} rw`, "ok");
    return locker;
  };
  const dispose = async () => {
    for (const locker of lockers) await locker.kill();
  };
  try {
    const holder = await start(places.held);
    for (const kind of KINDS) await expect(holder, TAKE[kind], "ok");
    const waiters: Waiter[] = [];
    for (const kind of KINDS) {
      const locker = await start(places.besieged, [kind]);
      waiters.push({ kind, locker, grant: locker.ask(`${TAKE[kind]} wait`) });
    }
    const attempts = new Attempts(await start(places.besieged));
    return {
      lasted: attempts.lasted,
      async end() {
        await attempts.stop();
        await release(holder, waiters);
        const beside = await start(places.beside);
        for (const kind of KINDS) await expect(beside, TAKE[kind], "ok");
        await dispose();
        return attempts.count;
      },
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

interface Waiter {
  readonly kind: Kind;
  readonly locker: Locker;
  readonly grant: ReturnType<Locker["ask"]>;
}

/** Who asks again and again. */
class Attempts {
  readonly lasted: Promise<void>;
  #count = 0;
  #isOver = false;

  constructor(locker: Locker) {
    this.lasted = this.#ask(locker);
    // Whoever stops it is told as well.
    this.lasted.catch(() => undefined);
  }

  get count(): number {
    return this.#count;
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await this.lasted;
  }

  async #ask(locker: Locker): Promise<void> {
    while (!this.#isOver) {
      for (const line of KINDS.flatMap((kind) => TRY[kind])) {
        await expect(locker, line, "EAGAIN");
        this.#count += 1;
      }
      for (const line of FREE) await expect(locker, line, "ok");
      await new Promise<void>((resolve) => void systemClock.after(PAUSE_MS, resolve, { keepAlive: true }));
    }
  }
}

/** The open that has a lock works as ever, and what it gives up goes to who waits. */
async function release(holder: Locker, waiters: readonly Waiter[]): Promise<void> {
  for (const [slot, { kind, locker, grant }] of waiters.entries()) {
    await expect(holder, `write ${slot} 0 mine`, "ok");
    await expect(holder, `sync ${slot}`, "ok");
    if (grant.isSettled)
      throw new Error(`locks: ${kind}: who waits for it has "${await grant.answer}" while it is held`);
    await expect(holder, GIVE_UP[kind], "ok");
    const releasedMs = systemClock.monotonicMs();
    const answer = await grant.answer;
    const waitedMs = systemClock.monotonicMs() - releasedMs;
    if (answer !== "ok" || waitedMs > GRANT_MS_MAX) {
      throw new Error(`locks: ${kind}: who waits for it has "${answer}" ${waitedMs.toFixed()} ms after its release`);
    }
    await expect(locker, `read ${slot} 0 9`, "mine");
    await expect(locker, GIVE_UP[kind], "ok");
  }
}

async function expect(locker: Locker, line: string, expected: string): Promise<void> {
  const answer = await locker.tell(line);
  if (answer !== expected) throw new Error(`locks: "${line}" was answered "${answer}", not "${expected}"`);
}
