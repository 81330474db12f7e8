/**
 * What a server keeps in its state store: the kinds of record, and the keys they are found under.
 *
 *     i                                    who the server is
 *     s  session id, 16 bytes              a session
 *     o  open id, 8 bytes big-endian       an open
 *     l  open id, 8 bytes big-endian       the locks taken through an open, and those reserved
 *     e  open id, 8 bytes big-endian       what is left of the lease of an open, where that is less than it was granted
 *     a  session id, u32 handle            a handle of an open, by attaching to it
 *     v  session id, open id               how a session that is away has left the file of an open, if others have not changed it since
 *     r  session id, u16 table, u16 slot   what the last request of a slot was, and its reply if it must not run twice
 *
 * Stored by one start of the server and read by the next: a change of any layout needs another FORMAT in level-store.ts.
 */
import { CloseCode, ProtocolError } from "../../base/errors.ts";
import { NODE_ID_BYTES_MAX, type NodeId } from "../../vfs/file-system.ts";
import { Lease } from "../../vfs/lease.ts";
import { BODY_BYTES_MAX, SHARE_NAME_BYTES_MAX } from "../../wire/limits.ts";
import { MARK_BYTES } from "../users.ts";
import {
  binaryText,
  blob,
  choice,
  fixedBytes,
  flag,
  group,
  i53,
  list,
  optional,
  type RecordField,
  type RecordOf,
  recordCodec,
  u8,
  u16,
  u32,
  u53,
  u64,
  utf8Text,
} from "./record-codec.ts";
import type { StateKey } from "./state-store.ts";

/** Locks in one record: more than a session can have through one open, however its requests overtake each other. */
export const LOCKS_PER_OPEN_MAX = 24_576;
const ID_BYTES = 16;
const SECRET_BYTES = 32;
const TEXT_BYTES_MAX = 1024;
/** What a file system needs to find a node again: a path may be in it. */
const NODE_RECORD_BYTES_MAX = 16 * 1024;
const SLOT_TABLES_MAX = 64;
const HANDLES_MAX = 1024;

const identityFields = {
  serverId: fixedBytes(ID_BYTES),
  /** Of which each start makes its own key for resume keys. */
  sealSecret: fixedBytes(SECRET_BYTES),
  /** Counts take-overs of the shares. */
  epoch: u32,
  /** Counts the starts of this server; ids of opens begin anew with each. */
  starts: u32,
  /** Which start of the machine it was; empty where that is not known. */
  hostBootId: utf8Text(64),
  /** What was done to names in that start of the machine, and acknowledged, is on the disk. */
  areNamesSynced: flag,
};
export type IdentityRecord = RecordOf<typeof identityFields>;
export const identityRecord = recordCodec(group(identityFields));

const sessionFields = {
  id: fixedBytes(ID_BYTES),
  key: fixedBytes(SECRET_BYTES),
  /** Of the client's process. */
  clientId: fixedBytes(ID_BYTES),
  /** Empty: who knows the token. */
  user: utf8Text(TEXT_BYTES_MAX),
  /** What the login was made with; see ServerState.loginMark. */
  loginMark: fixedBytes(MARK_BYTES),
  /** For people. */
  label: utf8Text(TEXT_BYTES_MAX),
  share: utf8Text(SHARE_NAME_BYTES_MAX),
  isReadOnly: flag,
  /** The open it has a ticket for, and nothing else. */
  guestOf: optional(u53),
  /** The machine was started again since it began. */
  mayHaveLostNames: flag,
  sectionBytes: u32,
  keepMs: u32,
  slotTables: list(group({ number: u16, credits: u16 }), SLOT_TABLES_MAX),
};
export type SessionRecord = RecordOf<typeof sessionFields>;
export const sessionRecord = recordCodec(group(sessionFields));

const lease: RecordField<Lease> = {
  bytesMax: 1,
  write: (writer, value) => writer.u8(value),
  read(reader) {
    const value = reader.u8();
    if (value > Lease.WRITE) throw new ProtocolError(CloseCode.MALFORMED, `lease ${value}`);
    return value as Lease;
  },
};
export const leaseRecord = recordCodec(lease);

const version = group({ sizeBytes: u53, mtimeSec: i53, mtimeNsec: u32, ctimeSec: i53, ctimeNsec: u32 });

const openFields = {
  id: u53,
  session: fixedBytes(ID_BYTES),
  handles: list(u32, HANDLES_MAX),
  kind: choice(["file", "directory"] as const),
  node: binaryText<NodeId>(NODE_ID_BYTES_MAX),
  /** From the share's file system: how it finds the node again. */
  nodeRecord: blob(NODE_RECORD_BYTES_MAX),
  /** OpenFlags. */
  flags: u32,
  openedAtMs: u53,
  /** Process that opened, at the client. */
  pid: u32,
  /** As granted. */
  lease,
  /** The data as it was opened; absent where nobody looked. */
  version: optional(version),
};
export type OpenRecord = RecordOf<typeof openFields>;
export const openRecord = recordCodec(group(openFields));

