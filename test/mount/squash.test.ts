/**
 * Whose files they are: squash none, root and all on a drive that several users share.
 */
import assert from "node:assert/strict";
import { chmodSync } from "node:fs";
import { test } from "node:test";
import { type CommandResult, command } from "../support/child.ts";
import { type Drive, startDrive } from "../support/drive.ts";
import { ALICE, BOB, type Identity, ROOT } from "../support/posix.ts";

const NOBODY = 65_534;
const PEOPLE = { root: ROOT, alice: ALICE, bob: BOB };

/** Runs a script on the drive as somebody. */
function as(who: Identity, drive: Drive, script: string, codes: number[] = [0]): Promise<CommandResult> {
  const args = [
    `--reuid=${who.uid}`,
    `--regid=${who.gid}`,
    "--clear-groups",
    "bash",
    "-euc",
    `cd ${drive.path}; ${script}`,
  ];
  return command("setpriv", args, { codes, env: { ...process.env, LC_ALL: "C" } });
}

/** Owner and group, on the served disk, of a file each of the people makes. */
async function owners(drive: Drive): Promise<Record<string, string>> {
  for (const [name, who] of Object.entries(PEOPLE)) await as(who, drive, `umask 022; echo ${name} > ${name}`);
  const { stdout } = await command("stat", ["-c", "%n %u:%g", ...Object.keys(PEOPLE)], { cwd: drive.directory });
  return Object.fromEntries(
    stdout
      .trimEnd()
      .split("\n")
      .map((line) => line.split(" ")),
  );
}

const SQUASHED: Record<string, Record<string, string>> = {
  none: { root: "0:0", alice: `${ALICE.uid}:${ALICE.gid}`, bob: `${BOB.uid}:${BOB.gid}` },
  root: { root: `${NOBODY}:${NOBODY}`, alice: `${ALICE.uid}:${ALICE.gid}`, bob: `${BOB.uid}:${BOB.gid}` },
  all: { root: `${NOBODY}:${NOBODY}`, alice: `${NOBODY}:${NOBODY}`, bob: `${NOBODY}:${NOBODY}` },
};

for (const [squash, expected] of Object.entries(SQUASHED)) {
  test(`with --squash ${squash}, files belong to whom it says`, async () => {
    await using drive = await startDrive({ serve: ["--squash", squash] });
    chmodSync(drive.directory, 0o777);
    assert.deepEqual(await owners(drive), expected);
  });
}

for (const squash of ["none", "root"]) {
  test(`with --squash ${squash}, a user does not get where another just was`, async () => {
    await using drive = await startDrive({ serve: ["--squash", squash] });
    chmodSync(drive.directory, 0o777);
    await as(
      ALICE,
      drive,
      "umask 022; mkdir private; chmod 700 private; mkdir private/d; echo secret > private/d/f; cat private/d/f",
    );
    // The names, the attributes and the bytes are all in the kernel's caches now.
    for (const script of [
      "cat private/d/f",
      "stat private/d/f",
      "ls private/d",
      "cd private",
      "echo x > private/d/f",
      "cat private/d/missing",
    ]) {
      const { stderr, stdout } = await as(BOB, drive, script, [1, 2]);
      assert.match(stderr, /Permission denied/, script);
      assert.equal(stdout, "");
    }
    await as(ALICE, drive, "chmod 755 private");
    assert.equal((await as(BOB, drive, "cat private/d/f")).stdout, "secret\n");
  });
}

test("with --squash root, root is nobody: it reads what everybody may and changes nothing of others", async () => {
  await using drive = await startDrive({ serve: ["--squash", "root"] });
  chmodSync(drive.directory, 0o777);
  await as(ALICE, drive, "umask 022; echo open > open; umask 077; echo shut > shut");
  assert.equal((await as(ROOT, drive, "cat open")).stdout, "open\n");
  assert.match((await as(ROOT, drive, "cat shut", [1])).stderr, /Permission denied/);
  assert.match((await as(ROOT, drive, "echo x > open", [1])).stderr, /Permission denied/);
  assert.match((await as(ROOT, drive, "chmod 777 open", [1])).stderr, /not permitted/);
  assert.match((await as(ROOT, drive, `chown ${BOB.uid} open`, [1])).stderr, /not permitted/);
});
