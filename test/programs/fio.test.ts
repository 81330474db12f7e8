/**
 * fio with verification on the drive: random and sequential, buffered, direct and through mappings.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { command } from "../support/child.ts";
import { startDrive } from "../support/drive.ts";

const COMMON = [
  "--verify=crc32c",
  "--verify_fatal=1",
  "--do_verify=1",
  "--randseed=7",
  "--output-format=json",
  "--group_reporting",
];

/** Job, and what it is about. */
const JOBS: Record<string, string[]> = {
  "sequential, buffered, 1 MiB blocks": ["--rw=write", "--bs=1M", "--size=96M", "--ioengine=psync"],
  "sequential, direct, 256 KiB blocks, 8 at once": [
    "--rw=write",
    "--bs=256k",
    "--size=64M",
    "--ioengine=libaio",
    "--iodepth=8",
    "--direct=1",
  ],
  "random, buffered, odd sizes": [
    "--rw=randwrite",
    "--bsrange=512-64k",
    "--bs_unaligned=1",
    "--size=24M",
    "--ioengine=psync",
  ],
  "random, direct, 4 KiB, 16 at once": [
    "--rw=randwrite",
    "--bs=4k",
    "--size=12M",
    "--ioengine=libaio",
    "--iodepth=16",
    "--direct=1",
  ],
  "random reads and writes, buffered, with fsync": [
    "--rw=randrw",
    "--bs=8k",
    "--size=12M",
    "--ioengine=psync",
    "--fsync=32",
  ],
  "random, mapped": ["--rw=randwrite", "--bs=4k", "--size=16M", "--ioengine=mmap"],
  "sequential, mapped": ["--rw=write", "--bs=64k", "--size=32M", "--ioengine=mmap"],
  "three writers of their own files at once": [
    "--rw=randwrite",
    "--bs=16k",
    "--size=8M",
    "--ioengine=psync",
    "--numjobs=3",
  ],
};

test("what fio writes it finds again", async (t) => {
  await using drive = await startDrive();
  for (const [label, job] of Object.entries(JOBS)) {
    await t.test(label, async () => {
      const args = [`--name=${label.replace(/\W+/g, "-")}`, `--directory=${drive.path}`, ...COMMON, ...job];
      const { stdout } = await command("fio", args, { cwd: drive.scratch });
      const report = JSON.parse(stdout.slice(stdout.indexOf("{"))) as {
        jobs: { error: number; write: { io_bytes: number } }[];
      };
      assert.deepEqual(
        report.jobs.map(({ error }) => error),
        [0],
      );
      assert.ok((report.jobs[0]?.write.io_bytes ?? 0) > 0);
    });
  }
});
