/**
 * Linux errno names and numbers.
 *
 * In code an error is a name ("ENOENT"). Numbers exist only here, because the kernel's FUSE replies and the wire's status field
 * carry them. They are the numbers of asm-generic/errno.h, which all architectures we serve (x86-64, arm64, riscv64) share, so
 * the wire may carry them between machines.
 */

/** Errno name to number, asm-generic. Append only: the numbers cross the wire. @see errno(3) */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  ECHILD: 10,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  ENOTBLK: 15,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  EPIPE: 32,
  EDOM: 33,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOLCK: 37,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  ETIME: 62,
  ENOLINK: 67,
  EPROTO: 71,
  EBADMSG: 74,
  EOVERFLOW: 75,
  EILSEQ: 84,
  EUSERS: 87,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENETUNREACH: 101,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOBUFS: 105,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTDOWN: 112,
  EHOSTUNREACH: 113,
  EALREADY: 114,
  ESTALE: 116,
  EDQUOT: 122,
  ECANCELED: 125,
  EKEYEXPIRED: 127,
  EKEYREJECTED: 129,
} as const satisfies Record<string, number>;

/** The name of an error as errno(3) spells it. */
export type ErrnoName = keyof typeof ERRNO;

const NAMES = new Map<number, ErrnoName>(Object.entries(ERRNO).map(([name, number]) => [number, name as ErrnoName]));

/** Whether `value` is an errno name we know. */
export function isErrnoName(value: unknown): value is ErrnoName {
  return typeof value === "string" && Object.hasOwn(ERRNO, value);
}

/** The number of `name`, positive. */
export function errnoNumber(name: ErrnoName): number {
  return ERRNO[name];
}

/** The name of a positive errno number; EIO for a number without a name here. */
export function errnoName(number: number): ErrnoName {
  return NAMES.get(number) ?? "EIO";
}
