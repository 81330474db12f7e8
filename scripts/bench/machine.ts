/** The machine in one line, so that a figure says what it was measured on. */
import { readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";

/** Processor, cores, memory, kernel, system, Node. No names of hosts or users. */
export function describeMachine(): string {
  const model = cpus()[0]?.model.replace(/\s+/g, " ").trim() ?? "unknown processor";
  const kernel = /^\d+\.\d+/.exec(release())?.[0] ?? release();
  const memoryGib = Math.round(totalmem() / 1024 ** 3);
  return `${cpus().length} x ${model}, ${memoryGib} GiB, Linux ${kernel}, ${systemName()}, Node ${process.versions.node}`;
}

function systemName(): string {
  try {
    return /^PRETTY_NAME="?([^"\n]*)"?$/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "Linux";
  } catch {
    return "Linux";
  }
}
