/**
 * What a request is about to do, written down before it does it, so that a server that died in between can tell whether it was done.
 *
 * An intent says what was there before: who had the name, how long the file was. The next start looks again and compares (`resolve`): a name that nobody
 * had leads to what was to be made; the node that was to go is gone; the one that was to move is where it was to go. Only requests that cannot
 * just run again have one. Pure but for looking: it changes nothing, and does not know who keeps intents.
 *
 * What stays open: somebody beside the server who does the very same between our look and the crash is taken for us. Clients wait for each other (name-line.ts).
 */
import { FsError } from "../../base/errors.ts";
import { NAME_BYTES_MAX, type Name } from "../../base/name.ts";
import { type Attr, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "../../vfs/attr.ts";
import {
  type Caller,
  type Entry,
  type FileSystem,
  type HandleId,
  NODE_ID_BYTES_MAX,
  type NodeId,
  OpenFlag,
  type OpenFlags,
  RenameFlag,
  type RequestContext,
  XattrFlag,
} from "../../vfs/file-system.ts";
import { NODE_RECORD_BYTES_MAX, type Recovery } from "../../vfs/recovery.ts";
import { messages } from "../../wire/codec.ts";
import { SYMLINK_BYTES_MAX } from "../../wire/limits.ts";
import type { CallName, MessageRow } from "../../wire/messages.ts";
import { binaryText, blob, choice, group, optional, type RecordOf, recordCodec, u32, u53 } from "./record-codec.ts";

const OWN: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
const NOTHING = Buffer.alloc(0);
const NO_NAME = "" as Name;
/** Flags of `rename` for which the comparison says nothing. */
const UNTELLING_FLAGS = RenameFlag.WHITEOUT;

/** A name in a directory, and who has it. */
const placeFields = {
  parent: binaryText<NodeId>(NODE_ID_BYTES_MAX),
  /** The parent's record of its file system. */
  directory: blob(NODE_RECORD_BYTES_MAX),
  name: binaryText<Name>(NAME_BYTES_MAX),
  found: optional(binaryText<NodeId>(NODE_ID_BYTES_MAX)),
};
const place = group(placeFields);
export type Place = RecordOf<typeof placeFields>;

const intentFields = {
  kind: choice(["make", "remove", "rename", "exchange", "append", "setxattr", "removexattr"] as const),
  /** The name that is made, removed or moved; the node whose attribute it is, without a name. */
  at: place,
  /** Where it is moved to. */
  to: place,
  /** Of what is made: type and device, the target of a symbolic link, the node that gets another name. */
  mode: u32,
  rdevMajor: u32,
  rdevMinor: u32,
  target: blob(SYMLINK_BYTES_MAX),
  node: optional(binaryText<NodeId>(NODE_ID_BYTES_MAX)),
  /** How long the file was that is appended to. */
  sizeBytes: u53,
  /** OpenFlags and opening process, of what is made and opened. */
  flags: u32,
  pid: u32,
};
export type Intent = RecordOf<typeof intentFields>;
export const intentRecord = recordCodec(group(intentFields));

const NOWHERE: Place = { parent: "" as NodeId, directory: NOTHING, name: NO_NAME, found: undefined };

function newIntent(kind: Intent["kind"], at: Place, more: Partial<Omit<Intent, "kind" | "at">>): Intent {
  return {
    kind,
    at,
    to: more.to ?? NOWHERE,
    mode: more.mode ?? 0,
    rdevMajor: more.rdevMajor ?? 0,
    rdevMinor: more.rdevMinor ?? 0,
    target: more.target ?? NOTHING,
    node: more.node,
    sizeBytes: more.sizeBytes ?? 0,
    flags: more.flags ?? 0,
    pid: more.pid ?? 0,
  };
}

/** What a request is, as far as it matters here. */
export interface Intended {
  readonly name: CallName;
  readonly caller: Caller;
  /** Fields of the message, and its payload. */
  readonly asked: Readonly<Record<string, unknown>>;
  readonly open: { readonly inner: HandleId; readonly node: NodeId; readonly flags: OpenFlags } | undefined;
}

interface Asked {
  readonly id: NodeId;
  readonly parent: NodeId;
  readonly name: Name;
  readonly newParent: NodeId;
  readonly newName: Name;
  readonly flags: number;
  readonly mode: number;
  readonly rdevMajor: number;
  readonly rdevMinor: number;
  readonly payload: Buffer;
}

/** Whether a request could do harm if it ran twice, so that `intentOf` is to be asked before it runs. */
export function isIntended(name: CallName, asked: Intended["asked"], open: Intended["open"]): boolean {
  if (name === "write") return open !== undefined && (open.flags & OpenFlag.APPEND) !== 0;
  if (name === "setxattr") return (asked["flags"] as number) === XattrFlag.CREATE;
  const { row }: { row: MessageRow } = messages[name];
  return row.naming === true || name === "removexattr";
}

/**
 * Looks at what is there before the request runs. Undefined: it may run again, because now it changes nothing that it would change then.
 *
 * At once, where looking waits for nothing.
 *
 * @throws FsError what cannot be looked at; running the request will tell.
 */
export function intentOf(fs: FileSystem, intended: Intended): Intent | undefined | Promise<Intent | undefined> {
  const { recovery } = fs;
  if (recovery === undefined) return undefined;
  const asked = intended.asked as unknown as Asked;
  switch (intended.name) {
    case "write":
      return appendIntent(fs, recovery, intended);
    case "setxattr":
    case "removexattr":
      return xattrIntent(fs, recovery, intended.name, asked);
    case "unlink":
    case "rmdir":
      return having(look(fs, recovery, asked.parent, asked.name), (at) =>
        at.found === undefined ? undefined : newIntent("remove", at, {}),
      );
    case "rename":
      return renameIntent(fs, recovery, asked);
    default:
      return having(look(fs, recovery, asked.parent, asked.name), (at) =>
        at.found === undefined ? newIntent("make", at, madeBy(intended.name, asked, intended.caller.pid)) : undefined,
      );
  }
}

/** What follows from a value that is there or will be. */
function having<T, U>(value: T | Promise<T>, follows: (value: T) => U): U | Promise<U> {
  return value instanceof Promise ? value.then(follows) : follows(value);
}

function madeBy(name: CallName, asked: Asked, pid: number): Partial<Intent> {
  if (name === "link") return { pid, node: asked.id };
  if (name === "symlink") return { pid, mode: S_IFLNK, target: asked.payload };
  if (name === "mkdir") return { pid, mode: S_IFDIR };
  if (name === "create") return { pid, mode: S_IFREG, flags: asked.flags };
  const type = asked.mode & S_IFMT;
  return { pid, mode: type === 0 ? S_IFREG : type, rdevMajor: asked.rdevMajor, rdevMinor: asked.rdevMinor };
}

async function renameIntent(fs: FileSystem, recovery: Recovery, asked: Asked): Promise<Intent | undefined> {
  const at = await look(fs, recovery, asked.parent, asked.name);
  const to = await look(fs, recovery, asked.newParent, asked.newName);
  // Two names of one file: nothing happens.
  if (at.found === undefined || at.found === to.found || (asked.flags & UNTELLING_FLAGS) !== 0) return undefined;
  return newIntent((asked.flags & RenameFlag.EXCHANGE) !== 0 ? "exchange" : "rename", at, { to });
}

async function appendIntent(fs: FileSystem, recovery: Recovery, { open }: Intended): Promise<Intent | undefined> {
  if (open === undefined) return undefined;
  const { sizeBytes } = await fs.getattr(OWN, open.node, open.inner);
  const at = { parent: open.node, directory: recovery.describe(open.inner), name: NO_NAME, found: open.node };
  return newIntent("append", at, { sizeBytes });
}

async function xattrIntent(
  fs: FileSystem,
  recovery: Recovery,
  kind: "setxattr" | "removexattr",
  { id, name }: Asked,
): Promise<Intent | undefined> {
  const isThere = await hasXattr(fs, id, name);
  if (isThere !== (kind === "removexattr")) return undefined;
  return newIntent(kind, { parent: id, directory: recovery.describeNode(id), name, found: id }, {});
}

async function hasXattr(fs: FileSystem, id: NodeId, name: Name): Promise<boolean> {
  return fs.getxattr(OWN, id, name).then(
    () => true,
    (error: unknown) => {
      if (error instanceof FsError && error.errno === "ENODATA") return false;
      throw error;
    },
  );
}

function look(fs: FileSystem, recovery: Recovery, parent: NodeId, name: Name): Place | Promise<Place> {
  const directory = recovery.describeNode(parent);
  const present = recovery.peek(parent, name);
  if (present === undefined)
    return entryAt(fs, parent, name).then((entry) => ({ parent, directory, name, found: entry?.id }));
  return { parent, directory, name, found: present === "nobody" ? undefined : present.id };
}

async function entryAt(fs: FileSystem, parent: NodeId, name: Name): Promise<Entry | undefined> {
  try {
    return await fs.lookup(OWN, parent, name);
  } catch (error) {
    if (error instanceof FsError && error.errno === "ENOENT") return undefined;
    throw error;
  }
}

/** What became of an intent. */
export type Outcome =
  /** Not done, or it cannot be told: it is to run. */
  | { readonly t: "open" }
  /** `touched`: the nodes that it changed; `entry`: what was made; `directory`: where it or the name is, or was. */
  | {
      readonly t: "done";
      readonly touched: readonly NodeId[];
      readonly directory: NodeId | undefined;
      readonly entry: Entry | undefined;
    }
  /** The data may be in the file, from `startBytes` to before `endBytes`, whole or in part; see appended.ts. */
  | { readonly t: "appended"; readonly region: Appended };

const OPEN: Outcome = { t: "open" };

/** Whether another request is known to have given the name to this node, or taken it away. */
export type IsClaimed = (at: Place, id: NodeId) => boolean;

/**
 * Looks whether an intent of the process before was done. To be asked before anything is changed, for one after the other.
 */
export async function resolve(fs: FileSystem, intent: Intent, isClaimed: IsClaimed = () => false): Promise<Outcome> {
  const { recovery } = fs;
  if (recovery === undefined) return OPEN;
  try {
    return await resolveWith(fs, recovery, intent, isClaimed);
  } catch (error) {
    // What cannot be looked at cannot be compared. The request meets the same error.
    if (error instanceof FsError) return OPEN;
    throw error;
  }
}

async function resolveWith(fs: FileSystem, recovery: Recovery, intent: Intent, isClaimed: IsClaimed): Promise<Outcome> {
  const { kind, at } = intent;
  const { id: directory } = await recovery.recall(OWN, at.directory);
  if (kind === "append") {
    const { sizeBytes } = await fs.getattr(OWN, directory);
    const region = { startBytes: intent.sizeBytes, endBytes: sizeBytes };
    return sizeBytes > intent.sizeBytes ? { t: "appended", region } : OPEN;
  }
  if (kind === "setxattr" || kind === "removexattr") {
    const isThere = await hasXattr(fs, directory, at.name);
    return isThere === (kind === "setxattr") ? done([directory]) : OPEN;
  }
  const now = await entryAt(fs, directory, at.name);
  if (kind === "make") {
    const isIt = now !== undefined && !isClaimed(at, now.id) && (await isMade(fs, intent, now));
    return isIt ? done([directory], directory, now) : OPEN;
  }
  const { found } = at;
  if (found === undefined || now?.id === found) return OPEN;
  if (kind === "remove") return isClaimed(at, found) ? OPEN : done([directory], directory);
  const { id: newDirectory } = await recovery.recall(OWN, intent.to.directory);
  const there = await entryAt(fs, newDirectory, intent.to.name);
  const isMoved = there?.id === found && (kind === "rename" || now?.id === intent.to.found);
  return isMoved ? done([newDirectory, directory]) : OPEN;
}

function done(touched: readonly NodeId[], directory?: NodeId, entry?: Entry): Outcome {
  return { t: "done", touched, directory, entry };
}

/** Whether what has the name now is what was to be made. */
async function isMade(fs: FileSystem, intent: Intent, { id, attr }: Entry): Promise<boolean> {
  if (intent.node !== undefined) return id === intent.node;
  if ((attr.mode & S_IFMT) !== intent.mode) return false;
  if (intent.mode === S_IFLNK) return (await fs.readlink(OWN, id)).equals(intent.target);
  return isSameDevice(intent, attr);
}

function isSameDevice(intent: Intent, attr: Attr): boolean {
  return attr.rdevMajor === intent.rdevMajor && attr.rdevMinor === intent.rdevMinor;
}

/** Where data that was being appended may be: behind what the file had, up to its end at the next start. */
export interface Appended {
  readonly startBytes: number;
  readonly endBytes: number;
}
