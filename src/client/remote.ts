/**
 * A drive of a server: connects, sets a session up and gives its FileSystem.
 *
 * In this version a session lives as long as its channel: when the link is lost everything fails with ConnectionError and `closed` settles.
 */
import { strict as assert } from "node:assert";
import { randomBytes } from "node:crypto";
import type { Clock } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import { tokenKey } from "../resume/proof.ts";
import type { ByteLink } from "../transport/byte-link.ts";
import { Channel } from "../transport/channel.ts";
import { dial, type Trust } from "../transport/dial.ts";
import type { Trace } from "../transport/trace.ts";
import type { FileSystem, HandleId, RequestContext } from "../vfs/file-system.ts";
import type { ChannelSecurity } from "../wire/messages.ts";
import { CallChannel, type CallChannelFigures } from "./call-channel.ts";
import { RemoteFileSystem } from "./remote-file-system.ts";
import type { OpenKeys } from "./remote-open.ts";
import { SectionWatch } from "./section-watch.ts";
import { SessionChannels } from "./session-channels.ts";
import { type Agreement, type SetUpWish, setUpChannel } from "./set-up.ts";
import type { DriveUrl } from "./url.ts";

const DIAL_TIMEOUT_MS = 10_000;
const SET_UP_TIMEOUT_MS = 10_000;
const SECTION_BYTES = 1024 * 1024;
const CREDITS = 128;
const IO_CHANNELS = 1;
/** What is open is kept for so long for sure when the link is lost; after that, until somebody else needs it. */
const KEEP_MS = 120_000;
const CLIENT_ID_BYTES = 16;
/** The calls' own credits and bytes bound what is unsent; nobody asks whether the channel is congested. */
const SEND_BYTES_MAX = Number.POSITIVE_INFINITY;
/** How long a section may go without an answer while the server answers others: disks that wake up or retry take their time. */
const ANSWER_TIMEOUT_MS = 300_000;
/** How long a goodbye may take. */
const CLOSE_TIMEOUT_MS = 2000;

export interface RemoteOptions {
  url: DriveUrl;
  /** Of the URL's user, if it has one. */
  password?: string;
  /** Refuses whatever changes the share here already. The server decides for itself as well. */
  readOnly?: boolean;
  log: Log;
  clock: Clock;
  /** Ends connecting; not the drive. */
  signal?: AbortSignal;
  dialTimeoutMs?: number;
  setUpTimeoutMs?: number;
  /** The largest section asked for. */
  sectionBytes?: number;
  /** Requests outstanding asked for. */
  credits?: number;
  /** Channels for sections beside the control channel, 0..IO_CHANNELS_MAX; 0: control carries them too. */
  ioChannels?: number;
  /** False: one section at a time, each waiting for the answer to the one before. For comparison. */
  isPipelined?: boolean;
  /** How long a read or write may go without an answer while the server answers others; then it fails with ETIMEDOUT. 0: for ever. */
  answerTimeoutMs?: number;
  /** How the server shows that it is the one; without it no channel is encrypted. */
  trust?: Trust;
  /** How the channels of each kind are protected; default: `tls` with `trust`, else plain. */
  security?: ChannelSecurity;
  /** Gets a line for every frame, to find out what peers say. */
  trace?: Trace;
}

export interface RemoteShare {
  readonly name: string;
  /** By the server's or this client's will. */
  readonly readOnly: boolean;
  readonly squash: Agreement["squash"];
  /** Of the server and of its present start, as hex. */
  readonly serverId: string;
  readonly bootId: string;
  readonly sectionBytes: number;
  readonly credits: number;
}

