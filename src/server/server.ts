/**
 * The server: listens, sets channels up, serves shares.
 *
 * It owns connections, sessions and opens, not the file systems of the shares: who made them closes them, after `close`.
 */

import type { Clock } from "../base/clock.ts";
import { CloseCode } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { ByteLink } from "../transport/byte-link.ts";
import { Channel } from "../transport/channel.ts";
import { listen, Unproven } from "../transport/listen.ts";
import type { Identity } from "../transport/self-signed.ts";
import type { Trace } from "../transport/trace.ts";
import type { FileSystem, RequestContext } from "../vfs/file-system.ts";
import type { ChannelSecurity } from "../wire/messages.ts";
import { createHandlers } from "./dispatch.ts";
import { LeasedNames } from "./leased-names.ts";
import { type LeaseOpen, ShareLeases } from "./leases.ts";
import { completeLimits, type ServerLimits } from "./limits.ts";
import type { Locking } from "./lock-requests.ts";
import type { LockOpen } from "./locks/node-locks.ts";
import { ShareLocks } from "./locks/share-locks.ts";
import { AbsentOpens } from "./node-changes.ts";
import { NodeOpens } from "./node-opens.ts";
import type { Open } from "./open.ts";
import type { ServedChannel } from "./served-channel.ts";
import type { Share } from "./session.ts";
import { ServerSetUp } from "./set-up.ts";
import { ShareModes } from "./share-modes.ts";
import { Silence } from "./silence.ts";
import type { Squash } from "./squash.ts";
import { Keeper } from "./state/keeper.ts";
import type { LifeStamp } from "./state/life-stamp.ts";
import { type Found, identify, type Identity as KeptIdentity, restore } from "./state/restore.ts";
import { type ServerCounters, ServerState } from "./state.ts";
import type { UserDirectory } from "./users.ts";

/** A client that is there says so every 10 s at least. */
const SILENCE_MS = 30_000;
const SILENCE_LOOK_MS = 5000;
/** How often somebody looks whether files that clients have leases of were changed beside the server: as often as they would ask themselves. */
const LEASE_LOOK_MS = 1000;
const OWN_CONTEXT: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
/** Unsent bytes of a channel beyond which its next data waits. */
const SEND_BYTES_MAX = 4 * 1024 * 1024;
/** The same of what no session's memory counts: answers without payload, small payloads, pings. */
const OWN_BYTES_MAX = 256 * 1024;

export interface ServerOptions {
  /** By name. */
  shares: ReadonlyMap<string, { fileSystem: FileSystem; readOnly: boolean; locking?: Locking }>;
  /** Who knows it gets in; undefined: only users do. */
  token: Buffer | undefined;
  /** Who gets in with a password; default: nobody. */
  users?: UserDirectory;
  /** The least that protects a channel of each kind; default: plain. */
  security?: ChannelSecurity;
  squash: Squash;
  log: Log;
  clock: Clock;
  limits?: Partial<ServerLimits>;
  /** What survives the server's process, with what was there at its start; absent: nothing. `close` closes it. */
  memory?: ServerMemory;
  /** Gets a line for every frame of every channel, to find out what peers say. */
  trace?: Trace;
}

export interface ServerMemory extends Found {
  readonly life: LifeStamp | undefined;
}

export interface ServerFigures extends ServerCounters {
  channels: number;
  sessions: number;
  /** Handles of all sessions. */
  handles: number;
  /** Memory lent to requests. */
  bufferBytes: number;
}

export interface Server {
  readonly address: { readonly host: string; readonly port: number };
  /** Takes nobody new, lets requests end, says goodbye, releases everything; bounded by `closeTimeoutMs`. */
  close(): Promise<void>;
  counters(): ServerFigures;
}

/** The server without its front door: serves any byte link. Tests use it in memory. */
export class LinkServer {
  readonly #state: ServerState;
  readonly #handlers;
  readonly #unproven: Unproven;
  readonly #trace: Trace | undefined;
  /** Every channel that is not gone, with its ready part once there is one. */
  readonly #channels = new Map<Channel, ServedChannel | undefined>();
  readonly #memory: ServerMemory | undefined;
  readonly #identity: KeptIdentity | undefined;
  readonly #silence = new Silence(SILENCE_MS);
  #isClosing = false;

  constructor(options: ServerOptions) {
    const { memory } = options;
    this.#memory = memory;
    const identity = memory === undefined ? undefined : identify(memory);
    this.#identity = identity;
    const keeper = memory === undefined ? undefined : new Keeper(memory.store, memory.life, memory.durability);
    const shares = new Map<string, Share>();
    const limits = completeLimits(options.limits);
    const log = options.log.room("server");
    for (const [name, { fileSystem, readOnly, locking = "advisory" }] of options.shares) {
      const giveUp = (open: LockOpen) =>
        (open as Open).owner.giveUp(open as Open, "somebody asks for what it has locked");
      const locks = new ShareLocks({ fileSystem, clock: options.clock, log, limits, giveUp });
      const opens = new NodeOpens<Open>();
      const lowered = (open: LeaseOpen) => keeper?.leaseLowered(open as Open);
      const leasedNames: LeasedNames = new LeasedNames(fileSystem, () => leases);
      const ended = (open: LeaseOpen) => leasedNames.end(open);
      const leases = new ShareLeases({ opens, clock: options.clock, log, limits, lowered, ended });
      shares.set(name, {
        name,
        fileSystem,
        readOnly,
        locking,
        locks,
        absentOpens: new AbsentOpens(),
        modes: new ShareModes(opens),
        leases,
        leasedNames,
      });
    }
    this.#state = new ServerState({ ...options, shares, limits, log, identity, keeper });
    this.#handlers = createHandlers(this.#state);
    this.#trace = options.trace;
    this.#unproven = new Unproven(limits.unprovenMax);
  }

