/**
 * The link simulator as a process of its own: commands as lines on standard input, one JSON line on standard output for each.
 *
 *     node dist/scripts/bench/link-main.js HOST:PORT [COMMAND]...       (the target; commands to begin with)
 *
 * The first line is {"host", "port"}: where clients connect. Commands: `delay MS [up|down]`, `rate BITS_PER_SECOND|none [up|down]`,
 * `stall MS [up|down]`, `freeze`, `thaw`, `cut`, `refuse on|off`, `trouble JSON|off`, `stats`. Each is answered with {"ok": true} or
 * {"error"}, `stats` with the counters and the process's own CPU seconds. It ends with its standard input.
 */
import { createInterface } from "node:readline";
import { systemClock } from "../../src/base/clock.ts";
import { LinkSimulator, type LinkWay } from "./link.ts";
import type { LinkTroublePlan } from "./link-schedule.ts";

function number(text: string | undefined): number {
  const value = Number(text);
  if (text === undefined || text === "" || Number.isNaN(value)) throw new RangeError(`not a number: ${text}`);
  return value;
}

function way(text: string | undefined): LinkWay | undefined {
  if (text === undefined || text === "up" || text === "down") return text;
  throw new RangeError(`not a direction: ${text}`);
}

function obey(link: LinkSimulator, line: string): object {
  const [command, ...words] = line.trim().split(/\s+/);
  switch (command) {
    case "delay":
      link.setDelay(number(words[0]), way(words[1]));
      break;
    case "rate":
      link.setRate(words[0] === "none" ? Number.POSITIVE_INFINITY : number(words[0]), way(words[1]));
      break;
    case "stall":
      link.stall(number(words[0]), way(words[1]));
      break;
    case "freeze":
      link.freeze();
      break;
    case "thaw":
      link.thaw();
      break;
    case "cut":
      link.cut();
      break;
    case "refuse":
      link.refuse(words[0] === "on");
      break;
    case "trouble":
      link.trouble(words[0] === "off" ? undefined : (JSON.parse(words.join(" ")) as LinkTroublePlan));
      break;
    case "stats": {
      const { user, system } = process.cpuUsage();
      return { ...link.stats(), cpuS: (user + system) / 1e6 };
    }
    default:
      throw new RangeError(`unknown command: ${command}`);
  }
  return { ok: true };
}

async function main(): Promise<void> {
  const [target = "", ...commands] = process.argv.slice(2);
  const colon = target.lastIndexOf(":");
  if (colon < 1) throw new RangeError("usage: link-main HOST:PORT [COMMAND]...");
  const link = new LinkSimulator({
    clock: systemClock,
    target: { host: target.slice(0, colon), port: number(target.slice(colon + 1)) },
  });
  for (const command of commands) obey(link, command);
  const print = (value: object) => void process.stdout.write(`${JSON.stringify(value)}\n`);
  print(await link.listen({ host: "127.0.0.1", port: 0 }));
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      print(obey(link, line));
    } catch (error) {
      print({ error: error instanceof Error ? error.message : String(error) });
    }
  }
  await link.close();
  // Left to itself Node waits, awake and for ever, for requests of sockets that were reset: one end of some hundred (Node 20.20). All has been said by now.
  process.exit();
}

main().catch((error: unknown) => {
  process.stderr.write(`link: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
