/**
 * One TCP connection through the simulated link: the accepted socket, the socket to the target, and a direction for each way.
 *
 * The target is dialled when the handshake over a real link would be over (three one-way delays after the client's SYN); what the client sends
 * meanwhile waits. Ends travel like data, resets too: a side learns of the other's death when the line says so.
 */
import { connect, type Socket } from "node:net";
import type { Clock, Timer } from "../../src/base/clock.ts";
import { LinkDirection, type LinkSink } from "./link-direction.ts";
import type { LinkLine } from "./link-line.ts";

/** What a socket may hold unsent before the direction keeps the rest. */
export const SOCKET_BUFFER_BYTES = 1024 * 1024;

export interface LinkTarget {
  readonly host: string;
  readonly port: number;
}

export class LinkConnection {
  readonly up: LinkDirection;
  readonly down: LinkDirection;
  readonly #clock: Clock;
  readonly #target: LinkTarget;
  readonly #client: Socket;
  readonly #onClosed: () => void;
  #server: Socket | undefined;
  #dialTimer: Timer | undefined;
  #dialAtMs: number;
  #closed = false;

  /** `onClosed` is called once, when both sockets are gone. */
  constructor(options: {
    clock: Clock;
    client: Socket;
    target: LinkTarget;
    lines: { up: LinkLine; down: LinkLine };
    inFlightBytesMax: number;
    onClosed: () => void;
  }) {
    const { clock, client, lines, inFlightBytesMax } = options;
    this.#clock = clock;
    this.#client = client;
    this.#target = options.target;
    this.#onClosed = options.onClosed;
    this.up = new LinkDirection({ clock, line: lines.up, source: client, inFlightBytesMax });
    this.down = new LinkDirection({
      clock,
      line: lines.down,
      source: { pause: () => this.#server?.pause(), resume: () => this.#server?.resume() },
      inFlightBytesMax,
    });
    this.#feed(client, this.up);
    this.down.attach(this.#sinkOf(client));
    this.#drain(client, this.down);
    this.#dialAtMs = clock.monotonicMs() + 2 * lines.up.delayMs + lines.down.delayMs;
    this.#dialWhenDue(lines);
  }

  /** Looks again at what is due, after the line's settings have changed. */
  pump(lines: { up: LinkLine; down: LinkLine }): void {
    if (this.#server === undefined) this.#dialWhenDue(lines);
    this.up.pump();
    this.down.pump();
  }

  /** Resets both sides now; what is under way is lost. */
  cut(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#dialTimer?.stop();
    this.up.close();
    this.down.close();
    this.#client.resetAndDestroy();
    this.#server?.resetAndDestroy();
    this.#onClosed();
  }

  #dialWhenDue(lines: { up: LinkLine; down: LinkLine }): void {
    this.#dialTimer?.stop();
    if (this.#closed || lines.up.frozen || lines.down.frozen) return;
    const waitMs = this.#dialAtMs - this.#clock.monotonicMs();
    if (waitMs > 0) this.#dialTimer = this.#clock.after(Math.ceil(waitMs), () => this.#dial());
    else this.#dial();
  }

  #dial(): void {
    const options = { ...this.#target, noDelay: true, allowHalfOpen: true, highWaterMark: SOCKET_BUFFER_BYTES };
    const server = connect(options);
    this.#server = server;
    this.#feed(server, this.down);
    this.#drain(server, this.up);
    server.once("connect", () => this.up.attach(this.#sinkOf(server)));
  }

  /** Puts what `from` sends into `direction`; its end and its death follow. */
  #feed(from: Socket, direction: LinkDirection): void {
    from.on("data", (chunk: Buffer) => direction.push(chunk));
    from.once("end", () => direction.pushEnd());
    // The reason does not travel: the other side sees a reset, as it would.
    from.on("error", () => {});
    from.once("close", (failed) => {
      if (this.#closed) return;
      if (failed) direction.pushReset();
      else if (this.#client.destroyed && this.#server?.destroyed === true) this.#finish();
    });
  }

  #drain(socket: Socket, direction: LinkDirection): void {
    socket.on("drain", () => direction.drained());
  }

  #finish(): void {
    this.#closed = true;
    this.up.close();
    this.down.close();
    this.#onClosed();
  }

  #sinkOf(socket: Socket): LinkSink {
    return {
      cork: () => socket.cork(),
      uncork: () => socket.uncork(),
      write: (chunk) => socket.write(chunk),
      end: () => void socket.end(),
      reset: () => this.cut(),
    };
  }
}
