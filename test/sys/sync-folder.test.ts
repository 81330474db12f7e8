/** Names of a folder on the disk. That they are there after a power cut is test/mount/power-cut's. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { syncFolder, syncFolderNow } from "../../src/sys/sync-folder.ts";
import { makeTemp } from "../support/temp.ts";

test("a folder is synced; what is none says so", async () => {
  await using temp = makeTemp();
  await syncFolder(temp.path);
  syncFolderNow(temp.path);
  const missing = join(temp.path, "missing");
  await assert.rejects(syncFolder(missing), { code: "ENOENT" });
  assert.throws(() => syncFolderNow(missing), { code: "ENOENT" });
});
