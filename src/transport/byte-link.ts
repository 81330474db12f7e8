/**
 * A two-way stream of bytes as a channel needs it: implemented over a socket and in memory.
 *
 * It frames nothing and times nothing. After `end` or `destroy` by us, or `closed` from it, `write` does nothing.
 */

export interface LinkReceiver {
  /** The next bytes, borrowed until the call returns. Not called while paused. */
  data(chunk: Buffer): void;
  /** Instead of `data`: where the link may put the next bytes, lent until `landed`. Not empty. */
  place(): Buffer;
  /** `bytes`, at least 1, are at the start of the place asked for last. */
  landed(bytes: number): void;
  /** The link is gone in both directions; called once and last. `error` if it broke, undefined if it was closed in order. */
  closed(error: Error | undefined): void;
}

/** The binding of a link that is not encrypted. */
export const UNBOUND: Buffer = Buffer.alloc(0);

export interface ByteLink {
  /** Who is at the other end, for log lines. */
  readonly peer: string;
  /** The network address at the other end; the same for all links from there. */
  readonly address: string;
  /** Bytes that only the two ends of this very connection know, if it is encrypted; else empty. */
  readonly binding: Buffer;
  /** What encrypts it, as RFC 8446 calls it; empty if nothing does. */
  readonly cipher: string;
  /** Called once, before anything else; nothing is received before. */
  start(receiver: LinkReceiver): void;
  /**
   * Sends chunks in order, in one system call where that is possible. `sent` is called when they were taken or never will be: they are the
   * caller's again. One `write` at a time.
   */
  write(chunks: readonly Buffer[], sent: () => void): void;
  /** Nothing is written any more to the place asked for last; it is asked for anew. */
  withdraw(): void;
  pause(): void;
  resume(): void;
  /** Closes our direction behind what was written; `closed` follows when the peer has closed its own. */
  end(): void;
  /** Closes at once; `closed` follows. */
  destroy(): void;
}
