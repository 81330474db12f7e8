/**
 * An open directory: pages from the FileSystem, handed to the kernel in pieces of the size it asks for.
 *
 * The kernel asks for a few entries at a time, the FileSystem may be a round trip away: so a large page is fetched and kept until it is used up.
 * What was fetched for an earlier request may be older than what this mount has done since. Names may be (readdir(3) allows it), but
 * attributes and nodes must not be, or a file just removed or written would come back in its old state: then an entry is given
 * without them, and the kernel looks it up when it needs it.
 */
import { type Dirent, decodeDirents } from "../vfs/dirent-page.ts";
import type { HandleId, NodeId } from "../vfs/file-system.ts";
import { DIRENT_BYTES, DIRENTPLUS_BYTES, ENTRY_OUT_BYTES } from "./abi.ts";
import type { NodeRow } from "./node-table.ts";
import type { KernelRequest } from "./request.ts";
import type { Session } from "./session.ts";

/** Asked of the FileSystem at a time. */
export const PAGE_BYTES_MAX = 64 * 1024;

/** A page in use: the entries not yet given to the kernel. */
interface Page {
  /** Where the kernel goes on. */
  cookie: bigint;
  readonly dirents: readonly Dirent[];
  /** The first of `dirents` the kernel has not got yet. */
  next: number;
  /** `nodes.now` when it was asked for. */
  fetchedAt: number;
}

export class DirHandle {
  readonly handle: HandleId;
  readonly node: NodeRow;
  #page: Page | undefined;

  constructor(handle: HandleId, node: NodeRow) {
    this.handle = handle;
    this.node = node;
  }

  /** Answers READDIR, or READDIRPLUS with `plus`. */
  async read(session: Session, request: KernelRequest, cookie: bigint, bytesMax: number, plus: boolean): Promise<void> {
    // Whoever takes the page has it alone: a second reader of the same handle fetches its own.
    let page = this.#page;
    this.#page = undefined;
    let fresh = false;
    if (page === undefined || page.cookie !== cookie || page.next === page.dirents.length) {
      this.#drop(session, page);
      page = await this.#fetch(session, request, cookie, plus);
      fresh = true;
    }
    const at = session.scratch;
    const end = at + Math.min(bytesMax, session.device.dataBytesMax);
    const entered: number[] = [];
    let here = at;
    for (let dirent = page.dirents[page.next]; dirent !== undefined; dirent = page.dirents[page.next]) {
      const bytes = direntBytes(dirent.name.length, plus);
      if (here + bytes > end) break;
      if (plus) entered.push(this.#putEntry(session, here, dirent, page, fresh));
      this.#putDirent(session, plus ? here + ENTRY_OUT_BYTES : here, here + bytes, dirent);
      here += bytes;
      page.cookie = dirent.cookie;
      page.next++;
    }
    if (!session.send(request, here - at)) for (const nodeid of entered) if (nodeid !== 0) session.forget(nodeid, 1);
    if (page.next < page.dirents.length) this.#page = page;
  }

  release(session: Session): void {
    this.#drop(session, this.#page);
    this.#page = undefined;
  }

  async #fetch(session: Session, request: KernelRequest, cookie: bigint, plus: boolean): Promise<Page> {
    const fetchedAt = session.nodes.now;
    const bytes = await session.fileSystem.readdir(request, this.handle, cookie, PAGE_BYTES_MAX, plus);
    return { cookie, dirents: [...decodeDirents(bytes)], next: 0, fetchedAt };
  }

  /** Writes the node and attributes of an entry, or zeros: "not known". Returns the node number, or 0. */
  #putEntry(session: Session, at: number, { entry }: Dirent, page: Page, fresh: boolean): number {
    if (entry === undefined || !(fresh || this.#isCurrent(session, page, entry.id, entry.attr.nlink))) {
      session.device.pool.fill(0, at, at + ENTRY_OUT_BYTES);
      return 0;
    }
    const row = session.nodes.enter(entry.id);
    session.putEntry(at, row, entry.attr);
    return row.nodeid;
  }

  #putDirent(session: Session, at: number, end: number, dirent: Dirent): void {
    const { view, device } = session;
    view.setUint32(at, dirent.inoLow, true);
    view.setUint32(at + 4, dirent.inoHigh, true);
    view.setBigUint64(at + 8, dirent.cookie, true);
    view.setUint32(at + 16, dirent.name.length, true);
    view.setUint32(at + 20, dirent.type, true);
    const nameEnd = at + DIRENT_BYTES + device.pool.write(dirent.name, at + DIRENT_BYTES, "latin1");
    device.pool.fill(0, nameEnd, end);
  }

  #isCurrent(session: Session, page: Page, id: NodeId, nlink: number): boolean {
    return (
      this.node.changedAt <= page.fetchedAt &&
      (nlink === 1 || session.linksChangedAt <= page.fetchedAt) &&
      session.nodes.isUnchangedSince(id, page.fetchedAt)
    );
  }

  /** Nodes of a page that is not used up were looked up for nobody. */
  #drop(session: Session, page: Page | undefined): void {
    if (page === undefined) return;
    const unused: NodeId[] = [];
    for (const dirent of page.dirents.slice(page.next)) {
      if (dirent.entry !== undefined && session.nodes.find(dirent.entry.id) === undefined) unused.push(dirent.entry.id);
    }
    if (unused.length > 0) session.fileSystem.forget(unused);
  }
}

/** What an entry takes in a reply. */
function direntBytes(nameBytes: number, plus: boolean): number {
  return ((plus ? DIRENTPLUS_BYTES : DIRENT_BYTES) + nameBytes + 7) & ~7;
}
