/**
 * The `-o` options of `mount`, as mount(8) writes them: `ro,attr_timeout=5`.
 *
 * Options that only mount(8) and fstab act on are taken and ignored; any other unknown one is an error, so that a
 * misspelt option never passes silently.
 */
import { IO_CHANNELS_MAX, SECTION_BYTES_MAX, SECTION_BYTES_MIN } from "../wire/limits.ts";
import type { ChannelSecurity, Security } from "../wire/messages.ts";
import { parseSecurity, SECURITY_LEVELS } from "./channel-security.ts";
import { Exit, failure } from "./failure.ts";

export interface MountOptions {
  readOnly: boolean;
  /** Other users than the one who mounts may use the mount. */
  allowOther: boolean;
  /** Mount over a directory that is not empty. */
  nonEmpty: boolean;
  /** Whether set-user-id bits and device files of the drive count; for root only. */
  suid: boolean;
  dev: boolean;
  /** Whether programs on the drive may be run. */
  exec: boolean;
  atime: boolean;
  /** How long the kernel may answer attributes by itself, milliseconds; undefined: the default. */
  attrTimeoutMs: number | undefined;
  /** The same for names. */
  entryTimeoutMs: number | undefined;
  /** How long a request may wait for its answer, milliseconds; 0: for ever; undefined: the default. */
  timeoutMs: number | undefined;
  /** Every write is on the server's disk side before it is acknowledged, as if all files were opened with O_SYNC. */
  sync: boolean;
  /** False: one section at a time, for comparison; nothing is read ahead or written behind either. */
  pipeline: boolean;
  /** Files are opened with leases. */
  leases: boolean;
  /** The most that may be acknowledged and not yet on the server, bytes; undefined: the default. */
  writeBehindBytes: number | undefined;
  /** The most that may be read ahead, bytes; undefined: the default. */
  readAheadBytes: number | undefined;
  /** Connections for data beside the one for everything else; undefined: the default. */
  channels: number | undefined;
  /** The largest section asked for, bytes; undefined: the default. */
  sectionBytes: number | undefined;
  /** How the connections are protected. */
  security: ChannelSecurity;
}

const TIMEOUT_SECONDS_MAX = 86_400;

/** Options of mount(8), fstab(5) and systemd that mean nothing to a file system, or what netdrive does anyway. */
const IGNORED = new Set(
  "defaults auto noauto user nouser users nofail _netdev async relatime default_permissions".split(" "),
);

const FLAGS = new Map<string, Partial<MountOptions>>([
  ["ro", { readOnly: true }],
  ["rw", { readOnly: false }],
  ["allow_other", { allowOther: true }],
  ["nonempty", { nonEmpty: true }],
  ["suid", { suid: true }],
  ["nosuid", { suid: false }],
  ["dev", { dev: true }],
  ["nodev", { dev: false }],
  ["exec", { exec: true }],
  ["noexec", { exec: false }],
  ["atime", { atime: true }],
  ["noatime", { atime: false }],
  ["sync", { sync: true }],
  ["pipeline=off", { pipeline: false }],
  ["pipeline=on", { pipeline: true }],
  ["lease=off", { leases: false }],
  ["lease=on", { leases: true }],
]);

const TIMEOUTS = new Map<string, "attrTimeoutMs" | "entryTimeoutMs" | "timeoutMs">([
  ["attr_timeout", "attrTimeoutMs"],
  ["entry_timeout", "entryTimeoutMs"],
  ["timeout", "timeoutMs"],
]);

const SIZES = new Map<string, "writeBehindBytes" | "readAheadBytes">([
  ["write_behind", "writeBehindBytes"],
  ["read_ahead", "readAheadBytes"],
]);
const SIZE_BYTES_MAX = 2 ** 30;

const SECURITY = new Map<string, (level: Security) => Partial<ChannelSecurity>>([
  ["security", (level) => ({ control: level, io: level })],
  ["control_security", (control) => ({ control })],
  ["io_security", (io) => ({ io })],
]);

