/**
 * The `-o` options of `mount`, as mount(8) writes them: `ro,attr_timeout=5`.
 *
 * Options that only mount(8) and fstab act on are taken and ignored; any other unknown one is an error, so that a
 * misspelt option never passes silently.
 */
import { Exit, failure } from "./failure.ts";

export interface MountOptions {
  readOnly: boolean;
  /** Other users than the one who mounts may use the mount. */
  allowOther: boolean;
  /** Mount over a directory that is not empty. */
  nonEmpty: boolean;
  /** How long the kernel may answer attributes by itself, milliseconds; undefined: the default. */
  attrTimeoutMs: number | undefined;
  /** The same for names. */
  entryTimeoutMs: number | undefined;
}

const TIMEOUT_SECONDS_MAX = 86_400;

/** Options of mount(8), fstab(5) and systemd that mean nothing to a file system, or what netdrive does anyway. */
const IGNORED = new Set(
  "defaults auto noauto user nouser users nofail _netdev nosuid nodev async exec default_permissions".split(" "),
);

const FLAGS = new Map<string, Partial<MountOptions>>([
  ["ro", { readOnly: true }],
  ["rw", { readOnly: false }],
  ["allow_other", { allowOther: true }],
  ["nonempty", { nonEmpty: true }],
]);

const TIMEOUTS = new Map<string, "attrTimeoutMs" | "entryTimeoutMs">([
  ["attr_timeout", "attrTimeoutMs"],
  ["entry_timeout", "entryTimeoutMs"],
]);

/** Every option that means something, for the help text. */
export const MOUNT_OPTIONS_HELP = [...FLAGS.keys(), ...[...TIMEOUTS.keys()].map((name) => `${name}=SECONDS`)];

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
    attrTimeoutMs: undefined,
    entryTimeoutMs: undefined,
  };
  for (const option of texts.flatMap((text) => text.split(","))) {
    const [name = "", value] = option.split(/=(.*)/s, 2);
    const timeout = TIMEOUTS.get(name);
    if (timeout !== undefined) {
      options[timeout] = parseSeconds(name, value);
    } else if (value === undefined && FLAGS.has(name)) {
      Object.assign(options, FLAGS.get(name));
    } else if (option !== "" && !IGNORED.has(option) && !name.startsWith("x-") && !name.startsWith("comment")) {
      const known = MOUNT_OPTIONS_HELP.join(", ");
      throw failure(Exit.USAGE, `-o ${option} is no option of netdrive; there are ${known}`);
    }
  }
  return options;
}

function parseSeconds(name: string, value: string | undefined): number {
  const seconds = value === undefined || !/^\d+(\.\d+)?$/.test(value) ? Number.NaN : Number(value);
  if (!(seconds <= TIMEOUT_SECONDS_MAX)) {
    throw failure(Exit.USAGE, `-o ${name} needs seconds from 0 to ${TIMEOUT_SECONDS_MAX}; write it as ${name}=1.5`);
  }
  return Math.round(seconds * 1000);
}
