/**
 * Large sparse files, files appended to by two programs, small files by the thousand, and shell pipelines.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { command, shell } from "../support/child.ts";
import { startDrive } from "../support/drive.ts";
import { O, Seek } from "../support/posix.ts";
import { manifest } from "../support/sample-tree.ts";
import { startSyscallPosix } from "../support/syscall-posix.ts";

test("a sparse file of 5 GiB keeps its holes, its size and its bytes", async () => {
  await using drive = await startDrive();
  const gib = 2 ** 30;
  await shell(
    `truncate -s 5G sparse
     for at in 0 1073741824 4294967295 5368709000; do printf "mark at $at" | dd of=sparse bs=1 seek=$at conv=notrunc status=none; done`,
    { cwd: drive.path },
  );
  const { stdout: used } = await shell("stat -c %s sparse; du -k sparse | cut -f1", { cwd: drive.path });
  const [size, kib] = used.trim().split("\n").map(Number);
  assert.equal(size, 5 * gib);
  assert.ok((kib ?? 0) > 0 && (kib ?? 0) < 1024, `${kib} KiB used`);
  const { posix, close } = startSyscallPosix(drive.path);
  const fd = await posix.open("sparse", O.RDONLY);
  assert.equal((await posix.pread(fd, 18, 2 ** 32 - 1)).toString(), "mark at 4294967295");
  const holes = [await posix.lseek(fd, 0, Seek.HOLE), await posix.lseek(fd, 2 * gib, Seek.DATA)];
  assert.ok((holes[0] ?? 0) <= 65_536 && (holes[1] ?? 0) >= 4 * gib - 65_536, `${holes}`);
  await close();
  await shell(
    `cp --sparse=auto sparse copy && cp --sparse=auto sparse "${drive.scratch}/out" && cp --sparse=auto copy "${drive.scratch}/back"
     for file in copy "${drive.scratch}/out" "${drive.scratch}/back"; do
       test "$(du -k "$file" | cut -f1)" -lt 1024
       for at in 0 1073000000 4294900000 5368700000; do cmp -n 120000 -i $at sparse "$file"; done
     done`,
    { cwd: drive.path },
  );
});

test("two programs append to one file, and no record is lost or torn", async () => {
  await using drive = await startDrive();
  const each = 1500;
  const kept = (name: string) =>
    shell(`exec >> log; for i in $(seq ${each}); do echo "${name} $i ${name.repeat(60)}"; done`, { cwd: drive.path });
  const reopened = (name: string) =>
    shell(`for i in $(seq ${each}); do echo "${name} $i ${name.repeat(60)}" >> log; done`, { cwd: drive.path });
  await Promise.all([kept("a"), reopened("b")]);
  const { stdout } = await shell("cat log", { cwd: drive.path });
  const lines = stdout.trimEnd().split("\n");
  assert.equal(lines.length, 2 * each);
  for (const name of ["a", "b"]) {
    const own = lines.filter((line) => line.startsWith(`${name} `));
    const wanted = Array.from({ length: each }, (_, i) => `${name} ${i + 1} ${name.repeat(60)}`);
    assert.deepEqual(own, wanted);
  }
});

test("4,000 small files are made, listed, read and removed", async () => {
  await using drive = await startDrive();
  const { stdout } = await shell(
    `mkdir many && cd many
     for i in $(seq 4000); do echo "file $i" > "f$i"; done
     ls | wc -l; ls -l | wc -l; cat f* | wc -c; grep -l 'file 77$' f*; find . -type f -newer f1 | wc -l > /dev/null
     rm f*; ls -A | wc -l`,
    { cwd: drive.path },
  );
  assert.deepEqual(stdout.trim().split("\n"), ["4000", "4001", "38893", "f77", "0"]);
  await shell("rmdir many", { cwd: drive.path });
});

/** Programs in pipelines, one after the other; run on the drive and on the local disk, and compared. */
const PIPELINES = `
  seq 1 5000 > numbers; sort -rn numbers | uniq | tee sorted | sed -n 1,3p; wc -c < sorted; tail -n 2 sorted
  awk '{ s += $1 } END { print s }' numbers; sed -i '1d;$d' numbers; wc -l numbers; cut -c1 numbers | sort | uniq -c
  split -l 700 numbers part-; cat part-* | cmp - numbers; ls part-*; rm part-a[a-c]
  dd if=/dev/zero bs=64k count=20 status=none | tr '\\0' 'z' > zs; md5sum zs; head -c 100 zs | tail -c 5; echo
  gzip -k zs; zcat zs.gz | cmp - zs; od -c zs | sed -n 1,3p
  mkdir -p deep/er/est; echo here > deep/er/est/file; find deep | sort; (cd deep/er && cat est/../est/./file && pwd | sed 's/.*deep/deep/')
  printf '#!/bin/sh\\necho "script $1"\\n' > script; chmod +x script; ./script runs; cp "$(type -P seq)" mine; ./mine 3
  exec 7> held; echo one >&7; rm held; echo two >&7; exec 7>&-; test ! -e held && echo gone
  exec 8<> both; echo first >&8; cat both; exec 8>&-; : > both; stat -c %s both
  mkfifo pipe; (echo through the pipe > pipe &); cat pipe; rm pipe
  flock lock -c 'echo locked'; ( flock -n 9 && flock -n lock -c 'echo twice' || echo refused ) 9> lock
  ln -s numbers link; readlink link; head -1 link; ln numbers hard; stat -c %h numbers; test numbers -ef hard && echo same
  touch -d '2001-02-03 04:05:06.789 UTC' old; stat -c %y old | cut -c1-4; test old -ot numbers && echo older
  mktemp -p . tmp.XXXXXX | wc -c; rm tmp.*; umask 077; touch private; stat -c %a private; chmod g+w private; stat -c %A private
  tar -cf - numbers zs | tar -tf -; diff -q numbers hard && echo equal; sort numbers | comm -12 - <(sort sorted) | wc -l; rm -r deep; ls`;

test("shell pipelines print and leave the same as on the local disk", async () => {
  await using drive = await startDrive();
  const local = join(drive.scratch, "local");
  await command("mkdir", [local]);
  const onDrive = await shell(PIPELINES, { cwd: drive.path });
  const expected = await shell(PIPELINES, { cwd: local });
  assert.equal(onDrive.stdout, expected.stdout);
  const plain = async (folder: string) =>
    (await manifest(folder, { times: false })).filter((line) => !line.includes(".gz"));
  assert.deepEqual(await plain(drive.path), await plain(local));
});
