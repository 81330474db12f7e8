/** One server and two mounts of its share, as processes, with lockers in either and beside the server. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Drive, type MountedDrive, startDrive, startMount } from "./drive.ts";
import { type Locker, startLocker } from "./locker.ts";

export interface TwoMounts extends AsyncDisposable {
  readonly drive: Drive;
  readonly other: MountedDrive;
  /** Starts a locker in the first mount, in the second, or in the served directory. */
  locker(where: "one" | "two" | "beside"): Promise<Locker>;
}

export async function startTwoMounts(options: { serve?: string[]; mount?: string[] } = {}): Promise<TwoMounts> {
  const drive = await startDrive(options);
  const path = join(drive.scratch, "two");
  mkdirSync(path);
  const lockers: Locker[] = [];
  let other: MountedDrive | undefined;
  const close = async () => {
    for (const locker of lockers) await locker.kill();
    await other?.close();
    await drive.close();
  };
  try {
    other = await startMount(drive.served.url, path, "--allow-other", ...(options.mount ?? []));
    const places = { one: drive.path, two: other.path, beside: drive.directory };
    return {
      drive,
      other,
      async locker(where) {
        const locker = await startLocker(places[where]);
        lockers.push(locker);
        return locker;
      },
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
