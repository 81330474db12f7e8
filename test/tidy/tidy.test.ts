/**
 * Style as a test: what no linter checks, over all sources.
 *
 * A rule that is in the way is changed here for everybody, with a reason, never switched off in one place.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

/** Built to dist/test/tidy. */
const root = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));

const FILE_LINES_MAX = 500;
const LINE_CHARS_MAX = 180;
/** The two tables may be longer. */
const TABLE_LINES_MAX = 1000;
const TABLES = new Set(["src/wire/messages.ts", "src/fuse/abi.ts"]);

interface Source {
  path: string;
  text: string;
}

const sources: Source[] = ["src", "test", "scripts", "native"]
  .filter((folder) => existsSync(join(root, folder)))
  .flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).map((path) => join(folder, path)),
  )
  .filter((path) => /\.(ts|mjs|cc|h)$/.test(path))
  .sort()
  .map((path) => ({ path, text: readFileSync(join(root, path), "utf8") }));

/** Words that may not be in the sources `where` matches, except those `except` matches, and what to write instead. */
const BANNED: { word: RegExp; where: RegExp; except?: RegExp; instead: string }[] = [
  { word: /\b(TODO|FIXME|XXX|HACK)\b/, where: /./, instead: "finish it, or file an issue" },
  { word: /\bDate\.now\(/, where: /^(src|test)/, except: /^src\/base\/clock\.ts$/, instead: "a Clock" },
  { word: /\bperformance\.now\(/, where: /^src/, except: /^src\/base\/clock\.ts$/, instead: "a Clock" },
  { word: /\bset(Timeout|Interval)\(/, where: /^(src|test)/, except: /^src\/base\/clock\.ts$/, instead: "a Clock" },
  { word: /\bnode:timers/, where: /^(src|test)/, instead: "a Clock" },
  { word: /\.node["'`]/, where: /^(src|test)/, except: /^src\/sys\//, instead: "src/sys, which alone loads the addon" },
  { word: /\.only\(|\bonly: true/, where: /^test/, instead: "the whole suite" },
  { word: /\.(skip|todo)\(|\b(skip|todo): true/, where: /^test/, instead: "a test that runs, or none" },
  { word: /biome-ignore|@ts-(ignore|expect-error|nocheck)/, where: /./, instead: "code the checker accepts" },
  { word: /\bconsole\.\w+\(/, where: /^src/, instead: "a Log, or process.stdout in src/cli" },
  { word: /\bprocess\.exit\(/, where: /^src/, except: /^src\/cli\//, instead: "an error that reaches src/cli" },
  { word: /(^|[\s"'`(])\/(work|root|home)\//, where: /./, instead: "a path no machine is named by" },
];

/** Files of src that no test is named after or imports, and what runs them instead. */
const RUN_BY: [files: RegExp, by: string][] = [
  [
    /^src\/cli\/(main|program|serve|serve-shares|server-memory|user|list|status|up|umount|unmount|mount|mount-target)\.ts$/,
    "test/cli, as processes",
  ],
  [/^src\/sys\/optimize-early\.ts$/, "test/cli and test/mount, as processes"],
  [/^src\/cli\/(channel-security|password|prompt|server-trust)\.ts$/, "test/cli/trust and usage, as processes"],
  [/^src\/cli\/(mount-daemon|daemon-message)\.ts$/, "test/cli/mount, as processes"],
  [/^src\/cli\/(handle|standard-output|export-open|export-socket)\.ts$/, "test/mount/handles, as processes"],
  [/^src\/fuse\/serve-(attrs|dirs|files|locks|names)\.ts$/, "test/fuse/session and test/conformance/fuse-disk"],
  [/^src\/fuse\/(data-room|encode|file-handle|init|notify|request)\.ts$/, "test/fuse/session"],
  [
    /^src\/client\/(argument-checks|call|open-data|remote-open|remote-file-system)\.ts$/,
    "test/client/call-channel and test/conformance/remote-memory",
  ],
  [/^src\/server\/(dispatch|served-request|session|state)\.ts$/, "test/server/served-channel"],
  [
    /^src\/client\/(call-windows|heartbeat|node-calls|open-table|resume-opens|results|forget-queue|waiters)\.ts$/,
    "test/client/session and test/client/call-channel",
  ],
  [
    /^src\/server\/(absences|change-notes|node-changes|state\/keeper|state\/restore)\.ts$/,
    "test/server/resume and test/mount/server-crash",
  ],
  [/^src\/wire\/(field-codec|resume-fields)\.ts$/, "test/wire/codec"],
  [/^src\/disk\/request-slots\.ts$/, "test/disk/disk"],
  [/^src\/transport\/trace\.ts$/, "test/transport/channel"],
  [/^src\/server\/state\/(unfinished|lost-names)\.ts$/, "test/faults/server-deaths"],
];

/** All places where a rule is broken, as `path:line: what`. */
function broken(check: (source: Source) => (string | undefined)[]): string[] {
  return sources
    .filter(({ path }) => path !== "test/tidy/tidy.test.ts")
    .flatMap((source) =>
      check(source).flatMap((what, index) => (what ? [`${source.path}:${index + 1}: ${what}`] : [])),
    );
}

test("sources hold no banned word", () => {
  const found = broken(({ path, text }) => {
    const rules = BANNED.filter(({ where, except }) => where.test(path) && !except?.test(path));
    return text.split("\n").map((line) => {
      const rule = rules.find(({ word }) => word.test(line));
      return rule && `'${line.match(rule.word)?.[0].trim()}', write instead: ${rule.instead}`;
    });
  });
  assert.deepEqual(found, []);
});

test("lines and files are short enough to read", () => {
  const long = broken(({ text }) =>
    text.split("\n").map((line) => (line.length > LINE_CHARS_MAX ? `${line.length} characters` : undefined)),
  );
  assert.deepEqual(long, []);
  const tall = broken(({ path, text }) => {
    const lines = text.split("\n").length - 1;
    return [lines > (TABLES.has(path) ? TABLE_LINES_MAX : FILE_LINES_MAX) ? `${lines} lines` : undefined];
  });
  assert.deepEqual(tall, []);
});

test("every file that is not a test opens by saying what it is", () => {
  const found = broken(({ path, text }) => {
    if (path.endsWith(".test.ts")) return [];
    const opening = text.replace(/^#!.*\n/, "");
    const comment = /\.(cc|h)$/.test(path) ? "//" : "/**";
    return [opening.startsWith(comment) ? undefined : `does not open with ${comment.trim()}`];
  });
  assert.deepEqual(found, []);
});

test("folders are at most two deep, and no file is a drawer for everything", () => {
  const found = broken(({ path }) => {
    const parts = path.split("/");
    if (parts.length > 4) return ["too deep"];
    if (!/^[a-z0-9.-]+$/.test(parts.at(-1) ?? "")) return ["file names are lower-case nouns with '-'"];
    const drawer = parts.find((part) => /^(utils?|helpers?|common|misc|lib|index)(\.|$)/.test(part));
    return [drawer && `'${drawer}' says nothing; name what is in it`];
  });
  assert.deepEqual(found, []);
});

test("every room below src has its import rule", () => {
  const lint = JSON.parse(readFileSync(join(root, "scripts/lint.json"), "utf8")) as {
    overrides: { includes: string[] }[];
  };
  const ruled = new Set(lint.overrides.flatMap(({ includes }) => includes));
  const rooms = readdirSync(join(root, "src"));
  assert.deepEqual(
    rooms.filter((room) => !ruled.has(`**/src/${room}/**`)),
    [],
  );
});

test("every file of src has a test, or is known to be run by another", () => {
  const paths = new Set(sources.map(({ path }) => path));
  const imported = new Set(
    sources
      .filter(({ path }) => path.startsWith("test/"))
      .flatMap(({ text }) => [...text.matchAll(/"(?:\.\.\/)+(src\/[^"]+\.ts)"/g)].map(([, path]) => path)),
  );
  const hasTest = (path: string) =>
    imported.has(path) || paths.has(path.replace(/^src/, "test").replace(/\.ts$/, ".test.ts"));
  const files = [...paths].filter((path) => path.startsWith("src/"));
  const isRun = (path: string) => RUN_BY.some(([pattern]) => pattern.test(path));
  assert.deepEqual(
    files.filter((path) => !hasTest(path) && !isRun(path)),
    [],
    "write a test, or say in RUN_BY what runs it",
  );
  const needless = RUN_BY.filter(([pattern]) => !files.some((path) => pattern.test(path) && !hasTest(path)));
  assert.deepEqual(needless, [], "remove these from RUN_BY");
});
