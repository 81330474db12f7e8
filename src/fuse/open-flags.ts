/**
 * O_* flags of the kernel <-> OpenFlag of the contract.
 *
 * The numbers differ between architectures only in O_DIRECT, of those that matter here. Pure.
 */
import { OpenFlag, type OpenFlags } from "../vfs/file-system.ts";

const O_ACCMODE = 3;
const O_WRONLY = 1;
const O_EXCL = 0o200;
const O_TRUNC = 0o1000;
const O_APPEND = 0o2000;
const O_DSYNC = 0o10000;
const O_NOATIME = 0o1000000;
/** O_SYNC is this bit and O_DSYNC. */
const O_SYNC_ONLY = 0o4000000;
/** __FMODE_EXEC of the kernel: the file is opened by execve(2). */
const FMODE_EXEC = 0x20;

const O_DIRECT_BY_ARCHITECTURE: Record<string, number> = { x64: 0o40000, riscv64: 0o40000, arm64: 0o200000 };

/** A translator for the architecture named as `process.arch` does. */
export function openFlagsDecoder(architecture: string): (flags: number) => OpenFlags {
  const direct = O_DIRECT_BY_ARCHITECTURE[architecture] ?? 0o40000;
  return (flags) => {
    const access = flags & O_ACCMODE;
    let out = access === O_WRONLY ? OpenFlag.WRITE : access === 0 ? OpenFlag.READ : OpenFlag.READ | OpenFlag.WRITE;
    if ((flags & O_APPEND) !== 0) out |= OpenFlag.APPEND;
    if ((flags & O_TRUNC) !== 0) out |= OpenFlag.TRUNC;
    if ((flags & O_EXCL) !== 0) out |= OpenFlag.EXCL;
    if ((flags & O_SYNC_ONLY) !== 0) out |= OpenFlag.SYNC;
    else if ((flags & O_DSYNC) !== 0) out |= OpenFlag.DSYNC;
    if ((flags & direct) !== 0) out |= OpenFlag.DIRECT;
    if ((flags & O_NOATIME) !== 0) out |= OpenFlag.NOATIME;
    if ((flags & FMODE_EXEC) !== 0) out |= OpenFlag.EXEC;
    return out;
  };
}

export const decodeOpenFlags = openFlagsDecoder(process.arch);
