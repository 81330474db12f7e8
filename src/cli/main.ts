#!/usr/bin/env node
/**
 * The `netdrive` command: runs it and turns whatever goes wrong into one line and an exit code.
 */
import { runCommand } from "./program.ts";

// Who reads what a drive or a server says may go; the drive and the server stay.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});

process.exitCode = await runCommand(process.argv.slice(2));
