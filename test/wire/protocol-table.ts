/** The tables of PROTOCOL.md, made from the tables of the code. */
import { FIELDS } from "../../src/wire/fields.ts";
import { type Fields, MESSAGES, type MessageRow } from "../../src/wire/messages.ts";

function fieldsText(fields: Fields | undefined): string {
  if (fields === undefined) return "(notice)";
  const list = Object.entries(fields).map(([name, kind]) => `${name} ${kind}`);
  return list.length === 0 ? "-" : list.join(", ");
}

function headerText(row: MessageRow): string {
  const parts: string[] = [];
  if (row.handle !== undefined) parts.push(`handle ${row.handle}`);
  if (row.sections === true) parts.push("section");
  if (row.payload !== undefined) parts.push(`payload in ${row.payload}`);
  if (row.followsWrites === true) parts.push("follows writes");
  if (row.changes === true) parts.push("changes");
  return parts.length === 0 ? "-" : parts.join("; ");
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

/** One row a message. */
export function messageTable(): string {
  const head = ["code", "message", "since", "from", "phase", "request", "reply", "header", "replay", "what it does"];
  const rows = Object.entries(MESSAGES as Record<string, MessageRow>).map(([name, row]) => [
    String(row.code),
    name,
    String(row.since),
    row.sender,
    row.phase,
    fieldsText(row.request),
    fieldsText(row.reply),
    headerText(row),
    row.replay,
    row.says,
  ]);
  return table(head, rows);
}

/** One row a kind of field. */
export function fieldTable(): string {
  return table(
    ["kind", "bytes at most", "layout"],
    Object.entries(FIELDS).map(([name, codec]) => [name, String(codec.bytesMax), codec.layout]),
  );
}
