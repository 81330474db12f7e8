import assert from "node:assert/strict";
import { test } from "node:test";
import { toErrno } from "../../src/base/errors.ts";
import { CancelSource, linkSignals, raceSignal } from "../../src/base/signals.ts";

test("a source tells each of its listeners once, and those that were taken off not at all", () => {
  const source = new CancelSource();
  const told: string[] = [];
  const listener = (name: string) => () => void told.push(name);
  const [first, second, third] = [listener("first"), listener("second"), listener("third")];
  for (const one of [first, second, third]) source.addEventListener("abort", one);
  source.removeEventListener("abort", second);
  source.abort();
  source.abort();
  assert.deepEqual(told, ["first", "third"]);
  source.addEventListener("abort", second);
  assert.deepEqual(told, ["first", "third"]);
});

test("a listener taken off by another while both are told is told all the same, as its turn has come", () => {
  const source = new CancelSource();
  let told = 0;
  const second = () => void told++;
  source.addEventListener("abort", () => source.removeEventListener("abort", second));
  source.addEventListener("abort", second);
  source.abort();
  assert.equal(told, 1);
});

test("an only listener can be taken off and another put on", () => {
  const source = new CancelSource();
  let told = 0;
  const first = () => assert.fail("taken off");
  source.addEventListener("abort", first);
  source.removeEventListener("abort", first);
  source.removeEventListener("abort", first);
  source.addEventListener("abort", () => void told++);
  source.abort();
  assert.equal(told, 1);
});

test("a wait is interrupted by its signal, with a reason that means EINTR", async () => {
  for (const source of [new CancelSource(), new AbortController()]) {
    const signal = source instanceof CancelSource ? source : source.signal;
    const waiting = raceSignal(new Promise(() => {}), signal);
    source.abort();
    for (const wait of [waiting, raceSignal(Promise.resolve(1), signal)]) {
      const thrown: unknown = await wait.then(
        () => assert.fail("it was interrupted"),
        (reason: unknown) => reason,
      );
      assert.equal(toErrno(thrown), "EINTR");
    }
  }
  assert.equal(await raceSignal(Promise.resolve(1), new CancelSource()), 1);
  assert.equal(await raceSignal(Promise.resolve(1), undefined), 1);
});

test("a linked signal aborts with the first of its sources and leaves no listener behind", () => {
  const [first, second] = [new AbortController(), new AbortController()];
  const linked = linkSignals(first.signal, undefined, second.signal);
  assert.equal(linked.signal.aborted, false);
  second.abort("why");
  assert.deepEqual([linked.signal.aborted, linked.signal.reason], [true, "why"]);
  first.abort();
  assert.equal(linked.signal.reason, "why");
  const late = linkSignals(first.signal);
  assert.equal(late.signal.aborted, true);
});
