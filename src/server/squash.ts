/**
 * Who a client's user is on the server.
 *
 * `none` trusts the client's ids. `root` makes uid 0 and gid 0 nobody, as NFS's root_squash does, and trusts the others. `all` makes everybody nobody.
 */
import type { Caller } from "../vfs/file-system.ts";

export type Squash = "root" | "all" | "none";

/** uid and gid of nobody. */
export const NOBODY = 65_534;

/** The caller as the share's file system sees it. */
export function squashCaller(squash: Squash, caller: Caller): Caller {
  if (squash === "none") return caller;
  if (squash === "all" || caller.uid === 0) return { uid: NOBODY, gid: NOBODY, groups: [], pid: caller.pid };
  if (caller.gid !== 0 && !caller.groups.includes(0)) return caller;
  const nobodyIfRoot = (gid: number) => (gid === 0 ? NOBODY : gid);
  return { ...caller, gid: nobodyIfRoot(caller.gid), groups: caller.groups.map(nobodyIfRoot) };
}
