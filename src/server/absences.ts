/**
 * The files of one session that its client may not know as they are, for the verdicts of `resume`: all that it has open, while it is away; and those whose leases were taken away
 * without its word, while it is there.
 *
 * It ends for a file when the client knows. That a verdict was sent does not say that it came: what others have changed is told again until the client asks for a change,
 * which it does not before it has all verdicts.
 */
import type { Attr } from "../vfs/attr.ts";
import type { RequestContext } from "../vfs/file-system.ts";
import { Absence, type Changes, type DataVersion, versionOf } from "./node-changes.ts";
import type { Open } from "./open.ts";
import type { Session } from "./session.ts";
import type { Keeper } from "./state/keeper.ts";

/** Requests of the server itself. */
const OWN_CONTEXT: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
/** Opens whose state is looked at together when their client is gone. */
const VERSIONS_AT_ONCE = 64;

export class Absences {
  readonly #session: Session;
  readonly #keeper: Keeper | undefined;
  readonly #byOpen = new Map<Open, Absence>();
  /** Whether the versions of all opens of a client that left are asked for; `#leaving` settles when they are known. */
  #isLeaving = false;
  #leaving: Promise<void> = Promise.resolve();
  /** A verdict was sent that may not have come. */
  #isAnswered = false;

  constructor(session: Session, keeper: Keeper | undefined) {
    this.#session = session;
    this.#keeper = keeper;
  }

  /** Settles when what the client left is known, as far as it is asked for. */
  get leaving(): Promise<void> {
    return this.#leaving;
  }

  /** Whether the file is to be compared before the client changes it. */
  isUnseen(open: Open): boolean {
    return this.#byOpen.get(open)?.isAnswered === false;
  }

  /** Whether the client is told at once what others do through this open; else by the verdict, when it is back. */
  isToldOf(open: Open): boolean {
    const absence = this.#byOpen.get(open);
    return absence === undefined || absence.isAnswered || absence.unansweredBreak !== undefined;
  }

  /** The client has left these. */
  leave(opens: Iterable<Open>): void {
    for (const open of opens) this.begin(open);
    this.#isLeaving = false;
  }

  /** `isKept`: the version is written down. */
  begin(open: Open, version?: DataVersion | "unknown", isKept = false): void {
    if (open.kind === "file" && this.#byOpen.get(open)?.leaveAgain() !== true) this.#add(open, version, isKept);
  }

  #add(open: Open, version: DataVersion | "unknown" | undefined, isKept: boolean): Absence {
    const keep = (left: DataVersion | undefined) => this.#keeper?.left(this.#session, open, left);
    const absence = new Absence({ node: open.node, owner: this.#session, version, keep, isKept });
    this.#byOpen.set(open, absence);
    this.#session.share.absentOpens.add(absence);
    return absence;
  }

  /** The client is there, but has not heard of a break by which the open lost its lease. */
  leaseTaken(open: Open, breakId: number): void {
    const absence = this.#byOpen.get(open);
    if (absence === undefined) {
      // Something of its own may be about to change it.
      const known = open.isIdle ? open.knownAttr : undefined;
      const taken = this.#add(open, known && versionOf(known), false);
      taken.unansweredBreak = breakId;
      taken.left(undefined);
    } else if (absence.isAnswered || absence.unansweredBreak !== undefined) {
      absence.unansweredBreak = breakId;
      // Who has heard of the verdict has not heard of what is changed from now on.
      absence.isAnswered = false;
    }
  }

  /** It has heard of this break, and forgotten what it knew. */
  leaseReturned(breakId: number): void {
    for (const [open, { unansweredBreak }] of this.#byOpen) if (unansweredBreak === breakId) this.cameBack(open);
  }

  /** The requests of a client that is away have ended. */
  requestsEnded(): void {
    if (this.#isLeaving) return;
    this.#isLeaving = true;
    this.#leaving = this.#leaving.then(() => this.#noteVersions());
  }

  /** Asks for the state of each open file, a few at a time. */
  async #noteVersions(): Promise<void> {
    const absences = [...this.#byOpen];
    for (let at = 0; at < absences.length; at += VERSIONS_AT_ONCE) {
      await Promise.all(
        absences.slice(at, at + VERSIONS_AT_ONCE).map(async ([open, absence]) => {
          const attr = await this.#attrOf(open);
          // The client may be back already.
          if (this.#byOpen.get(open) === absence) absence.left(attr);
        }),
      );
    }
  }

  /** Looks, once, whether somebody has changed an open file since the client left, before the client does; it is told by `resume`. */
  async compare(open: Open): Promise<void> {
    const absence = this.#byOpen.get(open);
    await absence?.compare(() => this.#leaving.then(() => this.#attrOf(open)));
    // What its client changes from now on is no difference at the next start either.
    if (absence?.forgetKept() === true) this.#keeper?.cameBack(this.#session, open);
  }

  #attrOf({ node, inner }: Open): Promise<Attr | undefined> {
    return this.#session.share.fileSystem.getattr(OWN_CONTEXT, node, inner).catch(() => undefined);
  }

  /** What the client is about to be told; undefined: nobody else has changed the file. */
  verdict(open: Open): Changes | undefined {
    const absence = this.#byOpen.get(open);
    const changes = absence?.changes();
    if (absence === undefined || changes === undefined) {
      this.cameBack(open);
      return undefined;
    }
    absence.isAnswered = true;
    this.#isAnswered = true;
    return changes;
  }

  /** The client asks for a change, which it does not before it has all verdicts. */
  heard(): void {
    if (!this.#isAnswered) return;
    this.#isAnswered = false;
    for (const [open, { isAnswered }] of this.#byOpen) if (isAnswered) this.cameBack(open);
  }

  /** A request of an open that its client has resumed, or has only just learnt of; what it may not have heard of is still to be told. */
  used(open: Open): void {
    const absence = this.#byOpen.size === 0 ? undefined : this.#byOpen.get(open);
    if (absence?.unansweredBreak === undefined && absence?.isAnswered !== true) this.cameBack(open);
  }

  /** The client is back at this open, and knows what happened to it. */
  cameBack(open: Open): void {
    if (this.#byOpen.size === 0) return;
    const absence = this.#byOpen.get(open);
    if (absence === undefined) return;
    this.#byOpen.delete(open);
    this.#session.share.absentOpens.delete(absence);
    if (absence.isKept) this.#keeper?.cameBack(this.#session, open);
  }
}
