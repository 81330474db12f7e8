/**
 * A process, or a thread of it, that leaves in the middle of a TLS connection with itself: at the Nth thing that happens.
 *
 *     node tls-leaver.js process|thread N
 */
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { Worker, workerData } from "node:worker_threads";
import { clientContext, serverContext, TlsEnd } from "./tls-ends.ts";

const THREADS = 10;

/** Talks to itself without end; `onEvent` is called at everything that happens. */
async function talk(onEvent: () => void): Promise<void> {
  const join = (end: TlsEnd) => {
    end.onEvent = () => {
      onEvent();
      if (end.isSecured && !end.isSending) void end.send(Buffer.alloc(300_000));
    };
  };
  const server = createServer((raw) => join(new TlsEnd(raw, serverContext)));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const raw = connect((server.address() as AddressInfo).port, "127.0.0.1");
  await once(raw, "connect");
  join(new TlsEnd(raw, clientContext));
}

const [how, count] = (workerData as string[] | null) ?? process.argv.slice(2);
if (how === "thread") {
  for (let thread = 0; thread < THREADS; thread += 1) {
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: ["self", count] });
    await once(worker, "exit");
  }
} else {
  let events = 0;
  await talk(() => {
    events += 1;
    // In a thread it ends the thread alone.
    if (events >= Number(count)) process.exit(0);
  });
}
