import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chownSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { makeTemp } from "../support/temp.ts";

test("a server that is not root serves what its user may do, and finds nodes by name", async () => {
  await using temp = makeTemp("disk");
  chownSync(temp.path, 65534, 65534);
  const program = fileURLToPath(new URL("./unprivileged-scenario.js", import.meta.url));
  const args = ["--enable-source-maps", program, temp.path];
  assert.equal(execFileSync(process.execPath, args, { encoding: "utf8", timeout: 60_000 }), "done\n");
});
