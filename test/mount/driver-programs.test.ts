/**
 * Ordinary programs on a mount of the driver over a file system in memory: every kind of request arrives and is answered.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Mounted, mountStack } from "./mounted.ts";

let mounted: Mounted;
before(async () => {
  mounted = await mountStack({ mountOptions: { allowOther: true } });
});
after(async () => {
  const end = await mounted.end();
  assert.equal(end?.leftOpen, 0);
  assert.equal(end?.inFlight, 0);
});

test("files are written, read, appended to and truncated", async () => {
  const out = await mounted.shell(`
    echo one > f; echo two >> f; cat f; truncate -s 5 f; stat -c %s f; wc -c < f; : > f; stat -c %s f`);
  assert.equal(out, "one\ntwo\n5\n5\n0\n");
});

test("directories, links, special files and renames are made, listed and removed", async () => {
  const out = await mounted.shell(`
    mkdir -p d/e; touch d/x; ln d/x d/hard; ln -s x d/soft; mkfifo d/pipe; mknod d/null c 1 3
    stat -c '%n %h %F %t %T' d/*; readlink d/soft; mv d/x d/y; mv -n d/y d/hard; ls d; rm -r d; ls -d d 2>/dev/null || echo gone`);
  assert.match(out, /d\/hard 2 regular empty file 0 0/);
  assert.match(out, /d\/null 1 character special file 1 3/);
  assert.match(out, /d\/soft 1 symbolic link/);
  assert.match(out, /gone\n$/);
});

test("statx shows the time of birth", async () => {
  const out = await mounted.shell("touch born; stat -c %W born");
  assert.ok(Number(out) > 1_600_000_000, out);
});

test("times keep their nanoseconds, also before 1970", async () => {
  const out = await mounted.shell(`
    touch t; touch -d '1960-02-03 04:05:06.123456789 UTC' t; TZ=UTC stat -c %y t; touch -d @4294967296.987654321 t; stat -c %.9Y t`);
  assert.equal(out, "1960-02-03 04:05:06.123456789 +0000\n4294967296.987654321\n");
});

test("a directory of 5,000 files is listed whole", async () => {
  const out = await mounted.shell(
    "mkdir many; cd many; seq 5000 | xargs touch; ls -l | wc -l; find . -type f | wc -l; rm -r ../many",
  );
  assert.equal(out, "5001\n5000\n");
});
