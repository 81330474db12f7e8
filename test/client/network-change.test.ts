/** What a session does when this machine's network changes, or it wakes from sleep: it asks at once whether the server is still there, or there again. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { settle } from "../support/fake-clock.ts";
import { FakeNetwork } from "../support/fake-network.ts";
import { returningDrive } from "../support/returning-drive.ts";

/** A drive that nobody uses; lines that `goSilent` take bytes and lose them. */
async function idleDrive() {
  const network = new FakeNetwork();
  const drive = await returningDrive({ client: { network } });
  const goSilent = () => {
    for (const { client, server } of drive.connections) {
      client.faults.isDropping = true;
      server.faults.isDropping = true;
    }
  };
  return { drive, network, goSilent };
}

test("a server that was away for long is tried at once when the network changes, and quickly again after that", async () => {
  const { drive, network } = await idleDrive();
  drive.isDown = true;
  await drive.cut();
  await drive.pass(600_000);
  network.change();
  await settle();
  assert.equal(drive.remote.state, "away");
  drive.isDown = false;
  drive.clock.advance(20);
  await settle();
  assert.equal(drive.remote.state, "connected");
  await drive.remote.close();
  assert.equal(network.listenerCount, 0);
});

test("connections that answer when the network has changed stay as they are", async () => {
  const { drive, network } = await idleDrive();
  const before = drive.server.counters().receivedBytes;
  for (let count = 0; count < 20; count += 1) {
    network.change();
    await drive.pass(300);
  }
  assert.ok(drive.server.counters().receivedBytes > before, "they were asked");
  assert.equal(drive.connections.length, 2);
  assert.equal(drive.remote.state, "connected");
  await drive.remote.close();
});

test("a connection that nobody uses is known to be dead soon after the network has changed", async () => {
  const { drive, network, goSilent } = await idleDrive();
  goSilent();
  network.change();
  const changedMs = drive.clock.monotonicMs();
  await drive.pass(12_000, () => drive.remote.status().resumes === 1);
  assert.ok(drive.clock.monotonicMs() - changedMs <= 3000);
  await drive.remote.close();
});

test("a connection that owes an answer when the network comes back is not waited for any longer", async () => {
  const { drive, network, goSilent } = await idleDrive();
  goSilent();
  network.change();
  await drive.pass(1000);
  assert.equal(drive.remote.state, "connected");
  network.change();
  await settle();
  assert.equal(drive.remote.state, "connected", "and the other connection is there already");
  assert.equal(drive.remote.status().resumes, 1);
  assert.equal(drive.connections.length, 4);
  await drive.remote.close();
});

test("a server that was away for long is tried as soon as the machine wakes up", async () => {
  for (const hasSlept of [false, true]) {
    const { drive } = await idleDrive();
    drive.isDown = true;
    await drive.cut();
    await drive.pass(600_000);
    // Just after an attempt: the next one is seconds away.
    const failed = () => drive.lines.filter((line) => line.includes("reconnecting failed")).length;
    const before = failed();
    await drive.pass(10_000, () => failed() > before);
    drive.isDown = false;
    if (hasSlept) drive.clock.sleep(60_000);
    await drive.pass(600);
    assert.equal(drive.remote.state, hasSlept ? "connected" : "away");
    await drive.remote.close();
  }
});

test("a connection that is dead when the machine wakes up is known to be soon, also if nobody uses it", async () => {
  const { drive, goSilent } = await idleDrive();
  await drive.pass(1000);
  goSilent();
  drive.clock.sleep(60_000);
  const wokeMs = drive.clock.monotonicMs();
  await drive.pass(12_000, () => drive.remote.status().resumes === 1);
  assert.ok(drive.clock.monotonicMs() - wokeMs <= 2000);
  await drive.remote.close();
});
