/**
 * What happened to a file while some of those who have it open were away: the facts behind the verdict of `resume`.
 *
 * Changes through the server are noted as they happen, with their ranges and who made them. Changes beside it show in size, mtime and ctime, which are
 * compared with those of the moment the client's last request had ended. Statistics that change without the data (st_blocks, atime) count for nothing.
 * Nothing is noted, and nothing is asked of the disk, as long as nobody is away. What the next start of the server is to know is written down as it becomes known: the state a
 * client has left the file in, or that others have changed it.
 *
 * It keeps no more than CHANGED_RANGES_MAX ranges an open: more become one that holds them all.
 */
import type { Attr } from "../vfs/attr.ts";
import type { NodeId } from "../vfs/file-system.ts";
import { CHANGED_BY_BYTES_MAX, CHANGED_RANGES_MAX } from "../wire/limits.ts";

export interface ChangedRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** What a client that comes back is told of a file. */
export interface Changes {
  readonly ranges: readonly ChangedRange[];
  /** Empty: not known. */
  readonly by: string;
}

/** As far as a change of size and beyond: to the end of the file, wherever that is. */
export const TO_THE_END = Number.MAX_SAFE_INTEGER;

/** What makes two states of a file's data the same, as far as a disk can tell. */
export interface DataVersion {
  readonly sizeBytes: number;
  readonly mtimeSec: number;
  readonly mtimeNsec: number;
  readonly ctimeSec: number;
  readonly ctimeNsec: number;
}

/** The data version that attributes show. */
export function versionOf(attr: Attr): DataVersion {
  const { sizeBytes, mtimeSec, mtimeNsec, ctimeSec, ctimeNsec } = attr;
  return { sizeBytes, mtimeSec, mtimeNsec, ctimeSec, ctimeNsec };
}

function isSameData(a: DataVersion, b: DataVersion): boolean {
  return a.sizeBytes === b.sizeBytes && a.mtimeSec === b.mtimeSec && a.mtimeNsec === b.mtimeNsec;
}

/** Whether nothing has happened to the file between the two. */
export function isSame(a: DataVersion, b: DataVersion): boolean {
  return isSameData(a, b) && a.ctimeSec === b.ctimeSec && a.ctimeNsec === b.ctimeNsec;
}

/** The time one client is away that has a file open. */
export class Absence {
  readonly node: NodeId;
  /** Whose changes are its own. */
  readonly owner: object;
  /** What its client has not answered, being there: the break of a lease that was taken away for that. Undefined: the client is away. */
  unansweredBreak: number | undefined;
  /** Its client was told what others did, but may not have heard of it. */
  isAnswered = false;
  /** As of the end of the client's last request; undefined before. "unknown": somebody may have changed it, and nobody can tell. */
  #version: DataVersion | "unknown" | undefined;
  /** Settles when the file has been compared with what the client left; what it changes itself from then on is no difference. */
  #comparing: Promise<void> | undefined;
  #isCompared = false;
  /** Somebody has changed it beside the server. */
  #isDifferent = false;
  #ranges: ChangedRange[] = [];
  readonly #by = new Set<string>();
  /** Writes down the version, or, as undefined, that others have changed the file. */
  readonly #keep: (version: DataVersion | undefined) => void;
  #isKept: boolean;

  /** `keep` writes down how the client left the file (undefined: others have changed it since); `isKept`: it has done so for `version`. */
  constructor(parts: {
    node: NodeId;
    owner: object;
    version: DataVersion | "unknown" | undefined;
    keep: (version: DataVersion | undefined) => void;
    isKept: boolean;
  }) {
    this.node = parts.node;
    this.owner = parts.owner;
    this.#version = parts.version;
    this.#keep = parts.keep;
    this.#isKept = parts.isKept;
  }

  /** A version, maybe of when the client left before, or that there are changes, is written down: whoever ends the absence is to delete it. */
  get isKept(): boolean {
    return this.#isKept;
  }

