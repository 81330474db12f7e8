/**
 * Calls only a kernel mount can be asked, made by a C program (calls.c): the same lines on the drive and on a plain directory.
 */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { command } from "../support/child.ts";
import { startDrive } from "../support/drive.ts";

const SOURCE = fileURLToPath(new URL("../../../test/mount/calls.c", import.meta.url));

test("mappings, locks, fifos, sockets, splices and removed directories are as on the local disk", async () => {
  await using drive = await startDrive();
  const program = join(drive.scratch, "calls");
  const plain = join(drive.scratch, "plain");
  mkdirSync(plain);
  await command("gcc", ["-O1", "-Wall", "-Wno-unused-result", "-Wno-nonnull", "-pthread", "-o", program, SOURCE]);
  const [expected, found] = [await command(program, [plain]), await command(program, [drive.path])];
  const lines = expected.stdout.split("\n");
  assert.ok(lines.length > 90, `${lines.length} lines`);
  assert.deepEqual(found.stdout.split("\n"), lines);
});
