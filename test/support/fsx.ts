/**
 * fsx.c as a program: built once a test file, run on a file of a mount.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { command } from "./child.ts";

const SOURCE = fileURLToPath(new URL("../../../test/support/fsx.c", import.meta.url));

export interface FsxRun {
  seed: number;
  steps: number;
  /** The most the file grows to. */
  bytesMax: number;
}

/** Builds it in `folder`. @returns how to run it; a run rejects with the last steps when a byte is wrong or a call fails. */
export async function buildFsx(folder: string): Promise<(file: string, run: FsxRun) => Promise<void>> {
  const program = join(folder, "fsx");
  await command("gcc", ["-O2", "-Wall", "-Wextra", "-Wno-unused-result", "-o", program, SOURCE]);
  return async (file, { seed, steps, bytesMax }) => {
    await command(program, [file, String(seed), String(steps), String(bytesMax)], { timeoutMs: 300_000 });
  };
}
