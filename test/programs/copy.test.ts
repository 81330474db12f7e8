/**
 * Trees of files copied in and out: tar, rsync and cp keep contents, modes, times, links and attributes.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { command, shell } from "../support/child.ts";
import { startDrive } from "../support/drive.ts";
import { makeTree, manifest } from "../support/sample-tree.ts";

test("tar takes 5,000 files in and out, with times and modes", async () => {
  await using drive = await startDrive();
  const tree = join(drive.scratch, "tree");
  makeTree(tree, 5_000);
  const expected = await manifest(tree);
  const flags = "--format=posix --xattrs --acls --numeric-owner";
  await shell(`tar ${flags} -C "${drive.scratch}" -cpf in.tar tree`, { cwd: drive.scratch });
  await shell(`tar ${flags} -C "${drive.path}" -xpf in.tar`, { cwd: drive.scratch });
  assert.deepEqual(await manifest(join(drive.path, "tree")), expected);
  await shell(`tar ${flags} -C "${drive.path}" -cpf out.tar tree && mkdir out`, { cwd: drive.scratch });
  await shell(`tar ${flags} -C out -xpf out.tar && tar -C "${drive.path}" -df in.tar`, { cwd: drive.scratch });
  assert.deepEqual(await manifest(join(drive.scratch, "out/tree")), expected);
  await shell("rm -r tree", { cwd: drive.path });
  assert.deepEqual(await manifest(drive.path), []);
});

test("rsync -aHAX copies everything once and nothing the second time", async () => {
  await using drive = await startDrive();
  const tree = join(drive.scratch, "tree");
  makeTree(tree, 1_500);
  await shell(
    `setfattr -n user.colour -v green "group 0/part-0/plain-0" && setfattr -n user.on-a-directory -v 1 "group 1"
     setfattr -n trusted.for-root -v 2 "group 1" && setfacl -m u:61001:rw "group 0/part-0/plain-8"
     setfacl -d -m u:61001:rwx "group 2" && chown 61001:62001 "group 3" && mknod pipe p && mknod null c 1 3
     truncate -s 3M sparse && printf x | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none
     find . ! -type l -newermt '10 minutes ago' -exec touch -d '2022-02-02 02:02:02.222' {} +`,
    { cwd: tree },
  );
  const rsync = async (...args: string[]) =>
    (await command("rsync", ["-aHAX", "--sparse", "--numeric-ids", "--itemize-changes", "--stats", ...args])).stdout;
  const first = await rsync(`${tree}/`, `${drive.path}/copy/`);
  assert.match(first, /Number of created files: 1,/);
  const changes = (text: string) => text.split("\n\n")[0]?.trim();
  for (const more of [[], ["--checksum"]]) {
    const again = await rsync(...more, `${tree}/`, `${drive.path}/copy/`);
    assert.match(again, /Number of regular files transferred: 0\n/);
    assert.equal(changes(again)?.includes("Number of files"), true, again);
  }
  assert.deepEqual(await manifest(join(drive.path, "copy")), await manifest(tree));
  const back = await rsync(`${drive.path}/copy/`, `${drive.scratch}/back/`);
  assert.match(back, /Number of created files: 1,/);
  const attributes = async (cwd: string) => {
    const { stdout } = await shell("getfattr -hRd -m - . ; getfacl -Rpn .", { cwd });
    return stdout.split("\n\n").sort();
  };
  assert.deepEqual(await attributes(`${drive.scratch}/back`), await attributes(tree));
  assert.deepEqual(await attributes(`${drive.path}/copy`), await attributes(tree));
});

test("cp -a, mv and find agree with the local disk", async () => {
  await using drive = await startDrive();
  const tree = join(drive.scratch, "tree");
  makeTree(tree, 600);
  const script = `
    cp -a "${tree}" a && cp -al a b && cp -a --reflink=auto a c && mv c d && cp -rs "$PWD/a" s
    find . -newermt 2018-01-01 -type f -size +1k | wc -l; find . -type l | wc -l; find a -links 2 -type f | wc -l
    find d -type f -perm -u=x -name '*-*' -print0 | sort -z | xargs -0 ls -ld --time-style=full-iso -n | tail -20
    find . -depth -name 'part-1*' -exec rm -r {} + ; rm -r s; find . -inum 1; du -a --apparent-size b | sort | wc -l`;
  await shell("mkdir local", { cwd: drive.scratch });
  const onDrive = await shell(script, { cwd: drive.path });
  const local = await shell(script, { cwd: join(drive.scratch, "local") });
  assert.equal(onDrive.stdout, local.stdout);
  assert.deepEqual(
    await manifest(drive.path, { times: false }),
    await manifest(join(drive.scratch, "local"), { times: false }),
  );
});
