/**
 * Where data goes that was acknowledged to an application and that the server will not take any more: files beside the user's other state, one for each
 * file of the drive, with the bytes at their places and holes between them.
 *
 * They are never removed by us, and never grow beyond RECOVERED_BYTES_MAX together.
 */
import { closeSync, mkdirSync, openSync, writeSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import type { Clock } from "../base/clock.ts";
import { type Log, printable } from "../base/log.ts";
import { type Name, nameToText } from "../base/name.ts";
import type { NodeId } from "../vfs/file-system.ts";

const RECOVERED_BYTES_MAX = 1 << 30;
const NAME_CHARS_MAX = 100;
const FILES_SHOWN_MAX = 5;

/** What was acknowledged to applications and has not reached the server. */
export interface Unsent {
  /** Where it is kept. */
  files: readonly string[];
  /** What could be kept nowhere. */
  lostBytes: number;
}

/** For who ends the drive at `path`: that there is `unsent`, and where; `log` says more, if there is one. */
export function describeUnsent({ files, lostBytes }: Unsent, path: string, log: string | null): string {
  const more = files.length > FILES_SHOWN_MAX ? ` and ${files.length - FILES_SHOWN_MAX} more files` : "";
  const shown = files.slice(0, FILES_SHOWN_MAX).map(printable).join(", ");
  const kept = files.length === 0 ? [] : [`what has not is kept in ${shown}${more}`];
  const lost = lostBytes === 0 ? [] : [`${lostBytes} bytes are lost`];
  const head = `not all that was written to '${printable(path)}' has reached the server`;
  return [head, [...kept, ...lost].join(", and "), ...(log === null ? [] : [`see ${printable(log)}`])].join("; ");
}

/** The folder of recovered data: $NETDRIVE_RUNTIME/recovered if that is set, else the user's own state folder. */
export function recoveryFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const { NETDRIVE_RUNTIME: given, XDG_STATE_HOME: state } = environment;
  if (given) return join(given, "recovered");
  return join(state ?? join(homedir(), ".local/state"), "netdrive/recovered");
}

export class RecoveryFiles {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #nameOf: (id: NodeId) => Name | undefined;
  readonly #files = new Map<NodeId, string>();
  #bytes = 0;
  #lostBytes = 0;

  /** `nameOf`: what the node is called, if that is known. */
  constructor(options: { clock: Clock; log: Log; nameOf: (id: NodeId) => Name | undefined }) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#nameOf = options.nameOf;
  }

  /** The files written so far. */
  get paths(): readonly string[] {
    return [...this.#files.values()];
  }

  /** All that was given to `save`; undefined if that was nothing. */
  get unsent(): Unsent | undefined {
    if (this.#files.size === 0 && this.#lostBytes === 0) return undefined;
    return { files: this.paths, lostBytes: this.#lostBytes };
  }

  /** Writes the bytes at `offsetBytes` of the node's file. A failure is logged: there is nothing else to do. */
  save(id: NodeId, offsetBytes: number, data: Buffer): void {
    if (this.#bytes + data.length > RECOVERED_BYTES_MAX) {
      this.#lostBytes += data.length;
      this.#log.error(`${data.length} bytes are lost: there is no room for more recovered data`);
      return;
    }
    this.#bytes += data.length;
    try {
      const path = this.#files.get(id) ?? this.#begin(id);
      const fd = openSync(path, "r+");
      try {
        for (let done = 0; done < data.length; )
          done += writeSync(fd, data, done, data.length - done, offsetBytes + done);
      } finally {
        closeSync(fd);
      }
    } catch (cause) {
      this.#lostBytes += data.length;
      this.#log.error(`${data.length} bytes are lost: they cannot be kept here`, cause);
    }
  }

  #begin(id: NodeId): string {
    const folder = recoveryFolder();
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const name = this.#nameOf(id);
    const shown = name === undefined ? "unnamed" : nameToText(name).replace(/[^\p{L}\p{N}._-]/gu, "_");
    const stamp = new Date(this.#clock.realtimeMs()).toISOString().replace(/[:.]/g, "-");
    for (let attempt = 1; ; attempt += 1) {
      const path = join(folder, `${stamp}-${attempt}-${shown.slice(0, NAME_CHARS_MAX)}`);
      try {
        closeSync(openSync(path, "wx", 0o600));
        this.#files.set(id, path);
        this.#log.error(`unsent data is kept in ${printable(path)}`);
        return path;
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw cause;
      }
    }
  }
}
