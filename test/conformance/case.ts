/**
 * What a conformance case is: a sentence and a function that makes system calls and asserts what Linux answers.
 *
 * Where the answer depends on the file system below (ext4, xfs, tmpfs), or is one of a large table, a case asks the plain directory at
 * the same time (`same`): the truth is measured, not remembered.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { ErrnoName } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import { type Attr, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "../../src/vfs/attr.ts";
import { type DirectoryEntry, type Fd, O, type Posix } from "../support/posix.ts";

/** What a case gets: a fresh directory of the stack, and one of a plain directory on the same disk. */
export interface CaseContext {
  posix: Posix;
  truth: Posix;
  /** The stack is a mount of a FUSE file system: what Linux never passes on to one is not expected of it. */
  isFuse: boolean;
}

/** Cases by sentence. */
export type Cases = Readonly<Record<string, (t: CaseContext) => Promise<void>>>;

/** What a call came to: its value or its errno. */
export type Outcome = { value: unknown } | { errno: ErrnoName };

/** The outcome of a call; anything but an FsError is a broken test and passes through. */
export async function outcome(call: Promise<unknown>): Promise<Outcome> {
  try {
    return { value: await call };
  } catch (error) {
    if (error instanceof FsError) return { errno: error.errno };
    throw error;
  }
}

/** Asserts that a call fails with this errno. */
export async function fails(errno: ErrnoName, call: Promise<unknown>): Promise<void> {
  assert.deepEqual(await outcome(call), { errno });
}

/** Does the same on the stack and on the plain directory, and asserts that it comes to the same. */
export async function same(t: CaseContext, label: string, body: (posix: Posix) => Promise<unknown>): Promise<unknown> {
  const expected = await outcome(body(t.truth));
  assert.deepEqual(await outcome(body(t.posix)), expected, label);
  return expected;
}

/** Makes a file with this content. */
export async function put(posix: Posix, path: string, content: string | Buffer = "", mode = 0o644): Promise<void> {
  const fd = await posix.open(path, O.WRONLY | O.CREAT | O.TRUNC, mode);
  const data = typeof content === "string" ? Buffer.from(content) : content;
  if (data.length > 0) assert.equal(await posix.pwrite(fd, data, 0), data.length);
  await posix.close(fd);
}

/** The whole content of a file. */
export async function get(posix: Posix, path: string): Promise<Buffer> {
  const fd = await posix.open(path, O.RDONLY);
  try {
    const { sizeBytes } = await posix.fstat(fd);
    return await posix.pread(fd, sizeBytes + 1, 0);
  } finally {
    await posix.close(fd);
  }
}

/** The whole content as text. */
export async function getText(posix: Posix, path: string): Promise<string> {
  return (await get(posix, path)).toString();
}

/** Opens, uses and closes. */
export async function withFd<T>(posix: Posix, path: string, flags: number, body: (fd: Fd) => Promise<T>): Promise<T> {
  const fd = await posix.open(path, flags, 0o644);
  try {
    return await body(fd);
  } finally {
    await posix.close(fd);
  }
}

/** All entries of a directory in its own order, with '.' and '..'. */
export async function entries(posix: Posix, path: string, maxBytes = 32_768): Promise<DirectoryEntry[]> {
  return withFd(posix, path, O.RDONLY | O.DIRECTORY, async (fd) => {
    const all: DirectoryEntry[] = [];
    for (;;) {
      const page = await posix.getdents(fd, all.at(-1)?.cookie ?? 0n, maxBytes);
      if (page.length === 0) return all;
      all.push(...page);
    }
  });
}

/** Names of a directory, sorted, without '.' and '..'. */
export async function names(posix: Posix, path: string): Promise<string[]> {
  const all = await entries(posix, path);
  return all
    .map(({ name }) => name)
    .filter((name) => name !== "." && name !== "..")
    .sort();
}

/** An inode number as one value. */
export const inode = (attr: Attr): bigint => (BigInt(attr.inoHigh) << 32n) | BigInt(attr.inoLow);

/** Permission bits. */
export const permissions = (attr: Attr): number => attr.mode & 0o7777;

/** Nanoseconds since 1970. */
export const timeNs = (attr: Attr, kind: "atime" | "mtime" | "ctime" | "btime"): bigint =>
  BigInt(attr[`${kind}Sec`]) * 1_000_000_000n + BigInt(attr[`${kind}Nsec`]);

/** A tree as text lines that are equal exactly if names, kinds, owners, modes, link counts, sizes, targets and contents are. */
export async function tree(posix: Posix, path = "."): Promise<string[]> {
  const lines: string[] = [];
  const visit = async (at: string): Promise<void> => {
    const attr = await posix.lstat(at);
    const type = attr.mode & S_IFMT;
    let detail = "";
    if (type === S_IFREG)
      detail = createHash("sha256")
        .update(await get(posix, at))
        .digest("hex")
        .slice(0, 16);
    if (type === S_IFLNK) detail = await posix.readlink(at);
    // The size of a directory is the business of the file system below; the same there, but not between two directories' histories.
    const size = type === S_IFDIR ? "-" : attr.sizeBytes;
    lines.push(`${at} ${attr.mode.toString(8)} ${attr.nlink} ${attr.uid}:${attr.gid} ${size} ${detail}`);
    if (type === S_IFDIR) for (const name of await names(posix, at)) await visit(`${at}/${name}`);
  };
  await visit(path);
  return lines;
}
