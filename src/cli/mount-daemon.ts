/**
 * The process that serves one mount to the kernel, when it is not the one the user started.
 *
 * It is told what to do on standard input, one line of JSON, so that the token is in no argument list, and reports once on
 * descriptor 3: ready, or the failure. Until it is ready, and as long as `isTied` is set, the end of standard input means
 * that whoever started it is gone: then it leaves no mount behind either.
 */
import { writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { systemClock } from "../base/clock.ts";
import { createLog } from "../base/log.ts";
import { linkSignals } from "../base/signals.ts";
import { type DaemonReport, type DaemonRequest, REPORT_DESCRIPTOR } from "./daemon-message.ts";
import { Exit, explain } from "./failure.ts";
import { openLogFile } from "./log-file.ts";
import { keepDrive } from "./mount-drive.ts";
import { describeUnsent } from "./recovery-files.ts";
import { catchStopSignals } from "./stop-signals.ts";

const report = (text: DaemonReport) => void writeSync(REPORT_DESCRIPTOR, `${JSON.stringify(text)}\n`);

/** Runs as the daemon until the mount is gone. */
export async function runMountDaemon(): Promise<void> {
  const clock = systemClock;
  const signals = catchStopSignals(clock);
  const starter = new AbortController();
  const input = createInterface({ input: process.stdin });
  const request = await new Promise<DaemonRequest | undefined>((resolve) => {
    input.once("line", (line) => resolve(JSON.parse(line) as DaemonRequest));
    input.once("close", () => {
      resolve(undefined);
      starter.abort();
    });
  });
  if (request === undefined) return;
  process.title = `netdrive mount ${request.path}`;
  const logFile = openLogFile(request.logFile);
  const log = createLog({ level: request.logLevel, clock, sink: logFile.write });
  const { signal: stop } = linkSignals(signals.stop, starter.signal);
  let isReady = false;
  try {
    const unsent = await keepDrive(request, {
      log,
      clock,
      stop,
      stopNow: signals.stopNow,
      onReady(mounted) {
        isReady = true;
        report({ isReady: true, pid: process.pid, ...mounted });
        if (!request.isTied) input.removeAllListeners("close").close();
      },
    });
    if (unsent === undefined) {
      logFile.remove();
    } else {
      log.error(describeUnsent(unsent, request.path, null));
      process.exitCode = Exit.FAILED;
    }
  } catch (thrown) {
    log.error("the mount failed", thrown);
    // An end that was wanted: nobody asks why.
    if (!isReady && stop.aborted) logFile.remove();
    if (!isReady) report({ isReady: false, ...explain(thrown) });
    process.exitCode = Exit.FAILED;
  } finally {
    signals.release();
    process.stdin.destroy();
  }
}