  get unproven(): Unproven {
    return this.#unproven;
  }

  /** Puts back what the server before has left; to be called before anything is accepted. */
  async restore(): Promise<void> {
    const memory = this.#memory;
    const identity = this.#identity;
    if (memory === undefined || identity === undefined) return;
    const state = this.#state;
    state.revoked.addFrom(
      memory.records,
      ({ user, share, loginMark }) => state.loginMark(user, share)?.equals(loginMark) === true,
    );
    await restore(state, memory, { times: memory.life?.before, ...identity }, identity);
  }

  /** Serves a new link from its first byte on. */
  accept(link: ByteLink): void {
    if (this.#isClosing) {
      link.destroy();
      return;
    }
    const state = this.#state;
    const bounds = { sendBytesMax: SEND_BYTES_MAX, ownBytesMax: OWN_BYTES_MAX };
    const channel = new Channel(link, { clock: state.clock, ...bounds, trace: this.#trace });
    this.#channels.set(channel, undefined);
    this.#unproven.add(channel, () => {
      if (channel.isOpen) state.blame(`${channel.peer} refused: too many connections that prove nothing`);
      channel.destroy();
    });
    // Set-up holds itself alive through the channel, which calls it.
    new ServerSetUp(channel, state, this.#handlers, (served) => {
      this.#unproven.delete(channel);
      this.#channels.set(channel, served);
    });
    // Settles when the link is gone, which for who is refused may take a while: until then it counts. Never rejects.
    void channel.gone.then(() => {
      this.#unproven.delete(channel);
      this.#channels.delete(channel);
      state.counters.receivedBytes += channel.receivedBytes;
      state.counters.sentBytes += channel.sentBytes;
    });
  }

  /** Cuts the connections of clients that are not heard from any more; to be called every SILENCE_LOOK_MS. */
  dropSilent(): void {
    const { clock, log } = this.#state;
    for (const channel of this.#silence.look(this.#channels.keys(), clock.monotonicMs())) {
      log.info(`${channel.peer} is not heard from any more`);
      channel.destroy();
    }
  }

  /** Looks at files that clients believe something of; to be called every LEASE_LOOK_MS. */
  async lookAtLeased(): Promise<void> {
    const looks = [...this.#state.shares.values()].map(({ leases, fileSystem }) =>
      leases.look(({ node, inner }) => fileSystem.getattr(OWN_CONTEXT, node, inner).catch(() => undefined)),
    );
    await Promise.all(looks);
  }

  counters(): ServerFigures {
    const { counters, pool, sessionCount } = this.#state;
    const figures: ServerFigures = {
      ...counters,
      channels: this.#channels.size,
      sessions: sessionCount,
      handles: 0,
      bufferBytes: pool.lentBytes,
    };
    for (const session of this.#state.sessions) figures.handles += session.handleCount;
    for (const channel of this.#channels.keys()) {
      figures.receivedBytes += channel.receivedBytes;
      figures.sentBytes += channel.sentBytes;
    }
    return figures;
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    const { clock, limits } = this.#state;
    const channels = [...this.#channels.keys()];
    for (const [channel, served] of this.#channels) {
      if (served === undefined) channel.close({ code: CloseCode.SHUTDOWN, text: "the server is going down" });
      else served.drain();
    }
    let timer = clock.after(
      limits.closeTimeoutMs,
      () => {
        for (const channel of channels) channel.destroy();
      },
      { keepAlive: true },
    );
    await Promise.all(channels.map((channel) => channel.gone));
    timer.stop();
    // With memory its sessions are the next server's.
    const ended = this.#memory === undefined ? [...this.#state.sessions] : [];
    const ends = ended.map((session) => session.end(CloseCode.SHUTDOWN, "the server is going down"));
    // A file system that never answers does not keep the server from ending.
    const timeout = new Promise<void>((resolve) => {
      timer = clock.after(limits.closeTimeoutMs, resolve, { keepAlive: true });
    });
    const left = [...this.#state.sessions].map(({ absences }) => absences.leaving);
    await Promise.race([Promise.all([...ends, ...left, this.#state.closings.idle()]), timeout]);
    timer.stop();
    this.#state.keeper?.close();
    await this.#memory?.store.close();
    this.#memory?.life?.close();
  }
}

/** Starts a server on a TCP address; port 0 picks one. @throws Node's error of listen(2). */
export async function startServer(
  options: ServerOptions & {
    listen: { host: string; port: number };
    /** Key and certificate; without it nothing is encrypted. */
    identity?: Identity;
  },
): Promise<Server> {
  const links = new LinkServer(options);
  await links.restore();
  const listener = await listen({
    ...options.listen,
    identity: options.identity,
    clock: options.clock,
    unproven: links.unproven,
    onLink: (link) => links.accept(link),
  });
  const look = options.clock.every(SILENCE_LOOK_MS, () => links.dropSilent());
  const leaseLook = options.clock.every(
    LEASE_LOOK_MS,
    () => void links.lookAtLeased().catch((error: unknown) => options.log.error("looking at files failed", error)),
  );
  let closing: Promise<unknown> | undefined;
  return {
    address: listener.address,
    counters: () => links.counters(),
    async close() {
      look.stop();
      leaseLook.stop();
      closing ??= Promise.all([listener.close(), links.close()]);
      await closing;
    },
  };
}
