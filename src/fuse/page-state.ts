/**
 * Close-to-open: whether the pages the kernel has of a file may stay when the file is opened again.
 *
 * Without a lease nobody tells us of changes by others. At every open the fresh attributes are compared with those the pages belong to:
 * equal (mtime, ctime, size) and the pages stay, otherwise the kernel drops them. Our own writes change the attributes as well; after
 * larger ones they are asked for once more while the file is being closed, and adopted if its size is what our writes alone make it. What cannot
 * be told from a change by others is treated as one. Pure: no I/O.
 */
import type { Attr } from "../vfs/attr.ts";

/** Files written with fewer bytes are cheaper to read again than to ask about at each close. */
export const ADOPT_BYTES_MIN = 256 * 1024;

export class PageState {
  #mtimeSec = 0;
  #mtimeNsec = 0;
  #ctimeSec = 0;
  #ctimeNsec = 0;
  /** Of the file if nobody else changes it. */
  #sizeBytes = 0;
  /** "valid": the pages are those of the attributes above. "own": of these and our own writes since. "unknown": may be anything. */
  #pages: "valid" | "own" | "unknown" = "unknown";
  #writesInFlight = 0;
  #writtenBytes = 0;
  #writes = 0;

  /** The file was opened and had these attributes; returns whether the kernel may keep its pages. */
  opened(attr: Attr): boolean {
    const keep = this.areOf(attr);
    if (!keep) {
      this.#set(attr);
      // A write under way may or may not be in these attributes.
      if (this.#writesInFlight > 0) this.#pages = "unknown";
    }
    return keep;
  }

  writeStarts(): void {
    this.#writesInFlight++;
    this.#writes++;
    if (this.#pages === "valid") this.#pages = "own";
  }

  /** A write or another change of data has ended; with a negative `lengthBytes` it is not known which part it changed. */
  writeEnds(offsetBytes: number, lengthBytes: number, append: boolean): void {
    this.#writesInFlight--;
    this.#writes++;
    if (lengthBytes < 0) {
      this.#pages = "unknown";
      return;
    }
    this.#writtenBytes += lengthBytes;
    this.#sizeBytes = append ? this.#sizeBytes + lengthBytes : Math.max(this.#sizeBytes, offsetBytes + lengthBytes);
  }

  /** A size was set by us. */
  truncated(sizeBytes: number): void {
    this.#writes++;
    if (this.#pages === "valid") this.#pages = "own";
    this.#sizeBytes = sizeBytes;
  }

  /** Asked when a file is closed: a token for `adopt` if asking for its attributes is worth it. */
  adoptable(): number | undefined {
    return this.#pages === "own" && this.#writesInFlight === 0 && this.#writtenBytes >= ADOPT_BYTES_MIN
      ? this.#writes
      : undefined;
  }

  /** The attributes after our writes, asked for when `token` was given out. */
  adopt(token: number, attr: Attr): void {
    if (this.#pages === "own" && this.#writes === token && attr.sizeBytes === this.#sizeBytes) this.#set(attr);
  }

  /** Whether the pages are those of a file that has these attributes. */
  areOf(attr: Attr): boolean {
    return this.#pages === "valid" && this.#writesInFlight === 0 && this.#equals(attr);
  }

  /** The kernel is being told to drop its pages: a token for `refilled`. */
  dropped(): number {
    this.#pages = "unknown";
    return this.#writes;
  }

  /** It has, since `token` was given out: what it has now is as new as these attributes at least. */
  refilled(token: number, attr: Attr): void {
    if (this.#pages === "unknown" && this.#writes === token && this.#writesInFlight === 0 && attr.mode !== 0) {
      this.#set(attr);
    }
  }

  /** The kernel was not told what `opened` said, or has pages that were not written. */
  lost(): void {
    this.#pages = "unknown";
  }

  #equals(attr: Attr): boolean {
    return (
      this.#mtimeNsec === attr.mtimeNsec &&
      this.#mtimeSec === attr.mtimeSec &&
      this.#ctimeNsec === attr.ctimeNsec &&
      this.#ctimeSec === attr.ctimeSec &&
      this.#sizeBytes === attr.sizeBytes
    );
  }

  #set(attr: Attr): void {
    this.#mtimeSec = attr.mtimeSec;
    this.#mtimeNsec = attr.mtimeNsec;
    this.#ctimeSec = attr.ctimeSec;
    this.#ctimeNsec = attr.ctimeNsec;
    this.#sizeBytes = attr.sizeBytes;
    this.#pages = "valid";
    this.#writtenBytes = 0;
  }
}
