/** PROTOCOL.md says what the code does. Run with NETDRIVE_WRITE_PROTOCOL=1 to put the tables into it. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { CloseCode } from "../../src/base/errors.ts";
import { fieldTable, messageTable } from "./protocol-table.ts";

/** Built to dist/test/wire. */
const path = fileURLToPath(new URL("../../../src/wire/PROTOCOL.md", import.meta.url));

/** Without what a formatter adds to a table. */
function unpadded(table: string): string {
  return table.replace(/ +\|/g, " |").replace(/\| +/g, "| ").replace(/-+/g, "-").trim();
}

for (const [name, generate] of [
  ["fields", fieldTable],
  ["messages", messageTable],
] as const) {
  test(`the table of ${name} in PROTOCOL.md is the one of the code`, () => {
    const text = readFileSync(path, "utf8");
    const start = text.indexOf(`<!-- ${name} -->`);
    const end = text.indexOf(`<!-- end of ${name} -->`);
    assert.ok(start > 0 && end > start);
    const right = `<!-- ${name} -->\n\n${generate()}\n\n`;
    if (process.env["NETDRIVE_WRITE_PROTOCOL"] === "1") {
      writeFileSync(path, text.slice(0, start) + right + text.slice(end));
      return;
    }
    assert.equal(unpadded(text.slice(start, end)), unpadded(right));
  });
}

test("PROTOCOL.md names every close code with its number", () => {
  const text = readFileSync(path, "utf8");
  for (const [name, code] of Object.entries(CloseCode))
    assert.match(text, new RegExp(`^\\| ${code} +\\| ${name} +\\|`, "m"));
});
