/**
 * A process that mounts a StrictFs, whose power can be cut: `serve-strict.js PATH CHANCE`. What was not synced is there after a cut with that chance, each by itself.
 *
 * It says "mounted N" when it is mounted, and again after each cut: SIGUSR2 unmounts it, cuts, and mounts what is left. SIGTERM ends it.
 */
import { seededRandom } from "../../scripts/bench/link-schedule.ts";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { mountFuse } from "../../src/fuse/mount.ts";
import { StrictFs } from "./strict-fs.ts";

const SEED = 20_260_101;
const [path = "", chance = "0"] = process.argv.slice(2);
const log = createLog({ level: "warn", clock: systemClock, room: "strict" });
const files = new StrictFs();
const random = seededRandom(SEED);
let isEnding = false;
let mounts = 0;
let unmount = async () => {};
process.on("SIGUSR2", () => void unmount());
process.on("SIGTERM", () => {
  isEnding = true;
  void unmount();
});
while (!isEnding) {
  const mount = await mountFuse({ fileSystem: files, path, source: "strict", log, clock: systemClock });
  let unmounted = Promise.resolve();
  unmount = () => {
    unmounted = mount.unmount();
    return unmounted;
  };
  mounts += 1;
  process.stdout.write(`mounted ${mounts}\n`);
  await mount.ended;
  await unmounted;
  files.cut(() => random() < Number(chance));
}
