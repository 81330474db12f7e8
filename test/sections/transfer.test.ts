/** Transfers: each arrow of the diagram, and faults in every section. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { SectionBitmap } from "../../src/sections/section-bitmap.ts";
import { SectionPlan } from "../../src/sections/section-plan.ts";
import { Transfer, type TransferKind } from "../../src/sections/transfer.ts";

const ATTEMPTS_MAX = 3;

/** `count` sections of 10 bytes, the last one of 7. */
const planOf = (count: number) => new SectionPlan(1000, Math.max(0, count * 10 - 3), 10);
const transferOf = (count: number, kind: TransferKind = "write") => new Transfer(planOf(count), kind, ATTEMPTS_MAX);

function members(bitmap: SectionBitmap): number[] {
  const indexes: number[] = [];
  for (let index = bitmap.next(0); index !== -1; index = bitmap.next(index + 1)) indexes.push(index);
  return indexes;
}

/** Sends all there is to send, with the index as ticket. @returns what was sent. */
function sendAll(transfer: Transfer, ticketBase = 0): number[] {
  const sent: number[] = [];
  for (let index = transfer.nextToSend(); index !== -1; index = transfer.nextToSend()) {
    transfer.sent(index, ticketBase + index);
    transfer.checkInvariants();
    sent.push(index);
  }
  return sent;
}

function succeed(transfer: Transfer, index: number, ticket = index): boolean {
  const counted = transfer.answered(index, ticket, transfer.plan.length(index));
  transfer.checkInvariants();
  return counted;
}

const failed = (errno: string) => ({ t: "failed", errno });

test("a transfer goes from planned over sending and draining to done", () => {
  const transfer = transferOf(2);
  assert.deepEqual(transfer.state, { t: "planned" });
  assert.equal(transfer.nextToSend(), 0);
  transfer.sent(0, 0);
  assert.deepEqual(transfer.state, { t: "sending" });
  transfer.sent(1, 1);
  assert.deepEqual(transfer.state, { t: "draining", verdict: undefined });
  succeed(transfer, 1);
  assert.equal(transfer.settled, false);
  succeed(transfer, 0);
  assert.deepEqual(transfer.state, { t: "done", bytes: 17 });
});

test("an empty transfer is done at once", () => {
  assert.deepEqual(transferOf(0).state, { t: "done", bytes: 0 });
});

test("it is done only with the last answer, whatever the number of sections", () => {
  for (const count of [1, 7, 8, 9, 64, 65, 4096]) {
    const transfer = transferOf(count);
    assert.equal(sendAllFast(transfer), count);
    for (let index = count - 1; index > 0; index--) transfer.answered(index, index, transfer.plan.length(index));
    assert.equal(transfer.settled, false);
    assert.deepEqual(members(transfer.outstanding), [0]);
    succeed(transfer, 0);
    assert.deepEqual(transfer.state, { t: "done", bytes: count * 10 - 3 });
  }
});

function sendAllFast(transfer: Transfer): number {
  let sent = 0;
  for (let index = transfer.nextToSend(); index !== -1; index = transfer.nextToSend(), sent++) {
    transfer.sent(index, index);
  }
  return sent;
}

test("answers come while sections are still being sent", () => {
  const transfer = transferOf(3);
  transfer.sent(0, 0);
  succeed(transfer, 0);
  assert.deepEqual(transfer.state, { t: "sending" });
  assert.deepEqual(sendAll(transfer), [1, 2]);
  succeed(transfer, 2);
  succeed(transfer, 1);
  assert.deepEqual(transfer.state, { t: "done", bytes: 27 });
});

