/**
 * Names and paths: any bytes, any length up to the limits, and the errors beyond.
 */
import assert from "node:assert/strict";
import { O } from "../../support/posix.ts";
import { type Cases, entries, fails, getText, names, outcome, put, same } from "../case.ts";

const ODD_NAMES = [
  "\xff\xfe\xfd",
  "\x80",
  "\xc3\x28",
  "\x01\x02\x1f\x7f",
  "new\nline",
  "tab\t",
  " leading and trailing ",
  "back\\slash",
  "'\"`$(x)",
  "-rf",
  "...",
  "..a",
  "a..",
  ".hidden",
  "\xe2\x82\xac",
  "*?[]",
  "n".repeat(255),
  "\xff".repeat(255),
];

export const nameCases: Cases = {
  "names are bytes: every one but NUL and '/'": async ({ posix }) => {
    for (let byte = 1; byte < 256; byte++) {
      const char = String.fromCharCode(byte);
      if (char === "/" || char === ".") continue;
      await put(posix, char, `${byte}`);
    }
    const found = await names(posix, ".");
    assert.equal(found.length, 253);
    for (const name of found) assert.equal(await getText(posix, name), `${name.charCodeAt(0)}`);
  },

  "odd names work in every call that takes one": async ({ posix }) => {
    for (const name of ODD_NAMES) {
      await posix.mkdir(name);
      const own = posix.below(name);
      await put(own, name, "x");
      await own.link(name, "hard");
      await own.rename("hard", "moved");
      await own.symlink(name, "link");
      assert.equal(await own.readlink("link"), name);
      assert.equal(await getText(own, "link"), "x");
      assert.equal((await own.stat(name)).nlink, 2);
      assert.deepEqual(await names(own, "."), [name, "link", "moved"].sort());
      await own.unlink(name);
    }
    assert.deepEqual(await names(posix, "."), [...ODD_NAMES].sort());
  },

  "256 bytes are ENAMETOOLONG everywhere": async ({ posix }) => {
    const long = "n".repeat(256);
    await put(posix, "f");
    await posix.mkdir("d");
    await fails("ENAMETOOLONG", posix.open(long, O.RDONLY));
    await fails("ENAMETOOLONG", posix.open(long, O.RDWR | O.CREAT));
    await fails("ENAMETOOLONG", posix.stat(long));
    await fails("ENAMETOOLONG", posix.stat(`${long}/x`));
    await fails("ENAMETOOLONG", posix.mkdir(long));
    await fails("ENAMETOOLONG", posix.mknod(long, 0o010644));
    await fails("ENAMETOOLONG", posix.symlink("x", long));
    await fails("ENAMETOOLONG", posix.link("f", long));
    await fails("ENAMETOOLONG", posix.link(long, "x"));
    await fails("ENAMETOOLONG", posix.rename("f", long));
    await fails("ENAMETOOLONG", posix.rename(long, "x"));
    await fails("ENAMETOOLONG", posix.unlink(long));
    await fails("ENAMETOOLONG", posix.rmdir(long));
    await fails("ENAMETOOLONG", posix.chmod(long, 0o600));
    await fails("ENAMETOOLONG", posix.truncate(long, 0));
    await posix.symlink(long, "l");
    await fails("ENAMETOOLONG", posix.stat("l"));
  },

  "a path of 4096 bytes is ENAMETOOLONG": async ({ posix }) => {
    await fails("ENAMETOOLONG", posix.stat("./".repeat(2048)));
    await fails("ENAMETOOLONG", posix.mkdir(`${"d/".repeat(2100)}x`));
    await posix.stat("./".repeat(1000));
  },

  "100 directories deep": async ({ posix }) => {
    let path = "d";
    for (let i = 0; i < 100; i++) {
      await posix.mkdir(path);
      path += "/d";
    }
    await put(posix, path, "deep");
    assert.equal(await getText(posix, path), "deep");
    assert.equal(await getText(posix, `${path}/../d`.replace("/d/../d", "/./d")), "deep");
    await fails("ENOTEMPTY", posix.rmdir("d"));
  },

  "'.' and '..', doubled slashes and trailing ones": async (t) => {
    await same(t, "dots", async (posix) => {
      await posix.mkdir("a");
      await posix.mkdir("a/b");
      await put(posix, "a/f", "x");
      const paths = [
        "a/.",
        "a/b/..",
        "a//b",
        "a/b/",
        "./a/./b/../f",
        "a/f/..",
        "a/f/.",
        "a/f/",
        "a/missing/..",
        "a/b/../../a",
      ];
      const results = [];
      for (const path of paths) {
        results.push([path, await outcome(posix.stat(path).then(({ mode, nlink }) => ({ mode, nlink })))]);
      }
      for (const path of [".", "..", "a/.", "a/..", "a/"]) {
        results.push([path, await outcome(posix.mkdir(path)), await outcome(posix.symlink("x", path))]);
      }
      return results;
    });
  },

  "names differ by case and by encoding": async ({ posix }) => {
    const variants = ["name", "Name", "NAME", "\xc3\xa9", "e\xcc\x81"];
    for (const name of variants) await put(posix, name, name);
    for (const name of variants) assert.equal((await getText(posix, name)).length, Buffer.from(name).toString().length);
    const found = (await entries(posix, ".")).map(({ name }) => name);
    assert.equal(found.length, variants.length + 2);
  },
};
