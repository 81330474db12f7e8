/** The wish to end, once and twice. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isatty } from "node:tty";
import { aborted, catchStopSignals } from "../../src/cli/stop-signals.ts";

test("a second signal counts only if it is not the same press, passed on by another process", async () => {
  let nowMs = 1000;
  const timer = { stop() {} };
  const clock = { monotonicMs: () => nowMs, realtimeMs: () => 0, after: () => timer, every: () => timer };
  const signals = catchStopSignals(clock);
  const send = (signal: NodeJS.Signals) => process.emit(signal, signal);
  try {
    if (![0, 1, 2].some(isatty)) send("SIGHUP");
    assert.ok(!signals.stop.aborted, "without a terminal its end means nothing");
    send("SIGINT");
    await aborted(signals.stop);
    nowMs += 300;
    send("SIGINT");
    assert.ok(!signals.stopNow.aborted);
    nowMs += 200;
    send("SIGTERM");
    assert.ok(signals.stopNow.aborted);
  } finally {
    signals.release();
  }
  assert.equal(process.listenerCount("SIGINT") + process.listenerCount("SIGTERM") + process.listenerCount("SIGHUP"), 0);
});
