/** Two ends of one TCP connection over loopback. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

/** A connection over loopback; both ends are gone afterwards. */
export async function connected(body: (ours: Socket, theirs: Socket) => Promise<void>): Promise<void> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const ours = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const [theirs] = (await once(server, "connection")) as [Socket];
  await once(ours, "connect");
  for (const socket of [ours, theirs]) socket.on("error", () => {});
  try {
    await body(ours, theirs);
  } finally {
    ours.destroy();
    theirs.destroy();
    server.close();
    await once(server, "close");
  }
}
