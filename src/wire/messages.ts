/**
 * The messages of the protocol: one table, one row a message.
 *
 * Types, encoders, decoders, debug print and the table in PROTOCOL.md derive from it; nothing about a message is said twice. Codes are
 * append-only and never reused. The order of a row's fields is their order on the wire.
 */
import type { FieldKind, FieldValue } from "./fields.ts";

export type Fields = Readonly<Record<string, FieldKind>>;

export interface MessageRow {
  /** The opcode of the request and of its reply. */
  readonly code: number;
  /** The protocol version that added it. */
  readonly since: number;
  /** Who may send the request; the other side replies. */
  readonly sender: "client" | "server" | "both";
  /** During set-up, or on a channel that is ready. */
  readonly phase: "setup" | "ready" | "any";
  readonly request: Fields;
  /** Absent: a notice, which has no reply, takes no credit and has tag 0. */
  readonly reply?: Fields;
  /** The header's handle: of an open (`given`), of an open or 0 (`optional`), or 0 in the request and new in the reply (`made`). Default: 0. */
  readonly handle?: "given" | "optional" | "made";
  /** The message may be one section of a larger request: the header's section number counts; it is 0 elsewhere. */
  readonly sections?: true;
  /** It takes effect after the writes to its node that came before it on its channel; so it may also be sent on an io channel, behind them. */
  readonly followsWrites?: true;
  /** Which of the two carries a payload. */
  readonly payload?: "request" | "reply";
  /** It gives a name, or takes one away. */
  readonly naming?: true;
  /** It changes the file system whatever its fields say: refused on a read-only share. */
  readonly changes?: true;
  /** After a resume: may be sent again as it is, or must be answered from the server's reply cache. */
  readonly replay: "idempotent" | "once";
  /** What it does, for PROTOCOL.md. */
  readonly says: string;
}

const CALLER = { caller: "caller" } as const satisfies Fields;
const BY_ID = { caller: "caller", id: "nodeId" } as const satisfies Fields;
const BY_NAME = { caller: "caller", parent: "nodeId", name: "name" } as const satisfies Fields;
const ENTRY = { id: "nodeId", attr: "attr" } as const satisfies Fields;
/** The directory whose names were changed, just after; mode 0: not known. */
const DIRECTORY = { directory: "attr" } as const satisfies Fields;
const NEW_NODE = { mode: "u32", umask: "u32" } as const satisfies Fields;
const EMPTY = {} as const satisfies Fields;
const LOCK_RANGE = { startBytes: "u64", endBytes: "u64" } as const satisfies Fields;
const LOCK = {
  caller: "caller",
  kind: "u8",
  type: "u8",
  owner: "u64",
  ...LOCK_RANGE,
  pid: "u32",
} as const satisfies Fields;
/** What an open is given besides its handle; sealed and opaque to the client. */
const KEYS = {
  openId: "u53",
  resumeKey: "opaque",
  serviceBlob: "opaque",
  challenge: "opaque",
} as const satisfies Fields;
/** What is wished for of a lease, and what is granted. */
const LEASE = { lease: "lease" } as const satisfies Fields;