export interface ChannelStatus {
  readonly kind: "control" | "io";
  readonly state: "open" | "closed";
  readonly peer: string;
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

export interface RemoteStatus {
  readonly channels: readonly ChannelStatus[];
  /** Requests sent and not answered, sections included. */
  readonly requestsOutstanding: number;
  readonly sectionsOutstanding: number;
  /** Bytes of sections on their way, and how many may be. */
  readonly inFlightBytes: number;
  readonly windowBytes: number;
  /** Largest recent rate at which sections were answered. */
  readonly bytesPerSecond: number;
  /** Smallest recent one; undefined before the first answer. */
  readonly roundTripMs: number | undefined;
  readonly opens: number;
}

export interface Remote {
  readonly fileSystem: FileSystem;
  readonly share: RemoteShare;
  /** Settles, never rejects, when the drive is over: with the reason, or undefined after `close`. */
  readonly closed: Promise<Error | undefined>;
  status(): RemoteStatus;
  /** What fills the line, bytes: its bandwidth times its round trip as measured so far. */
  lineBytes(): number;
  /** Asks for the resume key of an open file once more. @throws FsError EBADF, EISDIR. */
  queryKey(ctx: RequestContext, handle: HandleId): Promise<OpenKeys>;
  /** Releases all opens and says goodbye; bounded in time. */
  close(): Promise<void>;
}

/**
 * Connects to the share of a URL.
 *
 * @throws ConnectionError nobody there, refused, too slow; ProtocolError not a netdrive server, or not the one with this token; FsError EINTR aborted.
 */
export async function connectRemote(options: RemoteOptions): Promise<Remote> {
  const { url, clock, signal, trust } = options;
  const timeoutMs = options.dialTimeoutMs ?? DIAL_TIMEOUT_MS;
  const level = trust === undefined ? "plain" : "tls";
  const { security = { control: level, io: level } } = options;
  const dialOne = (kind: keyof ChannelSecurity) => {
    assert(security[kind] !== "tls" || trust !== undefined, "who encrypts knows whom it trusts");
    const { host, port } = url;
    return dial({ host, port, timeoutMs, clock, signal, ...(security[kind] === "tls" ? { trust } : {}) });
  };
  return connectLink(await dialOne("control"), { ...options, security }, () => dialOne("io"));
}

/** What is needed of a URL where there is a link already. */
type LinkOptions = Omit<RemoteOptions, "url"> & { url: Pick<DriveUrl, "token" | "user" | "share"> };

/** How the links of the io channels of a session are connected. */
export type DialMore = () => Promise<ByteLink>;

/** The same over a link that exists; `dialMore` gives the links of the io channels, without it there are none. */
export async function connectLink(link: ByteLink, options: LinkOptions, dialMore?: DialMore): Promise<Remote> {
  const { clock, log } = options;
  const session = new SessionSetUp(options);
  const channels = await session.connect(link, dialMore);
  const room = log.room("client");
  const answerMs = options.answerTimeoutMs === 0 ? Infinity : (options.answerTimeoutMs ?? ANSWER_TIMEOUT_MS);
  const heardBytes = () => channels.receivedBytes;
  const watch = new SectionWatch({ clock, log: room, heardBytes, patienceMs: answerMs });
  let isClosing = false;
  const close = async () => {
    isClosing = true;
    watch.stop();
    channels.close();
    const timer = clock.after(CLOSE_TIMEOUT_MS, () => session.destroy(), { keepAlive: true });
    await channels.gone();
    timer.stop();
  };
  const fileSystem = new RemoteFileSystem(
    { channels, watch, answerMs },
    { readOnly: options.readOnly === true, close },
  );
  session.onOrphan = (handle) => fileSystem.dropHandle(handle);
  return {
    fileSystem,
    share: shareOf(channels.agreement, options.readOnly === true),
    closed: session.lost.then((reason) => {
      if (isClosing) return undefined;
      room.warn(`${link.peer}: ${reason?.message ?? "connection closed"}`);
      // What is left of the session is of no use: in this version nothing is resumed.
      channels.close();
      return reason;
    }),
    status: () => statusOf(link.peer, channels.figures, fileSystem.openCount),
    lineBytes: () => channels.lineBytes,
    queryKey: (ctx, handle) => fileSystem.queryKey(ctx, handle),
    close,
  };
}

/** Sets up the channels of one session. */
class SessionSetUp {
  readonly #options: LinkOptions;
  readonly #clientId = randomBytes(CLIENT_ID_BYTES);
  readonly #channels: Channel[] = [];
  #onLost: (reason: Error | undefined) => void = () => {};
  /** Settles when a channel that was ready is gone. */
  readonly lost: Promise<Error | undefined>;
  /** Told of handles that came for callers who had given up. */
  onOrphan: (handle: number) => void = () => {};