for (const count of [1, 2, 5, 9]) {
  test(`an error in any of ${count} sections stops the sending and fails the whole when the rest is settled`, () => {
    for (let bad = 0; bad < count; bad++) {
      for (const before of [0, bad]) {
        const transfer = transferOf(count);
        // Sends up to the bad section only, so that there is something that must not be sent.
        for (let index = 0; index <= bad; index++) transfer.sent(index, index);
        for (let index = 0; index < before; index++) succeed(transfer, index);
        assert.equal(transfer.refused(bad, bad, "ENOSPC"), true);
        transfer.checkInvariants();
        assert.equal(transfer.nextToSend(), -1);
        for (let index = before; index < bad; index++) {
          assert.deepEqual(transfer.state, { t: "draining", verdict: failed("ENOSPC") });
          if (index % 2 === 0) succeed(transfer, index);
          else transfer.refused(index, index, "EIO");
          transfer.checkInvariants();
        }
        assert.deepEqual(transfer.state, failed("ENOSPC"), `section ${bad} of ${count}`);
        assert.equal(succeed(transfer, bad), false, "late answers are harmless");
        assert.deepEqual(transfer.state, failed("ENOSPC"));
      }
    }
  });
}

test("a read ends where a short section shows the end of the file, for every section and length", () => {
  for (let count = 1; count <= 6; count++) {
    for (let last = 0; last < count; last++) {
      for (let bytes = 0; bytes < 10; bytes += 3) {
        const transfer = transferOf(count, "read");
        if (bytes >= transfer.plan.length(last)) continue;
        for (let index = 0; index <= Math.min(last + 1, count - 1); index++) transfer.sent(index, index);
        transfer.answered(last, last, bytes);
        transfer.checkInvariants();
        assert.equal(transfer.nextToSend(), -1, "nothing behind the end is asked for");
        for (let index = 0; index < count; index++) assert.equal(transfer.isToSend(index), false);
        assert.deepEqual(
          members(transfer.outstanding),
          Array.from({ length: last }, (_, index) => index),
        );
        for (let index = 0; index < last; index++) succeed(transfer, index);
        if (last + 1 < count) {
          assert.equal(transfer.settled, false, "the section behind the end may still be written into the buffer");
          transfer.refused(last + 1, last + 1, "EIO");
        }
        assert.deepEqual(transfer.state, { t: "done", bytes: last * 10 + bytes });
      }
    }
  }
});

test("of two short answers the one nearer to the start counts, in either order", () => {
  for (const order of [
    [1, 3],
    [3, 1],
  ]) {
    const transfer = transferOf(5, "read");
    sendAll(transfer);
    for (const index of order) transfer.answered(index, index, 4);
    for (const index of [0, 2, 4]) succeed(transfer, index);
    assert.deepEqual(transfer.state, { t: "done", bytes: 14 });
  }
});

test("a short write reports the bytes up to there, and an error of a section behind it fails the whole", () => {
  for (const behind of ["ok", "error"] as const) {
    const transfer = transferOf(4);
    for (let index = 0; index < 3; index++) transfer.sent(index, index);
    transfer.answered(1, 1, 6);
    assert.equal(transfer.nextToSend(), -1);
    succeed(transfer, 0);
    if (behind === "ok") succeed(transfer, 2);
    else transfer.refused(2, 2, "ENOSPC");
    assert.deepEqual(transfer.state, behind === "ok" ? { t: "done", bytes: 16 } : failed("ENOSPC"));
  }
});

test("what is behind the end harms nothing: no byte, no answer, postponed", () => {
  for (const kind of ["read", "write"] as const) {
    const transfer = new Transfer(planOf(4), kind, 1);
    sendAll(transfer);
    transfer.answered(0, 0, 5);
    transfer.answered(1, 1, 0);
    transfer.postponed(2, 2, "EAGAIN");
    transfer.timedOut(3);
    transfer.checkInvariants();
    assert.deepEqual(transfer.state, { t: "done", bytes: 5 });
  }
});

test("a write that was answered with no byte at all is an I/O error", () => {
  const transfer = transferOf(1);
  sendAll(transfer);
  transfer.answered(0, 0, 0);
  assert.deepEqual(transfer.state, failed("EIO"));
});

