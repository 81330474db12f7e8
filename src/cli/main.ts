#!/usr/bin/env node
/**
 * The `netdrive` command: runs it and turns whatever goes wrong into one line and an exit code.
 */
import { runCommand } from "./program.ts";

process.exitCode = await runCommand(process.argv.slice(2));