/** Every option that means something, for the help text. */
export const MOUNT_OPTIONS_HELP = [
  ...FLAGS.keys(),
  ...[...TIMEOUTS.keys()].map((name) => `${name}=SECONDS`),
  ...[...SIZES.keys()].map((name) => `${name}=SIZE`),
  "channels=N",
  "section=SIZE",
  ...["security", "control_security", "io_security"].map((name) => `${name}=${SECURITY_LEVELS.join("|")}`),
];

/**
 * Reads the values of all `-o` together; a later option wins.
 *
 * @throws CommanderError USAGE
 */
export function parseMountOptions(texts: readonly string[]): MountOptions {
  const options: MountOptions = {
    readOnly: false,
    allowOther: false,
    nonEmpty: false,
    suid: false,
    dev: false,
    exec: true,
    atime: true,
    attrTimeoutMs: undefined,
    entryTimeoutMs: undefined,
    timeoutMs: undefined,
    sync: false,
    pipeline: true,
    leases: true,
    writeBehindBytes: undefined,
    readAheadBytes: undefined,
    channels: undefined,
    sectionBytes: undefined,
    security: { control: "tls", io: "tls" },
  };
  for (const option of texts.flatMap((text) => text.split(","))) {
    const [name = "", value] = option.split(/=(.*)/s, 2);
    const timeout = TIMEOUTS.get(name);
    const size = SIZES.get(name);
    if (timeout !== undefined) {
      options[timeout] = parseSeconds(name, value);
    } else if (size !== undefined) {
      options[size] = parseSize(name, value);
    } else if (name === "channels") {
      options.channels = parseChannels(value);
    } else if (name === "section") {
      options.sectionBytes = parseSection(value);
    } else if (SECURITY.has(name)) {
      const level = parseSecurity(name, value);
      options.security = { ...options.security, ...SECURITY.get(name)?.(level) };
    } else if (FLAGS.has(option)) {
      Object.assign(options, FLAGS.get(option));
    } else if (option !== "" && !IGNORED.has(option) && !name.startsWith("x-") && !name.startsWith("comment")) {
      const known = MOUNT_OPTIONS_HELP.join(", ");
      throw failure(Exit.USAGE, `-o ${option} is no option of netdrive; there are ${known}`);
    }
  }
  return options;
}

/** A time in seconds, as milliseconds. */
export function parseSeconds(name: string, value: string | undefined): number {
  const seconds = value === undefined || !/^\d+(\.\d+)?$/.test(value) ? Number.NaN : Number(value);
  if (!(seconds <= TIMEOUT_SECONDS_MAX)) {
    throw failure(Exit.USAGE, `${name} needs seconds from 0 to ${TIMEOUT_SECONDS_MAX}; write it as ${name}=1.5`);
  }
  return Math.round(seconds * 1000);
}

/** How many connections carry data. */
export function parseChannels(value: string | undefined): number {
  const count = /^\d$/.test(value ?? "") ? Number(value) : Number.NaN;
  if (count <= IO_CHANNELS_MAX) return count;
  throw failure(Exit.USAGE, `channels needs a number from 0 to ${IO_CHANNELS_MAX}; write it as channels=2`);
}

/** The largest section: whole pages, as the protocol wants it. */
function parseSection(value: string | undefined): number {
  const size = parseSize("section", value);
  if (size >= SECTION_BYTES_MIN && size <= SECTION_BYTES_MAX && size % SECTION_BYTES_MIN === 0) return size;
  throw failure(
    Exit.USAGE,
    `-o section needs a multiple of 4k up to ${SECTION_BYTES_MAX / 2 ** 20}m; write it as section=64k`,
  );
}

/** A number of bytes with an optional k, m or g for powers of 1024. */
function parseSize(name: string, value: string | undefined): number {
  const [, digits, unit = ""] = /^(\d{1,12})([kmg]?)$/i.exec(value ?? "") ?? [];
  const size =
    digits === undefined ? Number.NaN : Number(digits) * 1024 ** ["", "k", "m", "g"].indexOf(unit.toLowerCase());
  if (!(size <= SIZE_BYTES_MAX)) {
    throw failure(Exit.USAGE, `-o ${name} needs a size up to 1g; write it as ${name}=32m, or ${name}=0 for none`);
  }
  return size;
}
