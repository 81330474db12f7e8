/**
 * `netdrive umount PATH`.
 */
import type { Command } from "commander";
import { systemClock } from "../base/clock.ts";
import { unmountDrive } from "./unmount.ts";

const HELP = `
Works as well when the server is gone, or the drive's process was killed. Exits with 1 if not all that was written has
reached the server, and says where it is kept.

Example:
  netdrive umount ./drive`;

export function addUmount(program: Command): void {
  program
    .command("umount")
    .description("Unmount a drive and wait until its process has ended.")
    .argument("<path>", "where it is mounted")
    .option("--lazy", "detach it now, even if it is in use: who uses it keeps it until done")
    .option("--force", "give up requests without an answer, and what they would have written")
    .addHelpText("after", HELP)
    .action(async (path: string, options: { lazy?: boolean; force?: boolean }) => {
      const say = (text: string) => void process.stderr.write(`netdrive: ${text}\n`);
      const remark = await unmountDrive(path, { clock: systemClock, say, ...options });
      if (remark !== undefined) say(remark);
    });
}
