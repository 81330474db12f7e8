/**
 * A process that puts records into a state store until it is killed, and says on standard output what is down: the number of each batch.
 *
 * Arguments: folder, durability. Batch n puts `n` under "last" and adds "record n"; every third one deletes the record before it again.
 */

import { systemClock } from "../../../src/base/clock.ts";
import { silentLog } from "../../../src/base/log.ts";
import { openLevelStore } from "../../../src/server/state/level-store.ts";
import type { Durability } from "../../../src/server/state/state-store.ts";

const [folder, durability] = process.argv.slice(2) as [string, Durability];
const { store, records } = await openLevelStore({
  folder,
  durability,
  clock: systemClock,
  log: silentLog,
  fileBytes: 4096,
});
let batch = records.get("last")?.readUInt32LE(0) ?? 0;
const numbered = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
process.stdout.write(`${batch}\n`);
for (;;) {
  batch += 1;
  store.put("last", numbered(batch));
  store.add(`record ${batch}`, numbered(batch));
  if (batch % 3 === 0) store.delete(`record ${batch - 1}`);
  await new Promise<void>((resolve) => store.afterCommit(resolve));
  process.stdout.write(`${batch}\n`);
  // The pipe is written to in this turn's end; events are let in.
  await new Promise<void>((resolve) => setImmediate(resolve));
}
