/**
 * What requests ask of leases: which wait until others have given theirs back, and what for.
 *
 * A request that changes a file, or opens it for that, waits before it runs; one that looks at a file looks again when those who may have unsent data have sent it. Through an
 * open, reading and writing waits for nobody (leases.ts). Where only one session has leases nothing here costs anything.
 */
import type { Name } from "../base/name.ts";
import { raceSignal } from "../base/signals.ts";
import { withoutEntries } from "../vfs/dirent-page.ts";
import { type NodeId, OpenFlag, type OpenFlags } from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";
import type { Open } from "./open.ts";
import type { ServedRequest } from "./served-request.ts";
import type { Session } from "./session.ts";
import { WRITE_FLAGS } from "./share-modes.ts";

type Asked = Record<"id" | "parent" | "newParent", NodeId> & Record<"name" | "newName", Name> & { flags: OpenFlags };
type Answer = Record<string, unknown>;

/** What an open with these flags leaves to others. */
function leftBy(flags: OpenFlags): Lease {
  return (flags & WRITE_FLAGS) === 0 ? Lease.READ : Lease.NONE;
}

/** What a request waits for before it runs; undefined: nothing. Rejects when it is canceled. */
export function beforeLeases(request: ServedRequest): Promise<unknown> | undefined {
  const { session } = request;
  const { leases } = session.share;
  noteNames(request);
  if (!leases.othersHave(session)) return undefined;
  const { id, parent, name, newParent, newName, flags } = request.asked as Asked;
  switch (request.message.name) {
    case "open":
      return unlessCanceled(request, leases.break(session, id, leftBy(flags)));
    case "setattr":
    case "setxattr":
    case "removexattr":
      return unlessCanceled(request, leases.break(session, id, Lease.NONE));
    case "link":
      return unlessCanceled(
        request,
        both(leases.break(session, id, Lease.NONE), leases.break(session, parent, Lease.NONE)),
      );
    case "symlink":
    case "mknod":
    case "mkdir":
      return unlessCanceled(request, leases.break(session, parent, Lease.NONE));
    case "create": {
      const named = (flags & OpenFlag.TRUNC) === 0 ? undefined : breakNamed(request, parent, name);
      return unlessCanceled(request, both(leases.break(session, parent, Lease.NONE), named));
    }
    case "unlink":
    case "rmdir":
      return unlessCanceled(request, breakNamed(request, parent, name));
    case "rename": {
      const named = both(breakNamed(request, parent, name), breakNamed(request, newParent, newName));
      return unlessCanceled(request, both(leases.break(session, newParent, Lease.NONE), named));
    }
    default:
      return undefined;
  }
}

function both(one: Promise<unknown> | undefined, other: Promise<unknown> | undefined): Promise<unknown> | undefined {
  return one === undefined || other === undefined ? (one ?? other) : Promise.all([one, other]);
}

/** What names a session gives or takes in directories that it has leased. */
function noteNames({ session, message, asked }: ServedRequest): void {
  if (message.row.naming !== true) return;
  const { leasedNames } = session.share;
  const { parent, name, newParent, newName } = asked as Asked;
  leasedNames.named(session, parent, name);
  if (message.name === "rename") leasedNames.named(session, newParent, newName);
}

function unlessCanceled(request: ServedRequest, waited: Promise<unknown> | undefined): Promise<unknown> | undefined {
  return waited && raceSignal(waited, request.signal);
}

/** Breaks the leases of whatever has the name. */
async function breakNamed(request: ServedRequest, parent: NodeId, name: Name): Promise<void> {
  const named = await request.fs.lookup(request, parent, name).catch(() => undefined);
  if (named !== undefined) await request.session.share.leases.break(request.session, named.id, Lease.NONE);
}

/** What the answer to a request waits for, which is then true whatever was granted meanwhile; undefined: nothing. */
export function afterLeases(request: ServedRequest, answer: Answer): Promise<void> | undefined {
  const { session, open } = request;
  const { leases } = session.share;
  if (!leases.othersHave(session)) return undefined;
  const { id, parent, newParent, flags } = request.asked as Asked;
  switch (request.message.name) {
    case "open":
      return settled(request, leases.break(session, id, leftBy(flags)));
    case "create": {
      const directory = leases.break(session, parent, Lease.NONE);
      const file = created(request, answer, flags);
      return directory === undefined ? file : settled(request, both(directory, file));
    }
    case "setattr":
    case "setxattr":
    case "removexattr":
      return settled(request, leases.break(session, id, Lease.NONE));
    case "link":
      return settled(request, both(leases.break(session, id, Lease.NONE), leases.break(session, parent, Lease.NONE)));
    case "symlink":
    case "mknod":
    case "mkdir":
      return settled(request, leases.break(session, parent, Lease.NONE));
    case "rename":
      return settled(request, leases.break(session, newParent, Lease.NONE));
    case "lookup":
      return looked(request, answer["id"] as NodeId, answer);
    case "getattr":
      // Whoever has the file open has broken what was in his way.
      return open === undefined ? looked(request, id, answer) : undefined;
    case "readdir":
      if (leases.othersWrite(session) && request.asked["withEntries"] === true) withoutWritten(request, answer);
      return undefined;
    default:
      return undefined;
  }
}

/** What is done is answered, also to whom does not wait any more. */
async function waitFor(request: ServedRequest, broken: Promise<unknown>): Promise<void> {
  await raceSignal(broken, request.signal).catch(() => undefined);
}

function settled(request: ServedRequest, broken: Promise<unknown> | undefined): Promise<void> | undefined {
  return broken && waitFor(request, broken);
}

/** A file that was there already was not known before it was opened. */
function created(request: ServedRequest, answer: Answer, flags: OpenFlags): Promise<void> | undefined {
  const { session, fs } = request;
  const { leases } = session.share;
  const id = answer["id"] as NodeId;
  const broken = leases.break(session, id, leftBy(flags));
  if (broken === undefined) return undefined;
  return waitFor(request, broken).then(async () => {
    const inner = session.find(answer["handle"] as number)?.inner;
    const attr = await fs.getattr(request, id, inner).catch(() => undefined);
    if (attr === undefined) return;
    answer["attr"] = attr;
    leases.toldAttr(session, id, attr);
  });
}

/** Attributes that were looked at while somebody may have had unsent data are looked at again when he has none. */
function looked(request: ServedRequest, id: NodeId, answer: Answer): Promise<void> | undefined {
  const { session, fs } = request;
  const { leases } = session.share;
  const broken = leases.othersWrite(session) ? leases.break(session, id, Lease.READ) : undefined;
  if (broken === undefined) return undefined;
  return raceSignal(broken, request.signal).then(async () => {
    answer["attr"] = await fs.getattr(request, id);
  });
}

/** Files whose data may be unsent are listed without attributes: whoever wants them asks. */
function withoutWritten({ session }: ServedRequest, answer: Answer): void {
  const { leases } = session.share;
  answer["payload"] = withoutEntries(answer["payload"] as Buffer, (id) => leases.isWritten(session, id));
}

/**
 * Says in the answer to an open what there is of its lease at this moment, which the client learns of only now: what it was told to give back meanwhile it has given back,
 * having had nothing.
 */
export function stateLease({ share }: Session, open: Open | undefined, answer: Answer): void {
  if (answer["lease"] === undefined) return;
  answer["lease"] = open === undefined ? Lease.NONE : share.leases.toldOf(open);
}
