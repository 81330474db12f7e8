/**
 * A TCP relay that behaves like a link: delay, rate, pauses, half-open freezes and cuts, on command or from a seeded schedule.
 *
 * It relays bytes between sockets of this machine in real time; it does not simulate packets, congestion control or reordering. All connections
 * through one simulator share its rate, a direction each. For measurements run it as a process of its own (`link-process.ts`), so that its
 * CPU time is not the peer's. What it takes itself is told by the benches `pipeline` and `wan`.
 */
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import type { Clock, Timer } from "../../src/base/clock.ts";
import { LinkConnection, type LinkTarget, SOCKET_BUFFER_BYTES } from "./link-connection.ts";
import { LinkLine } from "./link-line.ts";
import { type LinkTroublePlan, linkTroubles } from "./link-schedule.ts";

/** `up` is from the client, who connects to the simulator, to the target. */
export type LinkWay = "up" | "down";

export interface LinkStats {
  /** Connections open now, and since the start. */
  readonly connectionCount: number;
  readonly acceptedCount: number;
  readonly cutCount: number;
  readonly frozen: boolean;
  /** Bytes delivered to the peer and bytes still on the link, over all connections. */
  readonly up: { readonly deliveredBytes: number; readonly queuedBytes: number };
  readonly down: { readonly deliveredBytes: number; readonly queuedBytes: number };
}

/** On a link without a rate: what one connection may have under way in one direction. 150 ms x 1 Gbit/s is 18.75 MB. */
const IN_FLIGHT_BYTES_MAX = 64 * 1024 * 1024;
/** Connections beyond it are reset. */
const CONNECTION_COUNT_MAX = 1024;

export class LinkSimulator {
  readonly #clock: Clock;
  readonly #target: LinkTarget;
  readonly #inFlightBytesMax: number;
  readonly #lines = { up: new LinkLine(), down: new LinkLine() };
  readonly #connections = new Set<LinkConnection>();
  readonly #finished = { up: 0, down: 0 };
  #server: Server | undefined;
  #acceptedCount = 0;
  #cutCount = 0;
  #refusing = false;
  #troubleTimer: Timer | undefined;
  #thawTimer: Timer | undefined;

  constructor(options: { clock: Clock; target: LinkTarget; inFlightBytesMax?: number }) {
    this.#clock = options.clock;
    this.#target = options.target;
    this.#inFlightBytesMax = options.inFlightBytesMax ?? IN_FLIGHT_BYTES_MAX;
  }

  /** Starts to accept; port 0 picks one. @returns the address clients connect to. */
  async listen(address: { host: string; port: number }): Promise<LinkTarget> {
    const server = createServer({ noDelay: true, allowHalfOpen: true, highWaterMark: SOCKET_BUFFER_BYTES }, (socket) =>
      this.#accept(socket),
    );
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ ...address, backlog: 511 }, resolve);
    });
    return { host: address.host, port: (server.address() as AddressInfo).port };
  }

  /** One-way delay in milliseconds; half of it is not. A round trip takes the sum of both directions. */
  setDelay(delayMs: number, way?: LinkWay): void {
    for (const line of this.#linesOf(way)) line.delayMs = delayMs;
    this.#pump();
  }

  /** Bits of payload per second for all connections together; Infinity: no limit. */
  setRate(bitsPerSecond: number, way?: LinkWay): void {
    for (const line of this.#linesOf(way)) line.rateBitsPerSecond = bitsPerSecond;
    this.#pump();
  }

  /** Nothing arrives for `durationMs`; what is sent meanwhile arrives afterwards, as after a loss and its retransmission. */
  stall(durationMs: number, way?: LinkWay): void {
    const untilMs = this.#clock.monotonicMs() + durationMs;
    for (const line of this.#linesOf(way)) line.hold(untilMs);
    this.#pump();
  }

  /** Half-open: sockets stay, nothing arrives any more in either direction, new connections are not answered. */
  freeze(): void {
    for (const line of this.#linesOf()) line.frozen = true;
    this.#pump();
  }

  thaw(): void {
    this.#thawTimer?.stop();
    for (const line of this.#linesOf()) line.frozen = false;
    this.#pump();
  }

  /** Resets every connection; new ones are accepted again at once. */
  cut(): void {
    this.#cutCount += 1;
    for (const connection of [...this.#connections]) connection.cut();
  }

  /** Resets new connections as soon as they are made, while true. */
  refuse(refusing: boolean): void {
    this.#refusing = refusing;
  }

  /** Lets the plan's troubles happen from now on, until `close` or the next plan. `undefined` stops them and thaws. */
  trouble(plan: LinkTroublePlan | undefined): void {
    this.#troubleTimer?.stop();
    this.thaw();
    if (plan === undefined) return;
    const startMs = this.#clock.monotonicMs();
    const events = linkTroubles(plan);
    const next = () => {
      const { value: event } = events.next();
      if (event === undefined) return;
      const waitMs = Math.max(1, Math.ceil(startMs + event.atMs - this.#clock.monotonicMs()));
      this.#troubleTimer = this.#clock.after(waitMs, () => {
        if (event.kind === "cut") this.cut();
        else if (event.kind === "stall") this.stall(event.durationMs);
        else this.#freezeFor(event.durationMs);
        next();
      });
    };
    next();
  }

  stats(): LinkStats {
    const sum = (way: LinkWay) => {
      let deliveredBytes = this.#finished[way];
      let queuedBytes = 0;
      for (const connection of this.#connections) {
        deliveredBytes += connection[way].deliveredBytes;
        queuedBytes += connection[way].queuedBytes;
      }
      return { deliveredBytes, queuedBytes };
    };
    return {
      connectionCount: this.#connections.size,
      acceptedCount: this.#acceptedCount,
      cutCount: this.#cutCount,
      frozen: this.#lines.up.frozen,
      up: sum("up"),
      down: sum("down"),
    };
  }

  /** Cuts everything and stops listening. */
  async close(): Promise<void> {
    this.#troubleTimer?.stop();
    this.#thawTimer?.stop();
    const server = this.#server;
    this.#server = undefined;
    const closed = server === undefined ? undefined : new Promise<void>((resolve) => server.close(() => resolve()));
    this.#refusing = true;
    for (const connection of [...this.#connections]) connection.cut();
    await closed;
  }

  #accept(client: Socket): void {
    if (this.#refusing || this.#connections.size >= CONNECTION_COUNT_MAX) {
      client.on("error", () => {});
      client.resetAndDestroy();
      return;
    }
    this.#acceptedCount += 1;
    const connection = new LinkConnection({
      clock: this.#clock,
      client,
      target: this.#target,
      lines: this.#lines,
      inFlightBytesMax: this.#inFlightBytesMax,
      onClosed: () => {
        this.#finished.up += connection.up.deliveredBytes;
        this.#finished.down += connection.down.deliveredBytes;
        this.#connections.delete(connection);
      },
    });
    this.#connections.add(connection);
  }

  #freezeFor(durationMs: number): void {
    this.freeze();
    this.#thawTimer?.stop();
    this.#thawTimer = this.#clock.after(Math.max(1, Math.ceil(durationMs)), () => this.thaw());
  }

  #linesOf(way?: LinkWay): LinkLine[] {
    return way === undefined ? [this.#lines.up, this.#lines.down] : [this.#lines[way]];
  }

  #pump(): void {
    for (const connection of [...this.#connections]) connection.pump(this.#lines);
  }
}