const leftFields = {
  /** Absent: others have changed it. */
  version: optional(version),
};
export type LeftRecord = RecordOf<typeof leftFields>;
export const leftRecord = recordCodec(group(leftFields));

/** The id of the open that a handle is of. */
export const attachedRecord = recordCodec(u53);

const lockFields = {
  kind: choice(["posix", "flock"] as const),
  type: choice(["read", "write"] as const),
  owner: u64,
  pid: u32,
  startBytes: u64,
  /** The last byte that is locked. */
  endBytes: u64,
  /** The wish it is reserved for; 0: it is held. */
  waitId: u32,
};
export type LockRecord = RecordOf<typeof lockFields>;
/** All locks that were taken through one open. */
export const locksRecord = recordCodec(list(group(lockFields), LOCKS_PER_OPEN_MAX));

const slotFields = {
  turn: u16,
  opcode: u8,
  handle: u32,
  section: u32,
  /** Absent: the request was begun, and what it was to do is in `intent`. */
  reply: optional(
    group({
      /** 0, or an errno number. */
      status: u16,
      /** The handle made; 0 if none was. */
      made: u32,
      /** The reply's fields, as they travel. */
      body: blob(BODY_BYTES_MAX),
    }),
  ),
  /** See intents.ts; empty with a reply. */
  intent: blob(BODY_BYTES_MAX),
};
export type SlotRecord = RecordOf<typeof slotFields>;
export const slotRecord = recordCodec(group(slotFields));

export const IDENTITY_KEY: StateKey = "i";

export function sessionKeyOf(id: Buffer): StateKey {
  return `s${id.toString("latin1")}`;
}

export function openKeyOf(id: number): StateKey {
  return `o${openIdText(id)}`;
}

export function locksKeyOf(openId: number): StateKey {
  return `l${openIdText(openId)}`;
}

export function leaseKeyOf(openId: number): StateKey {
  return `e${openIdText(openId)}`;
}

export function attachedKeyOf(session: Buffer, handle: number): StateKey {
  return `a${session.toString("latin1")}${u32Text(handle)}`;
}

export function leftKeyOf(session: Buffer, openId: number): StateKey {
  return `v${session.toString("latin1")}${openIdText(openId)}`;
}

export function slotKeyOf(session: Buffer, table: number, slot: number): StateKey {
  return `r${session.toString("latin1")}${u16Text(table)}${u16Text(slot)}`;
}

/** What a key is of. */
export type KeyParts =
  | { readonly of: "identity" }
  | { readonly of: "session"; readonly id: Buffer }
  | { readonly of: "open" | "locks" | "lease"; readonly id: number }
  | { readonly of: "attached"; readonly session: Buffer; readonly handle: number }
  | { readonly of: "left"; readonly session: Buffer; readonly id: number }
  | { readonly of: "slot"; readonly session: Buffer; readonly table: number; readonly slot: number };

/** Undefined: a key of none of these. */
export function partsOfKey(key: StateKey): KeyParts | undefined {
  const bytes = Buffer.from(key, "latin1");
  if (key === IDENTITY_KEY) return { of: "identity" };
  if (key[0] === "s" && bytes.length === 1 + ID_BYTES) return { of: "session", id: bytes.subarray(1) };
  const ofOpen = { o: "open", l: "locks", e: "lease" } as const;
  if (key[0] !== undefined && key[0] in ofOpen && bytes.length === 9) {
    const id = openIdOf(bytes, 1);
    if (Number.isSafeInteger(id)) return { of: ofOpen[key[0] as keyof typeof ofOpen], id };
  }
  if (key[0] === "v" && bytes.length === 1 + ID_BYTES + 8) {
    const id = openIdOf(bytes, 1 + ID_BYTES);
    if (Number.isSafeInteger(id)) return { of: "left", session: bytes.subarray(1, 1 + ID_BYTES), id };
  }
  if (key[0] === "a" && bytes.length === 1 + ID_BYTES + 4) {
    return { of: "attached", session: bytes.subarray(1, 1 + ID_BYTES), handle: bytes.readUInt32BE(1 + ID_BYTES) };
  }
  if (key[0] === "r" && bytes.length === 1 + ID_BYTES + 4) {
    const [table, slot] = [bytes.readUInt16BE(1 + ID_BYTES), bytes.readUInt16BE(3 + ID_BYTES)];
    return { of: "slot", session: bytes.subarray(1, 1 + ID_BYTES), table, slot };
  }
  return undefined;
}

function u16Text(value: number): string {
  return String.fromCharCode(value >>> 8, value & 0xff);
}

function u32Text(value: number): string {
  return u16Text(value >>> 16) + u16Text(value & 0xffff);
}

function openIdOf(bytes: Buffer, offset: number): number {
  return bytes.readUInt32BE(offset) * 2 ** 32 + bytes.readUInt32BE(offset + 4);
}

function openIdText(id: number): string {
  return u32Text(Math.floor(id / 2 ** 32)) + u32Text(id >>> 0);
}
