/**
 * SQLite on the drive, in both journal modes: its locks, its mappings and its syncs.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { command } from "../support/child.ts";
import { startDrive } from "../support/drive.ts";
import { startTwoMounts } from "../support/two-mounts.ts";

const SCHEMA = `
  CREATE TABLE author(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
  CREATE TABLE book(id INTEGER PRIMARY KEY, author INTEGER NOT NULL REFERENCES author(id) ON DELETE CASCADE,
    title TEXT NOT NULL, pages INTEGER CHECK(pages > 0), cover BLOB);
  CREATE INDEX book_author ON book(author, title);
  CREATE VIEW shelf AS SELECT name, count(*) AS books, sum(pages) AS pages FROM author JOIN book ON book.author = author.id GROUP BY name;
  CREATE TABLE log(at INTEGER, what TEXT);
  CREATE TRIGGER book_gone AFTER DELETE ON book BEGIN INSERT INTO log VALUES(old.id, old.title); END;`;

const FILL = `
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO author SELECT i, 'author ' || i FROM n;
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
    INSERT INTO book SELECT i, 1 + i % 200, 'title ' || (i * 7919 % 20000), 1 + i % 900, zeroblob(i % 500) FROM n;`;

async function sqlite(cwd: string, sql: string, file = "library.db"): Promise<string> {
  return (await command("sqlite3", ["-batch", "-bail", file], { cwd, input: `.timeout 30000\n${sql}` })).stdout;
}

for (const mode of ["DELETE", "WAL", "TRUNCATE"]) {
  test(`a database in journal mode ${mode} stays whole`, async () => {
    await using drive = await startDrive();
    const { path } = drive;
    assert.equal((await sqlite(path, `PRAGMA journal_mode=${mode};`)).trim(), mode.toLowerCase());
    await sqlite(path, `PRAGMA foreign_keys=ON; ${SCHEMA} BEGIN; ${FILL} COMMIT;`);
    await sqlite(
      path,
      "PRAGMA foreign_keys=ON; DELETE FROM author WHERE id % 10 = 0; UPDATE book SET pages = pages + 1 WHERE id % 3 = 0;",
    );
    await sqlite(path, "BEGIN; DELETE FROM book; ROLLBACK; VACUUM; REINDEX; ANALYZE;");
    assert.equal((await sqlite(path, "PRAGMA integrity_check; PRAGMA foreign_key_check;")).trim(), "ok");
    const counts =
      "SELECT (SELECT count(*) FROM author), (SELECT count(*) FROM book), (SELECT count(*) FROM log), (SELECT sum(pages) FROM shelf);";
    const onDrive = await sqlite(path, counts);
    await sqlite(path, `VACUUM INTO '${drive.scratch}/copy.db';`);
    assert.equal(await sqlite(drive.scratch, counts, "copy.db"), onDrive);
    assert.equal(onDrive.split("|")[0], "180");
  });

  test(`four processes write to one database in journal mode ${mode}, and lose nothing`, async () => {
    await using drive = await startDrive();
    const { path } = drive;
    await sqlite(
      path,
      `PRAGMA journal_mode=${mode}; CREATE TABLE t(process INTEGER, n INTEGER, UNIQUE(process, n)); CREATE TABLE total(n INTEGER); INSERT INTO total VALUES(0);`,
    );
    const each = 30;
    const transaction = (process: number, n: number) =>
      `BEGIN IMMEDIATE; INSERT INTO t VALUES(${process}, ${n}); UPDATE total SET n = n + 1; COMMIT;`;
    const writers = [0, 1, 2, 3].map((process) =>
      sqlite(path, Array.from({ length: each }, (_, n) => transaction(process, n)).join("\n")),
    );
    await Promise.all(writers);
    assert.equal(
      (await sqlite(path, "SELECT count(*), (SELECT n FROM total) FROM t; PRAGMA integrity_check;")).trim(),
      `${4 * each}|${4 * each}\nok`,
    );
  });
}

for (const mode of ["DELETE", "TRUNCATE", "PERSIST"]) {
  test(`processes on two mounts and on the server write to one database in journal mode ${mode}, and lose nothing`, async () => {
    await using mounts = await startTwoMounts();
    const { drive, other } = mounts;
    const schema = "CREATE TABLE t(process INTEGER, n INTEGER, UNIQUE(process, n)); CREATE TABLE total(n INTEGER);";
    await sqlite(drive.path, `PRAGMA journal_mode=${mode}; ${schema} INSERT INTO total VALUES(0);`);
    const each = 20;
    // Every transaction reads what another may have written last.
    const transaction = (process: number, n: number) =>
      `BEGIN IMMEDIATE; INSERT INTO t SELECT ${process}, ${n}; UPDATE total SET n = n + 1; COMMIT; SELECT count(*) FROM t WHERE process = ${process};`;
    const places = [drive.path, other.path, drive.path, other.path, drive.directory];
    const outputs = await Promise.all(
      places.map((place, process) => {
        const sql = Array.from({ length: each }, (_, n) => transaction(process, n)).join("\n");
        return sqlite(place, `PRAGMA journal_mode=${mode};\n${sql}`);
      }),
    );
    const counts = Array.from({ length: each }, (_, n) => String(n + 1));
    for (const output of outputs) assert.deepEqual(output.trim().split("\n").slice(1), counts);
    for (const place of [drive.path, other.path, drive.directory]) {
      const found = await sqlite(place, "SELECT count(*), (SELECT n FROM total) FROM t; PRAGMA integrity_check;");
      assert.equal(found.trim(), `${places.length * each}|${places.length * each}\nok`);
    }
  });
}
