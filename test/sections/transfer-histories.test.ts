/** Transfers under random histories: against a model of plain sets, and over a link that does everything but corrupt. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { SectionBitmap } from "../../src/sections/section-bitmap.ts";
import { SectionPlan } from "../../src/sections/section-plan.ts";
import { Transfer, type TransferKind, type TransferState } from "../../src/sections/transfer.ts";
import { seeded } from "../support/seed.ts";

const ATTEMPTS_MAX = 3;

/** `count` sections of 10 bytes, the last one of 7. */
const planOf = (count: number) => new SectionPlan(1000, Math.max(0, count * 10 - 3), 10);

function members(bitmap: SectionBitmap): number[] {
  const indexes: number[] = [];
  for (let index = bitmap.next(0); index !== -1; index = bitmap.next(index + 1)) indexes.push(index);
  return indexes;
}

/** What a transfer should be, said with plain sets and recomputed after each step. */
class NaiveTransfer {
  readonly plan: SectionPlan;
  readonly kind: TransferKind;
  missing: Set<number>;
  flying = new Map<number, number>();
  strikes = new Map<number, number>();
  everSent = false;
  verdict: Extract<TransferState, { t: "failed" | "cancelled" }> | undefined;
  end: number;

  constructor(plan: SectionPlan, kind: TransferKind) {
    this.plan = plan;
    this.kind = kind;
    this.missing = new Set(Array.from({ length: plan.count }, (_, index) => index));
    this.end = plan.lengthBytes;
  }

  get unsent(): number[] {
    if (this.verdict !== undefined) return [];
    return [...this.missing].filter((index) => !this.flying.has(index)).sort((a, b) => a - b);
  }

  get state(): TransferState {
    if (this.verdict !== undefined) {
      return this.flying.size === 0 ? this.verdict : { t: "draining", verdict: this.verdict };
    }
    if (this.missing.size === 0 && this.flying.size === 0) return { t: "done", bytes: this.end };
    if (this.unsent.length > 0) return { t: this.everSent ? "sending" : "planned" };
    return { t: "draining", verdict: undefined };
  }

  cut(position: number): void {
    this.end = Math.min(this.end, position);
    for (const index of this.missing) if (this.plan.position(index) >= this.end) this.missing.delete(index);
  }

  strike(index: number, errno: "EAGAIN" | "ETIMEDOUT"): void {
    if (!this.missing.has(index)) return;
    this.strikes.set(index, (this.strikes.get(index) ?? 0) + 1);
    if (this.strikes.get(index) === ATTEMPTS_MAX) this.verdict ??= { t: "failed", errno };
  }
}

type Step = { op: string; pick: number; bytes: number };

/** Makes one random step on the transfer and on the model. `old` are requests whose answers may still come. */
function stepBoth(transfer: Transfer, model: NaiveTransfer, step: Step, old: [number, number][], ticket: number): void {
  const flying = [...model.flying.keys()];
  const at = flying.length === 0 ? -1 : (flying[step.pick % flying.length] as number);
  const live = model.flying.get(at) ?? -1;
  if (step.op === "send") {
    const [index] = model.unsent;
    assert.equal(transfer.nextToSend(), index ?? -1);
    if (index === undefined) return;
    transfer.sent(index, ticket);
    model.flying.set(index, ticket);
    model.everSent = true;
    old.push([index, ticket]);
  } else if (step.op === "late") {
    const again = old[step.pick % Math.max(old.length, 1)];
    if (again === undefined || model.flying.get(again[0]) === again[1]) return;
    assert.equal(transfer.answered(again[0], again[1], model.plan.length(again[0])), false);
    assert.equal(transfer.refused(again[0], again[1], "EIO"), false);
  } else if (step.op === "linkLost") {
    transfer.linkLost();
    model.flying.clear();
  } else if (step.op === "cancel") {
    transfer.cancel();
    if (model.state.t !== "done") model.verdict ??= { t: "cancelled" };
  } else if (at !== -1) {
    model.flying.delete(at);
    const length = model.plan.length(at);
    if (step.op === "short") {
      const bytes = step.bytes % length;
      transfer.answered(at, live, bytes);
      if (!model.missing.delete(at)) return;
      if (model.kind === "write" && bytes === 0) model.verdict ??= { t: "failed", errno: "EIO" };
      else model.cut(model.plan.position(at) + bytes);
    } else if (step.op === "refuse") {
      transfer.refused(at, live, "ENOSPC");
      if (model.kind === "write" || model.missing.has(at)) model.verdict ??= { t: "failed", errno: "ENOSPC" };
    } else if (step.op === "postpone") {
      transfer.postponed(at, live, "EAGAIN");
      model.strike(at, "EAGAIN");
    } else if (step.op === "timeOut") {
      transfer.timedOut(at);
      model.strike(at, "ETIMEDOUT");
    } else if (step.op === "withdraw") transfer.withdrawn(at);
    else {
      transfer.answered(at, live, length);
      model.missing.delete(at);
    }
  }
}

