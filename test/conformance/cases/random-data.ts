/**
 * Random reads, writes, truncations, holes and copies in one file through several opens, each read compared with a model in memory.
 *
 * What read-ahead, write-behind, page caches and sections may get wrong: every byte, at every size. Fixed seeds; NETDRIVE_SEED adds one.
 */
import assert from "node:assert/strict";
import { FallocateMode } from "../../../src/vfs/file-system.ts";
import { type Fd, O, type Posix, ROOT } from "../../support/posix.ts";
import type { CaseContext, Cases } from "../case.ts";
import { pattern } from "./data.ts";
import { generator, type Random, SEEDS } from "./generator.ts";

const STEPS = 400;
const FILE_BYTES_MAX = 600_000;
const { KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE } = FallocateMode;

/** An open of the file, and by whom. */
interface Open {
  posix: Posix;
  fd: Fd;
  isAppending: boolean;
}

/** The file as it must be. */
class Model {
  bytes = Buffer.alloc(0);

  resize(size: number): void {
    const next = Buffer.alloc(size);
    this.bytes.copy(next);
    this.bytes = next;
  }

  write(data: Buffer, at: number): void {
    if (data.length === 0) return;
    if (at + data.length > this.bytes.length) this.resize(at + data.length);
    data.copy(this.bytes, at);
  }

  zero(at: number, length: number): void {
    this.bytes.fill(0, Math.min(at, this.bytes.length), Math.min(at + length, this.bytes.length));
  }
}

/** A length that is often near a page, a section or a request. */
function drawLength(random: Random): number {
  const near = [1, 100, 4096, 8192, 65_536, 131_072][random(6)] as number;
  return Math.max(1, near + random(3) - 1 + (random(4) === 0 ? random(5000) : 0));
}

type Act = (open: Open, model: Model, random: Random) => Promise<string>;

const ACTS: Record<string, Act> = {
  async write({ posix, fd, isAppending }, model, random) {
    const data = pattern(drawLength(random), random(1 << 30));
    const at = random(3) === 0 ? model.bytes.length : random(FILE_BYTES_MAX - data.length);
    const where = isAppending ? model.bytes.length : at;
    if (where + data.length > FILE_BYTES_MAX) return "nothing";
    assert.equal(await posix.pwrite(fd, data, at), data.length);
    model.write(data, where);
    return `${data.length} at ${where}`;
  },
  async read({ posix, fd }, model, random) {
    const length = drawLength(random);
    const at = random(model.bytes.length + 5000);
    const found = await posix.pread(fd, length, at);
    const expected = model.bytes.subarray(at, at + length);
    const differs = found.findIndex((byte, index) => byte !== expected[index]);
    assert.equal(found.length, expected.length, `${found.length} bytes of ${expected.length} at ${at}`);
    assert.equal(differs, -1, `byte ${at + differs} is wrong`);
    return `${length} at ${at}`;
  },
  async "read forward"({ posix, fd }, model, random) {
    let at = random(model.bytes.length + 1);
    for (let i = 0; i < 12; i++) {
      const found = await posix.pread(fd, 20_000, at);
      assert.ok(found.equals(model.bytes.subarray(at, at + 20_000)), `reading on at ${at}`);
      at += found.length;
    }
    return `to ${at}`;
  },
  async truncate({ posix, fd }, model, random) {
    const size = random(2) === 0 ? random(FILE_BYTES_MAX) : random(model.bytes.length + 1);
    await posix.ftruncate(fd, size);
    model.resize(size);
    return `${size}`;
  },
  async "punch or zero"({ posix, fd }, model, random) {
    const [at, length] = [random(model.bytes.length + 1), drawLength(random)];
    const kind = random(2) === 0 ? PUNCH_HOLE : ZERO_RANGE;
    await posix.fallocate(fd, kind | KEEP_SIZE, at, length);
    model.zero(at, length);
    return `${length} at ${at}`;
  },
  async copy({ posix, fd, isAppending }, model, random) {
    const length = Math.min(drawLength(random), Math.floor(model.bytes.length / 2));
    if (length === 0 || isAppending) return "nothing";
    const from = random(model.bytes.length - 2 * length + 1);
    const to = from + length + random(Math.max(1, FILE_BYTES_MAX - from - 2 * length));
    const data = Buffer.from(model.bytes.subarray(from, from + length));
    const copied = await posix.copyFileRange({ fd, offsetBytes: from }, { fd, offsetBytes: to }, length);
    assert.ok(copied > 0);
    model.write(data.subarray(0, copied), to);
    return `${copied} from ${from} to ${to}`;
  },
  async sync({ posix, fd }) {
    await posix.fsync(fd);
    return "";
  },
  async size({ posix, fd }, model) {
    assert.equal((await posix.fstat(fd)).sizeBytes, model.bytes.length);
    return "";
  },
};

const WEIGHTED = [
  "write",
  "write",
  "write",
  "read",
  "read",
  "read",
  "read forward",
  "truncate",
  "punch or zero",
  "copy",
  "sync",
  "size",
];

async function openOne(posix: Posix, random: Random): Promise<Open> {
  const own = posix.as({ ...ROOT, process: random(2) });
  const isAppending = random(5) === 0;
  const fd = await own.open(
    "f",
    O.RDWR | O.CREAT | (isAppending ? O.APPEND : 0) | (random(6) === 0 ? O.DSYNC : 0),
    0o644,
  );
  return { posix: own, fd, isAppending };
}

async function exercise(posix: Posix, seed: number): Promise<void> {
  const random = generator(seed);
  const model = new Model();
  const opens: Open[] = [];
  for (let i = 0; i < 3; i++) opens.push(await openOne(posix, random));
  const log: string[] = [];
  for (let i = 0; i < STEPS; i++) {
    const slot = random(opens.length);
    const open = opens[slot] as Open;
    if (random(25) === 0) {
      await open.posix.close(open.fd);
      opens[slot] = await openOne(posix, random);
      log.push(`open ${slot}`);
      continue;
    }
    const name = WEIGHTED[random(WEIGHTED.length)] as string;
    try {
      log.push(`${slot} ${name} ${await (ACTS[name] as Act)(open, model, random)}`);
    } catch (error) {
      throw new Error(`seed ${seed}, step ${i}, ${name} by open ${slot}, after: ${log.slice(-10).join("; ")}`, {
        cause: error,
      });
    }
  }
  for (const { posix: own, fd } of opens) await own.close(fd);
  const reader = await posix.open("f", O.RDONLY);
  const whole = await posix.pread(reader, FILE_BYTES_MAX * 2, 0);
  await posix.close(reader);
  assert.equal(whole.length, model.bytes.length, `seed ${seed}: the size at the end`);
  assert.ok(whole.equals(model.bytes), `seed ${seed}: the content at the end`);
}

export const randomDataCases: Cases = Object.fromEntries(
  SEEDS.map((seed) => [
    `${STEPS} random reads and changes of one file keep every byte, seed ${seed}`,
    ({ posix }: CaseContext) => exercise(posix, seed),
  ]),
);
