/**
 * A storm: programs work on a real mount while its link is cut, stalled, frozen and slowed at random, and its server killed, if that is asked for.
 *
 * Every program checks what it reads and fails on any error; in the end the same programs' results on a local directory are compared with those on the
 * drive. All the time programs on a second mount try to get locks that one on the drive has (lock-siege.ts). When all have ended the server has nothing left of them.
 * All that is random comes from one seed, which the caller prints. The test (test/mount/storm) and the long runs (scripts/storm.mjs) are the same.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type LinkTroublePlan, seededRandom } from "../../scripts/bench/link-schedule.ts";
import { systemClock } from "../../src/base/clock.ts";
import { command, type Service, shell } from "./child.ts";
import { namelessCount, socketCount, startMount } from "./drive.ts";
import { buildFsx } from "./fsx.ts";
import { besiegeLocks } from "./lock-siege.ts";
import { type MortalDrive, startMortalDrive } from "./mortal-drive.ts";
import { makeTree } from "./sample-tree.ts";
import { makeTemp } from "./temp.ts";

export interface StormPlan {
  readonly seed: number;
  /** Programs begin no new round after so long. */
  readonly durationMs: number;
  /** Kills the server every one to three seconds. */
  readonly isDeadly: boolean;
  /** Whether the link is harmed; without it only the server is. */
  readonly isRough: boolean;
  /** Told what happens, for a log. */
  readonly say?: (text: string) => void;
}

export interface StormResult {
  readonly rounds: Readonly<Record<string, number>>;
  readonly cuts: number;
  readonly connections: number;
  readonly kills: number;
  /** Attempts to get a lock that somebody else had. */
  readonly attempts: number;
}

/** The lines a link may have, bit/s. */
const RATES = ["none", "none", "400000000", "50000000"];
const STEP_MS = 1000;
/** A frozen link is noticed after 3.5 s; some are that long. */
const TROUBLE: Omit<LinkTroublePlan, "seed"> = {
  stall: { everyMs: 1500, durationMsMax: 600 },
  freeze: { everyMs: 9000, durationMsMax: 4500 },
  cut: { everyMs: 1200 },
};
/** For a round of a program, however often it is held up. */
const ROUND_TIMEOUT_MS = 180_000;
/** For what the server does after the last client has gone; what it closes in no hurry it closes within ten seconds. */
const FORGET_MS_MAX = 20_000;

const env = {
  ...process.env,
  GIT_CONFIG_GLOBAL: "/dev/null",
  GIT_CONFIG_SYSTEM: "/dev/null",
  GIT_AUTHOR_NAME: "A",
  GIT_AUTHOR_EMAIL: "a@example.org",
  GIT_AUTHOR_DATE: "2026-01-01T00:00:00Z",
  GIT_COMMITTER_NAME: "A",
  GIT_COMMITTER_EMAIL: "a@example.org",
  GIT_COMMITTER_DATE: "2026-01-01T00:00:00Z",
};

/** One round of a program in a directory of its own, always the same for the same round. @returns what it came to, to compare. */
type Program = (directory: string, round: number) => Promise<string>;

const run = async (script: string, cwd: string) =>
  (await shell(script, { cwd, env, timeoutMs: ROUND_TIMEOUT_MS })).stdout;

const git: Program = (directory, round) =>
  run(
    `[ -d .git ] || git init -q -b main
     for i in 1 2 3; do echo "round ${round} $i" >> log; seq $i ${300 + round} > "numbers-$i"; git add -A; git commit -q -m "change ${round} $i"; done
     git checkout -q -b side-${round} HEAD~2 && echo ${round} > side && git add -A && git commit -q -m side
     git checkout -q main && git merge -q --no-edit side-${round} -m merge || { git checkout -q --theirs . && git add -A && git commit -q -m merge; }
     ${round % 3 === 2 ? "git gc -q --prune=now" : ""}
     git fsck --full --strict 2>&1 && git status --porcelain && git rev-parse HEAD^{tree}`,
    directory,
  );

const sqlite: Program = async (directory, round) => {
  const numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)";
  const insert = (part: number) =>
    `BEGIN; ${numbers} INSERT INTO t SELECT ${round}, ${part * 100} + i, zeroblob(i * 7) FROM n; COMMIT;`;
  const sql = `.timeout 60000
    PRAGMA journal_mode=${round % 2 === 0 ? "DELETE" : "TRUNCATE"};
    CREATE TABLE IF NOT EXISTS t(round INTEGER, n INTEGER, filler BLOB, UNIQUE(round, n));
    ${[0, 1, 2, 3].map(insert).join("\n")}
    BEGIN; DELETE FROM t; ROLLBACK;
    UPDATE t SET n = n + 1000 WHERE round = ${round} AND n % 3 = 0;
    PRAGMA integrity_check;
    SELECT count(*), sum(n), sum(length(filler)) FROM t;`;
  return (
    await command("sqlite3", ["-batch", "-bail", "storm.db"], {
      cwd: directory,
      input: sql,
      timeoutMs: ROUND_TIMEOUT_MS,
    })
  ).stdout;
};

