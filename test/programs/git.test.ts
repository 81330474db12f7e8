/**
 * git on the drive: clone, branch, merge, gc, fsck, and a clone of what is there.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { command, shell } from "../support/child.ts";
import { type Drive, startDrive } from "../support/drive.ts";
import { makeTree } from "../support/sample-tree.ts";

/** Nobody's own configuration counts. */
const env = {
  ...process.env,
  GIT_CONFIG_GLOBAL: "/dev/null",
  GIT_CONFIG_SYSTEM: "/dev/null",
  GIT_AUTHOR_NAME: "A",
  GIT_AUTHOR_EMAIL: "a@example.org",
  GIT_COMMITTER_NAME: "A",
  GIT_COMMITTER_EMAIL: "a@example.org",
};

/** A repository on the local disk with 400 files and 12 commits. */
async function makeOrigin(drive: Drive): Promise<string> {
  const origin = join(drive.scratch, "origin");
  makeTree(join(origin, "tree"), 400);
  const script = `
    git init -q -b main && git add -A && git commit -q -m first
    for i in $(seq 1 10); do echo "change $i" >> tree/log; seq $i 500 > "tree/numbers-$i"; git add -A; git commit -q -m "change $i"; done
    git tag v1 && git checkout -q -b side && seq 1 10 > side && git add -A && git commit -q -m side && git checkout -q main`;
  await shell(script, { cwd: origin, env });
  return origin;
}

test("a repository is cloned, worked on, packed and checked on the drive", async () => {
  await using drive = await startDrive();
  const origin = await makeOrigin(drive);
  const git = (cwd: string, ...args: string[]) => command("git", args, { cwd, env });
  await git(drive.path, "clone", "-q", `file://${origin}`, "work");
  const work = join(drive.path, "work");
  assert.equal((await git(work, "status", "--porcelain")).stdout, "");
  await shell(
    `git merge -q --no-edit origin/side
     git checkout -q -b feature && sed -i 's/change/CHANGE/' tree/log && git mv tree/numbers-1 moved && rm tree/numbers-2
     git add -A && git commit -q -m feature && git checkout -q main && echo more >> side && git commit -q -a -m more
     git merge -q --no-edit feature && git rebase -q v1 side 2>/dev/null || git checkout -q main
     git checkout -q main && git stash list && git worktree add -q ../second v1 && git worktree remove ../second`,
    { cwd: work, env },
  );
  await git(work, "gc", "-q", "--aggressive", "--prune=now");
  await git(work, "fsck", "--full", "--strict");
  assert.equal((await git(work, "status", "--porcelain")).stdout, "");
  await git(work, "push", "-q", "origin", "HEAD:refs/heads/from-the-drive");
  const head = (await git(work, "rev-parse", "HEAD^{tree}")).stdout;
  assert.equal((await git(origin, "rev-parse", "from-the-drive^{tree}")).stdout, head);
  await git(drive.scratch, "clone", "-q", `file://${work}`, "back");
  assert.equal((await git(join(drive.scratch, "back"), "rev-parse", "HEAD^{tree}")).stdout, head);
  await git(join(drive.scratch, "back"), "fsck", "--full", "--strict");
});

test("two clones at once, and a bare one", async () => {
  await using drive = await startDrive();
  const origin = await makeOrigin(drive);
  const clone = (...args: string[]) => command("git", ["clone", "-q", ...args], { cwd: drive.path, env });
  await Promise.all([
    clone(`file://${origin}`, "a"),
    clone(`file://${origin}`, "b"),
    clone("--bare", `file://${origin}`, "c"),
  ]);
  for (const name of ["a", "b", "c"]) {
    await command("git", ["fsck", "--full", "--strict"], { cwd: join(drive.path, name), env });
  }
  await command("diff", ["-r", "--no-dereference", "a/tree", "b/tree"], { cwd: drive.path });
});
