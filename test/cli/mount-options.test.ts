/** The `-o` options of `mount`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMountOptions } from "../../src/cli/mount-options.ts";

const DEFAULTS = {
  readOnly: false,
  allowOther: false,
  nonEmpty: false,
  attrTimeoutMs: undefined,
  entryTimeoutMs: undefined,
};

test("options are read from every -o, the later winning", () => {
  assert.deepEqual(parseMountOptions([]), DEFAULTS);
  assert.deepEqual(parseMountOptions(["ro,allow_other", "nonempty,attr_timeout=1.5,entry_timeout=0"]), {
    readOnly: true,
    allowOther: true,
    nonEmpty: true,
    attrTimeoutMs: 1500,
    entryTimeoutMs: 0,
  });
  assert.equal(parseMountOptions(["ro", "rw"]).readOnly, false);
  assert.equal(parseMountOptions(["attr_timeout=5,attr_timeout=7"]).attrTimeoutMs, 7000);
});

test("options that only fstab and mount(8) act on are taken", () => {
  assert.deepEqual(
    parseMountOptions(["defaults,_netdev,nofail,noauto,user,x-systemd.automount,nosuid,nodev"]),
    DEFAULTS,
  );
});

test("a misspelt option is an error that lists what there is", () => {
  for (const option of ["r0", "ro=1", "allow-other", "constructor", "__proto__", "attr_timeoutt=1", "noexec"]) {
    assert.throws(() => parseMountOptions([option]), { exitCode: 2, message: /is no option.*allow_other/ }, option);
  }
});

test("a timeout is seconds within bounds", () => {
  for (const value of ["", "=", "=x", "=-1", "=1e9", "=NaN", "=86401", "=1s"]) {
    assert.throws(() => parseMountOptions([`attr_timeout${value}`]), { exitCode: 2, message: /needs seconds/ }, value);
  }
});
