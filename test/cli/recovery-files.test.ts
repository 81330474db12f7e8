import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { createLog, silentLog } from "../../src/base/log.ts";
import { CachedFileSystem } from "../../src/cache/cached.ts";
import { describeUnsent, RecoveryFiles, recoveryFolder } from "../../src/cli/recovery-files.ts";
import { type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, named } from "../support/link-drive.ts";
import { returningDrive } from "../support/returning-drive.ts";
import { makeTemp } from "../support/temp.ts";

/** More sections than may be on their way. */
const SECTIONS = 200;
const SECTION = 4096;

const temp = makeTemp("recovered");
process.env["NETDRIVE_RUNTIME"] = temp.path;
after(() => temp.remove());

function files(nameOf: (id: NodeId) => string | undefined) {
  const clock = new FakeClock();
  const lines: string[] = [];
  const log = createLog({ level: "error", clock, sink: (line) => lines.push(line) });
  const recovered = new RecoveryFiles({
    clock,
    log,
    nameOf: (id) => {
      const name = nameOf(id);
      return name === undefined ? undefined : named(name);
    },
  });
  return { recovered, lines };
}

test("the bytes of a file are kept at their places, in one file that the log names", () => {
  const { recovered, lines } = files(() => "notes/../a b.txt");
  recovered.save("1" as NodeId, 5, Buffer.from("late"));
  recovered.save("1" as NodeId, 0, Buffer.from("soon"));
  const [path = ""] = recovered.paths;
  assert.equal(recovered.paths.length, 1);
  assert.ok(path.startsWith(join(recoveryFolder(), "2023-")));
  assert.ok(path.endsWith("-notes_.._a_b.txt"));
  assert.equal(readFileSync(path, "latin1"), "soon\0late");
  assert.match(lines.join(), /unsent data is kept in /);
});

test("who ends the drive is told of what is kept and what is lost, of many files of some", () => {
  const { recovered } = files(() => "x");
  assert.equal(recovered.unsent, undefined);
  for (let id = 0; id < 7; id += 1) recovered.save(`${id}` as NodeId, 0, Buffer.from("data"));
  assert.ok(recovered.unsent);
  assert.deepEqual(recovered.unsent, { files: recovered.paths, lostBytes: 0 });
  const said = describeUnsent(recovered.unsent, "/mnt/a", "/run/x.log");
  assert.ok(said.includes(recovered.paths[4] ?? "?") && !said.includes(recovered.paths[5] ?? "?"));
  assert.match(said, /^not all that was written to '\/mnt\/a' .* and 2 more files; see \/run\/x\.log$/);
  const lost = describeUnsent({ files: ["/a"], lostBytes: 4 }, "/mnt/a", null);
  assert.match(lost, /; what has not is kept in \/a, and 4 bytes are lost$/);
});

test("files of the same name do not meet, and one without a name has one", () => {
  const { recovered } = files((id) => (id === "3" ? undefined : "same"));
  for (const id of ["1", "2", "3"]) recovered.save(id as NodeId, 0, Buffer.from(id));
  assert.equal(new Set(recovered.paths).size, 3);
  assert.deepEqual(
    recovered.paths.map((path) => readFileSync(path, "latin1")),
    ["1", "2", "3"],
  );
  assert.match(recovered.paths[2] ?? "", /unnamed$/);
});

test("where nothing can be kept, the log says what is lost", () => {
  const { recovered, lines } = files(() => "x");
  const file = join(temp.path, "file");
  writeFileSync(file, "");
  process.env["NETDRIVE_RUNTIME"] = file;
  try {
    recovered.save("1" as NodeId, 0, Buffer.from("data"));
  } finally {
    process.env["NETDRIVE_RUNTIME"] = temp.path;
    rmSync(join(temp.path, "recovered"), { recursive: true, force: true });
  }
  assert.deepEqual(recovered.paths, []);
  assert.match(lines.join(), /4 bytes are lost/);
  assert.deepEqual(recovered.unsent, { files: [], lostBytes: 4 });
});

for (const [failure, isAway] of [
  ["is away", true],
  ["does not answer", false],
] as const) {
  test(`a drive that ends while its server ${failure} keeps all that was acknowledged, as it was written last`, async () => {
    const gate = new GatedFs(new MemoryFs());
    const drive = await returningDrive({ fileSystem: gate.fileSystem });
    const { fileSystem } = drive.remote;
    const { recovered } = files(() => "f");
    const cached = new CachedFileSystem(fileSystem, {
      ...{ sectionBytes: SECTION, writeBehindBytesMax: 1 << 30, readAheadBytesMax: 0, attrTimeoutMs: 1000 },
      ...{ lineBytes: () => 0, kernelReadAheadBytes: () => 0, clock: drive.clock, log: silentLog },
      keepLost: (id, offsetBytes, data) => recovered.save(id, offsetBytes, data),
    });
    const { id: root } = await cached.root(ctx);
    const flags = OpenFlag.READ | OpenFlag.WRITE;
    const { opened } = await cached.create(ctx, root, named("f"), flags, { mode: 0o100644, umask: 0 });
    if (isAway) {
      drive.isDown = true;
      await drive.cut();
    } else {
      gate.gates.add("write");
    }
    const written = Buffer.alloc(SECTIONS * SECTION);
    let value = 0;
    const write = async (at: number, lengthBytes: number) => {
      value += 1;
      written.fill(value, at, at + lengthBytes);
      await cached.write(ctx, opened.handle, at, Buffer.alloc(lengthBytes, value));
    };
    await write(0, written.length);
    // Each overlaps the one before, which waits for those before it.
    for (let at = 100; at > 0; at -= 10) await write(at, 15);
    await write(written.length - SECTION - 5, 10);
    const closing = cached.close();
    await drive.pass(15_000);
    await closing;
    assert.equal(cached.figures.dirtyBytes, 0);
    const [path = ""] = recovered.paths;
    assert.equal(recovered.paths.length, 1);
    assert.ok(readFileSync(path).equals(written));
    gate.open();
    await settle();
  });
}
