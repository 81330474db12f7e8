/**
 * A client killed in the middle of writes: on the server every section is whole, as it was before or as it was written, and nothing of the client is left.
 *
 * What is promised: a section's bytes are written only when all of them have arrived, by one system call (possibly together with its
 * neighbours). A disk that is full, or a server that dies, may still leave a part of one.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { seededRandom } from "../../scripts/bench/link-schedule.ts";
import { systemClock } from "../../src/base/clock.ts";
import type { Server } from "../../src/server/server.ts";
import { command } from "../support/child.ts";
import { startMount } from "../support/drive.ts";
import { seeded } from "../support/seed.ts";
import { serveHere } from "../support/served-here.ts";
import { makeTemp } from "../support/temp.ts";
import { SECTION_BYTES, SECTIONS } from "./section-writer.ts";

const WRITER = fileURLToPath(new URL("section-writer.js", import.meta.url));
const KILLS = 12;
/** What a client that went without a word has open is kept for a while; here a short one. */
const LIMITS = { keepMsMax: 200, courtesyMs: 200 };

/** Waits, within bounds, until the server has nothing left of its clients. */
async function isForgotten(server: Server): Promise<void> {
  const rest = () => {
    const { channels, sessions, handles, bufferBytes } = server.counters();
    return { channels, sessions, handles, bufferBytes };
  };
  const nothing = { channels: 0, sessions: 0, handles: 0, bufferBytes: 0 };
  const startedMs = systemClock.monotonicMs();
  while (JSON.stringify(rest()) !== JSON.stringify(nothing) && systemClock.monotonicMs() - startedMs < 10_000) {
    await new Promise<void>((resolve) => void systemClock.after(20, resolve, { keepAlive: true }));
  }
  assert.deepEqual(rest(), nothing);
}

/** The generation of each section of the file; fails if one is of two. */
function generations(file: string): number[] {
  const bytes = readFileSync(file);
  assert.equal(bytes.length, SECTIONS * SECTION_BYTES);
  return Array.from({ length: SECTIONS }, (_, index) => {
    const section = bytes.subarray(index * SECTION_BYTES, (index + 1) * SECTION_BYTES);
    const generation = section.readUInt32LE(0);
    for (let at = 0; at < section.length; at += 4) {
      assert.equal(section.readUInt32LE(at), generation, `section ${index} has two generations, at byte ${at}`);
    }
    return generation;
  });
}

async function isDead(child: ReturnType<typeof spawn>): Promise<void> {
  child.kill("SIGKILL");
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
}

test("killed at any moment, a client that writes sections without waiting leaves whole sections and nothing else", async (t: TestContext) => {
  const { seed } = seeded(t, KILLS);
  const random = seededRandom(seed);
  await using temp = makeTemp("killed");
  const file = join(temp.path, "f");
  writeFileSync(file, Buffer.alloc(SECTIONS * SECTION_BYTES));
  await using served = await serveHere(temp.path, { limits: LIMITS });
  let mixed = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const child = spawn(process.execPath, [WRITER, served.url, String(1000 * (kill + 1))], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    t.after(() => isDead(child));
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    // It says when each generation is written; it is killed in the middle of one.
    const generationsMax = 2 + Math.floor(random() * 3);
    for (let said = 0; said < generationsMax; said++) assert.equal((await lines.next()).done, false);
    const delayMs = random() * 20;
    await new Promise<void>((resolve) => void systemClock.after(delayMs, resolve, { keepAlive: true }));
    await isDead(child);
    await isForgotten(served.server);
    const found = generations(file);
    assert.ok(found.every((generation) => generation >= 1000 * (kill + 1)));
    if (new Set(found).size > 1) mixed += 1;
  }
  assert.ok(mixed > 0, "it was never killed in the middle of a write");
  t.diagnostic(`${mixed} of ${KILLS} in the middle`);
});

test("the same for a mount whose process is killed while programs write, buffered and not", async () => {
  await using temp = makeTemp("killed");
  const [served, path] = [join(temp.path, "served"), join(temp.path, "mount")];
  await command("mkdir", [served, path]);
  await using server = await serveHere(served, { limits: LIMITS });
  for (const flag of ["conv=notrunc", "conv=notrunc oflag=direct"]) {
    const mounted = await startMount(server.url, path, "--security", "plain");
    const script = `for i in 1 2 3 4; do (while :; do dd if=/dev/zero of=${path}/f$i bs=1M count=64 ${flag} status=none || exit; done) & done; wait`;
    const writers = spawn("bash", ["-c", script], { stdio: "ignore", detached: true });
    const written = () => server.server.counters().writes;
    const before = written();
    while (written() < before + 100) {
      await new Promise<void>((resolve) => void systemClock.after(5, resolve, { keepAlive: true }));
    }
    mounted.service.process.kill("SIGKILL");
    await mounted.service.exited;
    try {
      process.kill(-(writers.pid ?? 0), "SIGKILL");
    } catch {
      // Each of them has met its error already.
    }
    await mounted.close();
    await isForgotten(server.server);
    for (const size of (await command("bash", ["-c", `stat -c %s ${served}/f*`])).stdout.trim().split("\n")) {
      assert.equal(Number(size) % (1024 * 1024), 0, "a file ends with a whole section");
    }
  }
});
