/**
 * Fuzzing of everything that decodes bytes from elsewhere: frames and messages, signed records, pages of directories, records of the state store, resume keys, tickets, URLs.
 *
 * Inputs are samples that were changed at random: bits, bytes, numbers at their limits, pieces cut out, doubled, or taken from another sample. A decoder may refuse in the one
 * way it says; anything else, or taking what it must not, is a finding. All comes from a seed. The test (test/faults/fuzz) and the long runs (scripts/fuzz.mjs) are the
 * same; what was found once is kept in test/golden/corpus and survived in every run.
 */
import { strict as assert } from "node:assert";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { seededRandom } from "../../scripts/bench/link-schedule.ts";
import { ConnectionError, ProtocolError } from "../../src/base/errors.ts";
import type { Name } from "../../src/base/name.ts";
import { formatTicket, parseTicket } from "../../src/cli/ticket.ts";
import { DriveUrlError, parseDriveUrl } from "../../src/client/url.ts";
import { KeySeal } from "../../src/resume/key-seal.ts";
import type { RecordCodec } from "../../src/server/state/record-codec.ts";
import {
  attachedRecord,
  identityRecord,
  leaseRecord,
  locksRecord,
  openRecord,
  partsOfKey,
  sessionRecord,
  slotRecord,
} from "../../src/server/state/records.ts";
import { RecordOpener, RecordSealer } from "../../src/transport/record-signing.ts";
import { decodeDirents, encodeDirent } from "../../src/vfs/dirent-page.ts";
import type { NodeId } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { FrameDecoder } from "../../src/wire/frame-decoder.ts";
import { BODY_BYTES_MAX } from "../../src/wire/limits.ts";
import { GOLDEN, goldenBytes } from "../golden/frames.ts";
import { Collector } from "../wire/frames.ts";
import { attrOf } from "./attr.ts";

/** A decoder and what it is tried with. */
interface Target {
  readonly name: string;
  readonly samples: readonly Buffer[];
  /** Decodes it. @throws whatever `refuses` does not know: a finding. */
  readonly take: (input: Buffer) => void;
  /** Whether this is how it says no. */
  readonly refuses: (error: unknown) => boolean;
}

export interface Finding {
  readonly target: string;
  readonly input: Buffer;
  readonly error: unknown;
}

const LIMITS = { bodyBytesMax: BODY_BYTES_MAX, payloadBytesMax: 4 * 1024 * 1024 };
const INPUT_BYTES_MAX = 100_000;
const CHANGES_MAX = 6;
const NUMBERS = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

const never = () => false;
const isProtocolError = (error: unknown) => error instanceof ProtocolError;
const bytes = (length: number, value = 7) => Buffer.alloc(length, value);

function frames(): Target {
  return {
    name: "frames",
    samples: GOLDEN.map(goldenBytes),
    refuses: isProtocolError,
    take(input) {
      const collector = new Collector();
      collector.isDiscarding = true;
      const decoder = new FrameDecoder(collector, LIMITS);
      const step = 1 + (input.length % 97);
      for (let at = 0; at < input.length; at += step) decoder.push(input.subarray(at, at + step));
    },
  };
}

/** Signed records of one stream: what is passed on is its beginning, whatever has been done to them. */
function signedRecords(): Target {
  const key = bytes(16);
  const stream = Buffer.concat(GOLDEN.map(goldenBytes));
  const sealer = new RecordSealer(key);
  const sample: Buffer[] = [];
  for (let at = 0; at < stream.length; at += 150) {
    const chunk = stream.subarray(at, at + 150);
    sample.push(...sealer.seal([chunk], chunk.length));
  }
  return {
    name: "signed records",
    samples: [Buffer.concat(sample)],
    refuses: (error) => error instanceof ConnectionError && isProtocolError(error.cause),
    take(input) {
      let passed = 0;
      const push = (record: Buffer) => {
        assert.ok(record.equals(stream.subarray(passed, passed + record.length)));
        passed += record.length;
        return true;
      };
      const opener = new RecordOpener(key, "peer", { push, provide: never, isInsideFrame: false });
      const step = 1 + (input.length % 997);
      for (let at = 0; at < input.length; at += step) opener.push(input.subarray(at, at + step));
    },
  };
}

