import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { createLog } from "../../src/base/log.ts";
import { RecoveryFiles, recoveryFolder } from "../../src/cli/recovery-files.ts";
import type { NodeId } from "../../src/vfs/file-system.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { named } from "../support/link-drive.ts";
import { makeTemp } from "../support/temp.ts";

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
});
