#!/usr/bin/env node
/**
 * The `netdrive` command: runs it, turns whatever goes wrong into one line and an exit code, and ends the process.
 *
 * It does not wait for Node to end by itself: that takes every handle apart first, and Node 20 was seen to spin there for ever after
 * sockets that were reset. All that must happen has been awaited by then.
 */
import { systemClock } from "../base/clock.ts";
import { Exit } from "./failure.ts";
import { runCommand } from "./program.ts";

/** What is said on standard error, or was printed before a failure, is no reason to stay, if nobody reads it. */
const LAST_WORDS_MS = 1000;

const printed = [process.stdout, process.stderr];
// Who reads what a drive or a server says may go; the drive and the server stay.
for (const stream of printed) stream.on("error", () => {});

const exit = await runCommand(process.argv.slice(2));
await new Promise<void>((resolve) => {
  const bound = () => void systemClock.after(LAST_WORDS_MS, resolve, { keepAlive: true });
  if (exit !== Exit.OK) bound();
  process.stdout.write("", () => {
    bound();
    process.stderr.write("", () => resolve());
  });
});
process.exit(exit);
