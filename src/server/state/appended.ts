/**
 * Finds what an append has put into its file before its server died: what the client sends again is looked for behind what the file had.
 *
 * Both what is looked for and where are of the clients' choice, and may be long. So the search takes time in proportion to both, whatever they are
 * (Knuth, Morris and Pratt), a turn of the event loop for each piece, and memory for one search in a file system.
 */
import { FsError } from "../../base/errors.ts";
import { type FileSystem, type NodeId, OpenFlag, type RequestContext } from "../../vfs/file-system.ts";
import type { Appended } from "./intents.ts";

const OWN: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
/** What is read and looked through in one turn. */
const PIECE_BYTES = 256 << 10;
/** The most that is looked through: beyond it others have appended, or somebody has made the file longer, and what may lie there is appended once more. */
const SEARCHED_BYTES_MAX = 2 ** 30;

/** The searches of a server: one after the other in each file system. */
export class AppendedSearches {
  readonly #pieceBytes: number;
  readonly #searchedBytesMax: number;
  readonly #last = new WeakMap<FileSystem, Promise<unknown>>();

  constructor({ pieceBytes = PIECE_BYTES, searchedBytesMax = SEARCHED_BYTES_MAX } = {}) {
    this.#pieceBytes = pieceBytes;
    this.#searchedBytesMax = searchedBytesMax;
  }

  /**
   * How many bytes of `data` an append has already put into the file: all, none, or the first part of them, which the rest is to follow. A part is only
   * believed if nobody else has appended. `isOver`: nobody wants to know any more.
   *
   * @throws FsError EINTR it is over; what cannot be read.
   */
  find(
    fs: FileSystem,
    node: NodeId,
    data: Buffer,
    region: Appended,
    isOver: () => boolean = () => false,
  ): Promise<number> {
    const before = this.#last.get(fs) ?? Promise.resolve();
    const found = before.then(() => this.#find(fs, node, data, region, isOver));
    this.#last.set(
      fs,
      found.catch(() => undefined),
    );
    return found;
  }

  async #find(
    fs: FileSystem,
    node: NodeId,
    data: Buffer,
    { startBytes, endBytes }: Appended,
    isOver: () => boolean,
  ): Promise<number> {
    const { recovery } = fs;
    if (recovery === undefined || data.length === 0) return 0;
    const next = async () => {
      await new Promise(setImmediate);
      if (isOver()) throw new FsError("EINTR", "write");
    };
    const search = new Search(data);
    while (!search.prepare(this.#pieceBytes)) await next();
    // Who appends need not be able to read.
    const { handle } = await recovery.reopen(OWN, node, OpenFlag.READ);
    try {
      const regionBytes = Math.min(endBytes - startBytes, this.#searchedBytesMax);
      const piece = Buffer.allocUnsafe(Math.min(regionBytes, this.#pieceBytes));
      let at = 0;
      while (at < regionBytes) {
        await next();
        const bytes = await fs.read(OWN, handle, startBytes + at, piece.subarray(0, regionBytes - at));
        if (bytes === 0) break;
        if (search.isIn(piece.subarray(0, bytes))) return data.length;
        at += bytes;
      }
      return search.matchedBytes === at ? at : 0;
    } finally {
      await fs.release(OWN, handle);
    }
  }
}

/** Looks for one sequence of bytes in another that comes in pieces. */
class Search {
  readonly #data: Buffer;
  /** For each first part of the data by its last byte: the length of the longest shorter one that it ends with. */
  readonly #borders: Uint32Array;
  #preparedBytes = 1;
  #border = 0;
  #matchedBytes = 0;

  constructor(data: Buffer) {
    this.#data = data;
    this.#borders = new Uint32Array(data.length);
  }

  /** With how many bytes of the data the pieces so far end. */
  get matchedBytes(): number {
    return this.#matchedBytes;
  }

  /** Looks at so much of the data, before the first piece. @returns whether that was all. */
  prepare(bytes: number): boolean {
    const borders = this.#borders;
    const end = Math.min(this.#preparedBytes + bytes, this.#data.length);
    for (let at = this.#preparedBytes; at < end; at += 1) {
      this.#border = this.#longer(this.#border, this.#data[at] as number);
      borders[at] = this.#border;
    }
    this.#preparedBytes = end;
    return end === this.#data.length;
  }

  /** @returns whether the data ends in this piece; then there is to be no other. */
  isIn(piece: Buffer): boolean {
    const { length } = this.#data;
    let matched = this.#matchedBytes;
    for (let at = 0; at < piece.length && matched < length; at += 1)
      matched = this.#longer(matched, piece[at] as number);
    this.#matchedBytes = matched;
    return matched === length;
  }

  /** The longest first part of the data that ends with `byte`, behind as much as can be of one of `length` bytes. */
  #longer(length: number, byte: number): number {
    let longest = length;
    while (longest > 0 && this.#data[longest] !== byte) longest = this.#borders[longest - 1] as number;
    return this.#data[longest] === byte ? longest + 1 : longest;
  }
}
