/**
 * Makes V8 optimise what this process runs sooner than it would.
 *
 * V8 assumes that most code of a page is not worth it. A drive runs the same few hundred functions for as long as it lives, and with the defaults its first
 * four thousand small operations take twice as long, and more, as those after them.
 */
import { setFlagsFromString } from "node:v8";

/** Bytes of bytecode a function runs before it is looked at, instead of 66 KiB. With half of this, or a quarter, optimised code is thrown away too often. */
const INTERRUPT_BUDGET = 8000;

/** From now on, for the rest of the process. Flags a V8 does not know it ignores. */
export function optimizeEarly(): void {
  setFlagsFromString(`--interrupt-budget=${INTERRUPT_BUDGET}`);
  // Types are noted from a function's first call on, not from its eighth.
  setFlagsFromString("--no-lazy-feedback-allocation");
}
