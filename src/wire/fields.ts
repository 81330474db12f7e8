/**
 * The kinds of field a message body is made of: how each is written, read, printed and described.
 *
 * A body is its fields one after the other, without padding or tags. INVARIANT: for every value there is one encoding; a reader rejects any
 * other (ProtocolError MALFORMED), so that equal messages are equal bytes and proofs over bytes are proofs over values.
 */
import type { ByteReader, ByteWriter } from "../base/byte-cursor.ts";
import { NAME_BYTES_MAX, type Name, nameToText } from "../base/name.ts";
import { ATTR_BYTES, type Attr, decodeAttr, encodeAttr, type TimeSpec } from "../vfs/attr.ts";
import type { AttrChange, Caller } from "../vfs/file-system.ts";
import { NODE_ID_BYTES_MAX, type NodeId } from "../vfs/file-system.ts";
import { LEASE_NAMES, Lease } from "../vfs/lease.ts";
import { type FieldCodec, malformed, readUtf8 } from "./field-codec.ts";
import { CALLER_GROUPS_MAX, FORGET_IDS_MAX, OPAQUE_BYTES_MAX, REASON_BYTES_MAX, WRITTEN_TAGS_MAX } from "./limits.ts";
import { resumeItems, resumeResults } from "./resume-fields.ts";

function integer(bytesMax: number, layout: string, width: "u8" | "u16" | "u32"): FieldCodec<number> {
  return {
    bytesMax,
    layout,
    write: (writer, value) => writer[width](value),
    read: (reader) => reader[width](),
    print: String,
  };
}

/** Exactly `bytes` opaque bytes; a value read is a copy. */
function fixed(bytes: number, layout: string): FieldCodec<Buffer> {
  return {
    bytesMax: bytes,
    layout,
    write(writer, value) {
      if (value.length !== bytes) throw new RangeError(`field of ${bytes} bytes given ${value.length}`);
      writer.bytes(value);
    },
    read: (reader) => reader.copy(bytes),
    print: (value) => value.toString("hex"),
  };
}

const bool: FieldCodec<boolean> = {
  bytesMax: 1,
  layout: "u8, 0 or 1",
  write: (writer, value) => writer.u8(value ? 1 : 0),
  read(reader) {
    const value = reader.u8();
    if (value > 1) throw malformed(`boolean is ${value}`);
    return value === 1;
  },
  print: String,
};

const lease: FieldCodec<Lease> = {
  bytesMax: 1,
  layout: "u8: 0 none, 1 read, 2 write",
  write: (writer, value) => writer.u8(value),
  read(reader) {
    const value = reader.u8();
    if (value > Lease.WRITE) throw malformed(`lease is ${value}`);
    return value as Lease;
  },
  print: (value) => LEASE_NAMES[value],
};

const u53: FieldCodec<number> = {
  bytesMax: 8,
  layout: "u64 below 2^53",
  write: (writer, value) => writer.i53(value),
  read: (reader) => reader.u53(),
  print: String,
};

const u64: FieldCodec<bigint> = {
  bytesMax: 8,
  layout: "u64",
  write: (writer, value) => writer.u64(value),
  read: (reader) => reader.u64(),
  print: String,
};

const MAGIC = "netdrive";
const magic: FieldCodec<typeof MAGIC> = {
  bytesMax: MAGIC.length,
  layout: `the ${MAGIC.length} bytes "${MAGIC}"`,
  write: (writer) => writer.latin1(MAGIC),
  read(reader) {
    if (reader.latin1(MAGIC.length) !== MAGIC) throw malformed("not a netdrive peer");
    return MAGIC;
  },
  print: (value) => value,
};

const nodeId: FieldCodec<NodeId> = {
  bytesMax: 1 + NODE_ID_BYTES_MAX,
  layout: `u8 length 1..${NODE_ID_BYTES_MAX}, then that many bytes`,
  write(writer, value) {
    if (value.length === 0 || value.length > NODE_ID_BYTES_MAX)
      throw new RangeError(`node id of ${value.length} bytes`);
    writer.u8(value.length);
    writer.latin1(value);
  },
  read(reader) {
    const bytes = reader.u8();
    if (bytes === 0 || bytes > NODE_ID_BYTES_MAX) throw malformed(`node id of ${bytes} bytes`);
    return reader.latin1(bytes) as NodeId;
  },
  print: (value) => Buffer.from(value, "latin1").toString("hex"),
};