  /** If nobody else has changed the file so far, whoever wrote the version down is to delete it. @returns whether he has to. */
  forgetKept(): boolean {
    if (!this.#isKept || this.changes() !== undefined) return false;
    this.#isKept = false;
    return true;
  }

  /** Somebody else has changed a part of the data through the server. */
  note(range: ChangedRange, by: string): void {
    this.#ranges.push(range);
    if (this.#ranges.length === 1) this.#write();
    if (this.#ranges.length > CHANGED_RANGES_MAX) this.#ranges = [hullOf(this.#ranges)];
    this.#by.add(by);
  }

  /** A change of attributes through the server: only what it did to the ctime is taken over. */
  noteAttributes(attr: Attr): void {
    const version = versionOf(attr);
    if (this.#version === undefined || this.#version === "unknown" || !isSameData(this.#version, version)) return;
    this.#version = version;
    if (this.#isKept) this.#write();
  }

  /** The client is about to come back: looks once whether the file is as it left it. `attrNow`: undefined if it cannot be looked at, and so is not known to be. */
  async compare(attrNow: () => Promise<Attr | undefined>): Promise<void> {
    this.#comparing ??= attrNow().then((attr) => this.#compare(attr));
    await this.#comparing;
  }

  #compare(attr: Attr | undefined): void {
    const version = this.#version;
    this.#isCompared = true;
    if (attr === undefined) this.#isDifferent = true;
    else if (version === "unknown") this.#isDifferent = true;
    else if (version !== undefined && !isSame(version, versionOf(attr))) this.#isDifferent = true;
  }

  /** The client's requests have ended, with the file like this; undefined: it cannot be looked at. */
  left(attr: Attr | undefined): void {
    const isNew = this.#version === undefined;
    // Without an answer the file counts as unchanged by others, as long as nobody says otherwise.
    this.#version ??= attr && versionOf(attr);
    // What may be written down from when it left before is not how it left the file now.
    if (isNew || !this.#isKept) this.#write();
  }

  /** What is to be known at the next start of the server, as soon as it is known here. */
  #write(): void {
    const version = this.changes() === undefined ? this.#version : "unknown";
    if (version === undefined) return;
    this.#isKept = true;
    this.#keep(version === "unknown" ? undefined : version);
  }

  /** The client has left once more, without having heard what became of the file, which it may have changed itself since it was compared. @returns true. */
  leaveAgain(): true {
    this.unansweredBreak = undefined;
    this.isAnswered = false;
    if (!this.#isCompared) return true;
    this.#isCompared = false;
    this.#comparing = undefined;
    this.#version = undefined;
    return true;
  }

  /** What to tell the client, or undefined: its file is as it left it. */
  changes(): Changes | undefined {
    if (this.#ranges.length > 0) return { ranges: this.#ranges, by: this.#text() };
    return this.#isDifferent ? { ranges: [], by: "" } : undefined;
  }

  #text(): string {
    let text = "";
    for (const by of this.#by) {
      const longer = text === "" ? by : `${text}, ${by}`;
      if (Buffer.byteLength(longer) > CHANGED_BY_BYTES_MAX) break;
      text = longer;
    }
    return text;
  }
}

/** One range with all of them. */
function hullOf(ranges: readonly ChangedRange[]): ChangedRange {
  let start = Number.MAX_SAFE_INTEGER;
  let end = 0;
  for (const { offsetBytes, lengthBytes } of ranges) {
    start = Math.min(start, offsetBytes);
    end = Math.max(end, Math.min(offsetBytes + lengthBytes, Number.MAX_SAFE_INTEGER));
  }
  return { offsetBytes: start, lengthBytes: end - start };
}

/** Everybody who is away with a file of one share open, by file. */
export class AbsentOpens {
  readonly #byNode = new Map<NodeId, Set<Absence>>();

  get isEmpty(): boolean {
    return this.#byNode.size === 0;
  }

  add(absence: Absence): void {
    const absences = this.#byNode.get(absence.node);
    if (absences === undefined) this.#byNode.set(absence.node, new Set([absence]));
    else absences.add(absence);
  }

  delete(absence: Absence): void {
    const absences = this.#byNode.get(absence.node);
    absences?.delete(absence);
    if (absences?.size === 0) this.#byNode.delete(absence.node);
  }

  /** Whether anybody who is away has this file open. */
  has(node: NodeId): boolean {
    return this.#byNode.has(node);
  }

  /** `owner` has changed bytes of the file. */
  note(node: NodeId, owner: object, range: ChangedRange, by: string): void {
    for (const absence of this.#byNode.get(node) ?? []) if (absence.owner !== owner) absence.note(range, by);
  }

  /** Attributes of the file were changed, but not its data. */
  noteAttributes(node: NodeId, attr: Attr): void {
    for (const absence of this.#byNode.get(node) ?? []) absence.noteAttributes(attr);
  }
}
