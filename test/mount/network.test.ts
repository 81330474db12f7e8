/** A drive over a network of its own, which comes and goes as that of a laptop does. As root. */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { command } from "../support/child.ts";
import { type MountedDrive, startMountInside, startServeInside } from "../support/drive.ts";
import { makeTemp } from "../support/temp.ts";
import { type TwoNetworks, twoNetworks } from "../support/two-networks.ts";

const TOKEN = "a-token-that-was-chosen-for-a-test";
const CABLE = "link set cable";
const OUTAGE_MS = 1500;
/** Who reads from a drive that does not come back is ended: it would keep the mount from going. */
const READ_MS = 15_000;

interface FarDrive {
  readonly networks: TwoNetworks;
  readonly mounted: MountedDrive;
  /** Makes a file beside the drive. @returns what its name is on the drive, where nobody has asked for it. */
  make(name: string): string;
  /** Settles when the drive has logged a line that holds this, in what it logs from now on. */
  says(text: string): Promise<void>;
}

async function farDrive(t: TestContext): Promise<FarDrive> {
  const closing: (() => Promise<unknown>)[] = [];
  t.after(async () => {
    for (const close of closing.reverse()) await close();
  });
  const temp = makeTemp("network");
  closing.push(() => temp.remove());
  const [directory, path] = ["served", "mount"].map((name) => join(temp.path, name)) as [string, string];
  for (const folder of [directory, path]) mkdirSync(folder);
  const networks = await twoNetworks();
  closing.push(() => networks.close());
  const { server, client } = networks;
  const listen = ["--listen", `${server.address}:0`, "--token", TOKEN, "--squash", "none"];
  const served = await startServeInside(server.inside, directory, ...listen);
  closing.push(() => served.service.end());
  const mounted = await startMountInside(client.inside, served.url, path);
  closing.push(() => mounted.close());
  return {
    networks,
    mounted,
    make(name) {
      writeFileSync(join(directory, name), name);
      return join(path, name);
    },
    says: (text) =>
      new Promise((resolve) => {
        mounted.service.process.stderr?.on("data", (line: string) => {
          if (line.includes(text)) resolve();
        });
      }),
  };
}

const pause = (ms: number) => new Promise<void>((resolve) => void systemClock.after(ms, resolve, { keepAlive: true }));

/** How long it takes until all that has begun is done. */
async function msOf(work: Promise<unknown>): Promise<number> {
  const beganMs = systemClock.monotonicMs();
  await work;
  return systemClock.monotonicMs() - beganMs;
}

/** @returns how long after the network's return the first byte is there. */
async function returns({ make }: FarDrive, name: string, comeBack: () => Promise<unknown>): Promise<number> {
  const read = command("cat", [make(name)], { timeoutMs: READ_MS });
  await comeBack();
  const tookMs = await msOf(read);
  assert.equal((await read).stdout, name);
  return tookMs;
}

test("a drive that nobody uses knows soon that its network is gone, and is back as soon as that is", async (t) => {
  const drive = await farDrive(t);
  const { client } = drive.networks;
  await command("cat", [drive.make("first")]);
  const away = drive.says("the server is away");
  await client.ip(`${CABLE} down`);
  const noticedMs = await msOf(away);
  assert.ok(noticedMs < 5000, `noticed after ${noticedMs} ms; of itself it asks only after 10 s`);
  const tookMs = await returns(drive, "second", () => client.ip(`${CABLE} up`));
  // 10 to 80 ms; but a packet that leaves as the interface comes up may be lost, and the next one has to wait for a second.
  assert.ok(tookMs < 1500, `back after ${tookMs} ms`);
  t.diagnostic(`noticed after ${noticedMs.toFixed()} ms, back after ${tookMs.toFixed()} ms`);
});

test("a drive whose cable was pulled at the other end is back soon after it is in again", async (t) => {
  const drive = await farDrive(t);
  const { server } = drive.networks;
  await command("cat", [drive.make("first")]);
  const away = drive.says("the server is away");
  await server.ip(`${CABLE} down`);
  const noticedMs = await msOf(away);
  assert.ok(noticedMs < 5000, `noticed after ${noticedMs} ms`);
  // Packets that were sent into nothing meanwhile are sent again by the kernel later and later.
  await pause(OUTAGE_MS);
  const tookMs = await returns(drive, "second", () => server.ip(`${CABLE} up`));
  // The kernel asks for the hardware address of the other end once a second.
  assert.ok(tookMs < 2000, `back after ${tookMs} ms`);
  t.diagnostic(`noticed after ${noticedMs.toFixed()} ms, back after ${tookMs.toFixed()} ms`);
});

test("a drive goes on from another address when its machine has got one", async (t) => {
  const drive = await farDrive(t);
  const { client } = drive.networks;
  await command("cat", [drive.make("first")]);
  await client.ip("address del 192.0.2.2/24 dev cable");
  await client.ip("address add 192.0.2.77/24 dev cable");
  const tookMs = await returns(drive, "second", async () => {});
  assert.ok(tookMs < 5000, `back after ${tookMs} ms`);
  t.diagnostic(`back after ${tookMs.toFixed()} ms`);
});