const NOT_IN_A_NAME = /\0/;
const name: FieldCodec<Name> = {
  bytesMax: 1 + NAME_BYTES_MAX,
  layout: `u8 length 1..${NAME_BYTES_MAX}, then that many bytes, none of them 0`,
  write(writer, value) {
    if (value.length === 0 || value.length > NAME_BYTES_MAX) throw new RangeError(`name of ${value.length} bytes`);
    writer.u8(value.length);
    writer.latin1(value);
  },
  read(reader) {
    const bytes = reader.u8();
    if (bytes === 0) throw malformed("empty name");
    const value = reader.latin1(bytes);
    if (NOT_IN_A_NAME.test(value)) throw malformed("name with a NUL");
    return value as Name;
  },
  print: (value) => JSON.stringify(nameToText(value)),
};

const nodeIds: FieldCodec<readonly NodeId[]> = {
  bytesMax: 2 + FORGET_IDS_MAX * nodeId.bytesMax,
  layout: `u16 count 1..${FORGET_IDS_MAX}, then that many node ids`,
  write(writer, value) {
    writer.u16(value.length);
    for (const id of value) nodeId.write(writer, id);
  },
  read(reader) {
    const count = reader.u16();
    if (count === 0 || count > FORGET_IDS_MAX) throw malformed(`${count} node ids`);
    const ids: NodeId[] = [];
    for (let index = 0; index < count; index += 1) ids.push(nodeId.read(reader));
    return ids;
  },
  print: (value) => `[${value.map((id) => nodeId.print(id)).join(" ")}]`,
};

const tags: FieldCodec<readonly number[]> = {
  bytesMax: 2 + WRITTEN_TAGS_MAX * 4,
  layout: `u16 count 1..${WRITTEN_TAGS_MAX}, then that many u32`,
  write(writer, value) {
    writer.u16(value.length);
    for (const tag of value) writer.u32(tag);
  },
  read(reader) {
    const count = reader.u16();
    if (count === 0 || count > WRITTEN_TAGS_MAX) throw malformed(`${count} tags`);
    const list: number[] = [];
    for (let index = 0; index < count; index += 1) list.push(reader.u32());
    return list;
  },
  print: (value) => `[${value.join(" ")}]`,
};

const { isSafeInteger } = Number;

/** Whether sizes and times are exact numbers. */
function isExact(value: Attr): boolean {
  return (
    isSafeInteger(value.sizeBytes) &&
    isSafeInteger(value.blocks) &&
    isSafeInteger(value.atimeSec) &&
    isSafeInteger(value.mtimeSec) &&
    isSafeInteger(value.ctimeSec) &&
    isSafeInteger(value.btimeSec)
  );
}

/** The nearest exact attributes. */
function clamped(value: Attr): Attr {
  const clamp = (number: number) => Math.max(Math.min(number, Number.MAX_SAFE_INTEGER), Number.MIN_SAFE_INTEGER);
  return {
    ...value,
    sizeBytes: clamp(value.sizeBytes),
    blocks: clamp(value.blocks),
    atimeSec: clamp(value.atimeSec),
    mtimeSec: clamp(value.mtimeSec),
    ctimeSec: clamp(value.ctimeSec),
    btimeSec: clamp(value.btimeSec),
  };
}

const attr: FieldCodec<Attr> = {
  bytesMax: ATTR_BYTES,
  layout: `the ${ATTR_BYTES} bytes of "Attributes"`,
  write(writer, value) {
    // A sparse file may claim 8 EiB, a disk may keep any time; neither must look like a violation to the peer.
    encodeAttr(writer.view, writer.offset, isExact(value) ? value : clamped(value));
    writer.offset += ATTR_BYTES;
  },
  read(reader) {
    const start = reader.take(ATTR_BYTES);
    const value = decodeAttr(reader.view, start);
    if (!isExact(value) || value.sizeBytes < 0 || value.blocks < 0) throw malformed("size or time beyond 2^53");
    const { atimeNsec, mtimeNsec, ctimeNsec, btimeNsec } = value;
    if (atimeNsec >= 1e9 || mtimeNsec >= 1e9 || ctimeNsec >= 1e9 || btimeNsec >= 1e9) {
      throw malformed("a second has 10^9 nanoseconds");
    }
    if (reader.view.getUint32(start + 100, true) !== 0) throw malformed("reserved bytes are not 0");
    return value;
  },
  print: (value) => `{mode=${value.mode.toString(8)} size=${value.sizeBytes} nlink=${value.nlink} uid=${value.uid}}`,
};

