/**
 * A page of directory entries as bytes: what `FileSystem.readdir` returns.
 *
 * The disk side's addon writes pages, the wire carries them as payload, the kernel side walks them: no entry is re-encoded in
 * between. A page is a sequence of whole records, little-endian, each padded with zeros to a multiple of 8 bytes:
 *
 *     0 record bytes u16 (all, with padding)   2 name bytes u16   4 type u8 (DT_*)   5 has entry u8 (0/1)   6 node id bytes u16
 *     8 cookie u64 (where to go on after this entry)   16 ino u64
 *     24 attr record (ATTR_BYTES; only if has entry)   then node id bytes (only if has entry), then name bytes
 *
 * '.' and '..' are in the page, without entry. An entry without attributes is one that vanished while it was read, or whose
 * attributes were not asked for.
 */
import { CloseCode, ProtocolError } from "../base/errors.ts";
import { NAME_BYTES_MAX, type Name } from "../base/name.ts";
import { ATTR_BYTES, type Attr, decodeAttr, encodeAttr } from "./attr.ts";
import { NODE_ID_BYTES_MAX, type NodeId } from "./file-system.ts";

/** Bytes before the attributes or the name. */
export const DIRENT_HEAD_BYTES = 24;

export interface Dirent {
  name: Name;
  /** DT_* of readdir(3). */
  type: number;
  /** Continue after this entry with this cookie; opaque, all 64 bits. */
  cookie: bigint;
  inoLow: number;
  inoHigh: number;
  /** Present if attributes were asked for and could be had. */
  entry?: { id: NodeId; attr: Attr };
}

const align8 = (bytes: number) => (bytes + 7) & ~7;

/** The bytes a record with this name and node id takes; `idBytes` 0 and no attributes if `hasEntry` is false. */
export function direntBytes(nameBytes: number, hasEntry: boolean, idBytes: number): number {
  return align8(DIRENT_HEAD_BYTES + (hasEntry ? ATTR_BYTES + idBytes : 0) + nameBytes);
}

/** Appends a record at `offset` of `page` and returns the offset after it, or -1 (nothing written) if it does not fit. */
export function encodeDirent(page: Buffer, offset: number, dirent: Dirent): number {
  const { entry, name } = dirent;
  const bytes = direntBytes(name.length, entry !== undefined, entry?.id.length ?? 0);
  if (offset + bytes > page.length) return -1;
  page.fill(0, offset, offset + bytes);
  const view = new DataView(page.buffer, page.byteOffset, page.length);
  view.setUint16(offset, bytes, true);
  view.setUint16(offset + 2, name.length, true);
  view.setUint8(offset + 4, dirent.type);
  view.setBigUint64(offset + 8, dirent.cookie, true);
  view.setUint32(offset + 16, dirent.inoLow, true);
  view.setUint32(offset + 20, dirent.inoHigh, true);
  let at = offset + DIRENT_HEAD_BYTES;
  if (entry !== undefined) {
    view.setUint8(offset + 5, 1);
    view.setUint16(offset + 6, entry.id.length, true);
    encodeAttr(view, at, entry.attr);
    at += ATTR_BYTES;
    at += page.write(entry.id, at, "latin1");
  }
  page.write(name, at, "latin1");
  return offset + bytes;
}

/** Checks the record at `offset`. @returns its bytes. @throws ProtocolError MALFORMED. */
function checkRecord(page: Buffer, view: DataView, offset: number): number {
  if (page.length - offset >= DIRENT_HEAD_BYTES) {
    const bytes = view.getUint16(offset, true);
    const nameBytes = view.getUint16(offset + 2, true);
    const hasEntry = view.getUint8(offset + 5);
    const idBytes = view.getUint16(offset + 6, true);
    const isIdRight = hasEntry === 0 ? idBytes === 0 : hasEntry === 1 && idBytes > 0 && idBytes <= NODE_ID_BYTES_MAX;
    const isNameRight = nameBytes > 0 && nameBytes <= NAME_BYTES_MAX;
    const isLengthRight = bytes === direntBytes(nameBytes, hasEntry === 1, idBytes) && offset + bytes <= page.length;
    if (isIdRight && isNameRight && isLengthRight) return bytes;
  }
  throw new ProtocolError(CloseCode.MALFORMED, `directory page: bad record at byte ${offset}`);
}

/** Checks that a page of any source is whole records of the shape above, without reading them. @throws ProtocolError MALFORMED. */
export function checkDirents(page: Buffer): void {
  const view = new DataView(page.buffer, page.byteOffset, page.length);
  for (let offset = 0; offset < page.length; ) offset += checkRecord(page, view, offset);
}

/**
 * Walks the records of a page from any source, hostile ones included.
 *
 * @throws ProtocolError MALFORMED if a record does not have the shape above.
 */
export function* decodeDirents(page: Buffer): Generator<Dirent> {
  const view = new DataView(page.buffer, page.byteOffset, page.length);
  let offset = 0;
  while (offset < page.length) {
    const bytes = checkRecord(page, view, offset);
    const nameBytes = view.getUint16(offset + 2, true);
    const hasEntry = view.getUint8(offset + 5);
    const idBytes = view.getUint16(offset + 6, true);
    let at = offset + DIRENT_HEAD_BYTES;
    let entry: Dirent["entry"];
    if (hasEntry === 1) {
      const attr = decodeAttr(view, at);
      at += ATTR_BYTES;
      entry = { id: page.toString("latin1", at, at + idBytes) as NodeId, attr };
      at += idBytes;
    }
    yield {
      name: page.toString("latin1", at, at + nameBytes) as Name,
      type: view.getUint8(offset + 4),
      cookie: view.getBigUint64(offset + 8, true),
      inoLow: view.getUint32(offset + 16, true),
      inoHigh: view.getUint32(offset + 20, true),
      ...(entry === undefined ? {} : { entry }),
    };
    offset += bytes;
  }
}

/** The page, in which the nodes that `isBare` names have neither id nor attributes; as it is if there is none. */
export function withoutEntries(page: Buffer, isBare: (id: NodeId) => boolean): Buffer {
  const dirents = [...decodeDirents(page)];
  if (!dirents.some(({ entry }) => entry !== undefined && isBare(entry.id))) return page;
  const copy = Buffer.alloc(page.length);
  let end = 0;
  for (const dirent of dirents) {
    const { entry, ...bare } = dirent;
    const isWhole = entry === undefined || !isBare(entry.id);
    end = encodeDirent(copy, end, isWhole ? dirent : bare);
  }
  return copy.subarray(0, end);
}
