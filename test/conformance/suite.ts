/**
 * Runs all conformance cases over one stack, each in a fresh directory.
 *
 * Beside the stack runs a plain directory, which a case may ask what Linux does (`same`). A case that fails over the plain
 * directory itself is a wrong test; one that fails elsewhere is a bug of that stack.
 */
import { after, before, describe, test } from "node:test";
import type { Posix } from "../support/posix.ts";
import { type SyscallPosix, startSyscallPosix } from "../support/syscall-posix.ts";
import { makeTemp, type Temp } from "../support/temp.ts";
import type { Cases } from "./case.ts";
import { concurrencyCases } from "./cases/concurrency.ts";
import { createCases } from "./cases/create.ts";
import { dataCases } from "./cases/data.ts";
import { directoryCases } from "./cases/directory.ts";
import { linkCases } from "./cases/links.ts";
import { nameCases } from "./cases/name-bytes.ts";
import { openCases } from "./cases/open.ts";
import { permissionCases } from "./cases/permissions.ts";
import { randomCases } from "./cases/random.ts";
import { randomDataCases } from "./cases/random-data.ts";
import { renameCases } from "./cases/rename.ts";
import { spaceCases } from "./cases/space.ts";
import { timeCases } from "./cases/times.ts";
import { xattrCases } from "./cases/xattr.ts";

/** The cases of every stack, by subject. */
const SUBJECTS: Readonly<Record<string, Cases>> = {
  open: openCases,
  create: createCases,
  rename: renameCases,
  links: linkCases,
  names: nameCases,
  data: dataCases,
  space: spaceCases,
  times: timeCases,
  permissions: permissionCases,
  xattrs: xattrCases,
  directories: directoryCases,
  concurrency: concurrencyCases,
  random: randomCases,
  "random data": randomDataCases,
};

/** No case takes a second; a mount that hangs is a failure, not a wait. */
const CASE_TIMEOUT_MS = 30_000;

/** Something to run the cases over. */
export interface Stack {
  /** The root of the drive, as root, empty. */
  posix: Posix;
  isFuse?: boolean;
  /** Ends everything that was started, also after a failure. */
  close(): Promise<void>;
}

/** Declares the tests of one stack. `extra` are cases only this kind of stack can run. */
export function conformance(
  label: string,
  start: () => Promise<Stack>,
  extra: Readonly<Record<string, Cases>> = {},
): void {
  describe(label, () => {
    let stack: Stack;
    let truth: SyscallPosix;
    let temp: Temp;
    let count = 0;
    before(async () => {
      temp = makeTemp("truth");
      truth = startSyscallPosix(temp.path);
      stack = await start();
    });
    after(async () => {
      try {
        await stack?.close();
      } finally {
        await truth.close();
        await temp.remove();
      }
    });
    for (const [subject, cases] of Object.entries({ ...SUBJECTS, ...extra })) {
      for (const [sentence, body] of Object.entries(cases)) {
        test(`${subject}: ${sentence}`, { timeout: CASE_TIMEOUT_MS }, async () => {
          const name = `case-${++count}`;
          await Promise.all([stack.posix.mkdir(name), truth.posix.mkdir(name)]);
          const isFuse = stack.isFuse ?? false;
          await body({ posix: stack.posix.below(name), truth: truth.posix.below(name), isFuse });
        });
      }
    }
  });
}