test("one status for a range of sections counts for those in flight under its ticket", () => {
  const transfer = transferOf(70);
  for (let index = 0; index < 70; index++) transfer.sent(index, 5);
  succeed(transfer, 33, 5);
  transfer.answeredRange(3, 60, 5);
  transfer.checkInvariants();
  assert.deepEqual(members(transfer.outstanding), [0, 1, 2, 63, 64, 65, 66, 67, 68, 69]);
  transfer.answeredRange(0, 70, 6);
  assert.equal(transfer.inFlight, 10, "another ticket's status is not for these");
  transfer.answeredRange(0, 70, 5);
  assert.deepEqual(transfer.state, { t: "done", bytes: 697 });
  transfer.answeredRange(0, 70, 5);
});

test("answers that break the rules are the peer's fault and leave the transfer unharmed", () => {
  const transfer = transferOf(3, "read");
  transfer.sent(0, 0);
  const attempts: (() => unknown)[] = [
    () => transfer.answered(1, 1, 10),
    () => transfer.answered(3, 3, 10),
    () => transfer.answered(-1, 0, 10),
    () => transfer.answered(0, 0, 11),
    () => transfer.answered(0, 0, -1),
    () => transfer.answered(0, 0, Number.NaN),
    () => transfer.answered(0, 0, 1.5),
    () => transfer.refused(2, 2, "EIO"),
    () => transfer.postponed(1.5, 2, "EAGAIN"),
    () => transfer.answeredRange(0, 2, 0),
    () => transfer.answeredRange(0, 4, 0),
    () => transfer.answeredRange(-1, 1, 0),
    () => transfer.answeredRange(0, Number.NaN, 0),
  ];
  for (const attempt of attempts) {
    assert.throws(attempt, { name: "ProtocolError" });
    transfer.checkInvariants();
    assert.deepEqual([transfer.state.t, transfer.inFlight, transfer.outstanding.outstanding], ["sending", 1, 3]);
  }
});

test("a section without an answer is sent again, and after three times the whole fails with ETIMEDOUT", () => {
  const transfer = transferOf(2);
  sendAll(transfer);
  succeed(transfer, 0);
  for (let attempt = 1; attempt <= 3; attempt++) {
    transfer.timedOut(1);
    transfer.checkInvariants();
    if (attempt === 3) break;
    assert.deepEqual(transfer.state, { t: "sending" });
    assert.equal(transfer.nextToSend(), 1);
    transfer.sent(1, 100 + attempt);
  }
  assert.deepEqual(transfer.state, failed("ETIMEDOUT"));
});

test("a section that could not leave in time counts as one without an answer", () => {
  const transfer = transferOf(2);
  transfer.timedOut(0);
  transfer.checkInvariants();
  assert.deepEqual([transfer.state.t, transfer.nextToSend()], ["planned", 0]);
  transfer.sent(0, 1);
  transfer.timedOut(0);
  transfer.timedOut(0);
  assert.deepEqual(transfer.state, failed("ETIMEDOUT"));
});

test("a late answer to an earlier attempt neither counts nor frees the buffer of the present one", () => {
  const transfer = transferOf(1, "read");
  transfer.sent(0, 1);
  transfer.timedOut(0);
  assert.equal(transfer.answered(0, 1, 7), false, "withdrawn, not in flight");
  transfer.sent(0, 2);
  assert.equal(transfer.answered(0, 1, 7), false);
  assert.equal(transfer.refused(0, 1, "EIO"), false);
  assert.equal(transfer.inFlight, 1);
  assert.equal(transfer.answered(0, 2, 7), true);
  assert.deepEqual(transfer.state, { t: "done", bytes: 7 });
});

test("a postponed section goes again, and fails the whole with its error after three times", () => {
  const transfer = transferOf(2);
  sendAll(transfer);
  succeed(transfer, 1);
  for (let attempt = 1; attempt <= 3; attempt++) {
    assert.equal(transfer.postponed(0, attempt === 1 ? 0 : attempt, "EAGAIN"), true);
    transfer.checkInvariants();
    if (attempt < 3) transfer.sent(transfer.nextToSend(), attempt + 1);
  }
  assert.deepEqual(transfer.state, failed("EAGAIN"));
});

