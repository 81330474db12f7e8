import assert from "node:assert/strict";
import { test } from "node:test";
import { isReached, type Report, toMarkdown } from "../../scripts/bench/report.ts";
import { replaceSection } from "../../scripts/bench/results.ts";
import { figure, median, medianRatio, rotated } from "../../scripts/bench/statistics.ts";

test("the median is the middle value, or the mean of the two middle ones", () => {
  assert.equal(median([9, 1, 5]), 5);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([7]), 7);
  assert.throws(() => median([]), RangeError);
});

test("a ratio is taken run by run, so that a slow run does not spoil it", () => {
  assert.equal(medianRatio([10, 100, 12], [20, 200, 24]), 0.5);
  assert.throws(() => medianRatio([1], [1, 2]), RangeError);
});

test("figures have three significant digits and no exponent", () => {
  const texts = [1234.5, 99.96, 12.345, 0.98765, 0.00123456, 0, Number.NaN].map(figure);
  assert.deepEqual(texts, ["1235", "100.0", "12.3", "0.988", "0.00123", "0", "-"]);
});

test("over the runs every peer is first equally often", () => {
  assert.deepEqual(
    [0, 1, 2, 3].map((run) => rotated(["a", "b", "c"], run).join("")),
    ["abc", "bca", "cab", "abc"],
  );
  assert.deepEqual(rotated([], 3), []);
});

test("a goal is reached on its own side of the limit", () => {
  const goal = { what: "", value: 5, must: 4, aim: 6, unit: "" };
  assert.deepEqual(
    [isReached({ ...goal, sense: "atLeast" }), isReached({ ...goal, sense: "atLeast" }, 6)],
    [true, false],
  );
  assert.deepEqual(
    [isReached({ ...goal, sense: "atMost" }), isReached({ ...goal, sense: "atMost" }, 6)],
    [false, true],
  );
});

test("a report says command, date and machine before its figures, and whether goals were reached", () => {
  const report: Report = {
    title: "Title",
    notes: ["A note."],
    peers: ["one 1.0"],
    tables: [{ caption: "Table", columns: ["", "MB/s"], rows: [["one", "3"]] }],
    goals: [{ what: "fast", value: 2.5, must: 2, aim: 3, sense: "atLeast", unit: "x" }],
    data: {},
  };
  const facts = { command: "npm run bench -- one", machine: "2 x CPU", date: "2026-01-31" };
  assert.equal(
    toMarkdown(report, facts),
    [
      "`npm run bench -- one`, 2026-01-31, 2 x CPU.",
      "",
      "A note.",
      "",
      "- one 1.0",
      "",
      "**Table**",
      "",
      "|  | MB/s |",
      "| --- | --: |",
      "| one | 3 |",
      "",
      "**Against the goals**",
      "",
      "| goal | measured | must | aim |  |",
      "| --- | --: | --: | --: | --: |",
      "| fast | 2.50 x | >= 2 x | >= 3 x | reached |",
      "",
    ].join("\n"),
  );
});

test("a section is replaced as a whole and the others stay", () => {
  const text = "# Results\n\nHead.\n\n## a: first\n\nold a\n\n## c: third\n\nold c\n";
  const added = replaceSection(text, "b: second", "new b\n");
  assert.equal(added, "# Results\n\nHead.\n\n## a: first\n\nold a\n\n## b: second\n\nnew b\n\n## c: third\n\nold c\n");
  const replaced = replaceSection(added, "a: first", "new a");
  assert.equal(replaced, added.replace("old a", "new a"));
  assert.equal(replaceSection(replaced, "a: first", "new a"), replaced);
});