test("random histories leave what the naive model says, after each step", (t) => {
  const common = ["send", "answer", "late"];
  const rare = ["short", "refuse", "postpone", "timeOut", "withdraw", "linkLost", "cancel"];
  const step = fc.record({
    op: fc.oneof(
      { weight: 10, arbitrary: fc.constantFrom(...common) },
      { weight: 2, arbitrary: fc.constantFrom(...rare) },
    ),
    pick: fc.nat(),
    bytes: fc.nat(),
  });
  const ends = new Map<string, number>();
  fc.assert(
    fc.property(
      fc.nat({ max: 12 }),
      fc.constantFrom<TransferKind>("read", "write"),
      fc.boolean(),
      fc.array(step, { minLength: 10, maxLength: 120 }),
      (count, kind, aligned, steps) => {
        const plan = new SectionPlan(1003, Math.max(0, count * 10 - 3), 10, { aligned });
        const transfer = new Transfer(plan, kind, ATTEMPTS_MAX);
        const model = new NaiveTransfer(plan, kind);
        const old: [number, number][] = [];
        steps.forEach((each, ticket) => {
          if (transfer.settled && each.op !== "late" && each.op !== "cancel") return;
          stepBoth(transfer, model, each, old, ticket);
          transfer.checkInvariants();
          assert.deepEqual(transfer.state, model.state);
          assert.equal(transfer.inFlight, model.flying.size);
          if (model.verdict === undefined) {
            assert.deepEqual(
              members(transfer.outstanding),
              [...model.missing].sort((a, b) => a - b),
            );
          }
          assert.equal(transfer.nextToSend(), model.unsent[0] ?? -1);
          for (let index = 0; index < count; index++) {
            assert.equal(transfer.isToSend(index), model.unsent.includes(index));
          }
        });
        ends.set(transfer.state.t, (ends.get(transfer.state.t) ?? 0) + 1);
      },
    ),
    seeded(t, 3000),
  );
  t.diagnostic(JSON.stringify(Object.fromEntries(ends)));
  for (const end of ["done", "failed", "cancelled", "sending", "draining"]) {
    assert((ends.get(end) ?? 0) > 50, `too few runs ended ${end} to prove anything`);
  }
});

test("over a link that reverses, shuffles, doubles, loses and breaks, every byte arrives once the link lets it", (t) => {
  const event = fc.constantFrom("first", "last", "middle", "double", "lose", "break");
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), fc.array(event, { maxLength: 60 }), (count, events) => {
      const plan = planOf(count);
      const transfer = new Transfer(plan, "write", 255);
      const source = Buffer.from(Array.from({ length: plan.lengthBytes }, (_, at) => at % 251));
      const file = Buffer.alloc(plan.lengthBytes);
      let wire: [index: number, ticket: number][] = [];
      const flying = new Set<number>();
      let ticket = 0;
      const answer = (at: number) => {
        const [request] = wire.splice(at, 1);
        if (request === undefined) return;
        const [index, name] = request;
        const position = plan.position(index);
        source.copy(file, position, position, position + plan.length(index));
        if (transfer.answered(index, name, plan.length(index))) flying.delete(index);
      };
      for (const each of [...events, ...Array(1000).fill("first")]) {
        if (transfer.settled) break;
        // Four at a time, as a small window would.
        while (transfer.inFlight < 4 && transfer.nextToSend() !== -1) {
          const index = transfer.nextToSend();
          transfer.sent(index, ++ticket);
          flying.add(index);
          wire.push([index, ticket]);
        }
        if (each === "double") wire.push(...wire.slice(0, 1));
        else if (each === "lose") wire.shift();
        else if (each === "break") {
          wire = [];
          transfer.linkLost();
          flying.clear();
        } else answer(each === "first" ? 0 : each === "last" ? wire.length - 1 : wire.length >> 1);
        if (wire.length === 0) {
          for (const index of flying) transfer.timedOut(index);
          flying.clear();
        }
        transfer.checkInvariants();
      }
      assert.deepEqual(transfer.state, { t: "done", bytes: plan.lengthBytes });
      assert(file.equals(source));
    }),
    seeded(t, 1000),
  );
});
