/**
 * A C program built with make -j on the drive: headers, objects, times that make believes, and a program that runs from there.
 */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { command, shell } from "../support/child.ts";
import { startDrive } from "../support/drive.ts";

const UNITS = 40;

const MAKEFILE = `
UNITS := $(wildcard unit*.c)
program: main.o libunits.a
	$(CC) -o $@ main.o -L. -lunits
libunits.a: $(UNITS:.c=.o)
	$(AR) rcs $@ $^
%.o: %.c units.h
	$(CC) -O1 -g -Wall -Werror -MMD -c -o $@ $<
clean:
	rm -f *.o *.a *.d program
`;

function writeProject(folder: string): void {
  mkdirSync(folder);
  const units = Array.from({ length: UNITS }, (_, i) => i);
  writeFileSync(join(folder, "units.h"), units.map((i) => `int unit${i}(int);\n`).join(""));
  for (const i of units) {
    const body = i === 0 ? "x + 1" : `unit${i - 1}(x) + ${i}`;
    writeFileSync(join(folder, `unit${i}.c`), `#include "units.h"\nint unit${i}(int x) { return ${body}; }\n`);
  }
  const main = `#include <stdio.h>\n#include "units.h"\nint main(void) { printf("%d\\n", unit${UNITS - 1}(0)); return 0; }\n`;
  writeFileSync(join(folder, "main.c"), main);
  writeFileSync(join(folder, "Makefile"), MAKEFILE);
}

test("make -j builds, builds nothing twice, and builds again exactly what changed", async () => {
  await using drive = await startDrive();
  writeProject(join(drive.scratch, "project"));
  await shell(`cp -r "${drive.scratch}/project" .`, { cwd: drive.path });
  const cwd = join(drive.path, "project");
  const make = async (...args: string[]) => (await command("make", ["-j4", ...args], { cwd })).stdout;
  const compiled = (text: string) => text.split("\n").filter((line) => line.includes(" -c -o ")).length;
  assert.equal(compiled(await make()), UNITS + 1);
  const expected = (UNITS * (UNITS - 1)) / 2 + 1;
  assert.equal((await command("./program", [], { cwd })).stdout, `${expected}\n`);
  assert.match(await make(), /up to date/);
  await shell("sed -i 's/x + 1/x + 2/' unit0.c", { cwd });
  assert.equal(compiled(await make()), 1);
  assert.equal((await command("./program", [], { cwd })).stdout, `${expected + 1}\n`);
  await shell("touch units.h", { cwd });
  assert.equal(compiled(await make()), UNITS + 1);
  await make("clean");
  assert.equal((await shell("ls | wc -l", { cwd })).stdout.trim(), String(UNITS + 3));
});