/** Callers repeat: the last one read is handed out again if the bytes are the same. Shared by all channels; it is only a value. */
let lastCaller: Caller = { uid: 0, gid: 0, groups: [], pid: 0 };

const caller: FieldCodec<Caller> = {
  bytesMax: 14 + 4 * CALLER_GROUPS_MAX,
  layout: `u32 uid, u32 gid, u32 pid, u16 count 0..${CALLER_GROUPS_MAX} of groups, then that many u32`,
  write(writer, value) {
    const { groups } = value;
    const count = Math.min(groups.length, CALLER_GROUPS_MAX);
    writer.u32(value.uid);
    writer.u32(value.gid);
    writer.u32(value.pid);
    writer.u16(count);
    for (let index = 0; index < count; index += 1) writer.u32(groups[index] as number);
  },
  read(reader) {
    const uid = reader.u32();
    const gid = reader.u32();
    const pid = reader.u32();
    const count = reader.u16();
    if (count > CALLER_GROUPS_MAX) throw malformed(`${count} groups`);
    const start = reader.take(4 * count);
    const last = lastCaller;
    if (last.uid === uid && last.gid === gid && last.pid === pid && last.groups.length === count) {
      let index = 0;
      while (index < count && last.groups[index] === reader.view.getUint32(start + 4 * index, true)) index += 1;
      if (index === count) return last;
    }
    const groups: number[] = [];
    for (let index = 0; index < count; index += 1) groups.push(reader.view.getUint32(start + 4 * index, true));
    lastCaller = { uid, gid, groups, pid };
    return lastCaller;
  },
  print: (value) => `${value.uid}:${value.gid}[${value.groups.join(",")}]@${value.pid}`,
};

/** Bits of the mask that opens an attribute change. */
const Change = {
  MODE: 1,
  UID: 2,
  GID: 4,
  SIZE: 8,
  ATIME: 16,
  ATIME_NOW: 32,
  MTIME: 64,
  MTIME_NOW: 128,
  KILL_SUIDGID: 256,
} as const;

function writeTime(writer: ByteWriter, time: TimeSpec | "now" | undefined): void {
  const given = time !== undefined && time !== "now";
  writer.i53(given ? time.sec : 0);
  writer.u32(given ? time.nsec : 0);
}

/** Reads a time, or zeros where the mask has no time of the client's. */
function readTime(reader: ByteReader, mask: number, given: number, now: number): TimeSpec | "now" | undefined {
  const sec = reader.i53();
  const nsec = reader.u32();
  if (nsec >= 1e9) throw malformed("a second has 10^9 nanoseconds");
  if ((mask & given) !== 0 && (mask & now) !== 0) throw malformed("a time and now");
  if ((mask & given) !== 0) return { sec, nsec };
  if (sec !== 0 || nsec !== 0) throw malformed("absent time is not 0");
  return (mask & now) !== 0 ? "now" : undefined;
}

function readOptional(reader: ByteReader, width: "u32" | "u53", present: boolean): number | undefined {
  const value = reader[width]();
  if (present) return value;
  if (value !== 0) throw malformed("absent attribute is not 0");
  return undefined;
}

function maskOf(change: AttrChange): number {
  return (
    (change.mode === undefined ? 0 : Change.MODE) |
    (change.uid === undefined ? 0 : Change.UID) |
    (change.gid === undefined ? 0 : Change.GID) |
    (change.sizeBytes === undefined ? 0 : Change.SIZE) |
    (change.atime === undefined ? 0 : change.atime === "now" ? Change.ATIME_NOW : Change.ATIME) |
    (change.mtime === undefined ? 0 : change.mtime === "now" ? Change.MTIME_NOW : Change.MTIME) |
    (change.killSuidgid === true ? Change.KILL_SUIDGID : 0)
  );
}

