/**
 * A client that writes the same sections again and again: `section-writer.js URL FIRST_GENERATION`. It is made to be killed.
 *
 * Each generation is one large write without waiting for its sections; each word of it is the generation's number. It says a line when one is written.
 */
import { pathToFileURL } from "node:url";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { nameFromText } from "../../src/base/name.ts";
import { connectRemote } from "../../src/client/remote.ts";
import { parseDriveUrl } from "../../src/client/url.ts";
import { OpenFlag } from "../../src/vfs/file-system.ts";

export const SECTION_BYTES = 256 * 1024;
export const SECTIONS = 64;

async function main(url: string, firstGeneration: number): Promise<void> {
  const remote = await connectRemote({
    url: parseDriveUrl(url),
    sectionBytes: SECTION_BYTES,
    ioChannels: 2,
    log: silentLog,
    clock: systemClock,
  });
  const ctx = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
  const { fileSystem } = remote;
  const { id: root } = await fileSystem.root(ctx);
  const { id } = await fileSystem.lookup(ctx, root, nameFromText("f"));
  const { handle } = await fileSystem.open(ctx, id, OpenFlag.WRITE);
  const words = new Uint32Array((SECTIONS * SECTION_BYTES) / 4);
  for (let generation = firstGeneration; ; generation++) {
    words.fill(generation);
    await fileSystem.write(ctx, handle, 0, Buffer.from(words.buffer));
    process.stdout.write(`${generation}\n`);
  }
}

const [, program = "", url = "", generation = ""] = process.argv;
if (import.meta.url === pathToFileURL(program).href) await main(url, Number(generation));
