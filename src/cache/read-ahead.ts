/**
 * Read-ahead: what a pattern of reads will want is fetched before it is asked for.
 *
 * The pattern is recognised by `ReadAheadPolicy`, one an open; here pieces are fetched, held and handed out, within a bound of bytes a
 * mount. A foreground read is sent before any read-ahead and never waits for one that it does not need. Every change of a node through
 * this mount drops its pieces, and so does an open that finds it changed by others: the kernel takes its pages for those of the attributes that came with
 * the latest open, for as long as they are the same, whoever's read fills them. And a piece is not used when it is older than FRESH_MS:
 * read-ahead must not make data live longer than the kernel's own caches do.
 */
import type { Clock } from "../base/clock.ts";
import type { Attr } from "../vfs/attr.ts";
import type { FileSystem, NodeId, Opened } from "../vfs/file-system.ts";
import { OpenReader } from "./open-reader.ts";
import { ReadAheadBudget } from "./read-ahead-policy.ts";
import { SectionMemory } from "./section-memory.ts";

export interface ReadAheadOptions {
  /** What is fetched by one request, at most and mostly. */
  readonly sectionBytes: number;
  /** Bytes of all pieces of the mount, on their way or held. */
  readonly bytesMax: number;
  /** How long the kernel believes attributes. */
  readonly attrTimeoutMs: number;
  readonly clock: Clock;
  /** What fills the line (bandwidth times round trip), bytes, as measured now. */
  readonly lineBytes: () => number;
  /** What the kernel reads ahead by itself, bytes. Only what a line holds beyond that is read ahead here. */
  readonly kernelReadAheadBytes: () => number;
  /** Whether unsent writes of the node overlap the range; such a range is not read ahead. */
  readonly isDirty: (id: NodeId, offsetBytes: number, lengthBytes: number) => boolean;
}

/** Memory for pieces, within the mount's bound. Pieces far smaller than a section get their own. */
export class PieceMemory {
  readonly #sections: SectionMemory;
  readonly #bytesMax: number;
  heldBytes = 0;

  constructor(sectionBytes: number, bytesMax: number, clock: Clock) {
    this.#sections = new SectionMemory(sectionBytes, Math.floor(bytesMax / sectionBytes), clock);
    this.#bytesMax = bytesMax;
  }

  /** Memory of at least `bytes`; undefined if the mount holds as much as it may. */
  take(bytes: number): Buffer | undefined {
    const isSection = this.#sections.suits(bytes);
    const cost = isSection ? this.#sections.sectionBytes : bytes;
    if (this.heldBytes + cost > this.#bytesMax) return undefined;
    this.heldBytes += cost;
    return isSection ? this.#sections.take() : Buffer.allocUnsafeSlow(bytes);
  }

  /** Counts memory of somebody else's making, to be given back like one's own; false if the mount holds as much as it may. */
  reserve(bytes: number): boolean {
    if (this.heldBytes + bytes > this.#bytesMax) return false;
    this.heldBytes += bytes;
    return true;
  }

  /** `memory` as `take` returned it, or `reserve` counted it. */
  give(memory: Buffer): void {
    this.heldBytes -= memory.length;
    if (memory.length === this.#sections.sectionBytes) this.#sections.give(memory);
  }
}

/** A node that is open for reading. */
interface ReadNode {
  readonly readers: Set<OpenReader>;
  /** As of an open. INVARIANT: what is held of the node was asked for later. */
  attr: Attr;
}

export class ReadAhead {
  readonly #inner: FileSystem;
  readonly #options: ReadAheadOptions;
  readonly #memory: PieceMemory;
  readonly #budget: ReadAheadBudget;
  readonly #nodes = new Map<NodeId, ReadNode>();
  #changeCount = 0;
  #attrChanges = 0;

  constructor(inner: FileSystem, options: ReadAheadOptions) {
    this.#inner = inner;
    this.#options = options;
    this.#memory = new PieceMemory(options.sectionBytes, options.bytesMax, options.clock);
    this.#budget = new ReadAheadBudget(options.bytesMax);
  }

  /** Bytes of pieces on their way or held. */
  get heldBytes(): number {
    return this.#memory.heldBytes;
  }

  /** An open for reading begins; `close` of the result ends it. Undefined where nothing is read ahead. */
  open(id: NodeId, opened: Opened): OpenReader | undefined {
    if (this.#options.bytesMax === 0) return undefined;
    const reader = new OpenReader({
      inner: this.#inner,
      options: this.#options,
      memory: this.#memory,
      budget: this.#budget,
      id,
      opened,
      closed: () => {
        const readers = this.#nodes.get(id)?.readers;
        readers?.delete(reader);
        if (readers?.size === 0) this.#nodes.delete(id);
      },
      attrChanges: () => this.#attrChanges,
    });
    const node = this.#nodes.get(id);
    if (node === undefined) this.#nodes.set(id, { readers: new Set([reader]), attr: opened.attr });
    else node.readers.add(reader);
    return reader;
  }

  /** The node was opened, for whatever, and had these attributes: if they are others than before, nothing that was read ahead may be used. */
  opened(id: NodeId, attr: Attr): void {
    const node = this.#nodes.get(id);
    if (node === undefined || isUnchanged(node.attr, attr)) return;
    node.attr = attr;
    for (const reader of node.readers) reader.invalidate(attr.sizeBytes);
  }

  /** How often any node has been changed through this mount. */
  get changeCount(): number {
    return this.#changeCount;
  }

  /** The node is being changed and reaches at least to `endBytes` afterwards: nothing that was read ahead may be used. */
  invalidate(id: NodeId, endBytes: number): void {
    this.#changeCount += 1;
    const node = this.#nodes.get(id);
    if (node === undefined) return;
    for (const reader of node.readers) reader.invalidate(endBytes);
  }

  /** Attributes have been changed, of whatever node, and no data: none that were fetched with the end of a file may be used. */
  attrsChanged(): void {
    this.#attrChanges += 1;
  }

  close(): void {
    for (const { readers } of [...this.#nodes.values()]) for (const reader of [...readers]) reader.close();
  }
}

/** Whether a file's data is the same, as far as its attributes show. */
function isUnchanged(before: Attr, after: Attr): boolean {
  return (
    before.mtimeNsec === after.mtimeNsec &&
    before.mtimeSec === after.mtimeSec &&
    before.ctimeNsec === after.ctimeNsec &&
    before.ctimeSec === after.ctimeSec &&
    before.sizeBytes === after.sizeBytes
  );
}
