/** What a bench is given and what it gives. */
import type { Report } from "./report.ts";
import type { Workbench } from "./workbench.ts";

export interface BenchContext {
  readonly workbench: Workbench;
  /** How often everything is measured. */
  readonly runCount: number;
  /** Sizes small enough to see in a minute that the bench works; the figures mean nothing. */
  readonly quick: boolean;
  /** Overrides the amount of data, where a bench moves data. */
  readonly sizeMib: number | undefined;
  /** Whether to start a peer of this name (`--peers`); the names are "netdrive", "sshfs", "rclone", "relay", "plain". */
  wants(peer: string): boolean;
  /** Progress for whoever waits. */
  say(text: string): void;
}

export interface Bench {
  readonly name: string;
  readonly summary: string;
  /** Where the exported directory is unless `--directory` says otherwise: on a tmpfs, if there is one, or where temporary files are. */
  readonly place: "memory" | "disk";
  run(context: BenchContext): Promise<Report>;
}