/** A tree there and back, compared with where it came from. */
function tar(source: string): Program {
  return (directory, round) =>
    run(
      `mkdir at-${round} && tar -C ${source} -cf - . | tar -C at-${round} -xpf -
       diff -r --no-dereference ${source} at-${round}
       tar -C at-${round} -cf all-${round}.tar . && tar -df all-${round}.tar -C at-${round}
       mv at-${round} moved && find moved | LC_ALL=C sort | sha256sum && rm -r moved && rm all-${round}.tar && ls -A`,
      directory,
    );
}

/** Lines appended by three writers at once, directories made and renamed: each exactly once. */
const names: Program = (directory, round) =>
  run(
    `for w in 1 2 3; do (for i in $(seq 1 20); do echo "${round} $w $i" >> lines; done) & done; wait
     for i in $(seq 1 15); do mkdir d-$i; mv d-$i e-$i; ln -s x e-$i/s; echo $i > e-$i/f; ln e-$i/f e-$i/g; mv e-$i/f e-$i/h; done
     [ "$(ls -d e-* | wc -l)" = 15 ] && cat e-*/g | sort -n | tail -1 && rm -r e-*
     LC_ALL=C sort -o lines lines && sha256sum < lines && wc -l < lines && ls -A`,
    directory,
  );

const pause = (ms: number) => new Promise<void>((resolve) => void systemClock.after(ms, resolve, { keepAlive: true }));

/** Brings the storm over the drive until `isOver`; then everything is well again. @returns how often the server was killed. */
async function storm(drive: MortalDrive, plan: StormPlan, isOver: () => boolean): Promise<number> {
  const random = seededRandom(plan.seed);
  const { link } = drive;
  let kills = 0;
  if (plan.isRough) await link?.trouble({ seed: plan.seed, ...TROUBLE });
  while (!isOver()) {
    await pause(plan.isDeadly ? STEP_MS + random() * 2 * STEP_MS : STEP_MS);
    if (plan.isRough)
      await link?.setRate(Number(RATES[Math.floor(random() * RATES.length)]) || Number.POSITIVE_INFINITY);
    if (!plan.isDeadly || isOver()) continue;
    await drive.kill();
    kills += 1;
    await pause(random() * 300);
    await drive.start();
  }
  await link?.trouble(undefined);
  await link?.setRate(Number.POSITIVE_INFINITY);
  return kills;
}

/** Runs a program round by round, in a directory on the drive and in a local one. @throws where they differ. */
async function work(
  name: string,
  program: Program,
  places: { drive: string; local: string },
  isOver: () => boolean,
): Promise<number> {
  mkdirSync(places.local, { recursive: true });
  await shell(`mkdir ${places.drive}`);
  let round = 0;
  do {
    const there = await program(places.drive, round);
    const here = await program(places.local, round);
    if (there !== here) throw new Error(`${name}, round ${round}: on the drive\n${there}\nbut locally\n${here}`);
    round += 1;
  } while (!isOver());
  await shell(
    `diff -r --no-dereference ${places.drive} ${places.local} ${name === "git" ? "-x .git" : ""} ${name === "sqlite" ? "-x '*-journal'" : ""}`,
  );
  return round;
}

/** @throws Error an application has seen an error, or something else than a local run, or something is left; with all that the drive said. */
export async function runStorm(plan: StormPlan): Promise<StormResult> {
  await using temp = makeTemp("storm");
  await using drive = await startMortalDrive({ link: ["delay 1"] });
  const path = join(temp.path, "other");
  mkdirSync(path);
  const other = await startMount(drive.served.url, path, "--allow-other");
  let isOver = false;
  let stormed: Promise<number> = Promise.resolve(0);
  const crashed = Promise.race([drive.crashed, drive.mounted.service.crashed, other.service.crashed]);
  crashed.catch(() => undefined);
  try {
    await using siege = await besiegeLocks({ held: drive.path, besieged: path, beside: drive.directory });
    stormed = storm(drive, plan, () => isOver);
    // A storm that fails, because a server does not start, would leave the programs waiting; so would a lock that is lost.
    const worked = workAll(drive, plan, temp.path);
    const failed = Promise.all([stormed, siege.lasted]);
    const rounds = await Promise.race([worked, failed.then(() => worked), crashed]);
    isOver = true;
    const kills = await stormed;
    const attempts = await siege.end();
    const { cuts, connections } = await checkLeft(drive);
    await other.close();
    await checkForgotten(drive);
    return { rounds, cuts, connections, kills, attempts };
  } catch (error) {
    isOver = true;
    await stormed.catch(() => undefined);
    const said = (name: string, { pid, errors }: Service) => `${name}: ${threadsOf(pid)}\n${errors().slice(-6000)}`;
    const services = { drive: drive.mounted.service, other: other.service, server: drive.server };
    const all = Object.entries(services).map(([name, service]) => said(name, service));
    throw new Error(`seed ${plan.seed}: ${(error as Error).message}\n${all.join("\n")}`);
  } finally {
    await other.close();
  }
}

