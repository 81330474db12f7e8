/**
 * Somebody on the line of signed channels, who knows where records begin and harms one of them: in memory, and between sockets.
 *
 * What comes before the records, the upgrade and the two frames of set-up, passes as it is.
 */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import type { FaultyLink } from "../../src/transport/memory-link.ts";
import { HEADER_BYTES, RECORD_LENGTH_BYTES, RECORD_TAG_BYTES } from "../../src/wire/limits.ts";

/** `swap`: the record comes behind the next one; `replay`: the first record comes once more before it. */
export const HARMS = ["flip", "drop", "repeat", "swap", "replay"] as const;
export type Harm = (typeof HARMS)[number];

export interface HarmPlan {
  readonly harm: Harm;
  /** Which record of the stream is harmed, from 0 on. */
  readonly record: number;
}

const SETUP_FRAMES = 2;
const HTTP_END = Buffer.from("\r\n\r\n");

/** One direction of one connection. */
export class HarmedStream {
  readonly #plan: HarmPlan;
  /** Units that pass as they are: the head of HTTP, if there is one, and the frames of set-up. */
  #before: ("http" | "frame")[];
  #rest: Buffer = Buffer.alloc(0);
  #records = 0;
  #first: Buffer = Buffer.alloc(0);
  #held: Buffer | undefined;
  /** Whether the record has come by. */
  isDone = false;

  constructor(plan: HarmPlan, options: { hasHttp: boolean }) {
    this.#plan = plan;
    this.#before = [...(options.hasHttp ? (["http"] as const) : []), ...Array<"frame">(SETUP_FRAMES).fill("frame")];
  }

  /** What goes on in the place of the next bytes; less than a unit is kept. */
  pass(bytes: Buffer): Buffer {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    const passed: Buffer[] = [];
    for (let unit = this.#take(); unit !== undefined; unit = this.#take()) passed.push(...unit);
    return Buffer.concat(passed);
  }

  /** The next unit as it goes on. */
  #take(): Buffer[] | undefined {
    const kind = this.#before[0] ?? "record";
    const end = this.#endOf(kind);
    if (end === undefined || end > this.#rest.length) return undefined;
    const unit = this.#rest.subarray(0, end);
    this.#rest = this.#rest.subarray(end);
    if (kind === "record") return this.#harm(unit);
    this.#before = this.#before.slice(1);
    return [unit];
  }

  #endOf(kind: "http" | "frame" | "record"): number | undefined {
    if (kind === "http") {
      const at = this.#rest.indexOf(HTTP_END);
      return at < 0 ? undefined : at + HTTP_END.length;
    }
    if (this.#rest.length < RECORD_LENGTH_BYTES) return undefined;
    const more = kind === "frame" ? HEADER_BYTES : RECORD_LENGTH_BYTES + RECORD_TAG_BYTES;
    return this.#rest.readUInt32LE(0) + more;
  }

  #harm(record: Buffer): Buffer[] {
    const number = this.#records++;
    if (number === 0) this.#first = record;
    const held = this.#held;
    this.#held = undefined;
    if (held !== undefined) return [record, held];
    const { harm, record: harmed } = this.#plan;
    if (number !== harmed) return [record];
    this.isDone = true;
    if (harm === "drop") return [];
    if (harm === "repeat") return [record, record];
    if (harm === "replay") return [this.#first, record];
    if (harm === "swap") {
      this.#held = record;
      return [];
    }
    const flipped = Buffer.from(record);
    // Behind the length: a wrong length is only waited for.
    const bit = RECORD_LENGTH_BYTES * 8 + ((number * 7919) % ((record.length - RECORD_LENGTH_BYTES) * 8));
    flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    return [flipped];
  }
}

/** Harms what leaves `link`. */
export function harmLink(link: FaultyLink, plan: HarmPlan): HarmedStream {
  const stream = new HarmedStream(plan, { hasHttp: false });
  const write = link.write.bind(link);
  link.write = (chunks, sent) => {
    const passed = stream.pass(Buffer.concat(chunks));
    if (passed.length === 0) queueMicrotask(sent);
    else write([passed], sent);
  };
  return stream;
}

/** Harms the proof of a connection's set-up, so that the server refuses it. */
export function harmProof(link: FaultyLink): void {
  const write = link.write.bind(link);
  let count = 0;
  link.write = (chunks, sent) => {
    const bytes = Buffer.concat(chunks);
    count += 1;
    if (count === 2) bytes.writeUInt8(bytes.readUInt8(HEADER_BYTES) ^ 1, HEADER_BYTES);
    write([bytes], sent);
  };
}

/** A way to a server over a socket, with somebody on it. */
export interface HarmedWay extends AsyncDisposable {
  readonly port: number;
  /** Every connection there ever was. */
  readonly connections: { readonly up: HarmedStream | undefined; readonly down: HarmedStream | undefined }[];
}

/** Lets connections pass to a port of loopback; `plansOf` is asked for each, by its number. */
export async function harmedWay(
  target: number,
  plansOf: (index: number) => { up?: HarmPlan; down?: HarmPlan },
): Promise<HarmedWay> {
  const connections: HarmedWay["connections"] = [];
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(target, "127.0.0.1");
    const plans = plansOf(connections.length);
    const streamOf = (plan: HarmPlan | undefined) => plan && new HarmedStream(plan, { hasHttp: true });
    const way = { up: streamOf(plans.up), down: streamOf(plans.down) };
    connections.push(way);
    for (const [from, to, stream] of [
      [near, far, way.up],
      [far, near, way.down],
    ] as const) {
      sockets.add(from);
      from.setNoDelay(true);
      from.on("error", () => {});
      from.on("data", (bytes: Buffer) => void to.write(stream?.pass(bytes) ?? bytes));
      from.on("close", () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    connections,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
