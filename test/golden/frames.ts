/**
 * Golden frames: bytes that must never change within version 1, each with what they mean. Everything after '#' is a comment.
 *
 * A frame that has to change is a break of the protocol: give the message a new code instead.
 */
import { Lease } from "../../src/vfs/lease.ts";

export interface Golden {
  readonly name: string;
  readonly header: {
    readonly opcode: number;
    readonly flags?: number;
    readonly tag?: number;
    readonly section?: number;
    readonly handle?: number;
    readonly status?: number;
  };
  /** Of the message and side that the header says. */
  readonly values: Readonly<Record<string, unknown>>;
  readonly payload?: string;
  readonly hex: string;
}

const caller = { uid: 1000, gid: 100, groups: [4, 24], pid: 4321 };
const CALLER = `
  e8030000 64000000 e1100000   # uid 1000, gid 100, pid 4321
  0200 04000000 18000000       # two groups: 4, 24`;

const attr = {
  inoLow: 0x01020304,
  inoHigh: 5,
  sizeBytes: 2 ** 40 + 1,
  blocks: 8,
  atimeSec: 1_700_000_000,
  mtimeSec: -1,
  ctimeSec: 1,
  btimeSec: 0,
  atimeNsec: 999_999_999,
  mtimeNsec: 1,
  ctimeNsec: 2,
  btimeNsec: 3,
  mode: 0o100644,
  nlink: 2,
  uid: 1000,
  gid: 100,
  rdevMajor: 0,
  rdevMinor: 0,
  blksize: 4096,
};
const ATTR = `
  04030201 05000000                     # inode, low and high half
  0100000000010000 0800000000000000     # size 2^40 + 1, 8 blocks
  00f1536500000000 ffffffffffffffff     # atime 1700000000, mtime -1
  0100000000000000 0000000000000000     # ctime 1, no birth time
  ffc99a3b 01000000 02000000 03000000   # nanoseconds
  a4810000 02000000 e8030000 64000000   # mode 0100644, links 2, uid, gid
  00000000 00000000 00100000 00000000   # device 0:0, blocks of 4096, reserved`;

const id = "\x01\xff";
const parent = "p";

