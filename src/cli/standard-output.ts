/**
 * Standard output to its last byte, for a command that prints a whole file: what does not get there is an error.
 *
 * Node's stream for a file or a character device takes a write that came short for a whole one, and for a block device it writes nothing, so those are
 * written to here. Pipes, sockets and terminals are left to Node.
 */
import { fstatSync, write } from "node:fs";
import { isatty } from "node:tty";
import { promisify } from "node:util";
import { printable } from "../base/log.ts";
import { raceSignal } from "../base/signals.ts";
import { Exit, failure } from "./failure.ts";

const STDOUT_DESCRIPTOR = 1;
const writeSome = promisify(write);

/**
 * Returns when all bytes have been taken; the caller keeps them as they are until then. One at a time.
 *
 * @throws CommanderError FAILED; what `signal` aborts with.
 */
export async function print(bytes: Uint8Array, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  try {
    // Who reads may take his time.
    await raceSignal(isStream() ? printStreamed(bytes) : printDirectly(bytes), signal);
  } catch (cause) {
    signal.throwIfAborted();
    throw failure(Exit.FAILED, `standard output cannot be written: ${printable((cause as Error).message)}`);
  }
}

function isStream(): boolean {
  const kind = fstatSync(STDOUT_DESCRIPTOR);
  return kind.isFIFO() || kind.isSocket() || isatty(STDOUT_DESCRIPTOR);
}

function printStreamed(bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()));
  });
}

async function printDirectly(bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await writeSome(STDOUT_DESCRIPTOR, bytes, done, bytes.length - done, null);
    done += bytesWritten;
  }
}
