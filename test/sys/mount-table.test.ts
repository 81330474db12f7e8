/** Reading /proc/self/mountinfo. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isStillAt, mountAt, parseMountInfo, readMountTable } from "../../src/sys/mount-table.ts";

const LINES = [
  "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue",
  "37 35 0:53 / /tmp/a\\040b\\134c ro,nosuid,nodev shared:3 master:2 - fuse.netdrive netdrive://h:1/s\\040t ro,user_id=0",
  // The kernel writes bytes, here UTF-8, as they are; optional fields may be missing.
  `38 35 0:54 / /tmp/${Buffer.from("ä").toString("latin1")} rw - fuse.netdrive netdrive://h:1/x rw`,
];

test("path, type, source, read-only and device are read, escapes undone", () => {
  assert.deepEqual(parseMountInfo(`${LINES.join("\n")}\n`), [
    { path: "/mnt2", type: "ext3", source: "/dev/root", readOnly: false, deviceMajor: 98, deviceMinor: 0 },
    {
      path: "/tmp/a b\\c",
      type: "fuse.netdrive",
      source: "netdrive://h:1/s t",
      readOnly: true,
      deviceMajor: 0,
      deviceMinor: 53,
    },
    {
      path: "/tmp/ä",
      type: "fuse.netdrive",
      source: "netdrive://h:1/x",
      readOnly: false,
      deviceMajor: 0,
      deviceMinor: 54,
    },
  ]);
});

test("lines of another shape are passed over", () => {
  assert.deepEqual(parseMountInfo("\nnonsense\n1 2 3\n- - -\n"), []);
});

test("this machine's own table is read", () => {
  assert.ok(readMountTable().length > 0);
  assert.equal(mountAt("/proc")?.type, "proc");
  assert.equal(mountAt("/nowhere"), undefined);
});

test("a mount is told from another one at its path", () => {
  const proc = mountAt("/proc");
  assert.ok(proc !== undefined && isStillAt(proc));
  assert.ok(!isStillAt({ ...proc, deviceMinor: proc.deviceMinor + 1 }));
  assert.ok(!isStillAt({ ...proc, type: "fuse.netdrive" }));
  assert.ok(!isStillAt({ ...proc, path: "/nowhere" }));
});