test("cancelling ends it at once while nothing is in flight, and else when that is settled", () => {
  const planned = transferOf(3);
  planned.cancel();
  assert.deepEqual(planned.state, { t: "cancelled" });
  const sending = transferOf(3);
  sending.sent(0, 0);
  sending.sent(1, 1);
  sending.cancel();
  assert.deepEqual(sending.state, { t: "draining", verdict: { t: "cancelled" } });
  assert.equal(sending.nextToSend(), -1);
  succeed(sending, 0);
  sending.withdrawn(1);
  assert.deepEqual(sending.state, { t: "cancelled" });
  const done = transferOf(1);
  sendAll(done);
  succeed(done, 0);
  done.cancel();
  done.fail("EIO");
  assert.deepEqual(done.state, { t: "done", bytes: 7 });
});

test("the first verdict stands: an error after cancel, or a second error, changes nothing", () => {
  const transfer = transferOf(3);
  sendAll(transfer);
  transfer.cancel();
  transfer.refused(0, 0, "EIO");
  transfer.fail("ESTALE");
  transfer.timedOut(1);
  transfer.linkLost();
  assert.deepEqual(transfer.state, { t: "cancelled" });
});

test("a transfer that cannot go on fails when what is in flight is settled", () => {
  const transfer = transferOf(2);
  transfer.sent(0, 0);
  transfer.fail("ESTALE");
  assert.deepEqual(transfer.state, { t: "draining", verdict: failed("ESTALE") });
  transfer.linkLost();
  assert.deepEqual(transfer.state, failed("ESTALE"));
});

test("after a lost link exactly the outstanding sections go again, wherever it broke", () => {
  const count = 6;
  for (let sent = 0; sent <= count; sent++) {
    for (let answeredBits = 0; answeredBits < 1 << sent; answeredBits++) {
      const transfer = transferOf(count);
      for (let index = 0; index < sent; index++) transfer.sent(index, index);
      for (let index = 0; index < sent; index++) if (answeredBits & (1 << index)) succeed(transfer, index);
      if (transfer.settled) continue;
      const missing = Array.from({ length: count }, (_, index) => index).filter(
        (index) => !(answeredBits & (1 << index)),
      );
      assert.deepEqual(members(transfer.outstanding), missing);
      transfer.linkLost();
      transfer.checkInvariants();
      assert.equal(transfer.inFlight, 0);
      assert.deepEqual(sendAll(transfer, 100), missing);
      for (const index of missing) {
        assert.equal(succeed(transfer, index, index), false, "the old connection's answers do not count");
        assert.equal(succeed(transfer, index, 100 + index), true);
      }
      assert.deepEqual(transfer.state, { t: "done", bytes: 57 });
    }
  }
});

test("a lost link is no strike: a section survives any number of them", () => {
  const transfer = transferOf(1);
  for (let link = 0; link < 300; link++) {
    sendAll(transfer, link);
    transfer.linkLost();
  }
  assert.deepEqual(transfer.state, { t: "sending" });
  sendAll(transfer, 1000);
  succeed(transfer, 0, 1000);
  assert.equal(transfer.settled, true);
});

test("a transfer is used again for a larger and a smaller range", () => {
  const transfer = transferOf(2);
  sendAll(transfer);
  assert.throws(() => transfer.begin(planOf(1), "read"), { name: "AssertionError" });
  for (const count of [2, 90, 3]) {
    if (!transfer.settled) {
      transfer.linkLost();
      sendAll(transfer);
      for (let index = 0; index < transfer.plan.count; index++) succeed(transfer, index);
    }
    transfer.begin(planOf(count), "read");
    transfer.checkInvariants();
    assert.deepEqual(transfer.state, { t: "planned" });
    assert.deepEqual(sendAll(transfer).length, count);
  }
});
