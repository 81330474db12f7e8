/**
 * An open directory: pages from the FileSystem, handed to the kernel in pieces of the size it asks for.
 *
 * The kernel asks for a few entries at a time, the FileSystem may be a round trip away: so a large page is fetched and kept until it is used up.
 * What was fetched for an earlier request may be older than what this mount has done since. Names may be (readdir(3) allows it), but
 * attributes and nodes must not be, or a file just removed or written would come back in its old state: then an entry is given
 * without them, and the kernel looks it up when it needs it.
 */
import { CloseCode, ProtocolError } from "../base/errors.ts";
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
  next: Dirent | undefined;
  rest: Iterator<Dirent>;
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
    if (page === undefined || page.cookie !== cookie || page.next === undefined) {
      this.#drop(session, page);
      page = await this.#fetch(session, request, cookie, plus);
      fresh = true;
    }
    const at = session.scratch;
    const end = at + Math.min(bytesMax, session.device.dataBytesMax);
    const entered: number[] = [];
    let here = at;
    while (page.next !== undefined) {
      const after = this.#put(session, here, end, page, plus, fresh, entered);
      if (after < 0) break;
      here = after;
      page.cookie = page.next.cookie;
      page.next = nextOf(page.rest);
    }
    if (!session.send(request, here - at)) for (const nodeid of entered) session.forget(nodeid, 1);
    if (page.next !== undefined) this.#page = page;
  }

  release(session: Session): void {
    this.#drop(session, this.#page);
    this.#page = undefined;
  }

  async #fetch(session: Session, request: KernelRequest, cookie: bigint, plus: boolean): Promise<Page> {
    const fetchedAt = session.nodes.now;
    const bytes = await session.fileSystem.readdir(request, this.handle, cookie, PAGE_BYTES_MAX, plus);
    const rest = decodeDirents(bytes);
    return { cookie, next: nextOf(rest), rest, fetchedAt };
  }

  /** Writes one entry at `at`; returns where the next one goes, or -1 if it does not fit. */
  #put(
    session: Session,
    at: number,
    end: number,
    page: Page,
    plus: boolean,
    fresh: boolean,
    entered: number[],
  ): number {
    const { view, device } = session;
    const dirent = page.next as Dirent;
    const head = plus ? DIRENTPLUS_BYTES : DIRENT_BYTES;
    const bytes = (head + dirent.name.length + 7) & ~7;
    if (at + bytes > end) return -1;
    let here = at;
    if (plus) {
      const { entry } = dirent;
      if (entry !== undefined && (fresh || this.#isCurrent(session, page, entry.id, entry.attr.nlink))) {
        const row = session.nodes.enter(entry.id);
        entered.push(row.nodeid);
        session.putEntry(at, row, entry.attr);
      } else {
        device.pool.fill(0, at, at + ENTRY_OUT_BYTES);
      }
      here += ENTRY_OUT_BYTES;
    }
    view.setUint32(here, dirent.inoLow, true);
    view.setUint32(here + 4, dirent.inoHigh, true);
    view.setBigUint64(here + 8, dirent.cookie, true);
    view.setUint32(here + 16, dirent.name.length, true);
    view.setUint32(here + 20, dirent.type, true);
    here += DIRENT_BYTES;
    here += device.pool.write(dirent.name, here, "latin1");
    device.pool.fill(0, here, at + bytes);
    return at + bytes;
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
    for (let dirent = page.next; dirent !== undefined; dirent = nextOf(page.rest)) {
      if (dirent.entry !== undefined && session.nodes.find(dirent.entry.id) === undefined) unused.push(dirent.entry.id);
    }
    if (unused.length > 0) session.fileSystem.forget(unused);
  }
}

function nextOf(rest: Iterator<Dirent>): Dirent | undefined {
  const { value, done } = rest.next();
  if (done === true) return undefined;
  if (value === undefined) throw new ProtocolError(CloseCode.MALFORMED, "directory page");
  return value;
}
