/**
 * A drive of a server: connects, sets a session up and gives its FileSystem.
 *
 * In this version a session lives as long as its channel: when the link is lost everything fails with ConnectionError and `closed` settles.
 */
import { randomBytes } from "node:crypto";
import type { Clock } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import { tokenKey } from "../resume/proof.ts";
import type { ByteLink } from "../transport/byte-link.ts";
import { Channel } from "../transport/channel.ts";
import { dial } from "../transport/dial.ts";
import type { FileSystem } from "../vfs/file-system.ts";
import { CallChannel, type CallChannelFigures } from "./call-channel.ts";
import { RemoteFileSystem } from "./remote-file-system.ts";
import { type Agreement, setUpChannel } from "./set-up.ts";
import type { DriveUrl } from "./url.ts";

const DIAL_TIMEOUT_MS = 10_000;
const SET_UP_TIMEOUT_MS = 10_000;
const SECTION_BYTES = 1024 * 1024;
const CREDITS = 128;
const CLIENT_ID_BYTES = 16;
/** The calls' own credits and bytes bound what is unsent; nobody asks whether the channel is congested. */
const SEND_BYTES_MAX = Number.POSITIVE_INFINITY;
/** How long a goodbye may take. */
const CLOSE_TIMEOUT_MS = 2000;

export interface RemoteOptions {
  url: DriveUrl;
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
  /** False: one section at a time, each waiting for the answer to the one before. For comparison. */
  isPipelined?: boolean;
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
  /** Releases all opens and says goodbye; bounded in time. */
  close(): Promise<void>;
}

/**
 * Connects to the share of a URL.
 *
 * @throws ConnectionError nobody there, refused, too slow; ProtocolError not a netdrive server, or not the one with this token; FsError EINTR aborted.
 */
export async function connectRemote(options: RemoteOptions): Promise<Remote> {
  const { url, clock, signal } = options;
  const link = await dial({
    host: url.host,
    port: url.port,
    timeoutMs: options.dialTimeoutMs ?? DIAL_TIMEOUT_MS,
    clock,
    signal,
  });
  return connectLink(link, options);
}

/** The same over a link that exists. */
export async function connectLink(
  link: ByteLink,
  options: Omit<RemoteOptions, "url"> & { url: Pick<DriveUrl, "token" | "share"> },
): Promise<Remote> {
  const { url, clock, log, signal } = options;
  const channel = new Channel(link, { clock, sendBytesMax: SEND_BYTES_MAX });
  let onClosed: (reason: Error | undefined) => void = () => {};
  const closed = new Promise<Error | undefined>((resolve) => {
    onClosed = resolve;
  });
  let onOrphan: (handle: number) => void = () => {};
  const calls = await setUpChannel({
    channel,
    wish: {
      proof: { t: "token", key: tokenKey(url.token) },
      kind: "CONTROL",
      share: url.share,
      clientId: randomBytes(CLIENT_ID_BYTES),
      sectionBytes: options.sectionBytes ?? SECTION_BYTES,
      credits: options.credits ?? CREDITS,
    },
    ready: (agreement) =>
      new CallChannel({
        channel,
        agreement,
        clock,
        onClosed: (reason) => onClosed(reason),
        onOrphan: (handle) => onOrphan(handle),
        isPipelined: options.isPipelined ?? true,
      }),
    timeoutMs: options.setUpTimeoutMs ?? SET_UP_TIMEOUT_MS,
    clock,
    signal,
  });
  let isClosing = false;
  const close = async () => {
    isClosing = true;
    calls.close();
    const timer = clock.after(CLOSE_TIMEOUT_MS, () => channel.destroy(), { keepAlive: true });
    await calls.gone;
    timer.stop();
  };
  const fileSystem = new RemoteFileSystem(calls, { clock, readOnly: options.readOnly === true, close });
  onOrphan = (handle) => fileSystem.dropHandle(handle);
  const room = log.room("client");
  return {
    fileSystem,
    share: shareOf(calls.agreement, options.readOnly === true),
    closed: closed.then((reason) => {
      if (isClosing) return undefined;
      room.warn(`${link.peer}: ${reason?.message ?? "connection closed"}`);
      return reason;
    }),
    status: () => statusOf(link.peer, calls.figures, fileSystem.openCount),
    lineBytes: () => calls.lineBytes,
    close,
  };
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

function statusOf(peer: string, figures: CallChannelFigures, opens: number): RemoteStatus {
  const { calls, sections, receivedBytes, sentBytes } = figures;
  const roundTrips = [calls.roundTripMs, sections.roundTripMs].filter((ms) => ms !== undefined);
  return {
    channels: [{ kind: "control", state: figures.isOpen ? "open" : "closed", peer, receivedBytes, sentBytes }],
    requestsOutstanding: calls.creditsHeld + sections.creditsHeld,
    sectionsOutstanding: sections.creditsHeld,
    inFlightBytes: sections.inFlightBytes,
    windowBytes: sections.windowBytes,
    roundTripMs: roundTrips.length === 0 ? undefined : Math.min(...roundTrips),
    opens,
  };
}
