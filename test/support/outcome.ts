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
