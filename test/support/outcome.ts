/** What has become of a promise, for tests that must not wait for it. */
import { FsError } from "../../src/base/errors.ts";

/** What a promise has come to: its value, its error, or undefined as long as it is open. */
export function outcome<T>(promise: Promise<T>): { value: T | Error | undefined } {
  const seen: { value: T | Error | undefined } = { value: undefined };
  promise.then(
    (value) => {
      seen.value = value;
    },
    (error: Error) => {
      seen.value = error;
    },
  );
  return seen;
}

/** Whether an outcome is the failure with this errno. */
export function hasFailed(value: unknown, errno: string): boolean {
  return value instanceof FsError && value.errno === errno;
}
