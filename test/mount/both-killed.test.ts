/**
 * The drive's process and the server's die together, at any moment: no program hangs, and a new mount shows everything that was promised, whole.
 *
 * Promised is what was synced, and what was done to names. Programs count what they were told is done; all of them see an error, because a drive does not outlive its own
 * process. Each round begins with what the one before has left.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { seededRandom } from "../../scripts/bench/link-schedule.ts";
import { systemClock } from "../../src/base/clock.ts";
import { command, type Service, startService } from "../support/child.ts";
import { type MountedDrive, netdrive, startMount } from "../support/drive.ts";
import { startMortalDrive } from "../support/mortal-drive.ts";
import { seeded } from "../support/seed.ts";

const ROUNDS = 6;
const DELAY_MS_MAX = 700;
/** Nothing takes longer, unless it hangs. */
const PROMPT_MS = 10_000;
const RECORD_BYTES = 5000;

/** Each does one thing over and over, and prints how often it is done. The first argument is how often it was done before. */
const PROGRAMS = {
  /** Appends a record and syncs it; what is left of one that was not synced goes first, as in any journal. */
  records: `
import sys, os
done = int(sys.argv[1])
fd = os.open("records", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
os.ftruncate(fd, done * ${RECORD_BYTES})
while True:
    os.write(fd, (b"%07d " % done) * ${RECORD_BYTES / 8})
    os.fsync(fd)
    done += 1
    print(done, flush=True)
`,
  /** Replaces a file by a new one of another length. */
  replaced: `
import sys, os
done = int(sys.argv[1])
while True:
    with open("new", "wb") as file:
        file.write(b"%07d " % done * (1 + done * 977 % 20000))
        file.flush()
        os.fsync(file.fileno())
    os.rename("new", "replaced")
    done += 1
    print(done, flush=True)
`,
  /** Makes a directory and renames it. */
  directories: `
import sys, os
done = int(sys.argv[1])
if os.path.isdir("making"):
    os.rename("making", "made-%d" % done)
    done += 1
while True:
    os.mkdir("making")
    os.rename("making", "made-%d" % done)
    done += 1
    print(done, flush=True)
`,
  /** Writes where nothing is promised, as fast as it goes. */
  unsynced: `
import sys, os
done = int(sys.argv[1])
fd = os.open("unsynced", os.O_RDWR | os.O_CREAT, 0o600)
while True:
    os.pwrite(fd, b"x" * 1000000, done % 50 * 1000000)
    done += 1
    print(done, flush=True)
`,
};
type Name = keyof typeof PROGRAMS;
const NAMES = Object.keys(PROGRAMS) as Name[];

/** How often each thing is done, as the served directory shows; fails where one is not whole. */
const COUNT: Record<Name, (directory: string) => number> = {
  records(directory) {
    const bytes = readFileSync(join(directory, "records"));
    const count = Math.floor(bytes.length / RECORD_BYTES);
    for (let at = 0; at < count; at += 1) {
      const record = bytes.toString("latin1", at * RECORD_BYTES, (at + 1) * RECORD_BYTES);
      assert.equal(record, `${String(at).padStart(7, "0")} `.repeat(RECORD_BYTES / 8), `record ${at} of ${count}`);
    }
    return count;
  },
  replaced(directory) {
    const text = readFileSync(join(directory, "replaced"), "latin1");
    const done = Number(text.slice(0, 7));
    assert.ok(text === text.slice(0, 8).repeat(1 + ((done * 977) % 20_000)), `version ${done} is whole`);
    return done + 1;
  },
  directories(directory) {
    const made = readdirSync(directory).filter((name) => name.startsWith("made-"));
    for (let at = 0; at < made.length; at += 1) assert.ok(made.includes(`made-${at}`), `made-${at} of ${made.length}`);
    return made.length;
  },
  unsynced: () => 0,
};

/** The last number that a program has printed. */
function countLines(service: Service, before: number): () => number {
  let text = "";
  service.process.stdout?.on("data", (chunk: string) => {
    text = (text + chunk).slice(-1000);
  });
  return () => Number(text.split("\n").at(-2) ?? before);
}

const pause = (ms: number) => new Promise<void>((resolve) => void systemClock.after(ms, resolve, { keepAlive: true }));

async function isGoneSoon(name: Name, program: Service): Promise<void> {
  const deadline = systemClock.after(PROMPT_MS, () => program.process.kill("SIGKILL"), { keepAlive: true });
  assert.equal(await program.exited, 1, `${name} sees an error, and does not hang`);
  deadline.stop();
}

test("drive and server killed together: no program hangs, and what was promised is there, whole", async (t) => {
  const { seed } = seeded(t, ROUNDS);
  const random = seededRandom(seed);
  await using drive = await startMortalDrive();
  let mounted: MountedDrive = drive.mounted;
  const done: Record<Name, number> = { records: 0, replaced: 0, directories: 0, unsynced: 0 };
  for (let round = 0; round < ROUNDS; round += 1) {
    const programs = NAMES.map((name) => {
      const program = startService("python3", ["-c", PROGRAMS[name], String(done[name])], { cwd: drive.path });
      return { name, program, told: countLines(program, done[name]) };
    });
    for (const { program } of programs) await program.firstLine;
    await pause(random() * DELAY_MS_MAX);
    const isServerFirst = random() < 0.5;
    if (!isServerFirst) mounted.service.process.kill("SIGKILL");
    await drive.kill();
    mounted.service.process.kill("SIGKILL");
    for (const { name, program } of programs) await isGoneSoon(name, program);
    await command(process.execPath, netdrive("umount", drive.path), { cwd: "/", timeoutMs: PROMPT_MS });
    await drive.start();
    mounted = await startMount(drive.served.url, drive.path, "--allow-other");
    for (const { name, told } of programs) {
      const count = COUNT[name](drive.directory);
      if (name !== "unsynced")
        assert.ok(count >= told(), `round ${round}: ${name}: ${told()} were done, ${count} are there`);
      done[name] = count;
    }
    await command("diff", ["-r", "-x", ".netdrive-kept", drive.path, drive.directory], { timeoutMs: PROMPT_MS });
  }
  await mounted.close();
});