const attrChange: FieldCodec<AttrChange> = {
  bytesMax: 46,
  layout:
    "u16 mask (1 mode, 2 uid, 4 gid, 8 size, 16 atime, 32 atime is now, 64 mtime, 128 mtime is now, 256 clear set-id bits), u32 mode, " +
    "u32 uid, u32 gid, u64 size below 2^53, then i64 seconds and u32 nanoseconds of atime and of mtime; what the mask does not name is 0",
  write(writer, value) {
    writer.u16(maskOf(value));
    writer.u32(value.mode ?? 0);
    writer.u32(value.uid ?? 0);
    writer.u32(value.gid ?? 0);
    writer.i53(value.sizeBytes ?? 0);
    writeTime(writer, value.atime);
    writeTime(writer, value.mtime);
  },
  read(reader) {
    const mask = reader.u16();
    if (mask > 511) throw malformed("unknown attribute in a change");
    const change: AttrChange = {};
    const mode = readOptional(reader, "u32", (mask & Change.MODE) !== 0);
    const uid = readOptional(reader, "u32", (mask & Change.UID) !== 0);
    const gid = readOptional(reader, "u32", (mask & Change.GID) !== 0);
    const sizeBytes = readOptional(reader, "u53", (mask & Change.SIZE) !== 0);
    const atime = readTime(reader, mask, Change.ATIME, Change.ATIME_NOW);
    const mtime = readTime(reader, mask, Change.MTIME, Change.MTIME_NOW);
    if (mode !== undefined) change.mode = mode;
    if (uid !== undefined) change.uid = uid;
    if (gid !== undefined) change.gid = gid;
    if (sizeBytes !== undefined) change.sizeBytes = sizeBytes;
    if (atime !== undefined) change.atime = atime;
    if (mtime !== undefined) change.mtime = mtime;
    if ((mask & Change.KILL_SUIDGID) !== 0) change.killSuidgid = true;
    return change;
  },
  print: (value) => JSON.stringify(value),
};

/** Bytes that only their maker understands; a value read is a copy. */
const opaque: FieldCodec<Buffer> = {
  bytesMax: 2 + OPAQUE_BYTES_MAX,
  layout: `u16 length 0..${OPAQUE_BYTES_MAX}, then that many bytes`,
  write(writer, value) {
    if (value.length > OPAQUE_BYTES_MAX) throw new RangeError(`opaque field of ${value.length} bytes`);
    writer.u16(value.length);
    writer.bytes(value);
  },
  read(reader) {
    const bytes = reader.u16();
    if (bytes > OPAQUE_BYTES_MAX) throw malformed(`opaque field of ${bytes} bytes`);
    return reader.copy(bytes);
  },
  print: (value) => `<${value.length} bytes>`,
};

const text: FieldCodec<string> = {
  bytesMax: 2 + REASON_BYTES_MAX,
  layout: `u16 length 0..${REASON_BYTES_MAX}, then that many bytes of valid UTF-8`,
  write(writer, value) {
    const bytes = Buffer.from(value, "utf8");
    if (bytes.length > REASON_BYTES_MAX) throw new RangeError(`text of ${bytes.length} bytes`);
    writer.u16(bytes.length);
    writer.bytes(bytes);
  },
  read(reader) {
    const bytes = reader.u16();
    if (bytes > REASON_BYTES_MAX) throw malformed(`text of ${bytes} bytes`);
    return readUtf8(reader, bytes);
  },
  print: (value) => JSON.stringify(value),
};

export const FIELDS = {
  u8: integer(1, "u8", "u8"),
  u16: integer(2, "u16", "u16"),
  u32: integer(4, "u32", "u32"),
  u53,
  u64,
  bool,
  lease,
  magic,
  /** Ids of sessions, servers, client instances: random. */
  bytes16: fixed(16, "16 bytes"),
  /** Nonces and proofs. A proof is read into a copy and compared in constant time. */
  bytes32: fixed(32, "32 bytes"),
  nodeId,
  nodeIds,
  tags,
  name,
  attr,
  attrChange,
  caller,
  opaque,
  text,
  resumeItems,
  resumeResults,
} as const;

export type FieldKind = keyof typeof FIELDS;
export type FieldValue<K extends FieldKind> = (typeof FIELDS)[K] extends FieldCodec<infer T> ? T : never;
