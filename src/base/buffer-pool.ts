/**
 * Buffers that are used again, shared fairly and bounded in bytes.
 *
 * Each user (a session of the server) has a reserve that nobody else can take and may use more while there is any: so one that does not give
 * back only slows itself. Buffers come in sizes of powers of four from BUFFER_BYTES_MIN on. Waiters of one user are served in order; users
 * take turns. Queue bound: a user's waiters are as many as its requests, which its credits bound.
 *
 * INVARIANT: bytes of buffers lent and kept together are at most `bytesMax`.
 */
import assert from "node:assert/strict";

const BUFFER_BYTES_MIN = 4096;

export interface PoolLimits {
  /** Of all users together. */
  bytesMax: number;
  /** Of one user. */
  bytesPerUserMax: number;
  /** Set aside for each of at most `usersMax` users; a single request is never larger. */
  bytesPerUserReserved: number;
  usersMax: number;
}

/** The size of the buffer that `bytes` are lent in. */
export function pooledBytes(bytes: number): number {
  let size = BUFFER_BYTES_MIN;
  while (size < bytes) size *= 4;
  return size;
}

interface Waiter {
  readonly bytes: number;
  readonly onBuffer: (buffer: Buffer) => void;
}

export class BufferPool {
  readonly limits: PoolLimits;
  readonly #free = new Map<number, Buffer[]>();
  readonly #waiting = new Set<PoolUser>();
  #users = 0;
  #lentBytes = 0;
  #keptBytes = 0;
  /** Bytes users have beyond their reserves. INVARIANT: at most #sharedBytesMax */
  #sharedBytes = 0;
  readonly #sharedBytesMax: number;

  constructor(limits: PoolLimits) {
    this.limits = limits;
    this.#sharedBytesMax = limits.bytesMax - limits.usersMax * limits.bytesPerUserReserved;
    assert(this.#sharedBytesMax >= 0, "the reserves fit into the pool");
    assert(limits.bytesPerUserMax >= limits.bytesPerUserReserved, "a user may use its reserve");
  }

  /** Bytes of buffers that somebody has now. */
  get lentBytes(): number {
    return this.#lentBytes;
  }

  /** A new user; undefined if there is no reserve for one more. */
  addUser(): PoolUser | undefined {
    if (this.#users >= this.limits.usersMax) return undefined;
    this.#users += 1;
    return new PoolUser(this);
  }

  /** For PoolUser only. */
  removeUser(user: PoolUser): void {
    this.#users -= 1;
    this.#waiting.delete(user);
  }

  /** For PoolUser only: a buffer for a user that has `usedBytes`, if it may. */
  tryLend(size: number, usedBytes: number): Buffer | undefined {
    const reserved = this.limits.bytesPerUserReserved;
    if (usedBytes + size > this.limits.bytesPerUserMax) return undefined;
    const shared = Math.max(0, usedBytes + size - reserved) - Math.max(0, usedBytes - reserved);
    if (this.#sharedBytes + shared > this.#sharedBytesMax) return undefined;
    this.#sharedBytes += shared;
    this.#lentBytes += size;
    const kept = this.#free.get(size)?.pop();
    if (kept !== undefined) {
      this.#keptBytes -= size;
      return kept;
    }
    if (this.#lentBytes + this.#keptBytes > this.limits.bytesMax) this.#dropKept();
    return Buffer.allocUnsafeSlow(size);
  }

  /** For PoolUser only: a buffer comes back; the user has `usedBytes` without it. */
  takeBack(buffer: Buffer, usedBytes: number): void {
    const size = buffer.length;
    const reserved = this.limits.bytesPerUserReserved;
    this.#sharedBytes -= Math.max(0, usedBytes + size - reserved) - Math.max(0, usedBytes - reserved);
    this.#lentBytes -= size;
    this.#keptBytes += size;
    const kept = this.#free.get(size);
    if (kept === undefined) this.#free.set(size, [buffer]);
    else kept.push(buffer);
    if (this.#waiting.size > 0) this.#serve();
  }

  /** For PoolUser only: it has waiters. */
  enlist(user: PoolUser): void {
    this.#waiting.add(user);
  }

  /** Each waiting user gets one buffer a turn, as long as any can have one. */
  #serve(): void {
    let served = true;
    while (served) {
      served = false;
      for (const user of [...this.#waiting]) {
        if (!user.isWaiting) this.#waiting.delete(user);
        if (!user.serveOne()) continue;
        served = true;
        // Who was served goes to the end of the line.
        this.#waiting.delete(user);
        if (user.isWaiting) this.#waiting.add(user);
      }
    }
  }

  #dropKept(): void {
    this.#free.clear();
    this.#keptBytes = 0;
  }
}

export class PoolUser {
  readonly #pool: BufferPool;
  readonly #waiters: Waiter[] = [];
  #usedBytes = 0;
  #isClosed = false;

  /** Made by `BufferPool.addUser`. */
  constructor(pool: BufferPool) {
    this.#pool = pool;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get isWaiting(): boolean {
    return this.#waiters.length > 0;
  }

  /** A buffer of at least `bytes` (at most the reserve) if there is one now and nobody waits; to be given back by `give`. */
  tryTake(bytes: number): Buffer | undefined {
    return this.isWaiting ? undefined : this.#tryLend(bytes);
  }

  /** Calls `onBuffer` with a buffer when there is one, perhaps at once. @returns a function that gives up the place in the queue. */
  take(bytes: number, onBuffer: (buffer: Buffer) => void): () => void {
    assert(pooledBytes(bytes) <= this.#pool.limits.bytesPerUserReserved, "no request is larger than the reserve");
    const buffer = this.tryTake(bytes);
    if (buffer !== undefined) {
      onBuffer(buffer);
      return () => {};
    }
    const waiter: Waiter = { bytes, onBuffer };
    this.#waiters.push(waiter);
    this.#pool.enlist(this);
    return () => {
      const index = this.#waiters.indexOf(waiter);
      if (index >= 0) this.#waiters.splice(index, 1);
    };
  }

  /** Gives a buffer back, whole and once. */
  give(buffer: Buffer): void {
    this.#usedBytes -= buffer.length;
    this.#pool.takeBack(buffer, this.#usedBytes);
    if (this.#isClosed && this.#usedBytes === 0) this.#pool.removeUser(this);
  }

  /** Forgets its waiters; the user is gone when its last buffer is back. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#waiters.length = 0;
    if (this.#usedBytes === 0) this.#pool.removeUser(this);
  }

  /** For BufferPool only. */
  serveOne(): boolean {
    const waiter = this.#waiters[0];
    const buffer = waiter === undefined ? undefined : this.#tryLend(waiter.bytes);
    if (waiter === undefined || buffer === undefined) return false;
    this.#waiters.shift();
    waiter.onBuffer(buffer);
    return true;
  }

  #tryLend(bytes: number): Buffer | undefined {
    const size = pooledBytes(bytes);
    const buffer = this.#pool.tryLend(size, this.#usedBytes);
    if (buffer !== undefined) this.#usedBytes += size;
    return buffer;
  }
}
