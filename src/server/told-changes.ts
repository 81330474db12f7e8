/**
 * What a client is told of changes that others make through opens it has handles of, too: one session's.
 *
 * It is told before the one who changed something has his answer, and drops what it has of the file when it hears of it. As long as it asks for nothing
 * afterwards it has nothing that could be old, so that many changes are one notice. What it may not have heard, because the connection was lost
 * before it said so, it is told on the next one.
 *
 * Queue: notices without an answer, UNANSWERED_MAX a file at most; one more follows when one of those is answered.
 */
import type { NodeId } from "../vfs/file-system.ts";

/** Of one file. */
const UNANSWERED_MAX = 4;

export class ToldChanges {
  readonly #tell: (node: NodeId) => void;
  /** Told since the last request came. */
  readonly #news = new Set<NodeId>();
  /** Notices that are not answered, with those that are held back. INVARIANT: only of files the session has open. */
  readonly #unanswered = new Map<NodeId, number>();

  /** `tell` sends a notice if the client is there. */
  constructor(tell: (node: NodeId) => void) {
    this.#tell = tell;
  }

  /** Somebody else has changed the file. */
  changed(node: NodeId): void {
    if (this.#news.has(node)) return;
    this.#news.add(node);
    const count = (this.#unanswered.get(node) ?? 0) + 1;
    this.#unanswered.set(node, count);
    if (count <= UNANSWERED_MAX) this.#tell(node);
  }

  /** A request has come: whatever it is, its answer may be what is in the client's cache next. */
  asked(): void {
    if (this.#news.size > 0) this.#news.clear();
  }

  /** The client has heard of it. */
  taken(node: NodeId): void {
    const count = this.#unanswered.get(node);
    if (count === undefined) return;
    if (count > UNANSWERED_MAX) {
      this.#unanswered.set(node, UNANSWERED_MAX);
      this.#tell(node);
    } else if (count > 1) this.#unanswered.set(node, count - 1);
    else this.#unanswered.delete(node);
  }

  /** The client has a new connection: notices may have been lost with the one before. */
  tellAgain(): void {
    for (const node of this.#unanswered.keys()) {
      this.#unanswered.set(node, 1);
      this.#tell(node);
    }
  }

  /** The session has an open of the file no more; `left`: those it has still. */
  closed(node: NodeId, left: Iterable<{ readonly node: NodeId }>): void {
    if (!this.#unanswered.has(node)) return;
    for (const open of left) if (open.node === node) return;
    this.#unanswered.delete(node);
  }
}
