/**
 * Random operations, the same on the stack and on a plain directory, compared after each: what no table thought of.
 *
 * The seeds are fixed, so that a failure is the same tomorrow; NETDRIVE_SEED adds one of one's own. The message names seed, step and call.
 */
import assert from "node:assert/strict";
import { type Fd, O, type Posix, ROOT } from "../../support/posix.ts";
import { type CaseContext, type Cases, outcome, tree } from "../case.ts";
import { generator, type Random, SEEDS } from "./generator.ts";

const STEPS = 600;

interface Step {
  label: string;
  run(posix: Posix, fds: readonly (Fd | undefined)[]): Promise<unknown>;
  /** The slot the result is kept in. */
  opens?: number;
  closes?: number;
}

const SLOTS = 4;

function path(random: Random): string {
  const parts = Array.from({ length: 1 + random(3) }, () => "abcd"[random(4)]);
  if (random(20) === 0) parts.splice(random(parts.length), 0, "..");
  return parts.join("/") + (random(40) === 0 ? "/" : "");
}

/** Calls by path, each drawn with its arguments. */
const BY_PATH: ((random: Random) => Step)[] = [
  (r) => step("mkdir", (p, a) => p.mkdir(a), path(r)),
  (r) => step("mkdir", (p, a) => p.mkdir(a), path(r)),
  (r) => step("rmdir", (p, a) => p.rmdir(a), path(r)),
  (r) => step("unlink", (p, a) => p.unlink(a), path(r)),
  (r) => step("rename", (p, a, b, c) => p.rename(a, b, c), path(r), path(r), [0, 0, 1, 2][r(4)] as number),
  (r) => step("rename", (p, a, b) => p.rename(a, b), path(r), path(r)),
  (r) => step("link", (p, a, b) => p.link(a, b), path(r), path(r)),
  (r) => step("symlink", (p, a, b) => p.symlink(a, b), path(r), path(r)),
  (r) => step("readlink", (p, a) => p.readlink(a), path(r)),
  (r) => step("mknod", (p, a) => p.mknod(a, 0o140644), path(r)),
  (r) => step("chmod", (p, a, b) => p.chmod(a, b), path(r), r(0o1000)),
  (r) => step("truncate", (p, a, b) => p.truncate(a, b), path(r), r(20_000)),
  (r) => step("setxattr", (p, a, b) => p.setxattr(a, "user.x", Buffer.from(`${b}`)), path(r), r(10)),
  (r) => step("getxattr", (p, a) => p.getxattr(a, "user.x"), path(r)),
  (r) => step("stat", async (p, a) => summary(await p.stat(a)), path(r)),
];

/** Calls on open files. */
const BY_FD: ((random: Random) => Step)[] = [
  (r) => fdStep("pwrite", r, (p, fd, a, b) => p.pwrite(fd, Buffer.alloc(b, a), a), r(20_000), 1 + r(9000)),
  (r) => fdStep("pread", r, (p, fd, a, b) => p.pread(fd, b, a), r(20_000), r(9000)),
  (r) => fdStep("write", r, (p, fd, a) => p.write(fd, Buffer.alloc(a, 7)), r(300), 0),
  (r) => fdStep("ftruncate", r, (p, fd, a) => p.ftruncate(fd, a), r(20_000), 0),
  (r) =>
    fdStep("fallocate", r, (p, fd, a, b) => p.fallocate(fd, [0, 1, 3][b % 3] as number, a, 1 + b), r(20_000), r(9000)),
  (r) => fdStep("fstat", r, async (p, fd) => summary(await p.fstat(fd)), 0, 0),
  (r) => fdStep("close", r, (p, fd) => p.close(fd), 0, 0),
];

function summary(attr: { mode: number; nlink: number; sizeBytes: number }) {
  return [attr.mode, attr.nlink, (attr.mode & 0o170000) === 0o040000 ? 0 : attr.sizeBytes];
}

function step<A extends unknown[]>(
  label: string,
  run: (posix: Posix, ...args: A) => Promise<unknown>,
  ...args: A
): Step {
  return { label: `${label}(${args.join(", ")})`, run: (posix) => run(posix, ...args) };
}

function fdStep(
  label: string,
  random: Random,
  run: (posix: Posix, fd: Fd, a: number, b: number) => Promise<unknown>,
  a: number,
  b: number,
): Step {
  const slot = random(SLOTS);
  const made: Step = {
    label: `${label}(slot ${slot}, ${a}, ${b})`,
    run: async (p, fds) => run(p, fds[slot] ?? 999, a, b),
  };
  if (label === "close") made.closes = slot;
  return made;
}

function openStep(random: Random): Step {
  const flags = [O.RDONLY, O.WRONLY, O.RDWR][random(3)] as number;
  const more = [0, O.CREAT, O.CREAT | O.EXCL, O.TRUNC, O.APPEND | O.CREAT, O.NOFOLLOW][random(6)] as number;
  const at = path(random);
  const slot = random(SLOTS);
  const run = (posix: Posix) => posix.open(at, flags | more, 0o644);
  return { label: `open(${at}, ${flags | more}) in slot ${slot}`, run, opens: slot };
}

function drawStep(random: Random): Step {
  const kind = random(10);
  if (kind < 2) return openStep(random);
  const table = kind < 6 ? BY_PATH : BY_FD;
  const draw = table[random(table.length)] as (random: Random) => Step;
  const drawn = draw(random);
  return drawn;
}

class Side {
  readonly posix: Posix;
  readonly fds: (Fd | undefined)[] = Array.from({ length: SLOTS }, () => undefined);

  constructor(posix: Posix) {
    this.posix = posix;
  }

  async run(step: Step): Promise<unknown> {
    const result = await outcome(step.run(this.posix, this.fds));
    if ("errno" in result) return result;
    if (step.closes !== undefined) this.fds[step.closes] = undefined;
    if (step.opens === undefined) return result;
    const old = this.fds[step.opens];
    this.fds[step.opens] = result.value as Fd;
    if (old !== undefined) await this.posix.close(old);
    return "opened";
  }

  async close(): Promise<void> {
    for (const fd of this.fds) if (fd !== undefined) await this.posix.close(fd);
  }
}

async function walkRandomly(t: CaseContext, seed: number): Promise<void> {
  const random = generator(seed);
  const sides = [new Side(t.posix), new Side(t.truth)] as const;
  const log: string[] = [];
  for (let i = 0; i < STEPS; i++) {
    const drawn = drawStep(random);
    log.push(drawn.label);
    const [found, expected] = await Promise.all(sides.map((side) => side.run(drawn)));
    assert.deepEqual(found, expected, `seed ${seed}, step ${i}: ${log.slice(-12).join("; ")}`);
  }
  const [found, expected] = await Promise.all(sides.map(({ posix }) => outcome(tree(posix.as(ROOT)))));
  for (const side of sides) await side.close();
  assert.deepEqual(found, expected, `seed ${seed}: the trees at the end`);
}

export const randomCases: Cases = Object.fromEntries(
  SEEDS.map((seed) => [
    `${STEPS} random calls come to the same, seed ${seed}`,
    (t: CaseContext) => walkRandomly(t, seed),
  ]),
);
