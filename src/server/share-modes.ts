/**
 * Share modes: what those who have a file of a share open let others do with it meanwhile.
 *
 * An open may deny others reading, writing, or both (DENY_READ, DENY_WRITE). Two opens of one file exclude each other if one denies what the other is for; the later
 * one fails with EBUSY. An open whose client is away denies as before; when its time is over, whoever comes against it gets the file, and the open is
 * given up. One that is closed is in the way until the requests on it have ended. Programs beside the server are not concerned.
 */
import { FsError } from "../base/errors.ts";
import { DENY_FLAGS, type NodeId, OpenFlag, type OpenFlags } from "../vfs/file-system.ts";
import { NodeOpens } from "./node-opens.ts";

const READ_FLAGS = OpenFlag.READ | OpenFlag.EXEC;
/** An open with one of these is for changing the file. */
export const WRITE_FLAGS = OpenFlag.WRITE | OpenFlag.APPEND | OpenFlag.TRUNC;

/** What share modes need to know of an open. */
export interface ModeOpen {
  readonly node: NodeId;
  readonly flags: OpenFlags;
  readonly isIdle: boolean;
  readonly owner: { giveUp(open: ModeOpen, why: string): boolean };
}

/** The flags as a disk knows them. */
export function withoutModes(flags: OpenFlags): OpenFlags {
  return flags & ~DENY_FLAGS;
}

/** Whether an open with `flags` denies what one with `others` is for. */
function denies(flags: OpenFlags, others: OpenFlags): boolean {
  return (
    ((flags & OpenFlag.DENY_READ) !== 0 && (others & READ_FLAGS) !== 0) ||
    ((flags & OpenFlag.DENY_WRITE) !== 0 && (others & WRITE_FLAGS) !== 0)
  );
}

export class ShareModes {
  readonly #opens: NodeOpens<ModeOpen>;
  #denying = 0;

  /** Keeps `opens`. */
  constructor(opens = new NodeOpens<ModeOpen>()) {
    this.#opens = opens;
  }

  /** Whether anybody denies anything. */
  get isDenied(): boolean {
    return this.#denying > 0;
  }

  /**
   * Makes way for an open with these flags, or for a change of the file, by `who`.
   *
   * @throws FsError EBUSY somebody who is there, or whose time is not over, has the file open in a way that excludes it; or had, and requests on it are under way.
   */
  admit(node: NodeId, flags: OpenFlags, who: string): void {
    if (this.#denying === 0 && (flags & DENY_FLAGS) === 0) return;
    for (const open of [...(this.#opens.of(node) ?? [])]) {
      if (!denies(open.flags, flags) && !denies(flags, open.flags)) continue;
      const isGivenUp = open.owner.giveUp(open, `${who} asks for the file`);
      // What it has begun is done to the file all the same.
      if (!isGivenUp || !open.isIdle) throw new FsError("EBUSY", "open");
    }
  }

  /** An open that was made: others may have come first while it was. @throws FsError EBUSY, as `admit`; then it is not entered. */
  enter(open: ModeOpen, who: string): void {
    this.admit(open.node, open.flags, who);
    this.add(open);
  }

  /** An open that has its right from before. */
  add(open: ModeOpen): void {
    this.#opens.add(open);
    if ((open.flags & DENY_FLAGS) !== 0) this.#denying += 1;
  }

  /** Also of one that was not entered. */
  delete(open: ModeOpen): void {
    if (this.#opens.delete(open) && (open.flags & DENY_FLAGS) !== 0) this.#denying -= 1;
  }
}
