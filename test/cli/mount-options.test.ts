/** The `-o` options of `mount`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMountOptions } from "../../src/cli/mount-options.ts";

const DEFAULTS = {
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

test("options are read from every -o, the later winning", () => {
  assert.deepEqual(parseMountOptions([]), DEFAULTS);
  assert.deepEqual(parseMountOptions(["ro,allow_other", "nonempty,attr_timeout=1.5,entry_timeout=0"]), {
    ...DEFAULTS,
    readOnly: true,
    allowOther: true,
    nonEmpty: true,
    attrTimeoutMs: 1500,
    entryTimeoutMs: 0,
  });
  assert.equal(parseMountOptions(["ro", "rw"]).readOnly, false);
  const { suid, dev, exec, atime } = parseMountOptions(["suid,dev,noexec,noatime"]);
  assert.deepEqual({ suid, dev, exec, atime }, { suid: true, dev: true, exec: false, atime: false });
  assert.equal(parseMountOptions(["attr_timeout=5,attr_timeout=7"]).attrTimeoutMs, 7000);
});

test("options that only fstab and mount(8) act on are taken", () => {
  assert.deepEqual(
    parseMountOptions(["defaults,_netdev,nofail,noauto,user,x-systemd.automount,nosuid,nodev,exec"]),
    DEFAULTS,
  );
});

test("a misspelt option is an error that lists what there is", () => {
  for (const option of ["r0", "ro=1", "allow-other", "constructor", "__proto__", "attr_timeoutt=1", "nosuidd"]) {
    assert.throws(() => parseMountOptions([option]), { exitCode: 2, message: /is no option.*allow_other/ }, option);
  }
});

test("how data travels is chosen by options", () => {
  assert.deepEqual(parseMountOptions(["sync,pipeline=off,write_behind=0,read_ahead=16m"]), {
    ...DEFAULTS,
    sync: true,
    pipeline: false,
    writeBehindBytes: 0,
    readAheadBytes: 16 * 2 ** 20,
  });
  assert.equal(parseMountOptions(["write_behind=512K"]).writeBehindBytes, 2 ** 19);
  assert.equal(parseMountOptions(["read_ahead=4096"]).readAheadBytes, 4096);
  for (const value of ["", "=", "=x", "=-1", "=1e9", "=2g", "=1mb", "=1.5m"]) {
    assert.throws(() => parseMountOptions([`write_behind${value}`]), { exitCode: 2, message: /needs a size/ }, value);
  }
  assert.equal(parseMountOptions(["channels=3"]).channels, 3);
  for (const value of ["", "=", "=-1", "=9", "=x", "=10"]) {
    assert.throws(() => parseMountOptions([`channels${value}`]), { exitCode: 2, message: /from 0 to 8/ }, value);
  }
  assert.equal(parseMountOptions(["lease=on,lease=off"]).leases, false);
  assert.throws(() => parseMountOptions(["pipeline=perhaps"]), { exitCode: 2, message: /is no option/ });
});

test("how connections are protected is chosen for all or for a kind of them", () => {
  const chosen = (...options: string[]) => parseMountOptions(options).security;
  assert.deepEqual(chosen("security=plain"), { control: "plain", io: "plain" });
  assert.deepEqual(chosen("io_security=plain"), { control: "tls", io: "plain" });
  assert.deepEqual(chosen("security=signed,io_security=plain"), { control: "signed", io: "plain" });
  assert.deepEqual(chosen("security=plain,io_security=tls"), { control: "plain", io: "tls" });
  assert.deepEqual(chosen("control_security=plain,security=tls"), { control: "tls", io: "tls" });
  for (const value of ["", "=", "=ssl", "=TLS", "=none"]) {
    assert.throws(() => parseMountOptions([`security${value}`]), { exitCode: 2, message: /security is tls, / }, value);
  }
});

test("a timeout is seconds within bounds", () => {
  assert.equal(parseMountOptions(["timeout=90"]).timeoutMs, 90_000);
  assert.equal(parseMountOptions(["timeout=0"]).timeoutMs, 0);
  for (const value of ["", "=", "=x", "=-1", "=1e9", "=NaN", "=86401", "=1s"]) {
    assert.throws(() => parseMountOptions([`attr_timeout${value}`]), { exitCode: 2, message: /needs seconds/ }, value);
  }
});

test("section takes whole pages up to the largest section of the protocol", () => {
  assert.equal(parseMountOptions(["section=64k"]).sectionBytes, 65_536);
  assert.equal(parseMountOptions(["section=4096"]).sectionBytes, 4096);
  for (const value of ["", "=", "=0", "=1000", "=65535", "=1g", "=x"])
    assert.throws(() => parseMountOptions([`section${value}`]), { exitCode: 2, message: /section/ }, value);
});