function pages(): Target {
  const page = Buffer.alloc(2000);
  let end = 0;
  for (const name of ["a", "another", "x".repeat(255)] as Name[]) {
    const dirent = { name, type: 8, cookie: 5n, inoLow: 1, inoHigh: 2 };
    end = encodeDirent(page, end, { ...dirent, entry: { id: "n" as NodeId, attr: attrOf({}) } });
    end = encodeDirent(page, end, dirent);
  }
  return {
    name: "pages",
    samples: [page.subarray(0, end)],
    refuses: isProtocolError,
    take: (input) => void [...decodeDirents(input)],
  };
}

/** What is no record is undefined, and what is one is written as it was read. */
function records<T>(name: string, codec: RecordCodec<T>, samples: readonly T[]): Target {
  return {
    name,
    samples: samples.map((sample) => codec.encode(sample)),
    refuses: never,
    take(input) {
      const record = codec.decode(input);
      if (record === undefined) return;
      assert.deepEqual(codec.decode(codec.encode(record)), record);
    },
  };
}

function allRecords(): Target[] {
  const id = bytes(16);
  const session = {
    id,
    key: bytes(32),
    clientId: id,
    user: "someone",
    loginMark: bytes(16),
    label: "a label",
    share: "share",
  };
  const version = { sizeBytes: 5, mtimeSec: -1, mtimeNsec: 2, ctimeSec: 3, ctimeNsec: 4 };
  const open = {
    id: 2 ** 40,
    session: id,
    handles: [1, 2],
    kind: "file" as const,
    node: "node" as NodeId,
    nodeRecord: bytes(30),
  };
  const reply = { status: 0, made: 3, body: bytes(40) };
  const lock = {
    kind: "posix" as const,
    type: "write" as const,
    owner: 5n,
    pid: 6,
    startBytes: 0n,
    endBytes: 2n ** 63n,
    waitId: 7,
  };
  return [
    records("identity", identityRecord, [
      { serverId: id, sealSecret: bytes(32), epoch: 1, starts: 2, hostBootId: "boot", areNamesSynced: true },
    ]),
    records("session", sessionRecord, [
      {
        ...session,
        guestOf: undefined,
        mayHaveLostNames: true,
        isReadOnly: false,
        sectionBytes: 65_536,
        keepMs: 1000,
        slotTables: [{ number: 0, credits: 8 }],
      },
    ]),
    records("open", openRecord, [
      { ...open, flags: 3, lease: Lease.NONE, openedAtMs: 4, pid: 5, version },
      { ...open, flags: 3, lease: Lease.NONE, openedAtMs: 4, pid: 5, version: undefined },
    ]),
    records("attached", attachedRecord, [1, 2 ** 52]),
    records("lease", leaseRecord, [Lease.NONE, Lease.WRITE]),
    records("locks", locksRecord, [[lock, lock], []]),
    records("slot", slotRecord, [
      { turn: 1, opcode: 25, handle: 0, section: 0, reply, intent: bytes(0) },
      { turn: 1, opcode: 25, handle: 0, section: 0, reply: undefined, intent: bytes(20) },
    ]),
    {
      name: "state-key",
      samples: ["i", `s${"0".repeat(32)}`, "o1", "l1"].map((text) => Buffer.from(text)),
      refuses: never,
      take: (input) => void partsOfKey(input.toString("latin1")),
    },
  ];
}

/** A key that was changed is none; nor is one of another server. */
function resumeKeys(): Target {
  const seal = new KeySeal(bytes(32), 3);
  const content = { openId: 5, openedAtMs: 6, pid: 7, epoch: 1, serverId: bytes(16) };
  const samples = [
    seal.seal(content),
    seal.seal({ ...content, openId: 8 }),
    new KeySeal(bytes(32, 8), 3).seal(content),
  ];
  const genuine = samples.slice(0, 2).map((key) => Buffer.from(key));
  return {
    name: "resume-keys",
    samples,
    refuses: never,
    take(input) {
      if (seal.unseal(input) === undefined) return;
      assert.ok(
        genuine.some((key) => key.equals(input)),
        "a key that was never given is taken",
      );
    },
  };
}