/** What the threads of a process do, for whoever has to find out why nothing happens: name, state, processor time in ticks, and where in the kernel each waits. */
function threadsOf(pid: number): string {
  const folder = `/proc/${pid}/task`;
  const textOf = (tid: string, name: string) => readFileSync(join(folder, tid, name), "latin1");
  try {
    const threads = readdirSync(folder).map((tid) => {
      const [, name, rest = ""] = /\((.*)\) (.*)/.exec(textOf(tid, "stat")) ?? [];
      const fields = rest.split(" ");
      return `${name} ${fields[0]} ${fields[11]}+${fields[12]} ${textOf(tid, "wchan")}`;
    });
    return `${pid}: ${threads.join(", ")}`;
  } catch {
    return "has ended";
  }
}

/** Unmounts; then the server has no session, open, lock or reply, in its store or elsewhere, and no file without a name. */
async function checkForgotten(drive: MortalDrive): Promise<void> {
  await drive.mounted.close();
  const kept = join(drive.directory, ".netdrive-kept");
  const isForgotten = () =>
    namelessCount(drive.server.pid, drive.directory) === 0 && (!existsSync(kept) || readdirSync(kept).length === 0);
  const endMs = systemClock.monotonicMs() + FORGET_MS_MAX;
  while (!isForgotten() && systemClock.monotonicMs() < endMs) await pause(20);
  if (!isForgotten()) throw new Error("the server keeps files that have no name and are not open any more");
  const remains = JSON.stringify(await drive.remains());
  if (remains !== JSON.stringify({ identity: 1 })) throw new Error(`the server still knows ${remains}`);
}

/** Runs all programs until the time is over. @returns how many rounds each has done. */
async function workAll(drive: MortalDrive, plan: StormPlan, folder: string): Promise<Record<string, number>> {
  const tree = join(folder, "tree");
  makeTree(tree, 60);
  const fsx = await buildFsx(drive.scratch);
  const bytes: Program = async (directory, round) => {
    const file = join(directory, "random");
    await shell(`rm -f ${file}`);
    await fsx(file, { seed: plan.seed + round, steps: 250, bytesMax: 2_000_000 });
    return (await shell(`sha256sum < ${file}`)).stdout;
  };
  const programs: Record<string, Program> = { bytes, git, sqlite, tar: tar(tree), names };
  const endMs = systemClock.monotonicMs() + plan.durationMs;
  const isLate = () => systemClock.monotonicMs() >= endMs;
  const rounds = await Promise.all(
    Object.entries(programs).map(async ([name, program]) => {
      const places = { drive: join(drive.path, name), local: join(folder, "local", name) };
      const count = await work(name, program, places, isLate).catch((error: Error) => {
        throw new Error(`${name}: ${error.message}`);
      });
      plan.say?.(`${name}: ${count} rounds`);
      return [name, count] as const;
    }),
  );
  return Object.fromEntries(rounds);
}

/** What is on the drive is on the server, and no connection is left over. @returns how it was for the link. */
async function checkLeft(drive: MortalDrive): Promise<Pick<StormResult, "cuts" | "connections">> {
  await shell(`sync -f ${drive.path}; diff -r --no-dereference -x .netdrive-kept ${drive.path} ${drive.directory}`, {
    timeoutMs: ROUND_TIMEOUT_MS,
  });
  const none = { cutCount: 0, acceptedCount: 0, connectionCount: 2 };
  const { cutCount, acceptedCount, connectionCount } = (await drive.link?.stats()) ?? none;
  if (connectionCount > 4) throw new Error(`${connectionCount} connections are left on the link`);
  const sockets = socketCount(drive.mounted.service.pid);
  if (sockets > 8) throw new Error(`the drive's process has ${sockets} sockets`);
  return { cuts: cutCount, connections: acceptedCount };
}
