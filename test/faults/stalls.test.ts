/**
 * A mount over a link that stalls at random, with write-behind and read-ahead on: every byte is as on a local disk, and no program sees an error.
 *
 * Pauses come from a seeded schedule (printed; NETDRIVE_TEST_SEED chooses another); the line has a round trip, a rate that lets sections pile up, and
 * pauses both ways about twice a second.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { command, shell } from "../support/child.ts";
import { type Drive, startDrive } from "../support/drive.ts";
import { buildFsx } from "../support/fsx.ts";
import { seeded } from "../support/seed.ts";

/** A mount over such a line. */
function stallingDrive(t: TestContext, ...mount: string[]): Promise<Drive> {
  const { seed } = seeded(t, 1);
  const stall = { everyMs: 400, durationMsMax: 300 };
  return startDrive({ link: ["delay 3", "rate 800000000", `trouble ${JSON.stringify({ seed, stall })}`], mount });
}

/** The same bytes on the server as on the mount, once everything is there. */
async function agrees({ path, directory }: Drive): Promise<void> {
  await shell(`sync -f ${path}; diff -r ${path} ${directory}`);
}

test("random reads, writes, truncates, mappings and holes keep every byte", async (t) => {
  const { seed } = seeded(t, 3);
  for (const [index, mount] of [[], ["--channels", "3"], ["-o", "write_behind=2m,read_ahead=3m"]].entries()) {
    await using drive = await stallingDrive(t, ...mount);
    const fsx = await buildFsx(drive.scratch);
    await Promise.all([
      fsx(join(drive.path, "small"), { seed: seed + index, steps: 400, bytesMax: 300_000 }),
      fsx(join(drive.path, "large"), { seed: seed + index + 100, steps: 160, bytesMax: 12_000_000 }),
    ]);
    await agrees(drive);
  }
});

const VERIFY = ["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--output-format=json", "--group_reporting"];
const JOBS: Record<string, string[]> = {
  "sequential, buffered, 1 MiB blocks": ["--rw=write", "--bs=1M", "--size=48M", "--ioengine=psync", "--end_fsync=1"],
  "sequential, direct, 8 at once": [
    "--rw=write",
    "--bs=1M",
    "--size=32M",
    "--ioengine=libaio",
    "--iodepth=8",
    "--direct=1",
  ],
  "random, buffered, odd sizes": ["--rw=randwrite", "--bsrange=512-64k", "--bs_unaligned=1", "--size=6M"],
  "random reads and writes with fsync": ["--rw=randrw", "--bs=16k", "--size=6M", "--fsync=64"],
  "three writers at once": ["--rw=randwrite", "--bs=32k", "--size=6M", "--numjobs=3"],
};

test("what fio writes it finds again", async (t) => {
  const { seed } = seeded(t, 1);
  await using drive = await stallingDrive(t);
  for (const [label, job] of Object.entries(JOBS)) {
    await t.test(label, async () => {
      const name = `--name=${label.replace(/\W+/g, "-")}`;
      const args = [name, `--directory=${drive.path}`, `--randseed=${seed}`, ...VERIFY, ...job];
      const { stdout } = await command("fio", args, { cwd: drive.scratch });
      const report = JSON.parse(stdout.slice(stdout.indexOf("{"))) as { jobs: { error: number }[] };
      assert.deepEqual(
        report.jobs.map(({ error }) => error),
        [0],
      );
    });
  }
  await agrees(drive);
  assert.ok(drive.link !== undefined && (await drive.link.stats()).down.deliveredBytes > 32 << 20);
});