export const GOLDEN: readonly Golden[] = [
  {
    name: "hello of a client that wants a new session",
    header: { opcode: 1 },
    values: {
      magic: "netdrive",
      versionMin: 1,
      versionMax: 1,
      features: 0,
      channelKind: 1,
      security: 2,
      clientId: Buffer.alloc(16, 0xc1),
      clientNonce: Buffer.alloc(32, 0xa5),
      sectionBytes: 1_048_576,
      credits: 128,
      sessionId: Buffer.alloc(0),
      slotTable: 0,
      keepMs: 120_000,
      share: "h\u00e9",
      user: "u",
      resumeKey: Buffer.alloc(0),
    },
    hex: `
      58000000 01 01 0000          # 88 bytes follow, version 1, hello, request
      00000000 00000000 00000000   # tag, section, handle
      0000 5800                    # status, body of 88 bytes
      6e65746472697665             # "netdrive"
      01 01 00000000 01 02         # versions 1 to 1, no features, control, over TLS
      c1c1c1c1c1c1c1c1 c1c1c1c1c1c1c1c1                                     # client id
      a5a5a5a5a5a5a5a5 a5a5a5a5a5a5a5a5 a5a5a5a5a5a5a5a5 a5a5a5a5a5a5a5a5   # nonce
      00001000 8000                # sections of 1 MiB, 128 credits
      0000                         # no session
      0000 c0d40100                # slot table 0, keep what is open for 120 s
      0300 68c3a9 0100 75 0000     # share, user, no ticket`,
  },
  {
    name: "goodbye with a reason",
    header: { opcode: 3 },
    values: { code: 5, reason: "no" },
    hex: `
      06000000 01 03 0000 00000000 00000000 00000000 0000 0600   # goodbye
      0500 0200 6e6f                                             # AUTHENTICATION, "no"`,
  },
  {
    name: "cancel",
    header: { opcode: 4 },
    values: { canceledTag: 0x00020003 },
    hex: `
      04000000 01 04 0000 00000000 00000000 00000000 0000 0400   # cancel
      03000200                                                   # slot 3, turn 2`,
  },
  {
    name: "lookup",
    header: { opcode: 17, tag: 0x00010007 },
    values: { caller, parent, name: "a\xe4" },
    hex: `
      1b000000 01 11 0000 07000100 00000000 00000000 0000 1b00   # lookup, slot 7, turn 1${CALLER}
      01 70      # parent
      02 61e4    # name, not UTF-8`,
  },
  {
    name: "reply to a lookup",
    header: { opcode: 17, flags: 1, tag: 0x00010007 },
    values: { id, attr },
    hex: `
      6b000000 01 11 0100 07000100 00000000 00000000 0000 6b00   # lookup reply
      02 01ff    # node id${ATTR}`,
  },
  {
    name: "reply to a lookup that found nothing",
    header: { opcode: 17, flags: 1, tag: 0x00010007, status: 2 },
    values: {},
    hex: "00000000 01 11 0100 07000100 00000000 00000000 0200 0000   # status ENOENT",
  },
  {
    name: "setattr by handle",
    header: { opcode: 20, tag: 1, handle: 9 },
    values: { caller, id, change: { mode: 0o600, sizeBytes: 5, atime: "now", mtime: { sec: 7, nsec: 8 } } },
    hex: `
      47000000 01 14 0000 01000000 00000000 09000000 0000 4700   # setattr, handle 9${CALLER}
      02 01ff                                                    # node id
      6900                                                       # mode, size, atime is now, mtime
      80010000 00000000 00000000 0500000000000000                # mode, no uid, no gid, size
      0000000000000000 00000000                                  # atime is the server's
      0700000000000000 08000000                                  # mtime`,
  },
  {
    name: "reply to an open",
    header: { opcode: 32, flags: 1, tag: 2, handle: 3 },
    values: {
      attr,
      openId: 9,
      resumeKey: Buffer.from("key"),
      serviceBlob: Buffer.alloc(0),
      challenge: Buffer.from([1]),
      lease: Lease.READ,
    },
    hex: `
      7b000000 01 20 0100 02000000 00000000 03000000 0000 7b00   # open reply, handle 3${ATTR}
      0900000000000000   # open id
      0300 6b6579   # resume key
      0000          # service blob
      0100 01       # challenge
      01            # a read lease`,
  },
  {
    name: "read of a section",
    header: { opcode: 35, tag: 4, section: 2, handle: 3 },
    values: { caller, offsetBytes: 2 ** 32, lengthBytes: 4096 },
    hex: `
      22000000 01 23 0000 04000000 02000000 03000000 0000 2200   # read, section 2, handle 3${CALLER}
      0000000001000000 00100000                                  # at 4 GiB, 4096 bytes`,
  },
  {
    name: "reply to a read",
    header: { opcode: 35, flags: 1, tag: 4, section: 2, handle: 3 },
    values: {},
    payload: "data!",
    hex: `
      05000000 01 23 0100 04000000 02000000 03000000 0000 0000   # 5 bytes of payload, no body
      6461746121`,
  },
  {
    name: "write",
    header: { opcode: 36, tag: 5, handle: 3 },
    values: { caller, offsetBytes: 1, killSuidgid: true },
    payload: "xyz",
    hex: `
      22000000 01 24 0000 05000000 00000000 03000000 0000 1f00   # 34 bytes follow, 31 of them body${CALLER}
      0100000000000000 01                                        # offset 1, clear set-id bits
      78797a                                                     # payload`,
  },
  {
    name: "three writes that are written",
    header: { opcode: 44 },
    values: { tags: [5, 0x00020004, 0xffff0003] },
    hex: `
      0e000000 01 2c 0000 00000000 00000000 00000000 0000 0e00   # written, a notice
      0300 05000000 04000200 0300ffff                            # three tags`,
  },
  {
    name: "readdir from the start",
    header: { opcode: 49, tag: 6, handle: 8 },
    values: { caller, cookie: 2n ** 64n - 1n, bytesMax: 65_536, withEntries: false },
    hex: `
      23000000 01 31 0000 06000000 00000000 08000000 0000 2300   # readdir${CALLER}
      ffffffffffffffff 00000100 00                               # cookie, 64 KiB, names only`,
  },
  {
    name: "forget of two nodes",
    header: { opcode: 18 },
    values: { ids: [id, parent] },
    hex: `
      07000000 01 12 0000 00000000 00000000 00000000 0000 0700   # forget, a notice
      0200 02 01ff 01 70                                         # two ids`,
  },
  {
    name: "resume of one open",
    header: { opcode: 72, tag: 5 },
    values: { items: [{ resumeKey: Buffer.from("key"), proof: Buffer.alloc(32, 0xb7) }] },
    hex: `
      26000000 01 48 0000 05000000 00000000 00000000 0000 2600              # resume
      0100 03 6b6579                                                        # one open, its key
      b7b7b7b7b7b7b7b7 b7b7b7b7b7b7b7b7 b7b7b7b7b7b7b7b7 b7b7b7b7b7b7b7b7   # proof`,
  },
  {
    name: "reply to a resume of an open that another has changed",
    header: { opcode: 72, flags: 1, tag: 5 },
    values: {
      results: [
        {
          verdict: "changed",
          handle: 7,
          lease: Lease.READ,
          challenge: Buffer.alloc(16, 0xc4),
          changedBy: "al",
          ranges: [{ offsetBytes: 4096, lengthBytes: 10 }],
        },
      ],
    },
    hex: `
      2c000000 01 48 0100 05000000 00000000 00000000 0000 2c00   # resume reply
      0100 01 07000000 01                                        # one open, changed, handle 7, a read lease
      c4c4c4c4c4c4c4c4 c4c4c4c4c4c4c4c4                          # challenge
      02 616c 01 0010000000000000 0a00000000000000               # by "al", one range: 10 bytes at 4096`,
  },
  {
    name: "a write lease is to be given back, down to a read lease",
    header: { opcode: 53 },
    values: { breakId: 7, id, lease: Lease.READ },
    hex: `
      08000000 01 35 0000 00000000 00000000 00000000 0000 0800   # leaseBreak, a notice
      07000000 02 01ff 01                                        # number 7, node id, read`,
  },
  {
    name: "it is given back",
    header: { opcode: 54 },
    values: { breakId: 7 },
    hex: `
      04000000 01 36 0000 00000000 00000000 00000000 0000 0400   # returnLease, a notice
      07000000                                                   # number 7`,
  },
];

/** The bytes of a golden frame. */
export function goldenBytes(golden: Golden): Buffer {
  return Buffer.from(golden.hex.replace(/#.*$/gm, "").replace(/\s/g, ""), "hex");
}
