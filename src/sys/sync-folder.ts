/**
 * The names in a folder, brought to the disk: what is made, renamed or removed there is only sure to be so after that, whatever was synced of the
 * files themselves.
 */
import { closeSync, fsyncSync, openSync } from "node:fs";
import { open } from "node:fs/promises";

/** Returns when the names in a folder are on the disk. @throws what the system says. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The same, where nothing else is to be done meanwhile. */
export function syncFolderNow(folder: string): void {
  const descriptor = openSync(folder, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