function texts(): Target[] {
  const place = { host: "127.0.0.1", port: 7378, share: "photos" };
  const open = { resumeKey: bytes(80), key: bytes(32), challenge: bytes(16) };
  const ticket = formatTicket({ place, security: { control: "tls", io: "plain" }, open });
  const json = Buffer.from(ticket.slice(ticket.indexOf(".") + 1), "base64url");
  const isUsage = (error: unknown) =>
    error instanceof Error && (error as { code?: string }).code === "netdrive.failure";
  return [
    {
      name: "tickets",
      samples: [Buffer.from(ticket)],
      refuses: isUsage,
      take: (input) => void parseTicket(input.toString("latin1")),
    },
    {
      name: "ticket-contents",
      samples: [json],
      refuses: isUsage,
      take: (input) => void parseTicket(`netdrive-ticket-1.${input.toString("base64url")}`),
    },
    {
      name: "urls",
      samples: ["netdrive://0cKqkPzvVZ1sQbXlN5W7Yx3m@127.0.0.1:7378/photos", "netdrive://a%20b@[::1]/x?fp=00"].map(
        (url) => Buffer.from(url),
      ),
      refuses: (error) => error instanceof DriveUrlError,
      take: (input) => void parseDriveUrl(input.toString("utf8")),
    },
  ];
}

export const TARGETS: readonly Target[] = [
  frames(),
  signedRecords(),
  pages(),
  ...allRecords(),
  resumeKeys(),
  ...texts(),
];

/** A sample, changed in a few places. */
function change(samples: readonly Buffer[], below: (limit: number) => number): Buffer {
  let input = Buffer.from(samples[below(samples.length)] as Buffer);
  for (let count = 1 + below(CHANGES_MAX); count > 0; count -= 1) {
    const at = below(input.length + 1);
    const end = Math.min(input.length, at + 1 + below(40));
    const kind = below(7);
    if (kind === 0 && at < input.length) input[at] = (input[at] as number) ^ (1 << below(8));
    else if (kind === 1 && at < input.length) input[at] = below(256);
    else if (kind === 2) input = Buffer.concat([input.subarray(0, at), input.subarray(end)]);
    else if (kind === 3) input = Buffer.concat([input.subarray(0, end), input.subarray(at)]);
    else if (kind === 4) input = Buffer.from(input.subarray(0, at));
    else if (kind === 5) {
      const other = samples[below(samples.length)] as Buffer;
      input = Buffer.concat([input.subarray(0, at), other.subarray(below(other.length + 1))]);
    } else {
      const width = [1, 2, 4][below(3)] as number;
      const number = (NUMBERS[below(NUMBERS.length)] as number) % 2 ** (8 * width);
      if (at + width <= input.length) input.writeUIntLE(number, at, width);
    }
  }
  return input.subarray(0, INPUT_BYTES_MAX);
}

/** Tries one input. @returns what is wrong with how it was taken. */
export function tryInput(target: Target, input: Buffer): Finding | undefined {
  try {
    target.take(input);
    return undefined;
  } catch (error) {
    return target.refuses(error) ? undefined : { target: target.name, input, error };
  }
}

/** Tries inputs until `isOver`, each target in turn. @returns how many, and the first finding of each target. */
export function fuzz(seed: number, isOver: (count: number) => boolean): { count: number; findings: Finding[] } {
  const random = seededRandom(seed);
  const below = (limit: number) => Math.floor(random() * limit);
  const findings = new Map<string, Finding>();
  let count = 0;
  for (; !isOver(count); count += 1) {
    const target = TARGETS[count % TARGETS.length] as Target;
    const finding = tryInput(target, change(target.samples, below));
    if (finding !== undefined && !findings.has(target.name)) findings.set(target.name, finding);
  }
  return { count, findings: [...findings.values()] };
}

const CORPUS = fileURLToPath(new URL("../../../test/golden/corpus", import.meta.url));

/** Inputs that were findings once: TARGET-WHAT.hex; those of frames have any other name. */
export function corpus(): { file: string; target: Target; input: Buffer }[] {
  return readdirSync(CORPUS).map((file) => {
    const text = readFileSync(join(CORPUS, file), "latin1").replace(/#.*$/gm, "");
    const target = TARGETS.find(({ name }) => file.startsWith(`${name}-`)) ?? (TARGETS[0] as Target);
    return { file, target, input: Buffer.from(text.replace(/\s/g, ""), "hex") };
  });
}
