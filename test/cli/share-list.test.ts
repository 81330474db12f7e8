/** From the directories of the command line to shares. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { listShares } from "../../src/cli/share-list.ts";

const folder = realpathSync(mkdtempSync(join(tmpdir(), "netdrive-shares-")));
const at = (path: string) => join(folder, path);

before(() => {
  mkdirSync(at("a/photos"), { recursive: true });
  mkdirSync(at("b/photos"), { recursive: true });
  mkdirSync(at("b/a\nb"), { recursive: true });
  writeFileSync(at("file"), "");
  symlinkSync("a/photos", at("link"));
});
after(() => rmSync(folder, { recursive: true }));

test("a share has the directory's name, or the one given at its place", async () => {
  assert.deepEqual(
    [...(await listShares([at("a/photos"), at("b")], []))],
    [
      ["photos", at("a/photos")],
      ["b", at("b")],
    ],
  );
  assert.deepEqual(
    [...(await listShares([at("a/photos"), at("b/photos")], ["x y"]))],
    [
      ["x y", at("a/photos")],
      ["photos", at("b/photos")],
    ],
  );
  assert.deepEqual([...(await listShares([at("link")], []))], [["photos", at("a/photos")]]);
});

test("every wrong directory or name is said with what to do", async () => {
  const cases: [directories: string[], names: string[], exitCode: number, message: RegExp][] = [
    [[at("missing")], [], 5, /missing' does not exist; give a directory/],
    [[at("file")], [], 5, /file' is not a directory; give a directory/],
    [[at("file/below")], [], 5, /cannot be served/],
    [[at("a/photos"), at("b/photos")], [], 2, /both be the share 'photos'; name them with --name/],
    [[at("a")], ["x", "y"], 2, /2 names for 1 directories/],
    [["/"], [], 2, /no name of its own; give one with --name/],
    [[at("b/a\nb")], [], 2, /'a\\u000ab' cannot name a share/],
  ];
  for (const name of ["..", "a/b", "x".repeat(256), "tab\t"]) cases.push([[at("a")], [name], 2, /cannot name a share/]);
  for (const [directories, names, exitCode, message] of cases) {
    await assert.rejects(listShares(directories, names), { exitCode, message }, directories.join());
  }
});
