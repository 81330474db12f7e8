/**
 * The only loader of the native addon.
 *
 * The addon's functions are typed by the modules of this room that wrap them (`syscalls.ts`, `fuse-device.ts`); nobody else
 * calls them. The addon is built by scripts/build to dist/native; NETDRIVE_ADDON names another file (the sanitizer build in tests).
 */
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);

/** Loads the addon and views it as `T`, the functions a module of this room declares. */
export function loadAddon<T>(): T {
  const path = process.env["NETDRIVE_ADDON"] ?? fileURLToPath(new URL("../../native/netdrive.node", import.meta.url));
  try {
    return require(path) as T;
  } catch (cause) {
    throw new Error(`netdrive: the native addon '${path}' does not load; run 'npm run setup' to build it`, { cause });
  }
}
