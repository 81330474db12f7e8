import assert from "node:assert/strict";
import { constants } from "node:fs";
import { test } from "node:test";
import { openFlagsDecoder } from "../../src/fuse/open-flags.ts";
import { OpenFlag } from "../../src/vfs/file-system.ts";

const decode = openFlagsDecoder(process.arch);

test("the flags of this machine's open(2) are understood", () => {
  const { READ, WRITE, APPEND, TRUNC, EXCL, SYNC, DSYNC, DIRECT, NOATIME } = OpenFlag;
  assert.equal(decode(constants.O_RDONLY), READ);
  assert.equal(decode(constants.O_WRONLY | constants.O_APPEND), WRITE | APPEND);
  assert.equal(decode(constants.O_RDWR | constants.O_TRUNC | constants.O_EXCL), READ | WRITE | TRUNC | EXCL);
  assert.equal(decode(constants.O_RDWR | constants.O_SYNC), READ | WRITE | SYNC);
  assert.equal(decode(constants.O_RDWR | constants.O_DSYNC), READ | WRITE | DSYNC);
  assert.equal(decode(constants.O_DIRECT), READ | DIRECT);
  assert.equal(decode(constants.O_NOATIME), READ | NOATIME);
});

test("flags without meaning for a file system leave no trace", () => {
  assert.equal(decode(constants.O_NONBLOCK | constants.O_NOCTTY | constants.O_DIRECTORY), OpenFlag.READ);
  assert.equal(decode(0x8000), OpenFlag.READ, "O_LARGEFILE");
});

test("O_DIRECT has other numbers on other architectures", () => {
  assert.equal(openFlagsDecoder("x64")(0o40000), OpenFlag.READ | OpenFlag.DIRECT);
  assert.equal(openFlagsDecoder("arm64")(0o40000), OpenFlag.READ, "O_DIRECTORY");
  assert.equal(openFlagsDecoder("arm64")(0o200000), OpenFlag.READ | OpenFlag.DIRECT);
});

test("access mode 3, which only ioctl(2) needs, is both", () => {
  assert.equal(decode(3), OpenFlag.READ | OpenFlag.WRITE);
});

test("opening for execution says so", () => {
  assert.equal(decode(0x20), OpenFlag.READ | OpenFlag.EXEC);
});
