/** The peers by the names of `--peers`. */
import type { BenchContext } from "./bench.ts";
import type { Peer, PeerOptions } from "./peer.ts";
import { startNetdrive } from "./peer-netdrive.ts";
import { startRclone } from "./peer-rclone.ts";
import { startSshfs } from "./peer-sshfs.ts";

const STARTERS: Record<
  "netdrive" | "netdrive signed" | "netdrive tls" | "sshfs" | "rclone",
  (options: PeerOptions) => Promise<Peer>
> = {
  netdrive: startNetdrive,
  "netdrive signed": (options) => startNetdrive({ ...options, security: "signed" }),
  "netdrive tls": (options) => startNetdrive({ ...options, security: "tls" }),
  sshfs: startSshfs,
  rclone: startRclone,
};

/** Starts those of `names` that are wanted, one after the other. */
export async function startDrives(
  context: BenchContext,
  names: readonly (keyof typeof STARTERS)[],
  options: Omit<PeerOptions, "workbench"> = {},
): Promise<Peer[]> {
  const peers: Peer[] = [];
  for (const name of names) {
    if (context.wants(name)) peers.push(await STARTERS[name]({ workbench: context.workbench, ...options }));
  }
  return peers;
}

/** Stops them all, the last first. */
export async function stopAll(peers: readonly Peer[]): Promise<void> {
  for (const peer of [...peers].reverse()) await peer.stop();
}