  constructor(options: LinkOptions) {
    this.#options = options;
    this.lost = new Promise((resolve) => {
      this.#onLost = resolve;
    });
  }

  async connect(link: ByteLink, dialMore: DialMore | undefined): Promise<SessionChannels> {
    const { url, ioChannels = IO_CHANNELS } = this.#options;
    const { password = "" } = this.#options;
    const login: SetUpWish["proof"] =
      url.user === undefined ? { t: "token", key: tokenKey(url.token) } : { t: "password", user: url.user, password };
    const control = await this.#setUp(link, "CONTROL", login);
    const { sessionKey: key, sessionId } = control.agreement;
    const io: CallChannel[] = [];
    try {
      while (dialMore !== undefined && io.length < ioChannels) {
        io.push(await this.#setUp(await dialMore(), "IO", { t: "join", key, sessionId }));
      }
    } catch (error) {
      new SessionChannels(control, io).close();
      throw error;
    }
    return new SessionChannels(control, io);
  }

  /** Cuts every connection. */
  destroy(): void {
    for (const channel of this.#channels) channel.destroy();
  }

  #setUp(link: ByteLink, kind: SetUpWish["kind"], proof: SetUpWish["proof"]): Promise<CallChannel> {
    const { url, clock, trace, signal, security = { control: "plain", io: "plain" } } = this.#options;
    const channel = new Channel(link, { clock, sendBytesMax: SEND_BYTES_MAX, trace });
    this.#channels.push(channel);
    return setUpChannel({
      channel,
      wish: {
        proof,
        kind,
        security: security[kind === "IO" ? "io" : "control"],
        slotTable: kind === "CONTROL" ? 0 : this.#channels.length - 1,
        keepMs: KEEP_MS,
        share: url.share,
        clientId: this.#clientId,
        sectionBytes: this.#options.sectionBytes ?? SECTION_BYTES,
        credits: this.#options.credits ?? CREDITS,
      },
      ready: (agreement, roundTripMs) =>
        new CallChannel({
          roundTripMs,
          channel,
          agreement,
          clock,
          onClosed: (reason) => this.#onLost(reason),
          onOrphan: (handle) => this.onOrphan(handle),
          isPipelined: this.#options.isPipelined ?? true,
        }),
      timeoutMs: this.#options.setUpTimeoutMs ?? SET_UP_TIMEOUT_MS,
      clock,
      signal,
    });
  }
}

function shareOf(agreement: Agreement, readOnly: boolean): RemoteShare {
  return {
    name: agreement.share,
    readOnly: readOnly || agreement.readOnly,
    squash: agreement.squash,
    serverId: agreement.serverId.toString("hex"),
    bootId: agreement.bootId.toString("hex"),
    sectionBytes: agreement.sectionBytes,
    credits: agreement.credits,
  };
}

function statusOf(peer: string, channels: readonly CallChannelFigures[], opens: number): RemoteStatus {
  const status = {
    requestsOutstanding: 0,
    sectionsOutstanding: 0,
    inFlightBytes: 0,
    windowBytes: 0,
    bytesPerSecond: 0,
  };
  const roundTrips: number[] = [];
  for (const [index, { calls, sections }] of channels.entries()) {
    status.requestsOutstanding += calls.creditsHeld + sections.creditsHeld;
    status.sectionsOutstanding += sections.creditsHeld;
    status.inFlightBytes += sections.inFlightBytes;
    // Where there are io channels, control carries no sections.
    if (index > 0 || channels.length === 1) status.windowBytes += sections.windowBytes;
    status.bytesPerSecond += sections.bytesPerSecond;
    for (const { roundTripMs } of [calls, sections]) if (roundTripMs !== undefined) roundTrips.push(roundTripMs);
  }
  return {
    channels: channels.map(({ isOpen, receivedBytes, sentBytes }, index) => ({
      kind: index === 0 ? "control" : "io",
      state: isOpen ? "open" : "closed",
      peer,
      receivedBytes,
      sentBytes,
    })),
    ...status,
    roundTripMs: roundTrips.length === 0 ? undefined : Math.min(...roundTrips),
    opens,
  };
}
