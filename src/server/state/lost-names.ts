/**
 * Sessions from before the machine was started again: what they did to names and was acknowledged may be gone, as the machine's memory is. So the first
 * fsync of each directory by such a session says so, instead of succeeding for names that are not there.
 *
 * What was told is not stored: another start of the server tells it again.
 */
import type { NodeId } from "../../vfs/file-system.ts";
import type { Session } from "../session.ts";

/** Beyond so many directories of a session some are told again. */
const TOLD_MAX = 65_536;

export class LostNames {
  readonly #told = new WeakMap<Session, Set<NodeId>>();

  /** The session is of that kind from now on. */
  add(session: Session): void {
    this.#told.set(session, new Set());
  }

  has(session: Session): boolean {
    return this.#told.has(session);
  }

  /** Whether the session is to be told that names of this directory may be lost; once. */
  isNews(session: Session, directory: NodeId): boolean {
    const told = this.#told.get(session);
    if (told === undefined || told.has(directory)) return false;
    if (told.size >= TOLD_MAX) told.clear();
    told.add(directory);
    return true;
  }
}
