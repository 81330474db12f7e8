/**
 * Every limit of the protocol that does not depend on what two peers agreed. Agreed ones (section size, credits) are values of the
 * session and are at most what stands here.
 */

// Section sizes and credits are negotiated within these.
export { CREDITS_MAX } from "../sections/credit-window.ts";
export { SECTION_BYTES_MAX, SECTION_BYTES_MIN } from "../sections/section-plan.ts";

/** The protocol version this program speaks, and the only one. */
export const PROTOCOL_VERSION = 1;

export const HEADER_BYTES = 24;
/** A body's length is a u16 in the header. */
export const BODY_BYTES_MAX = 65_535;
/** The largest body of a peer that has not proven anything yet. */
export const SETUP_BODY_BYTES_MAX = 1024;

/** Bytes of the stream in one signed record; what stands before and behind them. */
export const RECORD_BYTES_MAX = 65_536;
export const RECORD_LENGTH_BYTES = 4;
export const RECORD_TAG_BYTES = 16;

/** With fewer, data and everything else would wait for each other. */
export const CREDITS_MIN = 4;

/** Supplementary groups a request can carry; Linux allows 65,536, of which the first travel. */
export const CALLER_GROUPS_MAX = 1024;
/** Node ids in one `forget`. */
export const FORGET_IDS_MAX = 512;
/** Tags in one `written`. */
export const WRITTEN_TAGS_MAX = 256;
/** Resume keys, service blobs, challenges. */
export const OPAQUE_BYTES_MAX = 512;
/** Opens in one `resume`; the size of a resume key there; ranges of a file that are told one by one; bytes of who changed it. */
export const RESUME_ITEMS_MAX = 256;
export const RESUME_KEY_BYTES_MAX = 128;
export const CHANGED_RANGES_MAX = 8;
export const CHANGED_BY_BYTES_MAX = 63;
/** Free text for people: why a channel is closed. */
export const REASON_BYTES_MAX = 512;
export const SHARE_NAME_BYTES_MAX = 255;
/** The name of who logs in with a password. */
export const USER_NAME_BYTES_MAX = 64;

/** @see symlink(2) PATH_MAX without its NUL */
export const SYMLINK_BYTES_MAX = 4095;
/** @see XATTR_SIZE_MAX, XATTR_LIST_MAX in linux/limits.h */
export const XATTR_VALUE_BYTES_MAX = 65_536;
export const XATTR_LIST_BYTES_MAX = 65_536;

/** Channels for sections that a client opens at most: more connections help no line. The server has its own limit a session. */
export const IO_CHANNELS_MAX = 8;

/** The largest payload of any message, pages of directory entries included, once a section size is agreed. */
export function payloadBytesMax(sectionBytes: number): number {
  return Math.max(sectionBytes, XATTR_VALUE_BYTES_MAX, XATTR_LIST_BYTES_MAX);
}

/** The most bytes of a file that come along with its open. */
export const OPEN_CONTENT_BYTES_MAX = 32 * 1024;
