/**
 * README "Semantics", caching without a lease: what is written and closed on one mount is read by whoever opens the file afterwards on
 * another; a file nobody else changed is not read again.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { makeTemp } from "../support/temp.ts";
import { type Mounted, mountStack } from "./mounted.ts";

const temp = makeTemp("pages");
let here: Mounted;
let there: Mounted;

before(async () => {
  // Attributes are believed for a long time: what is seen is seen because of the open alone.
  const stack = { directory: temp.path, mountOptions: { attrTimeoutMs: 60_000, entryTimeoutMs: 60_000 } };
  [here, there] = await Promise.all([mountStack(stack), mountStack(stack)]);
});
after(async () => {
  await Promise.all([here.end(), there.end()]);
  await temp.remove();
});

/** Bytes that came from the server while `script` ran. */
async function bytesReadBy(mounted: Mounted, script: string): Promise<number> {
  const { bytesRead: start } = await mounted.counters();
  await mounted.shell(script);
  return (await mounted.counters()).bytesRead - start;
}

test("a file that nobody changed is read once, however often it is opened", async () => {
  await there.shell("head -c 3000000 /dev/urandom > stable");
  assert.equal(await bytesReadBy(here, "cat stable > /dev/null"), 3_000_000);
  assert.equal(await bytesReadBy(here, "cat stable stable > /dev/null; md5sum stable > /dev/null"), 0);
});

test("what another mount has written and closed is there at the next open, also with the same size", async () => {
  await here.shell("printf 'aaaa' > shared; cat shared > /dev/null");
  for (const text of ["bbbb", "cccc", "longer than before", "x"]) {
    await there.shell(`printf '${text}' > shared`);
    assert.equal(await here.shell("cat shared"), text);
    await there.shell(`printf '${text.toUpperCase()}' 1<> shared`);
    assert.equal(await here.shell("cat shared"), text.toUpperCase());
  }
});

test("a change that hides its time is seen, too", async () => {
  await there.shell("printf 'one!' > hidden; touch -d '2020-01-01' hidden");
  assert.equal(await here.shell("cat hidden"), "one!");
  await there.shell("printf 'two!' > hidden; touch -d '2020-01-01' hidden");
  assert.equal(await here.shell("cat hidden"), "two!");
});

test("a large file just written here is not read back from the server", async () => {
  await here.shell("dd if=/dev/urandom of=own bs=1M count=5 status=none");
  assert.equal(await bytesReadBy(here, "cat own > /dev/null"), 0);
  await here.shell("dd if=/dev/urandom of=own bs=1M count=4 oflag=append conv=notrunc status=none");
  assert.equal(await bytesReadBy(here, "cat own > /dev/null"), 0);
  const [ours, theirs] = await Promise.all([here.shell("md5sum own"), there.shell("md5sum own")]);
  assert.equal(ours, theirs);
});

test("a large file written here and then there is read as it is there", async () => {
  await here.shell("head -c 5000000 /dev/zero > both");
  await there.shell("printf 'changed' | dd of=both bs=1 seek=4000000 conv=notrunc status=none");
  assert.equal(await here.shell("dd if=both bs=1 skip=4000000 count=7 status=none"), "changed");
});

test("two mounts that append in turn lose nothing, and see all of it when they open", async () => {
  for (let i = 0; i < 10; i++) {
    await here.shell(`printf 'here ${i}\\n' >> log`);
    await there.shell(`printf 'there ${i}\\n' >> log`);
  }
  const expected = Array.from({ length: 10 }, (_, i) => `here ${i}\nthere ${i}\n`).join("");
  assert.equal(await here.shell("cat log"), expected);
  assert.equal(await there.shell("cat log"), expected);
});

test("two mounts that append at the same time lose nothing", async () => {
  const append = (who: string) => `for i in $(seq 200); do echo "${who} $i" >> race; done`;
  await Promise.all([here.shell(append("here")), there.shell(append("there"))]);
  const out = await here.shell("sort -k1,1 -k2n race");
  const lines = ["here", "there"].flatMap((who) => Array.from({ length: 200 }, (_, i) => `${who} ${i + 1}\n`));
  assert.equal(out, lines.join(""));
});

test("a shared mapping is written back, and read by others", async () => {
  const script = `import mmap,os
fd=os.open("mapped",os.O_RDWR|os.O_CREAT); os.ftruncate(fd,3*1024*1024)
m=mmap.mmap(fd,0); m[5]=65; m[2*1024*1024]=66; m[3*1024*1024-1]=67; m.flush(); m.close(); os.close(fd)`;
  await here.shell(`python3 - <<'END'\n${script}\nEND`);
  assert.equal(await there.shell("tr -d '\\0' < mapped; stat -c ' %s' mapped"), "ABC 3145728\n");
});

test("pages of a mapping of a file open for appending go to their place", async () => {
  const script = `import mmap,os
fd=os.open("appending",os.O_RDWR|os.O_CREAT|os.O_APPEND); os.write(fd,b"-"*10000)
m=mmap.mmap(fd,0); m[0:5]=b"first"; m[9000:9004]=b"last"; m.flush(); m.close(); os.write(fd,b"end"); os.close(fd)`;
  await here.shell(`python3 - <<'END'\n${script}\nEND`);
  assert.equal(await there.shell("tr -d '-' < appending; stat -c ' %s' appending"), "firstlastend 10003\n");
});

test("a private mapping changes nothing", async () => {
  const script = `import mmap,os
fd=os.open("private",os.O_RDWR|os.O_CREAT); os.write(fd,b"kept")
m=mmap.mmap(fd,0,mmap.MAP_PRIVATE); m[0:4]=b"lost"; m.close(); os.close(fd)`;
  await here.shell(`python3 - <<'END'\n${script}\nEND`);
  assert.equal(await here.shell("cat private"), "kept");
});

test("unbuffered and buffered access to one file agree", async () => {
  const script = `import mmap,os
buf=mmap.mmap(-1,8192)
d=os.open("direct",os.O_RDWR|os.O_CREAT|os.O_DIRECT); b=os.open("direct",os.O_RDWR)
buf[:]=b"d"*8192; os.pwritev(d,[buf],0); assert os.pread(b,8192,0)==b"d"*8192
os.pwrite(b,b"b"*4096,4096); os.preadv(d,[buf],0); assert buf[:]==b"d"*4096+b"b"*4096
buf[:]=b"e"*8192; os.pwritev(d,[buf],0); assert os.pread(b,8192,0)==b"e"*8192`;
  await here.shell(`python3 - <<'END'\n${script}\nEND`);
});

test("large files travel in requests of 1 MiB", async () => {
  const { requests: start } = await here.counters();
  await here.shell("dd if=/dev/zero of=large bs=1M count=64 status=none");
  const { requests: written } = await here.counters();
  assert.ok(written - start < 64 + 40, `${written - start} requests to write`);
  await there.shell("cat large > /dev/null");
  const { requests: read } = await there.counters();
  await there.shell("echo 3 > /proc/sys/vm/drop_caches; cat large > /dev/null");
  const again = (await there.counters()).requests - read;
  assert.ok(again < 64 + 60, `${again} requests to read`);
});