export const MESSAGES = {
  hello: {
    code: 1,
    since: 1,
    sender: "client",
    phase: "setup",
    replay: "idempotent",
    request: {
      magic: "magic",
      versionMin: "u8",
      versionMax: "u8",
      features: "u32",
      channelKind: "u8",
      security: "u8",
      clientId: "bytes16",
      clientNonce: "bytes32",
      sectionBytes: "u32",
      credits: "u16",
      sessionId: "opaque",
      slotTable: "u16",
      keepMs: "u32",
      share: "text",
      user: "text",
      resumeKey: "opaque",
    },
    reply: {
      version: "u8",
      features: "u32",
      serverNonce: "bytes32",
      sectionBytes: "u32",
      credits: "u16",
      salt: "opaque",
      iterations: "u32",
    },
    says: "Opens a channel; the reply is the server's challenge.",
  },
  auth: {
    code: 2,
    since: 1,
    sender: "client",
    phase: "setup",
    replay: "idempotent",
    request: { proof: "bytes32" },
    reply: {
      sessionId: "bytes16",
      serverId: "bytes16",
      bootId: "bytes16",
      bytesMax: "u32",
      keepMs: "u32",
      readOnly: "bool",
      squash: "u8",
      flushless: "bool",
      mandatoryLocks: "bool",
      share: "text",
      proof: "bytes32",
    },
    says: "Proves who the client is; the reply welcomes it and proves who the server is. `flushless`: `flush` does nothing on this share and may be left out.",
  },
  goodbye: {
    code: 3,
    since: 1,
    sender: "both",
    phase: "any",
    replay: "idempotent",
    request: { code: "u16", reason: "text" },
    says: "Last frame of a side: why it closes the channel (0: as planned by the client). Also how a server refuses.",
  },
  cancel: {
    code: 4,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: { canceledTag: "u32" },
    says: "The request with this tag is no longer wanted. It is still answered, with EINTR if it was stopped. Unknown tags are ignored.",
  },

  ping: {
    code: 5,
    since: 1,
    sender: "both",
    phase: "ready",
    replay: "idempotent",
    request: { echo: "u32" },
    says: "Are you there? The server sends it back as it is.",
  },

  root: {
    code: 16,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: CALLER,
    reply: ENTRY,
    says: "The share's top directory.",
  },
  lookup: {
    code: 17,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: BY_NAME,
    reply: ENTRY,
    says: "Finds a name in a directory.",
  },
  forget: {
    code: 18,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: { ids: "nodeIds" },
    says: "These ids will not be used again without a lookup. A hint.",
  },
  getattr: {
    code: 19,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "optional",
    followsWrites: true,
    replay: "idempotent",
    request: BY_ID,
    reply: { attr: "attr" },
    says: "Attributes; by the open if a handle is given.",
  },
  setattr: {
    code: 20,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "optional",
    changes: true,
    replay: "once",
    request: { ...BY_ID, change: "attrChange" },
    reply: { attr: "attr" },
    says: "Changes attributes and returns the new ones.",
  },
  access: {
    code: 21,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: { ...BY_ID, mask: "u8" },
    reply: EMPTY,
    says: "Whether the caller may read (4), write (2), execute (1).",
  },
  readlink: {
    code: 22,
    since: 1,
    sender: "client",
    phase: "ready",
    payload: "reply",
    replay: "idempotent",
    request: BY_ID,
    reply: EMPTY,
    says: "A symbolic link's target, 1..4095 bytes, as the payload.",
  },
  symlink: {
    code: 23,
    since: 1,
    sender: "client",
    phase: "ready",
    payload: "request",
    changes: true,
    naming: true,
    replay: "once",
    request: BY_NAME,
    reply: { ...ENTRY, ...DIRECTORY },
    says: "Makes a symbolic link; the target, 1..4095 bytes without NUL, is the payload.",
  },
  mknod: {
    code: 24,
    since: 1,
    sender: "client",
    phase: "ready",
    changes: true,
    naming: true,
    replay: "once",
    request: { ...BY_NAME, ...NEW_NODE, rdevMajor: "u32", rdevMinor: "u32" },
    reply: { ...ENTRY, ...DIRECTORY },
    says: "Makes a file, fifo, socket or device; the type is in the mode.",
  },
  mkdir: {
    code: 25,
    since: 1,
    sender: "client",
    phase: "ready",
    changes: true,
    naming: true,
    replay: "once",
    request: { ...BY_NAME, ...NEW_NODE },
    reply: { ...ENTRY, ...DIRECTORY },
    says: "Makes a directory.",
  },
  unlink: {
    code: 26,
    since: 1,
    sender: "client",
    phase: "ready",
    changes: true,
    naming: true,
    replay: "once",
    request: BY_NAME,
    reply: DIRECTORY,
    says: "Removes a name that is not a directory's.",
  },
  rmdir: {
    code: 27,
    since: 1,
    sender: "client",
    phase: "ready",
    changes: true,
    naming: true,
    replay: "once",
    request: BY_NAME,
    reply: DIRECTORY,
    says: "Removes an empty directory.",
  },
  link: {
    code: 28,
    since: 1,
    sender: "client",
    phase: "ready",
    changes: true,
    naming: true,
    replay: "once",
    request: { ...BY_ID, parent: "nodeId", name: "name" },
    reply: { ...ENTRY, ...DIRECTORY },
    says: "Gives a node another name.",
  },
  rename: {
    code: 29,
    since: 1,
    sender: "client",
    phase: "ready",
    changes: true,
    naming: true,
    replay: "once",
    request: { ...BY_NAME, newParent: "nodeId", newName: "name", flags: "u32" },
    reply: EMPTY,
    says: "renameat2(2) with its flags.",
  },

  open: {
    code: 32,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "made",
    replay: "once",
    payload: "reply",
    request: { ...BY_ID, flags: "u32", contentBytesMax: "u32", ...LEASE },
    reply: { attr: "attr", ...KEYS, ...LEASE },
    says: "Opens a file. The payload is all its bytes if they are no more than asked for and at hand, else empty.",
  },
  create: {
    code: 33,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "made",
    changes: true,
    naming: true,
    replay: "once",
    request: { ...BY_NAME, flags: "u32", ...NEW_NODE, ...LEASE },
    reply: { ...ENTRY, ...DIRECTORY, ...KEYS, ...LEASE },
    says: "Opens a file, and makes it if it is not there.",
  },
  tmpfile: {
    code: 34,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "made",
    changes: true,
    replay: "once",
    request: { caller: "caller", parent: "nodeId", flags: "u32", ...NEW_NODE, ...LEASE },
    reply: { ...ENTRY, ...KEYS, ...LEASE },
    says: "Makes and opens a file without a name.",
  },
  read: {
    code: 35,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    sections: true,
    payload: "reply",
    replay: "idempotent",
    request: { caller: "caller", offsetBytes: "u53", lengthBytes: "u32" },
    reply: EMPTY,
    says: "Reads at most a section; the data is the payload, short only at the end of the file.",
  },
  write: {
    code: 36,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    sections: true,
    payload: "request",
    changes: true,
    replay: "once",
    request: { caller: "caller", offsetBytes: "u53", killSuidgid: "bool" },
    reply: { writtenBytes: "u32" },
    says: "Writes the payload, at most a section. Without effect on the offset with opens that append.",
  },
  flush: {
    code: 37,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    replay: "idempotent",
    request: CALLER,
    reply: EMPTY,
    says: "A descriptor was closed: errors of earlier writes.",
  },
  fsync: {
    code: 38,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    followsWrites: true,
    replay: "idempotent",
    request: { caller: "caller", dataOnly: "bool" },
    reply: EMPTY,
    says: "Everything acknowledged on this node, and every write it follows, is on the disk when it is answered.",
  },
  release: {
    code: 39,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    replay: "once",
    request: CALLER,
    reply: EMPTY,
    says: "Closes the handle, of a file or a directory. Requests before it on the handle are finished first.",
  },
  fallocate: {
    code: 40,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    changes: true,
    replay: "once",
    request: { caller: "caller", mode: "u32", offsetBytes: "u53", lengthBytes: "u53" },
    reply: EMPTY,
    says: "fallocate(2) with its modes.",
  },
  lseek: {
    code: 41,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    replay: "idempotent",
    request: { caller: "caller", offsetBytes: "u53", hole: "bool" },
    reply: { offsetBytes: "u53" },
    says: "The next data, or the next hole, from an offset on.",
  },
  copyFileRange: {
    code: 42,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    changes: true,
    replay: "once",
    request: {
      caller: "caller",
      offsetBytes: "u53",
      targetHandle: "u32",
      targetOffsetBytes: "u53",
      lengthBytes: "u53",
    },
    reply: { copiedBytes: "u53" },
    says: "Copies from the handle to another one on the server.",
  },
  queryKey: {
    code: 43,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    replay: "idempotent",
    request: EMPTY,
    reply: KEYS,
    says: "The resume key of an open once more, with a fresh challenge.",
  },

  written: {
    code: 44,
    since: 1,
    sender: "server",
    phase: "ready",
    replay: "idempotent",
    request: { tags: "tags" },
    says: "One reply to many: the writes with these tags wrote all their bytes. Each is of a `write` of this channel, still unanswered, and there once.",
  },

  getlk: {
    code: 45,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    replay: "idempotent",
    request: LOCK,
    reply: { type: "u8", ...LOCK_RANGE, pid: "u32" },
    says: "A lock that keeps this one from being had; type 0: it could be had. `pid` is 0 unless the process is of this session.",
  },
  setlk: {
    code: 46,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    replay: "once",
    request: { ...LOCK, waitId: "u32" },
    reply: { waits: "bool", attr: "attr" },
    says: "Locks or unlocks. `waitId` 0: at once, or EAGAIN; else the reply may say that it waits, and `lockReady` when to ask again.",
  },
  lockReady: {
    code: 47,
    since: 1,
    sender: "server",
    phase: "ready",
    replay: "idempotent",
    request: { waitId: "u32", errno: "u16", attr: "attr" },
    says: "A lock that is waited for is reserved for its client, which has it by asking again; or waiting for it has failed (errno).",
  },

  opendir: {
    code: 48,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "made",
    replay: "once",
    request: { ...BY_ID, ...LEASE },
    reply: LEASE,
    says: "Opens a directory for reading its entries. Of a lease no more than `read` is granted.",
  },
  readdir: {
    code: 49,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    payload: "reply",
    replay: "idempotent",
    request: { caller: "caller", cookie: "u64", bytesMax: "u32", withEntries: "bool" },
    reply: EMPTY,
    says: "Entries after a cookie (0: from the start) as a page in the payload; empty at the end.",
  },
  fsyncdir: {
    code: 50,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "given",
    replay: "idempotent",
    request: { caller: "caller", dataOnly: "bool" },
    reply: EMPTY,
    says: "fsync of an open directory.",
  },

  cancelLock: {
    code: 51,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: { waitId: "u32" },
    reply: EMPTY,
    says: "A lock is waited for no more, or not wanted though it is reserved. Ids that are not known are ignored.",
  },
  changed: {
    code: 52,
    since: 1,
    sender: "both",
    phase: "ready",
    replay: "idempotent",
    request: { id: "nodeId" },
    says: "Somebody else has changed the data of this file through an open that the client has a handle of, too. The client sends it back as it is.",
  },
  leaseBreak: {
    code: 53,
    since: 1,
    sender: "server",
    phase: "ready",
    replay: "idempotent",
    request: { breakId: "u32", id: "nodeId", lease: "lease" },
    says: "Others need the file: what the client has of it in leases is to be given back, down to this one, and what is unsent is to be sent before.",
  },
  returnLease: {
    code: 54,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: { breakId: "u32" },
    says: "What the notice with this number asked for is done. Unknown numbers are ignored.",
  },

  getxattr: {
    code: 56,
    since: 1,
    sender: "client",
    phase: "ready",
    payload: "reply",
    replay: "idempotent",
    request: { ...BY_ID, name: "name" },
    reply: EMPTY,
    says: "An extended attribute's value, 0..65536 bytes, as the payload.",
  },
  listxattr: {
    code: 57,
    since: 1,
    sender: "client",
    phase: "ready",
    payload: "reply",
    replay: "idempotent",
    request: BY_ID,
    reply: EMPTY,
    says: "Names of all extended attributes, each followed by NUL, as the payload.",
  },
  setxattr: {
    code: 58,
    since: 1,
    sender: "client",
    phase: "ready",
    payload: "request",
    changes: true,
    replay: "once",
    request: { ...BY_ID, name: "name", flags: "u32" },
    reply: EMPTY,
    says: "Sets an extended attribute to the payload, 0..65536 bytes.",
  },
  removexattr: {
    code: 59,
    since: 1,
    sender: "client",
    phase: "ready",
    changes: true,
    replay: "once",
    request: { ...BY_ID, name: "name" },
    reply: EMPTY,
    says: "Removes an extended attribute.",
  },

  statfs: {
    code: 64,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: BY_ID,
    reply: {
      blockBytes: "u32",
      fragmentBytes: "u32",
      blocks: "u53",
      blocksFree: "u53",
      blocksAvailable: "u53",
      files: "u53",
      filesFree: "u53",
      nameBytesMax: "u32",
    },
    says: "statfs(2) of the file system a node is on.",
  },
  syncfs: {
    code: 65,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: BY_ID,
    reply: EMPTY,
    says: "Everything acknowledged before, of the whole file system, is on the disk when it is answered.",
  },

  resume: {
    code: 72,
    since: 1,
    sender: "client",
    phase: "ready",
    replay: "idempotent",
    request: { items: "resumeItems" },
    reply: { results: "resumeResults" },
    says: "Comes back to opens of this session after its channels were lost: shows their resume keys, and learns what became of each.",
  },
  attach: {
    code: 73,
    since: 1,
    sender: "client",
    phase: "ready",
    handle: "made",
    replay: "once",
    request: { resumeKey: "opaque", clientNonce: "bytes32", proof: "bytes32" },
    reply: { id: "nodeId", attr: "attr", flags: "u32", openId: "u53", challenge: "opaque", proof: "bytes32" },
    says: "Another handle to an open, of this session or another one, for who knows its resume key, its key and its challenge.",
  },
} as const satisfies Record<string, MessageRow>;

