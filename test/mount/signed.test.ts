/** Mounts whose connections are signed, as processes, with somebody on the line who harms what passes. */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { command, shell } from "../support/child.ts";
import { netdrive, startMount, startServe } from "../support/drive.ts";
import { harmedWay } from "../support/harmed-line.ts";
import { makeTemp } from "../support/temp.ts";

const SIGNED = ["--security", "signed"];

/**
 * Goal: harm on the line is a pause, never another content. Method: every connection but the last ones is harmed once, in the middle of large copies
 * in both directions, while a file stays open. A copy is 40 sections up, and, read past the kernel's pages, 40 down: the data connections alone meet four
 * of the harms below.
 */
test("copies over a line that is harmed are right, and what is open stays open", async (t) => {
  const temp = makeTemp("signed");
  const ends: (() => PromiseLike<unknown>)[] = [() => temp.remove()];
  t.after(async () => {
    for (const end of ends) await end();
  });
  const [directory, path, scratch] = ["served", "mount", "scratch"].map((name) => join(temp.path, name)) as [
    string,
    string,
    string,
  ];
  for (const folder of [directory, path, scratch]) mkdirSync(folder);
  const served = await startServe(directory, "--squash", "none", ...SIGNED);
  ends.unshift(() => served.service.end());
  // Two connections at a time, control and data: those of data come back alone.
  const harms = ["flip", "drop", "repeat", "swap", "replay"] as const;
  const way = await harmedWay(served.port, (index) => {
    const plan = { harm: harms[index % harms.length] ?? "flip", record: 20 + 5 * index };
    if (index > 6) return {};
    return index % 2 === 0 ? { down: plan } : { up: plan };
  });
  ends.unshift(() => way[Symbol.asyncDispose]());
  const url = served.url.replace(`:${served.port}/`, `:${way.port}/`);
  const mounted = await startMount(url, path, "--allow-other", ...SIGNED);
  ends.unshift(() => mounted.close());
  const script = `set -e
    exec 7> held; echo begin >&7
    head -c 40000000 /dev/urandom > ${scratch}/data
    for round in 1 2 3; do
      cp ${scratch}/data copy$round
      dd if=copy$round bs=1M iflag=direct status=none | cmp ${scratch}/data -
    done
    echo end >&7; exec 7>&-; sync .`;
  await shell(script, { cwd: path, timeoutMs: 120_000 });
  const { stdout } = await command("cat", [join(directory, "held")]);
  assert.equal(stdout, "begin\nend\n");
  for (const round of [1, 2, 3]) await command("cmp", [join(scratch, "data"), join(directory, `copy${round}`)]);
  assert.ok(way.connections.length > 4, `${way.connections.length} connections`);
  const noticed = `${served.service.errors()}${mounted.service.errors()}`.match(/was changed on its way/g) ?? [];
  assert.ok(noticed.length >= 2, `noticed ${noticed.length} times`);
  // A ticket says how its server is to be reached.
  const ticket = await command(process.execPath, netdrive("handle", "export", join(path, "held")));
  const seen = await command(process.execPath, netdrive("handle", "cat", ticket.stdout.trim()));
  assert.equal(seen.stdout, "begin\nend\n");
  assert.match(
    seen.stderr,
    / warn \w+: not everything is encrypted: connected to .*; channels: control \(signed\), io \(signed\)\n$/,
  );
  const status = await command(process.execPath, netdrive("status", path));
  assert.match(status.stdout, /; channels: control \(signed\), io \(signed\); /);
});
