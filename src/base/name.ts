/**
 * File names as bytes.
 *
 * Linux names are bytes without NUL and '/', not text. A `Name` is a string with one char per byte (latin1), because such strings are
 * what V8 compares, hashes and copies fastest, and they lose nothing. They are for machines: use `nameToText` before showing one.
 */

/** A file name, symbolic link component or xattr name: each char code is one byte, 0x01..0xff. */
export type Name = string & { readonly __brand: "Name" };

/** The longest name Linux file systems take, bytes. @see NAME_MAX in linux/limits.h */
export const NAME_BYTES_MAX = 255;

export function nameFromBytes(bytes: Buffer): Name {
  return bytes.toString("latin1") as Name;
}

export function nameFromText(text: string): Name {
  return nameFromBytes(Buffer.from(text, "utf8"));
}

/** For people: the name as UTF-8 text, with U+FFFD where the bytes are not UTF-8. */
export function nameToText(name: Name): string {
  return Buffer.from(name, "latin1").toString("utf8");
}

/** Whether `name` can name a directory entry: 1..255 bytes, no '/', no NUL, not '.' or '..'. */
export function isEntryName(name: string): name is Name {
  return (
    name.length > 0 && name.length <= NAME_BYTES_MAX && name !== "." && name !== ".." && !/[\0/]|[^\0-\xff]/.test(name)
  );
}