type Table = typeof MESSAGES;
export type MessageName = keyof Table;

type Values<F> = F extends Fields ? { -readonly [K in keyof F]: FieldValue<F[K]> } : never;

/** The fields of a request or notice. */
export type Request<N extends MessageName> = Values<Table[N]["request"]>;
/** The fields of a reply with status 0; a reply with another status has none. */
export type Reply<N extends MessageName> = Table[N] extends { reply: infer F } ? Values<F> : never;

/** Messages without a reply. */
export type NoticeName = { [N in MessageName]: Table[N] extends { reply: Fields } ? never : N }[MessageName];
/** Messages with a reply. */
export type RequestName = Exclude<MessageName, NoticeName>;
/** Requests to a share's file system: everything after set-up. */
export type CallName = { [N in RequestName]: Table[N]["phase"] extends "ready" ? N : never }[RequestName];
/** Calls whose request, or whose reply, has a payload. */
export type PayloadCallName<Side extends "request" | "reply"> = {
  [N in CallName]: Table[N] extends { payload: Side } ? N : never;
}[CallName];
/** Calls whose reply brings a new handle. */
export type MakingCallName = { [N in CallName]: Table[N] extends { handle: "made" } ? N : never }[CallName];

/** What a handler is given: the fields, and the payload where the request has one. */
export type Asked<N extends CallName> = Request<N> &
  (N extends PayloadCallName<"request"> ? { payload: Buffer } : unknown);
/** What a handler returns: the fields, and payload and handle where the reply has them. */
export type Answer<N extends CallName> = Reply<N> &
  (N extends PayloadCallName<"reply"> ? { payload: Buffer } : unknown) &
  (N extends MakingCallName ? { handle: number } : unknown);

/** One handler a call, exhaustive: a call left out, or a wrong field, does not compile. */
export type Handlers<Ctx> = { readonly [N in CallName]: (ctx: Ctx, asked: Asked<N>) => Promise<Answer<N>> };

/** How a channel is protected, by the number of `hello`: each is stronger than the one before. */
export const SECURITY_NAMES = ["plain", "signed", "tls"] as const;
export type Security = (typeof SECURITY_NAMES)[number];
/** The same for each kind of channel. */
export type ChannelSecurity = Readonly<Record<"control" | "io", Security>>;
/** Kinds of channel. */
export const ChannelKind = { CONTROL: 1, IO: 2 } as const;
/** The header's flag of a reply; all other flags are 0. */
export const FLAG_REPLY = 1;
/** How squash is said on the wire. */
export const SQUASH_NAMES = ["none", "root", "all"] as const;
