/**
 * A Session on a FakeDevice, for tests of the request loop.
 */
import type { Clock } from "../../src/base/clock.ts";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import type { StatusReader } from "../../src/fuse/callers.ts";
import { HANDLERS } from "../../src/fuse/handlers.ts";
import { Session } from "../../src/fuse/session.ts";
import type { FileSystem } from "../../src/vfs/file-system.ts";
import { FakeDevice } from "./fake-device.ts";

export interface Fixture {
  readonly device: FakeDevice;
  readonly session: Session;
  /** Lines that were logged, warnings and worse. */
  readonly lines: string[];
}

export async function startSession(
  fileSystem: FileSystem,
  options: {
    clock?: Clock;
    negativeTimeoutMs?: number;
    /** What /proc says of every thread; default: nothing. */
    status?: string;
    readStatus?: StatusReader;
    slots?: number;
  } = {},
): Promise<Fixture> {
  const { clock = systemClock, negativeTimeoutMs = 0, status = "", slots = 8 } = options;
  const device = new FakeDevice(slots);
  const lines: string[] = [];
  const log = createLog({ level: "warn", clock, sink: (line) => lines.push(line) });
  const root = await fileSystem.root({ caller: { uid: 0, gid: 0, groups: [], pid: 0 } });
  const session = new Session(
    {
      device,
      fileSystem,
      rootId: root.id,
      log,
      clock,
      generation: 77,
      attrTimeoutMs: 1500,
      entryTimeoutMs: 2250,
      negativeTimeoutMs,
      posixAcl: false,
      backgroundMax: 4,
      readStatus: options.readStatus ?? ((_tid, target) => target.write(status, "latin1")),
      forwardGroups: status !== "",
    },
    HANDLERS,
  );
  session.start();
  return { device, session, lines };
}
